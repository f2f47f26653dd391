"""What a fitted model is: its parameters, how noise enters at each, its computation graph, the health of its gradients."""

import contextlib

import jax

from dubito import descent, random, trace
from dubito.computation_graph import graph
from dubito.engine import DivergenceError
from dubito.fitted import member_of, moments, rows_of
from dubito.gradients import ROWS, health, objective, of_graph
from dubito.graph_drawing import aligned, amount, shape_text
from dubito.posterior import Dropped, Normals, Samples

FEW = 16  # made-up rows where there is no table
TREATMENTS = {
    "product": "noise on its product, of each row its own",
    "places": "noise by flipout",
    "draw": "one draw for all rows",
    "unused": "not used",
}


def center(estimator, key):
    """One set of parameters that stands for a posterior, of an ensemble for its first member's: the means, the weights
    without masks, or else a draw."""
    posterior = member_of(estimator)[0]
    if isinstance(posterior, Normals | Dropped | Samples):
        return posterior.model, moments(posterior)[0]
    return posterior.model, jax.tree.map(lambda leaf: leaf[0], posterior.sample(key, 1))


def parameters(model, params, x):
    """A table of the network's parameters: path, shape, numbers, and how a Bayesian method's noise enters there."""
    uses = trace.uses(model.network.apply, params["network"], x)
    leaves = jax.tree_util.tree_leaves_with_path(params["network"])
    rows = [("parameters", "shape", "numbers", "noise, if the method has any")]
    for (path, leaf), use in zip(
        leaves, jax.tree.leaves(uses, is_leaf=lambda one: isinstance(one, trace.Use)), strict=True
    ):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        rows.append((name, shape_text(leaf.shape), f"{leaf.size:,}", TREATMENTS[use.treatment]))
    rows.append(("", "", f"{sum(leaf.size for _, leaf in leaves):,}", ""))
    return aligned(rows)


def explained(model, inputs=None, y=None, unfold=()):
    """(text, graph) of a fitted estimator. With a table and its target the graph is that of −log p(D, θ) per example, and the
    text tells of the gradients; without a target that of the network; without a table on 16 rows of standard normal
    numbers."""
    key = random.fast(model.key_)
    inner, params = center(model, key)
    if inputs is None:
        x = jax.random.normal(key, (FEW, model.schema_.width))
    elif y is None:
        x = rows_of(model, inputs)[:ROWS]
    else:
        x, y = (rows[:ROWS] for rows in rows_of(model, inputs, y))
    lines = [model.description, "", parameters(inner, params, x), ""]
    if y is None:
        found = graph(inner.network.apply, params["network"], x)
        lines.append(f"The network on {len(x)} rows{' of standard normal numbers' if inputs is None else ''}:")
    else:
        found = objective(inner, params, x, y)
        lines.append(f"−log p(D, θ) per example on {len(x)} rows, and the slopes of it:")
    lines += [found.table(unfold), "", costs(found)]
    if y is not None:
        lines += ["", str(of_graph(found))]
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
