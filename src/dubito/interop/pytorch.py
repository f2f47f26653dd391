"""Networks of PyTorch, from their exported graph: ``torch.export`` without decompositions keeps every dropout with its rate."""

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dubito._jax.types import Params
from dubito.interop.aten import OPERATIONS, SYMBOLIC, Operation
from dubito.interop.aten_layers import attention
from dubito.interop.trained import TrainedNetwork, outputs_of, trained_network

ATTENTION = "aten.scaled_dot_product_attention.default"
RANDOM = ("aten.bernoulli_.float", "aten.bernoulli.p")  # of stochastic depth, which drops a branch
DROPS = {
    "aten.dropout.default": "units",
    "aten.dropout_.default": "units",
    "aten.feature_dropout.default": "channels",
    "aten.feature_dropout_.default": "channels",
    "aten.alpha_dropout.default": "alpha",
    "aten.alpha_dropout_.default": "alpha",
    "aten.feature_alpha_dropout.default": "alpha channels",
}
RELATIVE = {"float32": 1e-4, "float64": 1e-4, "float16": 2e-2, "bfloat16": 5e-2}  # of the largest output


class TorchNode(NamedTuple):
    """An operation of the graph.

    Attributes
    ----------
    name : str
        That of its result.
    target : str
        The operation.
    function : callable
        In JAX.
    args, kwargs : tuple, dict
        Its operands; ``Name`` stands for a result.
    site : str
        The module in which it is.
    """

    name: str
    target: str
    function: Any
    args: Any
    kwargs: Any
    site: str


class Name(NamedTuple):
    """The result of another node, an input or a weight."""

    name: str


def from_torch(
    module: Any,
    *examples: Any,
    output: int | str | None = None,
    fresh_masks: bool = False,
    operations: Mapping[str, Operation] | None = None,
) -> TrainedNetwork:
    """A trained module of PyTorch as a network of dubito.

    The weights are copied; the module, its modes, buffers, hooks and random generators stay as they
    are. Batch norm keeps its statistics. All dropout is found: modules, ``F.dropout``, and that of
    attention.

    Parameters
    ----------
    module : torch.nn.Module
        The module, in any mode; a compiled one is taken apart.
    *examples : array, tensor or dict of these
        At least two rows of each of its inputs, of the shape and dtype of the inputs to come. Several are a tuple for
        the network.
    output : int or str, optional
        Which of its values predicts, for a module that returns several.
    fresh_masks : bool
        Give each row masks of its own in a draw. By default a draw is one function, with one mask for all rows.
    operations : mapping, optional
        Further operations by their ATen names, such as ``{"aten.frac.default": lambda x: x - jnp.trunc(x)}``.

    Returns
    -------
    TrainedNetwork
        The network. Its outputs equal those of ``module.eval()``.

    Raises
    ------
    ImportError
        Without PyTorch.
    ValueError
        For a module that cannot be exported, an operation that is not translated, and outputs that differ
        from the module's.

    Examples
    --------
    >>> import torch, dubito  # doctest: +SKIP
    >>> network = dubito.from_torch(torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.1)), torch.zeros(2, 3))  # doctest: +SKIP
    >>> network.dropout  # doctest: +SKIP
    {'1': 0.1}
    """
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("from_torch needs PyTorch: pip install torch") from error
    module = dict(module.named_children()).get("_orig_mod", module)

    def as_tensor(rows: Any) -> Any:
        return torch.as_tensor(np.asarray(rows) if isinstance(rows, jax.Array) else rows)

    tensors = jax.tree.map(as_tensor, examples)
    if not tensors or any(tensor.ndim == 0 or len(tensor) < 2 for tensor in jax.tree.leaves(tensors)):
        raise ValueError("from_torch needs at least two rows of each input, such as X[:2]")
    with _untouched(torch, module):
        program = _exported(torch, module, tensors)
        module.eval()
        with torch.no_grad():
            expected = module(*tensors)
    arrays = jax.tree.map(lambda tensor: _array(torch, tensor), tensors)
    nodes, weights, parameters, constants, inputs, results = _read(torch, program, {**OPERATIONS, **(operations or {})})

    def function(params: Params, x: Any, site: Callable[..., Any]) -> Any:
        given = jax.tree.leaves(x if len(tensors) > 1 else (x,))
        values = jax.tree.map(jnp.asarray, constants) | dict(zip(inputs, given, strict=True))
        values |= {name: jnp.asarray(params[target]) for name, target in parameters.items()}
        for node in nodes:
            values[node.name] = _run(node, values, site)
        f = jax.tree.map(lambda name: values[name.name], results, is_leaf=lambda leaf: isinstance(leaf, Name))
        return outputs_of(f, output, type(module).__name__)

    example = arrays if len(arrays) > 1 else arrays[0]
    network = trained_network(function, weights, example, fresh=fresh_masks)
    exact = jax.tree.map(lambda tensor: _array(torch, tensor), expected)
    _check_outputs(network.apply(weights, example), outputs_of(exact, output, type(module).__name__), _dtype(module))
    return network


