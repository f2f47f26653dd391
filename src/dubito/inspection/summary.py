"""A summary of a fitted model: its parameters, its computation graph, its gradients."""

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
from dubito.models.model import Model
from dubito.models.partial_network import parameter_uses
from dubito.posteriors.base import Samples, unwrapped
from dubito.posteriors.dropout import DropoutPosterior
from dubito.posteriors.normals import DiagonalNormal, FullCovarianceNormal, LowRankNormal
from dubito.training.fit import DivergenceError

RANDOM_ROWS = 16  # without a table
TREATMENTS = {
    "product": "noise on its product, independent for each row",
    "places": "noise by flipout",
    "draw": "one draw for all rows",
    "unused": "not used",
}


def center_params(estimator: Any, key: Key) -> tuple[Model, Params]:
    """A model and one set of parameters that represents its posterior.

    The parameters are means, weights without dropout masks, or else a draw with ``key``; for an
    ensemble those of its first member.
    """
    posterior = member_of(estimator)[0]
    if isinstance(posterior, DiagonalNormal | DropoutPosterior | Samples):
        return posterior.model, parameter_moments(posterior)[0]
    return posterior.model, jax.tree.map(lambda leaf: leaf[0], posterior.sample(key, 1))


def parameter_table(model: Model, params: Params, x: ArrayLike) -> str:
    """A table of the network's parameters: path, shape, size, and how a method's noise enters."""
    leaves = jax.tree_util.tree_leaves_with_path(params["network"])
    uses = parameter_uses(model.network, params["network"], x)
    treatments = [use.treatment for use in jax.tree.leaves(uses, is_leaf=lambda leaf: isinstance(leaf, jaxpr.Use))]
    rows = [("parameters", "shape", "numbers", "noise, if the method has any")]
    for (path, leaf), treatment in zip(leaves, treatments, strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        rows.append((name, shape_text(leaf.shape), f"{leaf.size:,}", TREATMENTS[treatment]))
    rows.append(("", "", f"{sum(leaf.size for _, leaf in leaves):,}", ""))
    return align_columns(rows)


def inspect_model(
    model: Any, inputs: Table | None = None, y: Column | None = None, unfold: str | Sequence[str] = ()
) -> tuple[str, Graph]:
    """Summarize a fitted estimator.

    Parameters
    ----------
    model : BayesianEstimator
        A fitted estimator.
    inputs : table, optional
        (rows, columns); by default 16 rows of standard normal numbers.
    y : column, optional
        The target. With it the graph is that of −log p(D, θ) per example, and the summary includes the
        health of the gradients; without it the graph is that of the network.
    unfold : str or sequence of str
        Scopes of the graph to open, as for ``Graph.svg``.

    Returns
    -------
    tuple
        The summary as text, and the computation graph.
    """
    key_center, key_rows, key_bound = jax.random.split(prng.fast(model.key_), 3)
    inner, params = center_params(model, key_center)
    rows = None if y is None else encode_rows(model, inputs, y)
    if rows is not None:
        x = rows[0][:ROWS]
        found = objective(inner, params, *rows)
        title = f"−log p(D, θ) per example on {len(x)} rows, and its gradients:"
        health_lines = ["", str(health_of_graph(found))]
    else:
        shape = RANDOM_ROWS, model.schema_.width
        x = jax.random.normal(key_rows, shape) if inputs is None else encode_rows(model, inputs)[:ROWS]
        found = graph(inner.network.apply, params["network"], x)
        title = f"The network on {len(x)} rows{' of standard normal numbers' if inputs is None else ''}:"
        health_lines = []
    head = [model.description, "", parameter_table(inner, params, x), "", title, found.table(unfold), ""]
    evidence = evidence_lines(model.posterior_, rows, key_bound)
    return "\n".join([*head, cost_line(found), *health_lines, *evidence]), found


def evidence_lines(posterior: Any, rows: tuple[Any, Any] | None, key: Key) -> list[str]:
    """Lines with the evidence, or with its lower bound for encoded ``rows`` (x, y), or none."""
    if posterior.log_evidence is not None:
        value = float(posterior.log_evidence)
        return ["", f"Laplace evidence of the training rows: log p(D) = {value:.1f} nats."]
    if rows is not None and isinstance(unwrapped(posterior), DiagonalNormal | LowRankNormal | FullCovarianceNormal):
        with contextlib.suppress(ValueError):  # an improper prior, or weights that are points
            bound = elbo(posterior, *rows, key=key)
            text = f"log p(D) ≥ {bound.value:.1f} ± {bound.se:.1f} nats"
            return ["", f"Evidence lower bound, if these are the rows it was fitted to: {text}."]
    return []


def cost_line(found: Graph) -> str:
    """A line on the arithmetic operations of the function and its derivatives."""
    function, reverse, rows, forward, columns = found.costs
    by_reverse = f"{amount(round(reverse))} ({rows:,} {'pass' if rows == 1 else 'passes'})"
    by_forward = f"{amount(round(forward))} ({columns:,} {'pass' if columns == 1 else 'passes'})"
    derivatives = f"its derivatives by reverse mode {by_reverse}, by forward mode {by_forward}"
    return f"Arithmetic operations: the function {amount(round(function))}; {derivatives}."


@contextlib.contextmanager
def report_divergence() -> Iterator[None]:
    """Add the health of the gradients at the last finite state to a fit's ``DivergenceError``."""
    try:
        yield
    except DivergenceError as error:
        found = health(error.model, error.params, error.rows.x, error.rows.y)
        raise ValueError(f"{error}\nThe gradients at the last finite state:\n{found}") from error
