"""What a fitted model is: its parameters, how noise enters at each, its computation graph, the health of its gradients."""

import contextlib

import jax
import numpy as np

from dubito import descent, random, trace
from dubito.comparison import codes
from dubito.computation_graph import graph
from dubito.engine import DivergenceError
from dubito.gradients import ROWS, health
from dubito.graph_drawing import aligned, amount, shape_text
from dubito.model import Batch
from dubito.posterior import Dropped, Normals

FEW = 16  # made-up rows where there is no table
TREATMENTS = {
    "product": "noise on its product, of each row its own",
    "places": "noise by flipout",
    "draw": "one draw for all rows",
    "unused": "not used",
}


def center(posterior, key):
    """One set of parameters that stands for a posterior: the means, the weights without masks, or a draw."""
    if isinstance(posterior, Normals):
        return posterior.mean
    if isinstance(posterior, Dropped):
        return posterior.params
    return jax.tree.map(lambda leaf: leaf[0], posterior.sample(key, 1))


def parameters(model, params, x):
    """A table of the network's parameters: path, shape, numbers, and how a Bayesian method's noise enters there."""
    uses = trace.uses(model.network.apply, params["network"], x)
    leaves = jax.tree_util.tree_leaves_with_path(params["network"])
    rows = [("parameters", "shape", "numbers", "noise")]
    for (path, leaf), use in zip(
        leaves, jax.tree.leaves(uses, is_leaf=lambda one: isinstance(one, trace.Use)), strict=True
    ):
        name = ".".join(str(getattr(key, "key", key)) for key in path)
        rows.append((name, shape_text(leaf.shape), f"{leaf.size:,}", TREATMENTS[use.treatment]))
    rows.append(("", "", f"{sum(leaf.size for _, leaf in leaves):,}", ""))
    return aligned(rows)


def encoded(model, inputs, y):
    """The first rows of a table as the network sees them, and of its target, if there is one, as the likelihood does."""
    x = model.schema_.encode(inputs, model.handle_unknown, type(model).__name__)[:ROWS]
    if y is None:
        return x, None
    if hasattr(model, "classes_"):
        return x, codes(model.classes_, y)[:ROWS]
    target = np.asarray(y, np.float64).reshape(len(y), -1)[:ROWS]
    return x, model.scaler_.transform(target)


def explained(model, inputs=None, y=None, unfold=()):
    """(text, graph) of a fitted estimator. With a table and its target the graph is that of −log p(D, θ) per example, and the
    text tells of the gradients; without a target that of the network; without a table on 16 rows of standard normal
    numbers."""
    posterior = model.posterior_
    key = random.fast(model.key_)
    params, inner = center(posterior, key), posterior.model
    if inputs is None:
        x = jax.random.normal(key, (FEW, model.schema_.width))
    else:
        x, y = encoded(model, inputs, y)
    lines = [model.description, "", parameters(inner, params, x), ""]
    if y is None:
        found = graph(inner.network.apply, params["network"], x)
        lines.append(f"The network on {len(x)} rows{' of standard normal numbers' if inputs is None else ''}:")
    else:
        batch = Batch(x, y, np.ones(len(x), np.float32), np.float32(1), np.float32(len(x)))
        found = graph(lambda params: -inner.log_joint(params, batch) / batch.size, params)
        lines.append(f"−log p(D, θ) per example on {len(x)} rows, and the slopes of it:")
    lines += [found.table(unfold), "", costs(found)]
    if y is not None:
        lines += ["", str(health(inner, params, x, y))]
    return "\n".join(lines), found


def costs(found):
    """A line on what the function and its derivatives cost."""
    cost = found.costs
    return (
        f"Arithmetic operations: the function {amount(round(cost.function))}; its derivatives by reverse mode "
        f"{amount(round(cost.reverse))} ({cost.rows:,} {'pass' if cost.rows == 1 else 'passes'}), "
        f"by forward mode {amount(round(cost.forward))} ({cost.columns:,} {'pass' if cost.columns == 1 else 'passes'})."
    )


@contextlib.contextmanager
def divergence_explained():
    """Add to a fit's divergence what the gradients were like at the last finite state."""
    try:
        yield
    except DivergenceError as error:
        state, rows = error.state, error.rows
        params = descent.unpacked(state.params if hasattr(state, "params") else state.mean)
        found = health(error.model, params, rows.x, rows.y)
        raise ValueError(f"{error}\nThe gradients at the last finite state:\n{found}") from error
