"""The health of gradients, layer by layer: sizes, dead and saturated units, and advice.

It is computed from the computation graph of the objective on some rows: an activation's derivative
is the gradient of the sum of its outputs with respect to its inputs, and a unit is dead if that is
0 on every row.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dubito._jax.types import Params
from dubito._process.threads import check_process
from dubito.inspection.graph.autodiff import Node, Source, backward, result_of
from dubito.inspection.graph.drawing import align_columns
from dubito.inspection.graph.graph import Graph, graph
from dubito.models.model import Batch, Model

ROWS = 512  # rows of the table that are used
FLAT = 0.01  # a derivative below this fraction of the layer's largest counts as none
OFTEN = 0.9  # fraction of rows with such a derivative that makes a unit saturated
MANY = 0.5  # fraction of a layer's units above which there is advice
SMALL, LARGE = 1e-3, 1e3  # ratios of the first layer's gradient to the last one's, and of values to 1
NAMED = {"relu", "tanh", "logistic"}  # activations that are found without the scope that dubito's networks give them


class Layer(NamedTuple):
    """The numbers of one layer; None where there is no such number.

    Attributes
    ----------
    name : str
    weight, gradient : float, optional
        Root mean squares of its parameters and of the objective's gradient with respect to them.
    value, slope : float, optional
        Root mean squares of its outputs and of the gradient with respect to them.
    dead : float, optional
        The fraction of units whose activation has derivative 0 on all rows.
    saturated : float, optional
        The fraction of units whose derivative is below a hundredth of the layer's largest on at least
        nine of ten rows.
    """

    name: str
    weight: float | None = None
    gradient: float | None = None
    value: float | None = None
    slope: float | None = None
    dead: float | None = None
    saturated: float | None = None


class Health(NamedTuple):
    """The health of a network's gradients; prints as a table.

    Attributes
    ----------
    layers : list of Layer
        In the order of the network.
    advice : list of str
        Sentences; none where nothing is wrong.
    """

    layers: list[Layer]
    advice: list[str]

    def __str__(self) -> str:
        rows: list[Sequence[str]] = [
            ("layer", "rms weight", "rms gradient", "rms value", "rms slope", "dead", "saturated")
        ]
        for name, *numbers in self.layers:
            texts = ["" if number is None else f"{number:.3g}" for number in numbers[:4]]
            texts += ["" if fraction is None else f"{100 * fraction:.0f} %" for fraction in numbers[4:]]
            rows.append((name, *texts))
        return "\n".join([align_columns(rows), *(self.advice or ["Nothing is wrong with the gradients."])])


def health(model: Model, params: Params, x: Any, y: Any) -> Health:
    """Check the gradients of −log p(D, θ) per example, on the first 512 rows.

    Parameters
    ----------
    model : Model
    params : pytree
        As ``model.init`` returns it: an initialization, a point, the mean of a posterior, a draw.
    x, y : array
        Data as ``fit`` takes them.

    Returns
    -------
    Health
        The numbers of each layer, and advice.
    """
    return health_of_graph(objective(model, params, x, y))


def objective(model: Model, params: Params, x: Any, y: Any) -> Graph:
    """Trace −log p(D, θ) per example on the first 512 rows.

    Parameters
    ----------
    model, params, x, y
        As for ``health``.

    Returns
    -------
    Graph
        Its computation graph.
    """
    check_process()
    x, y = (jnp.asarray(array[:ROWS]) for array in (x, y))
    size = jnp.float32(len(x))
    batch = Batch(x, y, jnp.ones(len(x), jnp.float32), jnp.float32(1), size)
    return graph(lambda params: -model.log_joint(params, batch) / size, params)


def health_of_graph(found: Graph) -> Health:
    """The health of the gradients of an ``objective``."""
    layers = parameter_layers(found)
    for name, (value, slope, derivative) in activation_slopes(found).items():
        units = np.abs(np.atleast_1d(derivative))
        units = units.reshape(-1, units.shape[-1])
        is_flat = units < FLAT * np.max(units, initial=1e-30)
        layers[name] = layers.get(name, Layer(name))._replace(
            value=rms(value),
            slope=rms(slope),
            dead=float(np.mean(np.all(units == 0, axis=0))),
            saturated=float(np.mean(np.mean(is_flat, axis=0) >= OFTEN)),
        )
    return Health(list(layers.values()), list(give_advice(list(layers.values()))))


def parameter_layers(found: Graph) -> dict[str, Layer]:
    """Layers by name: groups of the network's parameters, and outputs of the scopes so named."""
    groups: dict[str, list[int]] = {}
    outputs: dict[str, int] = {}  # the last operation of each scope
    readers: dict[int, int] = {}  # the first operation that reads a node
    for node in found.nodes:
        if node.name == "input" and node.scope[1:2] == ("network",):
            groups.setdefault(".".join(node.scope[2:]) or node.label, []).append(node.number)
        elif node.name not in ("input", "constant"):
            outputs[".".join(node.scope).removesuffix(".activation")] = node.number
        for source in node.inputs:
            readers.setdefault(source.node, node.number)
    layers = {}
    for name in sorted(groups, key=lambda name: min(readers.get(k, len(found.nodes)) for k in groups[name])):
        weights = np.concatenate([np.ravel(found.values[k][0]) for k in groups[name]])
        gradients = np.concatenate([np.ravel(slope_of(found, k)) for k in groups[name]])
        layers[name] = Layer(name, rms(weights), rms(gradients))
        if name in outputs:
            last = outputs[name]
            layers[name] = layers[name]._replace(value=rms(found.values[last][0]), slope=rms(slope_of(found, last)))
    return layers


