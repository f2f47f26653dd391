"""The exponential moving average of parameters, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dubito

STEPS = 6  # of an epoch: 48 rows in batches of 8
WEIGHT = dubito.Network(lambda key: {"w": jnp.ones((1, 1), jnp.float32)}, lambda params, x: x @ params["w"])
MODEL = dubito.Model(WEIGHT, dubito.Gaussian(precision=1.0), None)


def path(epochs, **settings):
    """The weight after each number of epochs of the same descent."""
    x = np.ones((48, 1), np.float32)
    y = np.zeros((48, 1), np.float32)
    found = []
    for count in epochs:
        method = dubito.MaximumLikelihood(
            epochs=count, batch_size=8, learning_rate=0.05, schedule="constant", optimizer="sgd", **settings
        )
        found.append(float(dubito.fit(MODEL, x, y, method, key=jax.random.key(0)).params["network"]["w"].ravel()[0]))
    return np.array(found)


def test_average_is_that_of_every_step():
    """Equal rows: w shrinks by one factor in every step, whatever the batch."""
    epochs, horizon = [1, 2, 5], 0.5
    factor = path([1])[0] ** (1 / STEPS)
    average, w, expected = 1.0, 1.0, {}
    for step in range(5 * STEPS):
        w *= factor
        average += max(1 / (horizon * STEPS), 1 / (1 + step)) * (w - average)
        expected[step + 1] = average
    found = path(epochs, ema_epochs=horizon)
    np.testing.assert_allclose(found, [expected[STEPS * count] for count in epochs], rtol=1e-5)


def test_a_long_horizon_is_the_plain_average():
    factor = path([1])[0] ** (1 / STEPS)
    expected = np.mean(factor ** np.arange(1, 3 * STEPS + 1))
    np.testing.assert_allclose(path([3], ema_epochs=100.0), expected, rtol=1e-5)


def test_the_average_is_scored_and_kept():
    """Early stopping: the score in the history is that of the average, which is the fit's result."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2))
    y = x[:, 0] + 0.1 * rng.normal(size=200)
    method = dubito.MAP(epochs=30, learning_rate=0.1, ema_epochs=2.0)
    model = dubito.BayesianRegressor(method, hidden=4, early_stopping=True, n_iter_no_change=30, random_state=0)
    model.fit(x[:150], y[:150], X_val=x[150:], y_val=y[150:])
    log_prob = model.predictive(x[150:]).log_prob(y[150:]) + np.log(model.scaler_.scale[0])
    np.testing.assert_allclose(np.nanmax(model.history_[0][:, 2]), np.mean(log_prob), rtol=1e-4)


@pytest.mark.parametrize("method", [dubito.MCDropout, dubito.BayesByBackprop, dubito.VariationalGaussian])
def test_other_methods_average_too(method):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2))
    fits = [
        dubito.BayesianRegressor(method(epochs=3, ema_epochs=horizon), hidden=4, random_state=0).fit(x, x[:, 0])
        for horizon in (None, 1e-6, 2.0)
    ]
    plain, tiny, long = (fit.predict(x) for fit in fits)
    np.testing.assert_allclose(tiny, plain, rtol=1e-3, atol=1e-4)  # a horizon below a step
    assert np.abs(long - plain).max() > 1e-3


def test_an_impossible_horizon_is_refused():
    with pytest.raises(ValueError, match="ema_epochs must be positive or None"):
        path([1], ema_epochs=0.0)
