"""Priors against scipy.stats, and the regularizers they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import dubito
from dubito.models.priors import Laplace, Normal, ScaleMixture, is_proper

RNG = np.random.default_rng(0)
PARAMS = {
    "w": jnp.float32([[0.0, 1.3, -0.4], [-3.0, 1e-3, 40.0]]),
    "b": jnp.float32([0.0, -2.0, 0.7]),
    "deep": [jnp.float32(RNG.normal(size=(2, 2, 2)))],
    "one": jnp.float32(0.3),
}
WEIGHTS = [PARAMS["w"], PARAMS["deep"][0]]
BIASES = [PARAMS["b"], PARAMS["one"]]


def mixture_log_density(w, mixing, wide, narrow):
    parts = [np.log(mixing) + stats.norm.logpdf(w, scale=wide), np.log1p(-mixing) + stats.norm.logpdf(w, scale=narrow)]
    return np.logaddexp(*parts)


PRIORS = {
    "normal": (Normal(0.7, biases=2.5), lambda w: stats.norm.logpdf(w, scale=0.7), stats.norm(scale=2.5).logpdf),
    "laplace": (
        Laplace(0.4, biases=1.5),
        lambda w: stats.laplace.logpdf(w, scale=0.4),
        stats.laplace(scale=1.5).logpdf,
    ),
    "mixture": (
        ScaleMixture(0.3, 1.2, 0.01, biases=2.0),
        lambda w: mixture_log_density(w, 0.3, 1.2, 0.01),
        stats.norm(scale=2.0).logpdf,
    ),
}


def total(leaves, density):
    return sum(np.sum(density(np.asarray(leaf, float))) for leaf in leaves)


@pytest.mark.parametrize("name", PRIORS)
def test_prior_log_densities_equal_scipy(name):
    prior, of_weights, of_biases = PRIORS[name]
    exact = total(WEIGHTS, of_weights) + total(BIASES, of_biases)
    found = prior.log_prob(PARAMS)
    assert found.shape == () and found.dtype == jnp.float32
    np.testing.assert_allclose(found, exact, rtol=2e-6)
    for weight in (0.0, 1e-4, -0.02, 0.3, -1.0, 5.0, 50.0):
        found = prior.log_prob({"w": jnp.full((1, 1), weight)})
        np.testing.assert_allclose(found, of_weights(float(np.float32(weight))), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", PRIORS)
def test_prior_log_density_leaves_out_biases_without_a_prior(name):
    prior, of_weights, _ = PRIORS[name]
    free = type(prior)(**{**vars(prior), "biases": None})
    np.testing.assert_allclose(free.log_prob(PARAMS), total(WEIGHTS, of_weights), rtol=2e-6)
    gradient = jax.grad(free.log_prob)(PARAMS)
    assert np.all(gradient["b"] == 0) and gradient["one"] == 0


# shares of centered laws by name and scale: those of weights, and that of biases
LAWS = {
    "normal": ([(1.0, "norm", 0.7)], [(1.0, "norm", 2.5)]),
    "laplace": ([(1.0, "laplace", 0.4)], [(1.0, "laplace", 1.5)]),
    "mixture": ([(0.3, "norm", 1.2), (0.7, "norm", 0.01)], [(1.0, "norm", 2.0)]),
}


def moment(law, power):
    """E[w^p]: (p − 1)!! σ^p for a normal, p! b^p for a Laplace, 0 for odd p."""
    factors = {"norm": special.factorial2(power - 1), "laplace": special.factorial(power)}
    return 0.0 if power % 2 else sum(share * factors[name] * scale**power for share, name, scale in law)


@pytest.mark.parametrize("name", PRIORS)
def test_prior_samples_have_the_prior_density(name):
    """Moments to the fourth, and the whole distribution by Kolmogorov and Smirnov."""
    prior, _, _ = PRIORS[name]
    like = {"w": jnp.zeros((500, 400)), "b": jnp.zeros(200_000)}
    drawn = prior.sample(jax.random.key(1), like)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), drawn) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), like
    )
    w, b = (np.asarray(drawn[leaf], float).ravel() for leaf in "wb")
    for values, law in zip((w, b), LAWS[name], strict=True):
        for power in (1, 2, 3, 4):
            spread = np.sqrt(moment(law, 2 * power) - moment(law, power) ** 2)
            assert abs((values**power).mean() - moment(law, power)) < 4.6 * spread / np.sqrt(values.size)

        def cdf(v, law=law):
            return sum(share * getattr(stats, name)(scale=scale).cdf(v) for share, name, scale in law)

        assert stats.kstest(values, cdf).pvalue > 4e-6
    assert abs(np.corrcoef(w, b)[0, 1]) < 4.6 / np.sqrt(w.size)


def gradients_per_example(prior, size):
    """∇(−log p(θ)/N): what is added to the gradient of a mean criterion."""
    return jax.tree.map(lambda g: -np.asarray(g, float) / size, jax.grad(prior.log_prob)(PARAMS))


@pytest.mark.parametrize(("strength", "size"), [(0.01, 50), (2.0, 7)])
def test_normal_from_l2_has_the_gradient_of_the_regularizer(strength, size):
    """λΣw² has the gradient 2λw (18); the variance is 1/(2λN), and biases are left alone."""
    prior = Normal.from_l2(strength, size)
    np.testing.assert_allclose(prior.scale**2, 1 / (2 * strength * size))
    found = gradients_per_example(prior, size)
    for name in ("w", "deep"):
        for g, w in zip(jax.tree.leaves(found[name]), jax.tree.leaves(PARAMS[name]), strict=True):
            np.testing.assert_allclose(g, 2 * strength * np.asarray(w, float), rtol=1e-6)
    assert np.all(found["b"] == 0) and found["one"] == 0


@pytest.mark.parametrize(("strength", "size"), [(0.01, 50), (2.0, 7)])
def test_laplace_from_l1_has_the_gradient_of_the_regularizer(strength, size):
    """λΣ|w| has the gradient λ sign(w), 0 at 0 (19); b = 1/(λN), and biases are left alone."""
    prior = Laplace.from_l1(strength, size)
    np.testing.assert_allclose(prior.scale, 1 / (strength * size))
    found = gradients_per_example(prior, size)
    assert PARAMS["w"][0, 0] == 0 and found["w"][0, 0] == 0
    for name in ("w", "deep"):
        for g, w in zip(jax.tree.leaves(found[name]), jax.tree.leaves(PARAMS[name]), strict=True):
            np.testing.assert_allclose(g, strength * np.sign(w), rtol=1e-6)
    assert np.all(found["b"] == 0) and found["one"] == 0
    np.testing.assert_array_equal(jax.grad(Laplace(1.0).log_prob)({"w": jnp.zeros((2, 2)), "b": jnp.zeros(2)})["b"], 0)


@pytest.mark.parametrize("weight", [0.0, 0.004, -0.3, 2.0])
def test_scale_mixture_gradient_equals_finite_differences(weight):
    prior, step = ScaleMixture(0.3, 1.2, 0.01), 1e-6
    found = jax.grad(lambda w: prior.log_prob({"w": w[None, None]}))(jnp.float32(weight))
    at = float(np.float32(weight))
    slope = (mixture_log_density(at + step, 0.3, 1.2, 0.01) - mixture_log_density(at - step, 0.3, 1.2, 0.01)) / (
        2 * step
    )
    np.testing.assert_allclose(found, slope, rtol=1e-4, atol=1e-6)


def test_prior_by_network_has_the_scales_of_the_network():
    """Weights N(0, (s/√fan-in)²), and biases N(0, 1) though ``biases`` says otherwise."""
    network = dubito.mlp(4, (9,), 2)
    params = network.init(jax.random.key(3))
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    prior = Normal(1.7, biases=None, by_network=True)
    scales = {"layer_0": {"w": 1.7 / 2, "b": 1.0}, "layer_1": {"w": 1.7 / 3, "b": 1.0}}
    exact = jax.tree.map(lambda s, p: np.sum(stats.norm.logpdf(np.asarray(p, float), scale=s)), scales, params)
    found = prior.log_prob(params, network.scales(params, 1.7))
    np.testing.assert_allclose(found, sum(jax.tree.leaves(exact)), rtol=2e-6)
    like = jax.tree.map(lambda leaf: jnp.zeros((*leaf.shape[:-1], 20_000), jnp.float32), params)
    drawn = jax.jit(lambda k: prior.sample(k, like, scales))(jax.random.key(4))
    for s, leaf in zip(jax.tree.leaves(scales), jax.tree.leaves(drawn), strict=True):
        square = (np.asarray(leaf, float).ravel() / s) ** 2
        assert abs(square.mean() - 1) < 4.6 * np.sqrt(2 / square.size)
    model = dubito.Model(network, dubito.Gaussian(precision=1.0, targets=2), prior)
    np.testing.assert_allclose(model.log_prior({"network": params, "likelihood": {}}), found)


@pytest.mark.parametrize(
    "prior",
    [
        Normal(biases=None),
        Laplace(biases=None),
        ScaleMixture(biases=None),
        Normal.from_l2(0.1, 9),
        Laplace.from_l1(0.1, 9),
    ],
    ids=lambda prior: type(prior).__name__,
)
def test_improper_prior_refuses_to_sample(prior):
    assert not is_proper(prior)
    with pytest.raises(ValueError, match="improper"):
        prior.sample(jax.random.key(0), PARAMS)


def test_prior_by_network_is_improper_for_a_network_without_scales():
    prior = Normal(biases=None, by_network=True)
    with pytest.raises(ValueError, match="improper"):
        prior.sample(jax.random.key(0), PARAMS, None)


def test_is_proper_distinguishes_flat_and_full_priors():
    assert not is_proper(None)
    assert all(is_proper(prior) for prior in (Normal(), Laplace(), ScaleMixture()))
    by_network = Normal(biases=None, by_network=True)
    assert is_proper(by_network, {"w": 1.0}) and not is_proper(by_network)
