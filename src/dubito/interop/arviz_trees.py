"""Posteriors for ArviZ: parameters, functions, densities and draws of y, as one DataTree."""

import importlib.metadata
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dubito._jax import prng
from dubito._jax.types import Inputs, Key
from dubito._values import Column
from dubito.estimators.fitted import FittedEstimator
from dubito.evaluation.diagnostics import draw_structure
from dubito.evaluation.validation import check_predictive
from dubito.inspection.network_view import posterior_of
from dubito.posteriors.base import Posterior, Samples, unwrapped
from dubito.posteriors.predictive import Unit, predict

INSTALL = "dubito.to_arviz needs arviz-base and arviz-stats: pip install 'dubito[arviz]'"
OBSERVED = "observed_data"  # its arrays have no draws
NOISE = 2**31  # number of the key of the noise: larger than those of all draws, which are split from the same key


class DrawSource(NamedTuple):
    """Where the draws come from.

    Attributes
    ----------
    posterior : Posterior
        The posterior.
    draws : int or None
        As for ``Posterior.sample``.
    key : jax.Array
        The key of draws and noise.
    """

    posterior: Any
    draws: int | None
    key: Key


def to_arviz(
    fitted: Any,
    x: Inputs | None = None,
    y: Column | None = None,
    *,
    x_new: Inputs | None = None,
    key: Key | None = None,
    draws: int | None = None,
    shift: Unit | None = None,
    scale: Unit | None = None,
) -> Any:
    """A posterior as a DataTree, for the diagnostics and plots of ArviZ.

    The groups are ``posterior``: all parameters, by their paths, such as ``network.layer_0.w``, and with
    ``x`` the mean of y of each draw's function, ``mean``; with ``x`` also ``posterior_predictive``, one draw of ``y`` from
    each function; with ``y`` also ``log_likelihood``, log p(y | θ) of each row in nats of the target's units, and
    ``observed_data``; with ``x_new`` ``predictions``, as ``posterior_predictive`` at other rows. There is
    no ``sample_stats``, since no sampler stores statistics of single transitions.

    The draws of a sampler have its chains; others are independent and form one chain. R-hat
    and effective sample size should be judged by ``mean``: the weights of a network have symmetries, and chains may
    disagree in them and agree in all predictions. A linearized Laplace approximation has a ``center``, which is the same in all
    draws, and the ``offset`` of each. A ``Criterion`` has neither densities nor draws of y.

    Parameters
    ----------
    fitted : Posterior or estimator
        What ``dubito.fit`` or ``dubito.wrap`` returned, or a fitted ``BayesianRegressor`` or ``BayesianClassifier``.
        Draws and units of an estimator are those of its predictions, without any calibration.
    x : frame or array, optional
        The rows of the fit. All draws of all rows are held in memory.
    y : array, optional
        Their targets, labels or codes.
    x_new : frame or array, optional
        Other rows.
    key : jax.Array
        Key of the random numbers, for a posterior. The draws are those of ``dubito.predict`` with this key.
    draws : int, optional
        How many draws of a posterior that is not a finite set of draws or points. Needed for these, not allowed for others.
    shift, scale : float, sequence of float or array
        The units of a posterior's targets, as for ``dubito.predict``.

    Returns
    -------
    xarray.DataTree
        The dimensions are ``chain``, ``draw``, ``row``, and ``target`` or ``class`` if there are several.

    Raises
    ------
    ImportError
        If arviz-base is not installed.
    TypeError
        For a posterior without a key.
    ValueError
        For other objects, for draws that are missing or not allowed, y without x, and settings that an estimator has of its own.

    Examples
    --------
    >>> import dubito, jax, numpy as np
    >>> X = np.linspace(-1, 1, 40)[:, None]
    >>> model = dubito.BayesianRegressor("bayes-by-backprop", hidden=4, draws=50, random_state=0).fit(X, X[:, 0])
    >>> tree = dubito.to_arviz(model, X, X[:, 0])  # doctest: +SKIP
    >>> dict(tree["log_likelihood"].sizes)  # doctest: +SKIP
    {'chain': 1, 'draw': 50, 'row': 40}
    """
    try:
        import arviz_base  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(INSTALL) from error
    if y is not None and x is None:
        raise ValueError("to_arviz got y without x: pass the rows that y belongs to")
    if isinstance(fitted, FittedEstimator):
        own = {"key": key, "draws": draws, "shift": shift, "scale": scale}
        given = [name for name, value in own.items() if value is not None]
        if given:
            raise ValueError(f"an estimator has its own {given[0]}: leave {given[0]}= out, or pass its posterior_")
        source = _estimator_source(fitted)
    else:
        source = _posterior_source(fitted, draws, key)

    def answer(rows: Inputs) -> Any:
        if isinstance(fitted, FittedEstimator):
            return fitted.uncalibrated(rows)
        units: tuple[Unit, Unit] = (0.0 if shift is None else shift, 1.0 if scale is None else scale)
        return predict(source.posterior, rows, key=source.key, draws=source.draws, shift=units[0], scale=units[1])

    groups: dict[str, dict[str, np.ndarray]] = {"posterior": _parameters(source)}
    dims: dict[str, list[str]] = {}
    coords: dict[str, Any] = {}
    keys = [jax.random.fold_in(source.key, NOISE + number) for number in range(2)]
    if x is not None:
        found = answer(x)
        dims, coords = _dimensions(found)
        means = found.columnwise.mixture.moments_of_draws()[0].swapaxes(0, 1)
        groups["posterior"]["mean"] = found._squeezed(found.shift + found.scale * means)
        groups |= {"posterior_predictive": _outcomes(found, keys[0])} if found.supports("sample") else {}
        groups |= {} if y is None else _observations(found, y)
    new: dict[str, Any] = {}
    if x_new is not None:
        found = answer(x_new)
        if not found.supports("sample"):
            raise ValueError(f"{type(found.likelihood).__name__} has no noise: there are no draws of y at x_new")
        groups["predictions"] = _outcomes(found, keys[1])
        own_dims, own_coords = _dimensions(found)
        new = {"pred_dims": own_dims, "pred_coords": own_coords}
    return _tree(arviz_base, source, groups, {"dims": dims, "coords": coords, **new})


