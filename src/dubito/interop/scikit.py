"""Perceptrons of scikit-learn: a fitted ``MLPRegressor`` or ``MLPClassifier``."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils.validation import check_is_fitted

from dubito._jax.types import Params
from dubito.interop.trained import TrainedNetwork, trained_network
from dubito.models.priors import Normal

ACTIVATIONS = {"identity": lambda x: x, "logistic": jax.nn.sigmoid, "tanh": jnp.tanh, "relu": jax.nn.relu}


def from_sklearn(model: Any) -> TrainedNetwork:
    """A fitted perceptron of scikit-learn as a network of dubito.

    Its outputs are predictions in the units of the target (their logarithm with ``loss="poisson"``), or logits: one for two classes, for
    ``likelihood="bernoulli"``, and one for each of several, for ``"categorical"``. It has no dropout,
    so ``wrap`` it by ``LaplaceApproximation()`` or as one of several.

    Parameters
    ----------
    model : MLPRegressor or MLPClassifier
        The fitted model. It stays as it is.

    Returns
    -------
    TrainedNetwork
        The network.

    Raises
    ------
    TypeError
        For another estimator.
    ValueError
        For a model that is not fitted, and for a classifier of several labels.

    Examples
    --------
    >>> import dubito, jax
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.neural_network import MLPRegressor
    >>> from sklearn.preprocessing import StandardScaler
    >>> X, y = load_diabetes(return_X_y=True)
    >>> X = StandardScaler().fit_transform(X)
    >>> model = MLPRegressor(hidden_layer_sizes=(20,), max_iter=2000, random_state=0).fit(X[:300], y[:300])
    >>> network = dubito.from_sklearn(model)
    >>> key = jax.random.key(0)
    >>> rows = X[:300], y[:300]
    >>> posterior = dubito.wrap(network, dubito.LaplaceApproximation(), train=rows, likelihood="gaussian", key=key)
    >>> dubito.predict(posterior, X[300:], key=key).interval(0.9)[0].shape
    (142,)
    """
    if not isinstance(model, MLPRegressor | MLPClassifier):
        raise TypeError(f"from_sklearn takes a fitted MLPRegressor or MLPClassifier, got a {type(model).__name__}")
    check_is_fitted(model)
    if isinstance(model, MLPClassifier) and model.out_activation_ == "logistic" and model.n_outputs_ > 1:
        raise ValueError("a classifier of several labels is not supported: fit one for each label")
    activation, count = ACTIVATIONS[model.activation], len(model.coefs_)
    weights = {
        f"layer_{number}": {"w": np.asarray(w, np.float32), "b": np.asarray(b, np.float32)}
        for number, (w, b) in enumerate(zip(model.coefs_, model.intercepts_, strict=True))
    }

    def function(params: Params, x: Array, site: Any) -> Array:
        for number in range(count):
            layer = params[f"layer_{number}"]
            x = x @ layer["w"] + layer["b"][None]
            x = activation(x) if number < count - 1 else x
        return x

    example = np.zeros((2, len(model.coefs_[0])), np.float32)
    return trained_network(function, weights, example, fresh=False)


def sklearn_prior(model: MLPRegressor | MLPClassifier, precision: float = 1.0, biases: float = 1e3) -> Normal:
    """The prior of which a perceptron of scikit-learn is the mode.

    The loss of ``MLPRegressor`` is ½ mean squared error + alpha/(2n) Σw². Times nτ it is the negative log
    posterior with the noise precision τ and weights N(0, 1/(alpha·τ)). The cross-entropy of ``MLPClassifier``
    has τ = 1. Biases have no penalty, so their scale is large.

    Parameters
    ----------
    model : MLPRegressor or MLPClassifier
        The model, for its ``alpha``.
    precision : float
        τ, one over the variance of the noise.
    biases : float
        The scale of biases.

    Returns
    -------
    Normal
        The prior.
    """
    return Normal((model.alpha * precision) ** -0.5, biases=biases)
