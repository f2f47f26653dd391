"""The health of gradients in a network, layer by layer: sizes of values and gradients, dead and saturated units, and advice.

It is computed from the computation graph of the objective on some rows: an activation's derivative is the gradient of the
sum of its outputs with respect to its inputs, and a unit is dead when that is 0 on every row.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dubito._jax.types import ArrayLike, Params
from dubito._process.threads import check_process
from dubito.inspection.graph.autodiff import Source, backward, result_of
from dubito.inspection.graph.drawing import align_columns
from dubito.inspection.graph.graph import Graph, graph
from dubito.models.model import Batch

ROWS = 512  # rows of the table that are used
FLAT = 0.01  # a derivative below this fraction of the layer's largest counts as none
OFTEN = 0.9  # fraction of rows with such a derivative that makes a unit saturated
MANY = 0.5  # fraction of a layer's units that is worth advice
SMALL, LARGE = 1e-3, 1e3  # ratios of the first layer's gradient to the last one's, and of values to 1
NAMED = {"relu", "tanh", "logistic"}  # activations that are found without the scope that dubito's networks give them


class Layer(NamedTuple):
    """The numbers of one layer; None where there is no such thing.

    Parameters
    ----------
    name : of the layer.
    weight, gradient : root mean squares of its parameters and of the objective's gradient with respect to them.
    value, slope : of its outputs and of the gradient with respect to them.
    dead : fraction of units whose activation has derivative 0 on all rows.
    saturated : fraction of units whose derivative is below a hundredth of the layer's largest on at least nine of ten rows.
    """

    name: str
    weight: float | None
    gradient: float | None
    value: float | None
    slope: float | None
    dead: float | None
    saturated: float | None


class Health(NamedTuple):
    """The health of a network's gradients; prints as a table.

    Parameters
    ----------
    layers : in the order of the network.
    advice : sentences; none where nothing is wrong.
    """

    layers: list[Layer]
    advice: list[str]

    def __str__(self):
        head = ("layer", "rms weight", "rms gradient", "rms value", "rms slope", "dead", "saturated")
        rows: list[Any] = [head]
        for layer in self.layers:
            shares = ["" if share is None else f"{100 * share:.0f} %" for share in layer[5:]]
            rows.append((layer.name, *("" if size is None else f"{size:.3g}" for size in layer[1:5]), *shares))
        return "\n".join([align_columns(rows), *(self.advice or ["Nothing is wrong with the gradients."])])


def health(model: Any, params: Params, x: ArrayLike, y: ArrayLike) -> Health:
    """The health of the gradients of −log p(D, θ) per example, on the first 512 rows.

    Parameters
    ----------
    model : the model.
    params : tree as ``model.init`` gives it: an initialization, a point, the mean of a posterior, a draw.
    x, y : data as ``fit`` takes them.
    """
    return health_of_graph(objective(model, params, x, y))


def objective(model: Any, params: Params, x: ArrayLike, y: ArrayLike) -> Graph:
    """The computation graph of −log p(D, θ) per example on the first 512 rows; arguments as for ``health``."""
    check_process()
    x, y = (jnp.asarray(array[:ROWS]) for array in (x, y))
    size = jnp.float32(len(x))
    batch = Batch(x, y, jnp.ones(len(x), jnp.float32), jnp.float32(1), size)
    return graph(lambda params: -model.log_joint(params, batch) / size, params)


def health_of_graph(found: Graph) -> Health:
    """The health of the gradients of an ``objective``."""
    layers = parameter_layers(found)
    for name, (value, slope, derivative) in activation_slopes(found).items():
        known = layers.get(name, Layer(name, None, None, None, None, None, None))
        top = np.max(np.abs(derivative), initial=1e-30)
        units = np.abs(np.atleast_1d(derivative))
        units = units.reshape(-1, units.shape[-1])
        layers[name] = known._replace(
            value=rms(value),
            slope=rms(slope),
            dead=float(np.mean(np.all(units == 0, axis=0))),
            saturated=float(np.mean(np.mean(units < FLAT * top, axis=0) >= OFTEN)),
        )
    return Health(list(layers.values()), advice(list(layers.values())))


def parameter_layers(found: Graph) -> dict[str, Layer]:
    """The layers by name: the groups of the network's parameters, and the outputs of the scopes with their names."""
    groups: dict[str, list] = {}
    for node in found.nodes:
        if node.name == "input" and node.scope[1:2] == ("network",):
            groups.setdefault(".".join(node.scope[2:]) or node.label, []).append(node.number)
    first = {source.node: node.number for node in reversed(found.nodes) for source in node.inputs}  # who reads it first
    layers = {}
    for name, numbers in sorted(
        groups.items(), key=lambda group: min(first.get(k, len(found.nodes)) for k in group[1])
    ):
        weight, gradient = (
            np.concatenate([np.ravel(one) for one in values])
            for values in ([found.values[k][0] for k in numbers], [slope_of(found, k) for k in numbers])
        )
        last = max(
            (
                node.number
                for node in found.nodes
                if node.name not in ("input", "constant") and ".".join(node.scope).removesuffix(".activation") == name
            ),
            default=None,
        )
        value, slope = (None, None) if last is None else (rms(found.values[last][0]), rms(slope_of(found, last)))
        layers[name] = Layer(name, rms(weight), rms(gradient), value, slope, None, None)
    return layers


