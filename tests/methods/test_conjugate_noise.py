"""The Gamma of the noise precision, against its closed form given the weights and the exact marginal."""

import jax
import numpy as np
import problems
import pytest
from scipy.special import digamma, polygamma

import dubito

problem, with_noise = problems.problem, problems.with_noise


def precision(found, x, y, weight, draws):
    """(a, b) by hand for draws (S, D) of a linear model with the prior Gamma(2, 0.5)."""
    squares = np.mean((y - x @ draws.T) ** 2, axis=1)
    np.testing.assert_allclose(found.shape, 2 + 0.5 * weight.sum(), rtol=1e-6)
    np.testing.assert_allclose(found.rate, 0.5 + 0.5 * weight @ squares, rtol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_conjugate_noise_of_a_point_is_the_conditional(problem, with_noise, weighted):
    """And not the marginal: E log τ is 0.32 of its standard deviation too large, its spread 0.96 of the exact one."""
    model, mean, sd = with_noise
    weight = np.linspace(0, 3, len(problem.x)) if weighted else np.ones(len(problem.x))
    method = dubito.ConjugateNoise(dubito.MAP(epochs=1000, batch_size=None, learning_rate=0.02))
    found = dubito.fit(model, problem.x, problem.y, method, key=jax.random.key(0), weight=weight)
    precision(found, problem.x, problem.y, weight, np.asarray(found.part.params["network"]["w"], float)[..., 0])
    if not weighted:
        a, b = float(found.shape[0]), float(found.rate[0])
        np.testing.assert_allclose((digamma(a) - np.log(b) - mean) / sd, 0.32, atol=0.01)
        np.testing.assert_allclose(np.sqrt(polygamma(1, a)) / sd, 0.964, atol=0.01)


def test_conjugate_noise_of_several_points_has_their_mean_square(problem, with_noise):
    ensemble = dubito.Ensemble(dubito.MAP(epochs=5, batch_size=None), 3)
    found = dubito.fit(with_noise[0], problem.x, problem.y, dubito.ConjugateNoise(ensemble), key=jax.random.key(0))
    draws = np.asarray(found.part.params["network"]["w"], float)[..., 0]
    assert draws.std(0).min() > 0.01
    precision(found, problem.x, problem.y, np.ones(len(problem.x)), draws)


@pytest.mark.parametrize(
    ("likelihood", "method", "words"),
    [
        (dubito.Gaussian(precision=1.0), dubito.MAP(), "learns its precision"),
        (dubito.HeteroscedasticGaussian(), dubito.MAP(), "learns its precision"),
        (dubito.Gaussian(), dubito.CrossFit(dubito.MAP(), 3), "CrossFit estimates the noise itself"),
        (dubito.Gaussian(), dubito.LaplaceApproximation(), "estimates the noise itself. Leave out ConjugateNoise"),
        (dubito.Gaussian(), dubito.Ensemble(dubito.NaturalGradientVI(), 2), "NaturalGradientVI estimates"),
    ],
)
def test_invalid_settings_are_refused(likelihood, method, words, key):
    model = dubito.Model(dubito.mlp(2, (3,), likelihood.width), likelihood)
    with pytest.raises(ValueError, match=words):
        dubito.fit(model, np.zeros((4, 2)), np.zeros(4), dubito.ConjugateNoise(method), key=key)
