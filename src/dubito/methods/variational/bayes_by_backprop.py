"""Bayes by Backprop (Blundell et al., ICML 2015), with local reparametrization (Kingma et al., NeurIPS 2015)."""

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dubito._check import check_choice
from dubito._jax.prng import normal_like
from dubito._jax.pytree import register_dataclass, static
from dubito._process.threads import check_process
from dubito.methods import weight_noise
from dubito.models.likelihoods.base import LOG_2PI
from dubito.models.priors import Normal, check_proper, leaf_scales
from dubito.posteriors.base import log_mean_prob
from dubito.posteriors.normals import DiagonalNormal
from dubito.training import optimizers
from dubito.training.fit import one_member

ESTIMATORS = (*weight_noise.PRODUCTS, "draw", "fisher")


class State(NamedTuple):
    mean: Any
    rho: Any
    optimizer: Any


@register_dataclass
@dataclass(frozen=True)
class BayesByBackprop:
    """q(θ) = Π N(θ_j; μ_j, σ_j²), σ = softplus(ρ), over weights, biases and the likelihood's own parameters. In nats:

        ELBO = E_q[log p(D | θ)] − KL(q ‖ p)

    with the KL in closed form for a Normal prior and from the same draws for another; there is no KL weight to choose.
    ``initial_scale``: σ at the start; ``draws`` a step. The mean-field family cannot hold correlations: it doubts too
    little between clusters of data. ``noise`` is how the gradient is estimated, with the less variance the earlier it stands:

    - ``"local"``: noise on products instead of weights, each example's own (flipout where it uses a weight at many places)
    - ``"separate"``: weights drawn anew for each example; n times the memory and slow, for comparison
    - ``"flipout"`` (Wen et al., ICLR 2018): one draw of the deviations, with random signs for each example
    - ``"draw"``: one draw of the weights for all examples of a step, as in Blundell et al.

    and ``"fisher"``, the gradient of practical VI (Graves, NeurIPS 2011): one draw, but σ² takes the curvature's place of it,
    ½ Σ_i (∂ log p(y_i | θ)/∂θ)² for −½ ∂² log p/∂θ². It is biased, by as much as the noise is not as the model says.
    """

    epochs: int | None = None
    batch_size: int | None = static(default=64)
    learning_rate: float | None = 1e-2
    optimizer: Any = static(default="adam")
    initial_scale: float = 0.02
    noise: str = static(default="local")
    draws: int = static(default=1)
    schedule: str = static(default="cosine")
    clip: float | None = None

    members = one_member

    def check(self, model):
        optimizers.check(self)
        if not self.initial_scale > 0 or self.draws < 1:
            raise ValueError(
                f"initial_scale must be positive, got {self.initial_scale!r}; draws at least 1, {self.draws}"
            )
        check_choice("noise", self.noise, ESTIMATORS)
        check_proper(self, model)

    def init(self, model, batch, key):
        del batch
        mean = optimizers.packed(self, model.init(key))
        rho = jax.tree.map(lambda m: jnp.full_like(m, jnp.log(jnp.expm1(self.initial_scale))), mean)
        return State(mean, rho, optimizers.start(self, (mean, rho)))

    def step(self, model, state, batch, clock, key):
        def objective(variational):
            mean, scale = variational[0], jax.tree.map(jax.nn.softplus, variational[1])
            parts = [self.estimate(model, mean, scale, batch, *k) for k in jax.random.split(key, (self.draws, 2))]
            likelihood, kl = (sum(part) / (self.draws * batch.size) for part in zip(*parts, strict=True))
            return kl - likelihood, {"likelihood": likelihood, "penalty": kl}

        gradient, info = jax.grad(objective, has_aux=True)((state.mean, state.rho))
        (mean, rho), optimizer = optimizers.descend(self, gradient, (state.mean, state.rho), state.optimizer, clock)
        return State(mean, rho, optimizer), info

    def estimate(self, model, mean, scale, batch, key_noise, key_draw):
        """One draw's (log p(D | θ), KL), both in nats of the data set."""
        if self.noise in weight_noise.PRODUCTS and isinstance(
            model.prior, Normal
        ):  # only the likelihood's own parameters need a draw
            parts = [{"likelihood": tree["likelihood"]} for tree in (mean, scale)]
        else:
            parts = [mean, scale]
        draw = optimizers.unpacked(perturb(key_draw, *parts))
        if self.noise in weight_noise.PRODUCTS:
            center, spread = (optimizers.unpacked(tree)["network"] for tree in (mean, scale))
            noise = jax.tree.map(weight_noise.Gaussian, spread)
            f = weight_noise.noisy(model.network.apply, center, noise, batch.x, key=key_noise, products=self.noise)
            z = model.likelihood.join(f, draw["likelihood"])
            likelihood = model.weighted_sum(model.likelihood.log_prob(z, batch.y), batch)
        elif self.noise == "draw":
            likelihood = model.log_likelihood(draw, batch)
        else:
            likelihood = practical(model, mean, scale, batch, key_draw)
        return likelihood, self.divergence(model, mean, scale, draw, batch.x)

    def divergence(self, model, mean, scale, draw, x):
        del x
        return divergence(model, mean, scale, draw)

    def score(self, model, state, batch, key):
        return log_mean_prob(normals(model, state), batch, key)

    def finish(self, model, trained, key, run):
        del key, run
        return normals(model, trained.states[0])