def _exported(torch: Any, module: Any, tensors: tuple[Any, ...]) -> Any:
    """The graph in training mode, where dropout shows its rate, with the statistics of norms frozen."""
    module.train()
    for part in module.modules():  # batch norm, and spectral norm, whose vectors would move
        own = dict(part.named_buffers(recurse=False))
        if "running_mean" in own or (own and type(part).__module__.startswith("torch.nn.")):
            part.eval()
    rows = jax.tree.map(lambda _: {0: torch.export.Dim.DYNAMIC}, tensors)
    kinds = [each.kind for each in inspect.signature(module.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:  # *args are one tuple, as in modules of Keras
        named = kinds.index(inspect.Parameter.VAR_POSITIONAL)
        rows = (*rows[:named], rows[named:])
    try:
        return torch.export.export(module, tensors, dynamic_shapes=rows, strict=False)
    except Exception as error:
        raise ValueError(
            f"{type(module).__name__} cannot be exported by torch.export, with any number of rows (x.shape[0], not len(x)): "
            f"{str(error).splitlines()[0]}"
        ) from error


@contextmanager
def _untouched(torch: Any, module: Any) -> Iterator[None]:
    """Restore the module's modes and buffers and PyTorch's random generator at the end."""
    modes = {part: part.training for part in module.modules()}
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    state = torch.get_rng_state()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                if not torch.equal(buffer, buffers[name]):
                    buffer.copy_(buffers[name])
        torch.set_rng_state(state)


def _read(torch: Any, program: Any, operations: Mapping[str, Operation]) -> tuple[Any, ...]:
    """Of an exported program the nodes, the weights by their names in the module, these by those in the graph, constants, names of
    inputs in JAX's order, and results.
    """
    signature, state = program.graph_signature, {**program.state_dict, **program.constants}
    stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    stored |= signature.inputs_to_lifted_tensor_constants
    parameters = dict(signature.inputs_to_parameters)
    weights = {target: _array(torch, state[target]) for target in parameters.values()}
    constants = {name: _array(torch, state[target]) for name, target in stored.items() if name not in parameters}
    inputs, _ = torch.utils._pytree.tree_unflatten(list(signature.user_inputs), program.call_spec.in_spec)
    nodes, results, missing, same = [], None, set(), dict[str, str]()
    for node in program.graph.nodes:
        if node.op == "output":
            (found,) = node.args
            results = _unflattened(torch, program, _named(torch, found, same))
        elif node.op == "call_function":
            target = str(node.target)
            function = operations.get(target, SYMBOLIC.get(node.target))
            if target in DROPS or target in RANDOM or target == ATTENTION:
                function = attention
            if target.startswith("aten._assert") or target.startswith("aten.sym_constrain"):
                continue
            if function is None:
                missing.add(target)
            args, kwargs = (_named(torch, each, same) for each in (node.args, dict(node.kwargs)))
            if _is_in_place(target):  # its result is its operand from there on
                same[node.name] = str(args[0].name)
            name: str = node.name
            nodes.append(TorchNode(same.get(name, name), target, function, args, kwargs, _site(node)))
    if missing:
        names = ", ".join(sorted(missing))
        raise ValueError(
            f"PyTorch's operation {names} is not translated. Pass it in JAX: from_torch(..., operations={{{sorted(missing)[0]!r}: function}})"
        )
    return _numbered(nodes), weights, parameters, constants, jax.tree.leaves(inputs), results


def _is_in_place(target: str) -> bool:
    return target.startswith("aten.") and target.split(".")[1].endswith("_")


def _named(torch: Any, value: Any, same: dict[str, str]) -> Any:
    """Operands with ``Name`` in the place of nodes: that of the tensor which operations in place have changed."""
    if isinstance(value, torch.fx.Node):
        name: str = value.name
        return Name(same.get(name, name))
    if isinstance(value, dict):
        return {key: _named(torch, each, same) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_named(torch, each, same) for each in value]
    return value


def _unflattened(torch: Any, program: Any, flat: list[Any]) -> Any:
    return torch.utils._pytree.tree_unflatten(flat, program.call_spec.out_spec)


def _site(node: Any) -> str:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return stack[-1][0].removeprefix("L['self'].") if stack else ""


def _numbered(nodes: list[TorchNode]) -> list[TorchNode]:
    """Nodes with names of their own for each place that drops: the module's, numbered where it drops several times."""
    drops = [node.target in DROPS or node.target in RANDOM or node.target == ATTENTION for node in nodes]
    names = [node.site or "dropout" if one else "" for node, one in zip(nodes, drops, strict=True)]
    found, numbered = Counter[str](), []
    for name in names:
        numbered.append(f"{name}[{found[name]}]" if name and names.count(name) > 1 else name)
        found[name] += 1
    return [node._replace(site=name) for node, name in zip(nodes, numbered, strict=True)]


def _run(node: TorchNode, values: dict[str, Any], site: Callable[..., Any]) -> Any:
    args, kwargs = jax.tree.map(
        lambda leaf: values[leaf.name] if isinstance(leaf, Name) else leaf,
        (tuple(node.args), node.kwargs),
        is_leaf=lambda leaf: isinstance(leaf, Name) or leaf is None,
    )
    if node.target in DROPS:
        x, rate, training = args
        return site(node.site, float(rate) if training else 0.0, DROPS[node.target])(x)
    if node.target in RANDOM:
        x, kept = args[:2]
        return (
            site(node.site, round(1 - float(kept), 9), "units")(jnp.ones_like(x)) * kept
        )  # 1 or 0, and their mean without masks
    if node.target == ATTENTION:
        rate = kwargs.pop("dropout_p", args[4] if len(args) > 4 else 0.0)
        return attention(*args, **kwargs, drop=site(node.site, float(rate), "units"))
    return node.function(*args, **kwargs)


def _array(torch: Any, tensor: Any) -> Any:
    """A copy in NumPy; half precision as float32."""
    if not isinstance(tensor, torch.Tensor):
        return tensor
    tensor = tensor.detach().cpu()
    if tensor.dtype in (torch.float16, torch.bfloat16, torch.float64):
        tensor = tensor.float()
    array = tensor.numpy()
    return np.array(array, jax.dtypes.canonicalize_dtype(array.dtype))


def _dtype(module: Any) -> str:
    found = {str(weight.dtype).removeprefix("torch.") for weight in module.parameters()}
    return max(found & RELATIVE.keys(), key=lambda name: RELATIVE[name], default="float32")


def _check_outputs(found: Any, expected: Any, dtype: str) -> None:
    """Raise ValueError unless the translated network gives the module's outputs."""
    limit = RELATIVE[dtype] * max(float(np.max(np.abs(expected))), 1e-6)
    error = float(jnp.max(jnp.abs(found - expected)))
    if not error <= limit:
        raise ValueError(
            f"the translated network differs from the module by {error:.2g}, more than {limit:.2g}: its training mode computes "
            "something else than its evaluation mode, apart from dropout and norms"
        )
