"""An ONNX graph that is being built: nodes, constants, and shapes with any number of rows."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

ROWS = "rows"  # the name of the axis of any length
PREFIX = "dubito."  # of names that are not those of columns
TYPES = {"float32": 1, "int32": 6, "int64": 7, "string": 8, "bool": 9, "float64": 11}  # of onnx.TensorProto


class OnnxGraph:
    """Nodes, constants and names of an ONNX graph that is being built.

    Parameters
    ----------
    onnx : module
        The package.
    rows : str
        The name of an int64 tensor of one number, the number of rows.

    Attributes
    ----------
    nodes : list
        The nodes.
    constants : list
        The constants.
    """

    def __init__(self, onnx: Any, rows: str) -> None:
        self.onnx, self.rows = onnx, rows
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.known: dict[Any, str] = {}

    def node(self, kind: str, *inputs: Any, domain: str = "", result: str | None = None, **attributes: Any) -> str:
        """Add a node.

        Parameters
        ----------
        kind : str
            The operator.
        *inputs : str or array
            Names of tensors, or constants.
        domain : str
            Of the operator.
        result : str, optional
            The name of the result; by default a new one.
        **attributes : object
            Of the node.

        Returns
        -------
        str
            The name of its result.
        """
        name = f"{PREFIX}{len(self.nodes)}" if result is None else result
        given = [self.name(each) for each in inputs]
        self.nodes.append(self.onnx.helper.make_node(kind, given, [name], domain=domain, **attributes))
        return name

    def name(self, value: Any) -> str:
        """The name of a tensor; a constant is added to the graph once.

        Parameters
        ----------
        value : str or array
            A name, or a constant.

        Returns
        -------
        str
            The name.
        """
        if isinstance(value, str):
            return value
        array = np.asarray(value)
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in self.known:
            self.known[key] = f"{PREFIX}constant.{len(self.constants)}"
            self.constants.append(
                self.onnx.numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), self.known[key])
            )
        return self.known[key]

    def shape(self, sizes: Sequence[Any]) -> Any:
        """A shape as a tensor: a constant, unless one of the sizes is the number of rows.

        Parameters
        ----------
        sizes : sequence
            Numbers, or multiples of the number of rows.

        Returns
        -------
        str or array
            For ``node``.
        """
        if all(isinstance(size, int) for size in sizes):
            return np.array(sizes, np.int64)
        parts = [np.array([size], np.int64) if isinstance(size, int) else self._multiple(size) for size in sizes]
        return self.node("Concat", *parts, axis=0)

    def _multiple(self, size: Any) -> str:
        times = int(size._evaluate({ROWS: 1}))
        return self.rows if times == 1 else self.node("Mul", self.rows, np.array([times], np.int64))


def numbers_in(graph: OnnxGraph) -> int:
    """How many numbers the constants of a graph have.

    Parameters
    ----------
    graph : OnnxGraph
        The graph.

    Returns
    -------
    int
        Their sum.
    """
    return sum(math.prod(constant.dims) for constant in graph.constants)
