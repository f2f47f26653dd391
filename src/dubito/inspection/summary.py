"""A summary of a fitted model: its parameters, how noise enters at each, its computation graph, its gradients."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from dubito._jax import jaxpr, prng
from dubito._jax.types import ArrayLike, Key, Params
from dubito._values import Column, Table
from dubito.evaluation.elbo import elbo
from dubito.inspection.gradient_health import ROWS, health, health_of_graph, objective
from dubito.inspection.graph.drawing import align_columns, amount, shape_text
from dubito.inspection.graph.graph import Graph, graph
from dubito.inspection.network_view import encode_rows, member_of, parameter_moments
from dubito.posteriors.base import Samples, unwrapped
from dubito.posteriors.dropout import DropoutPosterior
from dubito.posteriors.normals import DiagonalNormal, FullCovarianceNormal, LowRankNormal
from dubito.training.fit import DivergenceError

FEW = 16  # random rows where there is no table
TREATMENTS = {
    "product": "noise on its product, independent for each row",
    "places": "noise by flipout",
    "draw": "one draw for all rows",
    "unused": "not used",
}


def center_params(estimator: Any, key: Key) -> tuple[Any, Params]:
    """A model and one set of parameters that represents its posterior.

    The parameters are means, weights without dropout masks, or else a draw with ``key``; of an ensemble its first member's.
    """
    posterior = member_of(estimator)[0]
    if isinstance(posterior, DiagonalNormal | DropoutPosterior | Samples):
        return posterior.model, parameter_moments(posterior)[0]
    return posterior.model, jax.tree.map(lambda leaf: leaf[0], posterior.sample(key, 1))


def parameter_table(model: Any, params: Params, x: ArrayLike) -> str:
    """A table of the network's parameters: path, shape, size, and how the noise of a Bayesian method enters there."""
    uses = jaxpr.uses(model.network.apply, params["network"], x)
    leaves = jax.tree_util.tree_leaves_with_path(params["network"])
    rows = [("parameters", "shape", "numbers", "noise, if the method has any")]
    for (path, leaf), use in zip(
        leaves, jax.tree.leaves(uses, is_leaf=lambda one: isinstance(one, jaxpr.Use)), strict=True
    ):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        rows.append((name, shape_text(leaf.shape), f"{leaf.size:,}", TREATMENTS[use.treatment]))
    rows.append(("", "", f"{sum(leaf.size for _, leaf in leaves):,}", ""))
    return align_columns(rows)


def inspect_model(
    model: Any, inputs: Table | None = None, y: Column | None = None, unfold: Sequence[str] = ()
) -> tuple[str, Graph]:
    """A summary of a fitted estimator.

    Parameters
    ----------
    model : fitted estimator.
    inputs : table (rows, columns). None is 16 rows of standard normal numbers.
    y : target. With it the graph is that of −log p(D, θ) per example, and the summary includes the health of the gradients;
        without it that of the network.
    unfold : scopes of the graph to open, as for ``Graph.svg``.

    Returns
    -------
    The summary as text, and the computation graph.
    """
    key_center, key_rows, key_bound = jax.random.split(prng.fast(model.key_), 3)
    inner, params = center_params(model, key_center)
    rows = None if y is None else encode_rows(model, inputs, y)
    if rows is not None:
        x, y = (each[:ROWS] for each in rows)
    elif inputs is not None:
        x = encode_rows(model, inputs)[:ROWS]
    else:
        x = jax.random.normal(key_rows, (FEW, model.schema_.width))
    lines = [model.description, "", parameter_table(inner, params, x), ""]
    if y is None:
        found = graph(inner.network.apply, params["network"], x)
        lines.append(f"The network on {len(x)} rows{' of standard normal numbers' if inputs is None else ''}:")
    else:
        found = objective(inner, params, x, y)
        lines.append(f"−log p(D, θ) per example on {len(x)} rows, and its gradients:")
    lines += [found.table(unfold), "", cost_line(found)]
    if y is not None:
        lines += ["", str(health_of_graph(found))]
    lines += evidence_lines(model.posterior_, rows, key_bound)
    return "\n".join(lines), found


def evidence_lines(posterior: Any, rows: tuple | None, key: Key) -> list[str]:
    """Lines with the posterior's evidence, or with the evidence lower bound of the encoded ``rows`` (x, y), or none."""
    if posterior.log_evidence is not None:
        value = float(posterior.log_evidence)
        return ["", f"Evidence of the rows it was fitted to, by Laplace: log p(D) = {value:.1f} nats."]
    if rows is not None and isinstance(unwrapped(posterior), DiagonalNormal | LowRankNormal | FullCovarianceNormal):
        with contextlib.suppress(ValueError):  # an improper prior, or weights that are points
            bound = elbo(posterior, *rows, key=key)
            told = f"log p(D) ≥ {bound.value:.1f} ± {bound.se:.1f} nats"
            return ["", f"Evidence lower bound, if these are the rows it was fitted to: {told}."]
    return []


def cost_line(found: Graph) -> str:
    """A line on the arithmetic operations of the function and its derivatives."""
    cost = found.costs
    return (
        f"Arithmetic operations: the function {amount(round(cost.function))}; its derivatives by reverse mode "
        f"{amount(round(cost.reverse))} ({cost.rows:,} {'pass' if cost.rows == 1 else 'passes'}), "
        f"by forward mode {amount(round(cost.forward))} ({cost.columns:,} {'pass' if cost.columns == 1 else 'passes'})."
    )


@contextlib.contextmanager
def report_divergence() -> Iterator[None]:
    """Add the health of the gradients at the last finite state to a fit's ``DivergenceError``."""
    try:
        yield
    except DivergenceError as error:
        found = health(error.model, error.params, error.rows.x, error.rows.y)
        raise ValueError(f"{error}\nThe gradients at the last finite state:\n{found}") from error