def activation_slopes(found: Graph) -> dict[str, tuple[Any, np.ndarray, np.ndarray]]:
    """(outputs, gradients with respect to them, derivatives) of the activation of each layer, by the layer's name."""
    groups: dict[str, list] = {}
    for node in found.nodes:
        if "activation" in node.scope:
            groups.setdefault(".".join(node.scope[: node.scope.index("activation")]), []).append(node)
        elif node.label in NAMED and "likelihood" not in node.scope and node.shapes[0][1:] > (1,):
            groups.setdefault(f"{node.label} {len(groups)}", []).append(node)
    plans = {}
    for name, nodes in groups.items():
        inside = {node.number for node in nodes}
        last = nodes[-1]
        outside = (source for node in nodes for source in node.inputs if source.node not in inside)
        before = next((s for s in outside if found.nodes[s.node].shapes[s.result] == last.shapes[0]), None)
        if before is not None:
            plans[name] = (nodes, Source(last.number, 0), before)

    def derivatives(values):
        """Of each the slope of the sum of its results with respect to its inputs: its own derivative."""
        return {
            name: result_of(
                backward(found.nodes, values, {last: jnp.ones_like(result_of(values, last))}, nodes), before
            )
            for name, (nodes, last, before) in plans.items()
        }

    slopes = jax.jit(derivatives)(found.values)
    return {
        name: (result_of(found.values, last), slope_of(found, last.node), np.asarray(slopes[name], float))
        for name, (_, last, _) in plans.items()
    }


def slope_of(found: Graph, number: int) -> np.ndarray:
    """The gradient with respect to the first output of a node; zeros where there is none."""
    slope = found.slopes[number][0]
    return np.zeros(found.nodes[number].shapes[0]) if slope is None else np.asarray(slope, float)


def rms(values: Any) -> float:
    """The root mean square of all numbers."""
    return float(np.sqrt(np.mean(np.square(np.asarray(values, float)))))


def advice(layers: Sequence[Layer]) -> list[str]:
    """Sentences on what is wrong and what to do."""
    found = []
    wrong = [layer.name for layer in layers if not np.isfinite([size for size in layer[1:5] if size is not None]).all()]
    if wrong:
        found.append(
            f"Not finite in {', '.join(wrong)}: lower the learning rate, clip the gradient's norm, or standardize the inputs."
        )
    for layer in layers:
        if layer.dead is not None and layer.dead > MANY:
            found.append(
                f"{100 * layer.dead:.0f} % of the units of {layer.name} are dead: their derivative is 0 on all rows, so they do not learn. "
                "Lower the learning rate, or use leaky_relu or silu."
            )
        elif layer.saturated is not None and layer.saturated > MANY:
            found.append(
                f"{100 * layer.saturated:.0f} % of the units of {layer.name} are saturated: almost no gradient passes. "
                "Standardize the inputs, start with smaller weights, or use relu or silu."
            )
        if layer.value is not None and layer.value > LARGE:
            found.append(
                f"The values of {layer.name} have size {layer.value:.2g}: standardize the inputs or start with smaller weights."
            )
    sloped = [layer for layer in layers if layer.slope]
    slopes = [layer.slope for layer in layers if layer.slope]
    if len(slopes) > 1:
        ratio = slopes[0] / slopes[-1]
        if ratio < SMALL:
            found.append(
                f"Gradients vanish: those of {sloped[0].name} are {ratio:.1g} of those of {sloped[-1].name}. "
                "Use fewer layers, or relu, silu or selu with their starting weights."
            )
        elif ratio > LARGE:
            found.append(
                f"Gradients explode: those of {sloped[0].name} are {ratio:.1g} times those of {sloped[-1].name}. "
                "Start with smaller weights, or clip the gradient's norm (clip=1)."
            )
    return found