def _estimator_source(model: FittedEstimator) -> DrawSource:
    """The draws of a fitted estimator's predictions."""
    model._functions()  # raises NotFittedError
    if model.draws is not None and _is_finite(model.posterior_):
        have = "its posterior is a finite set of draws, all of which to_arviz uses, in their order"
        raise ValueError(f"the estimator has draws={model.draws}, but {have}: call set_params(draws=None) first")
    return DrawSource(model.posterior_, model.draws, prng.fast(model.key_))


def _posterior_source(posterior: Any, draws: int | None, key: Key | None) -> DrawSource:
    """The draws of a posterior."""
    posterior = posterior_of(posterior)
    if key is None:
        raise TypeError("to_arviz needs a key for a posterior, such as key=jax.random.key(0)")
    key, finite = prng.fast(key), isinstance(posterior, Posterior) and _is_finite(posterior)
    if finite and draws is not None:
        raise ValueError(
            f"the {type(posterior).__name__} is a finite set of draws, all of which are taken: leave draws out"
        )
    if not finite and draws is None:
        raise ValueError(
            f"the {type(posterior).__name__} is not a finite set of draws: pass their number, such as draws=1000"
        )
    if not isinstance(posterior, Posterior):  # a user's own, of which only model and sample are known
        return DrawSource(Samples(posterior.model, posterior.sample(key, draws)), None, key)
    return DrawSource(posterior, draws, key)


def _is_finite(posterior: Posterior) -> bool:
    """Whether the posterior is a finite set of draws or points."""
    inner = unwrapped(posterior)
    return all(map(_is_finite, inner.parts)) if inner.parts else isinstance(inner, Samples)


def _parameters(source: DrawSource) -> dict[str, np.ndarray]:
    """All parameters by name, (draws, ·), without the seeds of masks."""
    leaves = jax.tree_util.tree_leaves_with_path(source.posterior.sample(source.key, source.draws))
    real = [(path, leaf) for path, leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in real}


def _dimensions(answer: Any) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """The names of the dimensions of ``mean`` and ``y`` after chains and draws, and their coordinates."""
    coords: dict[str, Any] = {"row": np.arange(len(answer))}
    if answer.task == "classification":
        labels = range(answer.columns) if answer.classes is None else answer.classes
        return {"mean": ["row", "class"], "y": ["row"]}, coords | {"class": [*labels]}
    several = ["target"] if answer.columns > 1 else []
    own = {"target": np.arange(answer.columns)} if several else {}
    return {"mean": ["row", *several], "y": ["row", *several]}, coords | own


def _outcomes(answer: Any, key: Key) -> dict[str, np.ndarray]:
    """A draw of y from each function, (draws, rows) or (draws, rows, targets)."""
    return {"y": answer._squeezed(answer.columnwise.mixture.sample_each(key))}


def _observations(answer: Any, y: Column) -> dict[str, dict[str, np.ndarray]]:
    """The groups of the observed targets."""
    columnwise, values, _ = check_predictive(answer, y, None, answer.task, marked=True, missing=True)
    shown = values if answer.task == "classification" else answer._squeezed(values[:, : answer.columns])
    found = {OBSERVED: {"y": shown}}
    if answer.supports("log_prob"):
        found["log_likelihood"] = {"y": columnwise.mixture.log_densities_of_draws(values).T}
    return found


def _tree(arviz_base: Any, source: DrawSource, groups: dict[str, dict[str, np.ndarray]], names: dict[str, Any]) -> Any:
    """The DataTree of arrays whose first axis is that of the draws, except for the observed data."""
    total = len(next(iter(groups["posterior"].values())))
    kind, runs = draw_structure(source.posterior, total)
    chains = runs if kind == "chains" else 1

    def by_chains(values: np.ndarray) -> np.ndarray:
        return values.reshape(chains, total // chains, *values.shape[1:])

    found = {group: {name: by_chains(v) for name, v in of.items()} for group, of in groups.items() if group != OBSERVED}
    observed = {OBSERVED: groups[OBSERVED]} if OBSERVED in groups else {}
    about = {"inference_library": "dubito", "inference_library_version": importlib.metadata.version("dubito")}
    return arviz_base.from_dict(found | observed, attrs={"posterior": about | {"draws": kind}}, **names)
