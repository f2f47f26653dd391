"""What plots read from a trained network: its posterior, weights, hidden units and encoded rows.

``fitted`` is always a posterior or a fitted estimator.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from sklearn.base import is_classifier

from dubito._check import DataError
from dubito._jax.types import Params
from dubito._values import Column, Table
from dubito.estimators.base import BayesianEstimator
from dubito.models.activations import ACTIVATIONS
from dubito.models.likelihoods.by_name import target_error
from dubito.models.networks import MLP
from dubito.models.noise_network import MeanAndNoiseNetwork
from dubito.posteriors.base import Mixture, Posterior, Samples
from dubito.posteriors.dropout import DropoutPosterior
from dubito.posteriors.normals import DiagonalNormal
from dubito.posteriors.outcomes import label_codes
from dubito.tables.validation import check_target
from dubito.training.method import base_method


def posterior_of(fitted: Any) -> Any:
    """Return the posterior of a fitted estimator, or a posterior as it is.

    Parameters
    ----------
    fitted : posterior or estimator

    Returns
    -------
    Posterior
        The posterior.

    Raises
    ------
    ValueError
        For anything else.
    """
    posterior = fitted.posterior_ if isinstance(fitted, BayesianEstimator) else fitted
    if not (hasattr(posterior, "model") and hasattr(posterior, "sample")):
        raise ValueError(f"expected a posterior or a fitted estimator, got {type(fitted).__name__}")
    return posterior


def member_of(fitted: Any, member: int | None = None) -> tuple[Any, int | None, int]:
    """Return the posterior of one network.

    Parameters
    ----------
    fitted : posterior or estimator
    member : int, optional
        Counted from 0. By default the first member of an ensemble, and otherwise all draws together, as
        for a sampler, whose draws share their hidden units while members do not.

    Returns
    -------
    tuple
        The posterior (for a Laplace approximation its point), the member's number or None, and how many
        members there are.
    """
    posterior = posterior_of(fitted)
    is_ensemble = isinstance(fitted, BayesianEstimator) and base_method(fitted.method_) is not fitted.method_
    size = 1
    if member is None and not is_ensemble and not isinstance(posterior, Mixture):
        number = None
    else:
        number = 0 if member is None else member
        if isinstance(posterior, Mixture | Samples):
            size = len(posterior.parts) if isinstance(posterior, Mixture) else len(posterior)
        if not (isinstance(number, int) and 0 <= number < size):
            raise ValueError(f"member counts from 0 and there are {size}; got {number!r}")
        if isinstance(posterior, Samples):
            alone = jax.tree.map(lambda leaf: leaf[number : number + 1], posterior.params)
            posterior = Samples(posterior.model, alone)
        elif isinstance(posterior, Mixture):
            posterior = posterior.parts[number]
    has_point = isinstance(posterior, Posterior) and posterior.point is not None
    return posterior.point if has_point else posterior, number, size


def parameter_moments(posterior: Any) -> tuple[Params, Params | None]:
    """Return mean and standard deviation of every parameter.

    Parameters
    ----------
    posterior : Posterior
        Of a single network. The weights of dropout are points; its uncertainty is in its masks.

    Returns
    -------
    tuple of pytree
        Like the model's parameters; None as the standard deviation of a point.

    Raises
    ------
    ValueError
        If the moments are not known in closed form.
    """
    if isinstance(posterior, DiagonalNormal):
        return posterior.mean, posterior.scale
    if isinstance(posterior, DropoutPosterior):
        return posterior.params, None
    if isinstance(posterior, Samples):
        mean = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), posterior.params)
        if len(posterior) == 1:
            return mean, None
        return mean, jax.tree.map(lambda leaf: jnp.std(leaf, axis=0, ddof=1), posterior.params)
    raise ValueError(
        f"the moments of a {type(posterior).__name__} are not known in closed form: draw from it, "
        "dubito.Samples(posterior.model, posterior.sample(key, 200)), or choose one of its parts"
    )


def point_params(fitted: Any, member: int | None = None) -> Params:
    """Return a point estimate, a posterior mean, or dropout's weights without masks.

    Parameters
    ----------
    fitted, member
        As for ``member_of``.

    Returns
    -------
    pytree
        Like the model's parameters.
    """
    return parameter_moments(member_of(fitted, member)[0])[0]


def mean_network(network: Any, params: Params) -> tuple[MLP, Params]:
    """Return the multilayer perceptron that predicts the mean, and its parameters.

    Parameters
    ----------
    network : Network
        The model's, which may have a noise network beside the mean's.
    params : pytree
        The network's parameters.

    Returns
    -------
    tuple
        The multilayer perceptron and its parameters.

    Raises
    ------
    ValueError
        For a network that is not a multilayer perceptron.
    """
    if isinstance(network, MLP):
        return network, params
    if isinstance(network, MeanAndNoiseNetwork):
        return mean_network(network.mean, params["mean"])
    raise ValueError(f"only layers of multilayer perceptrons, as from dubito.mlp, can be read; got {network!r}")


def hidden_activations(
    network: Any, params: Params, x: Float[np.ndarray, "rows inputs"]
) -> list[Float[jax.Array, "rows units"]]:
    """Compute the activations of each hidden layer.

    Parameters
    ----------
    network, params
        As for ``mean_network``.
    x : array
        Encoded rows.

    Returns
    -------
    list of array
        (rows, units) for each layer.
    """
    network, params = mean_network(network, params)
    name = network.activation
    function = ACTIVATIONS[name].function if isinstance(name, str) else name
    below = [replace(network, hidden=network.hidden[:k], outputs=width) for k, width in enumerate(network.hidden)]
    return [function(part.apply(params, x)) for part in below]


def unit_correlation(fitted: Any, X: Table, *, member: int | None = None) -> Float[np.ndarray, "layers"]:
    """Compute the mean absolute correlation between pairs of hidden units, for each hidden layer.

    1 means that all units are redundant; over independent rows unrelated units show about
    √(2/(πn)). For dropout it is that of the weights without masks: lower than without dropout where
    units start alike or a prior holds them together, but higher after maximum likelihood (measured
    in the tests), since each unit must then carry what masked units cannot.

    Parameters
    ----------
    fitted, member
        As for ``member_of``.
    X : table
        Of a fitted estimator, or encoded rows (n, D) of a posterior; at least 3 rows.

    Returns
    -------
    array
        (layers,); units that never change are left out, and nan stands where fewer than two are left.

    Raises
    ------
    ValueError
        For fewer than 3 rows.
    """
    posterior = member_of(fitted, member)[0]
    x = np.asarray(encode_rows(fitted, X) if isinstance(fitted, BayesianEstimator) else X, np.float32)
    if x.ndim != 2 or len(x) < 3:
        raise ValueError(f"a correlation needs at least 3 rows, (n, D); got shape {x.shape}")
    layers = hidden_activations(posterior.model.network, parameter_moments(posterior)[0]["network"], x)
    return np.array([_mean_correlation(np.asarray(layer, float)) for layer in layers])


def _mean_correlation(values: Float[np.ndarray, "rows units"]) -> float:
    deviation = values.std(axis=0)
    values = values[:, deviation > 1e-6 * max(deviation.max(), 1e-300)]
    count = values.shape[1]
    if count < 2:
        return np.nan
    size = np.abs(np.corrcoef(values, rowvar=False))
    return (size.sum() - np.trace(size)) / (count * (count - 1))


def encode_rows(estimator: Any, X: Table, y: Column | None = None) -> Any:
    """Encode rows as the network of a fitted estimator receives them.

    Parameters
    ----------
    estimator : BayesianEstimator
        A fitted estimator.
    X : table
        (rows, columns).
    y : column, optional
        The target (rows,) or (rows, targets).

    Returns
    -------
    array or tuple
        x (rows, width), or (x, y) with standardized targets or indices of classes.

    Raises
    ------
    DataError
        For no rows, and for targets that the likelihood does not support.
    """
    x = estimator.schema_.encode(X, estimator.handle_unknown, estimator.missing, type(estimator).__name__)
    if len(x) == 0:
        raise DataError("The table has no rows.", "Give at least one.")
    if y is None:
        return x
    if is_classifier(estimator):
        return x, label_codes(y, estimator.classes_)
    table, _ = check_target(y, len(x), "regression")
    problem = target_error(estimator.posterior_.model.likelihood, table)
    if problem is not None:
        raise DataError(problem)
    transform = estimator.transform_
    return x, estimator.scaler_.transform(table if transform is None else transform.forward(table))