def activation_slopes(found: Graph) -> dict[str, tuple[Any, np.ndarray, np.ndarray]]:
    """(outputs, gradients with respect to them, derivatives) of each layer's activation."""
    groups: dict[str, list[Node]] = {}
    for node in found.nodes:
        if "activation" in node.scope:
            groups.setdefault(".".join(node.scope[: node.scope.index("activation")]), []).append(node)
        elif node.label in NAMED and "likelihood" not in node.scope and node.shapes[0][1:] > (1,):
            groups.setdefault(f"{node.label} {len(groups)}", []).append(node)
    ends: dict[str, tuple[Source, Source]] = {}  # what the activation of each layer is applied to, and its result
    for name, nodes in groups.items():
        inside, shape = {node.number for node in nodes}, nodes[-1].shapes[0]
        sources = [source for node in nodes for source in node.inputs if source.node not in inside]
        for source in [s for s in sources if found.nodes[s.node].shapes[s.result] == shape][:1]:
            ends[name] = source, Source(nodes[-1].number, 0)

    def derivatives(values: list[Any]) -> list[Any]:
        """The slopes of the sums of the results with respect to the inputs."""
        slopes = []
        for name, (before, last) in ends.items():
            seeds = {last: jnp.ones_like(result_of(values, last))}
            slopes.append(result_of(backward(found.nodes, values, seeds, groups[name]), before))
        return slopes

    slopes = [np.asarray(slope, float) for slope in jax.jit(derivatives)(found.values)]
    outputs = [(result_of(found.values, last), slope_of(found, last.node)) for _, last in ends.values()]
    return {name: (*output, slope) for name, output, slope in zip(ends, outputs, slopes, strict=True)}


def slope_of(found: Graph, number: int) -> np.ndarray:
    """The gradient with respect to the first output of a node; zeros where there is none."""
    slope = found.slopes[number][0]
    return np.zeros(found.nodes[number].shapes[0]) if slope is None else np.asarray(slope, float)


def rms(values: Any) -> float:
    """The root mean square of all numbers."""
    return float(np.sqrt(np.mean(np.square(np.asarray(values, float)))))


def give_advice(layers: Sequence[Layer]) -> Iterator[str]:
    """Sentences on what is wrong and what to do."""
    wrong = [layer.name for layer in layers if not np.isfinite([n for n in layer[1:5] if n is not None]).all()]
    if wrong:
        cure = "lower the learning rate, clip the gradient norm, or standardize the inputs."
        yield f"Not finite in {', '.join(wrong)}: {cure}"
    for name, _, _, value, _, dead, saturated in layers:
        if dead is not None and dead > MANY:
            yield (
                f"{100 * dead:.0f} % of the units of {name} are dead: their derivative is 0 on all rows, so they do not learn. "
                "Lower the learning rate, or use leaky_relu or silu."
            )
        elif saturated is not None and saturated > MANY:
            yield (
                f"{100 * saturated:.0f} % of the units of {name} are saturated: almost no gradient passes. "
                "Standardize the inputs, start with smaller weights, or use relu or silu."
            )
        if value is not None and value > LARGE:
            yield f"The values of {name} are about {value:.2g}: standardize the inputs or start with smaller weights."
    sloped = [(layer.name, layer.slope) for layer in layers if layer.slope]
    if len(sloped) > 1:
        (first, slope), (last, last_slope) = sloped[0], sloped[-1]
        ratio = slope / last_slope
        if ratio < SMALL:
            cure = "Use fewer layers, or relu, silu or selu with their initial weights."
            yield f"Gradients vanish: those of {first} are {ratio:.1g} times those of {last}. {cure}"
        elif ratio > LARGE:
            cure = "Start with smaller weights, or clip the gradient norm (clip=1)."
            yield f"Gradients explode: those of {first} are {ratio:.1g} times those of {last}. {cure}"
