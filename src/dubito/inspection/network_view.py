"""What pictures and measures read from a trained network: its posterior, weights, hidden units and encoded rows.

``fitted`` is a posterior or a fitted estimator everywhere.
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
    """The posterior of a fitted estimator, or a posterior as it is.

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
    """The posterior of one network.

    Parameters
    ----------
    fitted : posterior or fitted estimator.
    member : number from 0. None is the first member of an ensemble; otherwise all draws together, as for a sampler, whose
        draws share their hidden units while members do not. Of a Laplace approximation it is the point.

    Returns
    -------
    The posterior, its number or None, and how many members there are.
    """
    posterior = posterior_of(fitted)
    if member is None:
        ensemble = isinstance(fitted, BayesianEstimator) and base_method(fitted.method_) is not fitted.method_
        if not isinstance(posterior, Mixture) and not ensemble:
            return _looked_at(posterior), None, 1
        member = 0
    size = len(posterior.parts) if isinstance(posterior, Mixture) else 1
    size = len(posterior) if isinstance(posterior, Samples) else size
    if not (isinstance(member, int) and 0 <= member < size):
        raise ValueError(f"member counts from 0 and there are {size}; got {member!r}")
    if isinstance(posterior, Samples):
        alone = jax.tree.map(lambda leaf: leaf[member : member + 1], posterior.params)
        return Samples(posterior.model, alone), member, size
    return _looked_at(posterior.parts[member] if isinstance(posterior, Mixture) else posterior), member, size


def _looked_at(posterior):
    return posterior if not isinstance(posterior, Posterior) or posterior.point is None else posterior.point


def parameter_moments(posterior: Any) -> tuple[Params, Params | None]:
    """Mean and standard deviation of every parameter.

    Parameters
    ----------
    posterior : one of a single network. Dropout's weights are points; its uncertainty is in its masks.

    Returns
    -------
    Trees like the model's parameters; None as the standard deviation of a point.

    Raises
    ------
    ValueError
        If the moments are not known in closed form.
    """
    if isinstance(posterior, DiagonalNormal):
        return posterior.mean, posterior.scale
    if isinstance(posterior, Samples):
        mean = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), posterior.params)
        several = len(posterior) > 1
        return mean, jax.tree.map(lambda a: jnp.std(a, axis=0, ddof=1), posterior.params) if several else None
    if isinstance(posterior, DropoutPosterior):
        return posterior.params, None
    raise ValueError(
        f"the moments of a {type(posterior).__name__} are not known in closed form: draw from it, "
        "dubito.Samples(posterior.model, posterior.sample(key, 200)), or give one of its parts"
    )


def point_params(fitted: Any, member: int | None = None) -> Params:
    """One set of parameters to look at: a point estimate, a posterior mean, or dropout's weights without masks.

    Parameters
    ----------
    fitted, member : as for ``member_of``.
    """
    return parameter_moments(member_of(fitted, member)[0])[0]


def mean_network(network: Any, params: Params) -> tuple[MLP, Params]:
    """The multilayer perceptron that predicts the mean, and its parameters.

    Parameters
    ----------
    network : the model's, which may have a noise network beside the mean's.
    params : the network's.

    Raises
    ------
    ValueError
        For a network that is no multilayer perceptron.
    """
    if isinstance(network, MLP):
        return network, params
    if isinstance(network, MeanAndNoiseNetwork):
        return mean_network(network.mean, params["mean"])
    raise ValueError(f"this reads layers of multilayer perceptrons, as dubito.mlp makes them; got {network!r}")


def hidden_activations(
    network: Any, params: Params, x: Float[np.ndarray, "rows inputs"]
) -> list[Float[jax.Array, "rows units"]]:
    """The activations of each hidden layer.

    Parameters
    ----------
    network, params : as for ``mean_network``.
    x : encoded rows.
    """
    network, params = mean_network(network, params)
    name = network.activation
    function = ACTIVATIONS[name].function if isinstance(name, str) else name
    below = [replace(network, hidden=network.hidden[:k], outputs=width) for k, width in enumerate(network.hidden)]
    return [function(part.apply(params, x)) for part in below]


def unit_correlation(fitted: Any, X: Any, *, member: int | None = None) -> Float[np.ndarray, "layers"]:
    """The mean absolute correlation between pairs of hidden units, for each hidden layer.

    1 means that all units are redundant; over independent rows unrelated units show about √(2/(πn)). Dropout's is that of
    its weights without masks: lower than without dropout where units start alike or a prior holds them together, but higher
    after maximum likelihood (measured in the tests), since each unit must then carry what masked units cannot.

    Parameters
    ----------
    fitted, member : as for ``member_of``.
    X : table of a fitted estimator, or encoded rows (n, D) of a posterior; at least 3 rows.

    Returns
    -------
    (layers,); units that never change are left out, and nan stands where fewer than two are left.
    """
    posterior = member_of(fitted, member)[0]
    x = X if fitted is posterior_of(fitted) else encode_rows(fitted, X)
    x = np.asarray(x, np.float32)
    if x.ndim != 2 or len(x) < 3:
        raise ValueError(f"a correlation needs at least 3 rows, (n, D); got shape {x.shape}")
    return np.array(
        [_mean_correlation(layer) for layer in hidden_activations(posterior.model.network, _network(posterior), x)]
    )


def _network(posterior):
    return parameter_moments(posterior)[0]["network"]


def _mean_correlation(values):
    values = np.asarray(values, float)
    deviation = values.std(axis=0)
    values = values[:, deviation > 1e-6 * max(deviation.max(), 1e-300)]
    count = values.shape[1]
    if count < 2:
        return np.nan
    size = np.abs(np.corrcoef(values, rowvar=False))
    return (size.sum() - np.trace(size)) / (count * (count - 1))


def encode_rows(estimator: Any, X: Any, y: Any = None) -> Any:
    """Rows as the network of a fitted estimator sees them.

    Parameters
    ----------
    estimator : fitted estimator.
    X : table (rows, columns).
    y : target (rows,) or (rows, targets), or None.

    Returns
    -------
    x (rows, width), or (x, y) with standardized targets or indices of classes.

    Raises
    ------
    DataError
        For no rows, and for targets that the likelihood does not support.
    """
    x = estimator.schema_.encode(X, estimator.handle_unknown, type(estimator).__name__)
    if len(x) == 0:
        raise DataError("The table has no rows; give at least one.")
    if y is None:
        return x
    if is_classifier(estimator):
        return x, label_codes(y, estimator.classes_)
    table, _ = check_target(y, len(x), "regression")
    problem = target_error(estimator.posterior_.model.likelihood, table)
    if problem is not None:
        raise DataError(problem)
    return x, estimator.scaler_.transform(table)
