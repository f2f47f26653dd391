"""dubito's side, through its public functions."""

import data
import jax
import numpy as np

import dubito

KEY = 0


def table_model():
    return dubito.Model(dubito.mlp(13, (50,), 1), dubito.Gaussian(precision=1.0), dubito.Normal())


def settings(epochs):
    return {"epochs": epochs, "batch_size": 128, "learning_rate": data.LEARNING_RATE, "schedule": "constant"}


def fitted(model, x, y, method):
    """The work: a whole fit, including waiting for its result."""
    return lambda: jax.block_until_ready(dubito.fit(model, x, y, method, key=jax.random.key(KEY)))


def half_squared_error(posterior, x, y):
    return float(0.5 * np.mean((dubito.predict(posterior, x, key=jax.random.key(1)).mean - np.ravel(y)) ** 2))


def cross_entropy(posterior, x, y):
    return float(-np.mean(dubito.predict(posterior, x[:2000], key=jax.random.key(1), draws=1).log_prob(y[:2000])))


def dropout_fits(fits, epochs):
    """MC dropout, 455 × 13, 50 units; members in parallel."""
    x, y = data.table()
    method = dubito.Ensemble(dubito.MCDropout(rate=data.RATE, **settings(epochs)), fits)
    return data.Task(
        fitted(table_model(), x, y, method), lambda posterior: half_squared_error(posterior, x, y), fits * epochs * 4
    )


def backprop_fits(fits, epochs, noise):
    """Bayes by Backprop on the same table and network, one draw per step."""
    x, y = data.table()
    method = dubito.BayesByBackprop(gradient_estimator=noise, initial_scale=data.INITIAL_SCALE, **settings(epochs))
    method = method if fits == 1 else dubito.Ensemble(method, fits)
    return data.Task(
        fitted(table_model(), x, y, method), lambda posterior: half_squared_error(posterior, x, y), fits * epochs * 4
    )


def image_fit(rows, epochs, kind):
    """784-400-400-10, batch 128: ``kind`` is "deterministic", "weight noise" or "local"."""
    x, y = data.images(rows)
    prior = dubito.Normal(by_network=True)
    model = dubito.Model(dubito.mlp(784, (400, 400), 10), dubito.Categorical(classes=10), prior)
    if kind == "deterministic":
        method = dubito.MaximumLikelihood(**settings(epochs))
    else:
        noise = "local" if kind == "local" else "draw"
        method = dubito.BayesByBackprop(gradient_estimator=noise, initial_scale=data.INITIAL_SCALE, **settings(epochs))
    return data.Task(
        fitted(model, x, y, method), lambda posterior: cross_entropy(posterior, x, y), epochs * -(-rows // 128)
    )


def predictions(rows, columns, hidden, draws):
    """Mean and standard deviation of MC dropout at all rows; each draw is one function."""
    x, _ = data.table(rows, columns)
    model = dubito.Model(dubito.mlp(columns, hidden, 1), dubito.Gaussian(precision=1.0), dubito.Normal())
    network, rates = {}, {}
    for number, (w, b) in enumerate(data.weights(columns, hidden)):
        network[f"layer_{number}"] = {"w": jax.numpy.asarray(w), "b": jax.numpy.asarray(b)}
        rates[f"layer_{number}"] = {"w": data.RATE if number else None, "b": None}
    posterior = dubito.DropoutPosterior(model, {"network": network, "likelihood": {}}, rates)

    def run():
        answer = dubito.predict(posterior, x, key=jax.random.key(KEY), draws=draws)
        return answer.mean, answer.std

    return data.Task(run, lambda answer: float(np.sqrt(np.mean(answer[1] ** 2 - 1))), 1)


def table_predictions(rows):
    """Means and standard deviations of the regressor: one network of 64 units, 8 draws, 10 columns."""
    x, y = data.table(rows, 10)
    method = dubito.BayesByBackprop(epochs=20)
    model = dubito.BayesianRegressor(method, hidden=(64,), draws=8, random_state=0).fit(x[:1000], y[:1000, 0])
    return data.Task(lambda: model.predict(x, return_std=True), lambda answer: float(np.mean(answer[1])), rows)
