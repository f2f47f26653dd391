"""What pictures and measures of a trained network read out of it: its posterior, its weights and their spread, its hidden
units, and the rows as it sees them. ``fitted`` is a posterior or a fitted estimator everywhere."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from dubito._check import DataError
from dubito.methods.laplace.laplace import LaplacePosterior
from dubito.models.activations import ACTIVATIONS
from dubito.models.likelihoods.by_name import refusal
from dubito.models.networks import MLP
from dubito.posteriors.base import Dropped, Mixture, Normals, Samples
from dubito.posteriors.outcomes import label_codes
from dubito.tables.validation import check_target


def posterior_of(fitted):
    """The posterior of a fitted estimator, or a posterior as it is. ValueError for anything else."""
    posterior = getattr(fitted, "posterior_", fitted)
    if not (hasattr(posterior, "model") and hasattr(posterior, "sample")):
        raise ValueError(f"expected a posterior or a fitted estimator, got {type(fitted).__name__}")
    return posterior


def member_of(fitted, member=None):
    """The posterior of one network: (posterior, its number or None, how many there are).

    ``member`` counts from 0. None is the first of an ensemble, as a Mixture or an estimator's method tells, and otherwise
    all draws together, which is right for a sampler's: those have their units in common, members have not. Of a Laplace
    approximation it is the point.
    """
    posterior = posterior_of(fitted)
    if member is None:
        if not isinstance(posterior, Mixture) and not hasattr(getattr(fitted, "method_", None), "method"):
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
    return posterior.point if isinstance(posterior, LaplacePosterior) else posterior


def parameter_moments(posterior):
    """(mean, standard deviation) of every parameter, trees like the model's params; None as deviation of a point.

    Dropout's weights are points; its doubt is in its masks. ValueError where moments are not known in closed form.
    """
    if isinstance(posterior, Normals):
        return posterior.mean, posterior.scale
    if isinstance(posterior, Samples):
        mean = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), posterior.params)
        return mean, jax.tree.map(lambda a: jnp.std(a, axis=0, ddof=1), posterior.params) if len(
            posterior
        ) > 1 else None
    if isinstance(posterior, Dropped):
        return posterior.params, None
    raise ValueError(
        f"the moments of a {type(posterior).__name__} are not known in closed form: draw from it, "
        "dubito.Samples(posterior.model, posterior.sample(key, 200)), or give one of its parts"
    )


def point_params(fitted, member=None):
    """One set of params to look at: a point estimate, the mean of a distribution over weights, dropout's own weights."""
    return parameter_moments(member_of(fitted, member)[0])[0]


def mean_network(network, params):
    """The multilayer perceptron that predicts and its params; of one with a noise network beside it the mean's."""
    if isinstance(network, MLP):
        return network, params
    if hasattr(network, "mean") and "mean" in params:
        return mean_network(network.mean, params["mean"])
    raise ValueError(f"this reads layers of multilayer perceptrons, as dubito.mlp makes them; got {network!r}")


def hidden_activations(network, params, x):
    """The activations of each hidden layer at rows x (n, D): a list of (n, units)."""
    network, params = mean_network(network, params)
    name = network.activation
    function = ACTIVATIONS[name].function if isinstance(name, str) else name
    below = [replace(network, hidden=network.hidden[:k], outputs=width) for k, width in enumerate(network.hidden)]
    return [function(part.apply(params, x)) for part in below]


def unit_correlation(fitted, X, *, member=None):
    """The mean absolute correlation between pairs of hidden units over rows X (n, D), for each hidden layer, (layers,).

    1: all units say the same; over independent rows unrelated ones show about √(2/(πn)). Units that never change
    are left out; nan where fewer than two are left. Dropout's is that of its weights without masks: lower than without
    dropout where units start alike or a prior holds them together, but higher after maximum likelihood (measured in the
    tests), since each unit must then say what others may be kept from saying.
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


def encode_rows(estimator, X, y=None):
    """(x, y) as the network of a fitted estimator sees them: encoded columns, standardized targets or classes' numbers; x
    alone without ``y``. Raises DataError for rows that are none, or that the likelihood cannot have made."""
    x = estimator.schema_.encode(X, estimator.handle_unknown, type(estimator).__name__)
    if len(x) == 0:
        raise DataError("The table has no rows; give at least one.")
    if y is None:
        return x
    if hasattr(estimator, "classes_"):
        return x, label_codes(y, estimator.classes_)
    table, _ = check_target(y, len(x), "regression")
    problem = refusal(estimator.posterior_.model.likelihood, table)
    if problem is not None:
        raise DataError(problem)
    return x, estimator.scaler_.transform(table)