def practical(model, mean, scale, batch, key):
    """log p(D | θ) at a draw, with Graves' gradient: in σ² it is −½ Σ_i (∂ log p(y_i | θ)/∂θ)², in μ that of the draw."""
    draw = perturb(key, mean, jax.lax.stop_gradient(scale))

    def one(packed, x, y):
        return model.likelihood.log_prob(model.outputs(optimizers.unpacked(packed), x[None]), y[None])[0]

    def curvature(slopes):  # of each parameter, of the whole data set
        columns = slopes.reshape(len(slopes), -1) ** 2
        return jax.vmap(lambda column: model.weighted_sum(column, batch), 1)(columns).reshape(slopes.shape[1:])

    fisher = jax.tree.map(
        curvature, jax.vmap(jax.grad(one), (None, 0, 0))(jax.lax.stop_gradient(draw), batch.x, batch.y)
    )
    change = jax.tree.map(
        lambda s, f: jnp.sum((s**2 - jax.lax.stop_gradient(s**2)) * jax.lax.stop_gradient(f)), scale, fisher
    )
    return model.log_likelihood(optimizers.unpacked(draw), batch) - 0.5 * sum(jax.tree.leaves(change))  # change is 0


def normals(model, state):
    """The posterior of a state: independent normals with means μ and standard deviations softplus(ρ)."""
    mean, rho = optimizers.unpacked(state.mean), optimizers.unpacked(state.rho)
    return DiagonalNormal(model, mean, jax.tree.map(jax.nn.softplus, rho))


def perturb(key, mean, scale):
    """θ = μ + σε for a whole tree."""
    return jax.tree.map(lambda m, s, e: m + s * e, mean, scale, normal_like(key, mean))


def divergence(model, mean, scale, draw):
    """KL(q ‖ p) in nats: closed form for a Normal prior's weights, log q − log p at the draw for everything else."""
    own = negative_entropy(scale["likelihood"]) - model.likelihood.log_prior(draw["likelihood"])
    if not isinstance(model.prior, Normal):
        prior = model.prior.log_prob(draw["network"], model.scales(draw))
        return own + negative_entropy(scale["network"]) - prior
    center = optimizers.unpacked(mean)
    leaves, tree = jax.tree.flatten(center["network"])
    scales = leaf_scales(model.prior, leaves, model.scales(center))
    full = [jnp.full_like(leaf, jnp.asarray(scale, leaf.dtype)) for leaf, scale in zip(leaves, scales, strict=True)]
    priors = optimizers.alike(tree.unflatten(full), mean["network"])
    return own + sum(jax.tree.leaves(jax.tree.map(normal_kl, mean["network"], scale["network"], priors)))


def normal_kl(mean, scale, prior_scale):
    """Σ KL(N(μ, σ²) ‖ N(0, σ_p²)) = Σ [log(σ_p/σ) + (σ² + μ²)/(2σ_p²) − ½]."""
    return jnp.sum(jnp.log(prior_scale / scale) + (scale**2 + mean**2) / (2 * prior_scale**2) - 0.5)


def negative_entropy(scale):
    """E_q[log q] of independent normals; its gradient by the draw's path is exact, so no draw is needed."""
    total = jnp.zeros((), jnp.float32)
    for leaf in jax.tree.leaves(scale):
        total = total - jnp.sum(jnp.log(leaf) + 0.5 * (LOG_2PI + 1))
    return total


def prune(posterior, share):
    """The posterior with the ``share`` of weights of lowest signal to noise |μ|/σ set to exactly 0 (Blundell, sec. 5.1).

    Biases and the likelihood's parameters stay. Raises ValueError unless 0 <= share <= 1 and the posterior is a DiagonalNormal.
    """
    check_process()
    if not isinstance(posterior, DiagonalNormal) or not 0 <= share <= 1:
        raise ValueError(f"prune wants a posterior of BayesByBackprop and a share in [0, 1], got {share!r}")
    mean, scale = posterior.mean["network"], posterior.scale["network"]
    ratios = [jnp.abs(m) / s for m, s in zip(jax.tree.leaves(mean), jax.tree.leaves(scale), strict=True) if m.ndim > 1]
    ranked = jnp.sort(jnp.concatenate([ratio.ravel() for ratio in ratios]))
    count = math.floor(share * len(ranked))
    limit = ranked[count] if count < len(ranked) else jnp.inf

    def keep(values):
        return jax.tree.map(
            lambda v, m, s: v if v.ndim <= 1 else jnp.where(jnp.abs(m) / s < limit, 0, v).astype(v.dtype),
            values,
            mean,
            scale,
        )

    return replace(
        posterior,
        mean={**posterior.mean, "network": keep(mean)},
        scale={**posterior.scale, "network": keep(scale)},
    )
