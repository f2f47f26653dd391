"""The noise of a predictive mixture, from rows that its posterior has not seen: a second step after training.

In training of dropout the noise is fitted to stochastic passes, so the variance of the masks counts
as noise, which is the optimum of the ELBO. The predictive distribution is the mixture over draws f_s
and has that variance already. Here q(θ) stays, and φ maximizes

    Σ_i w_i log (1/S) Σ_s p(y_i | f_s(x_i), φ) + log p(φ)

over held-out rows i (mathematics: dropout).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Shaped
from scipy.optimize import minimize

from dubito._jax import programs
from dubito.methods.types import Key, Member, Params, Trained
from dubito.models.likelihoods.base import Likelihood
from dubito.training.data import pad_data, padded_size
from dubito.training.splits import member_folds

FOLDS = 10  # two of them are held out, by one more run each
LEAST_ROWS = 40  # fewer are not divided
MOST_ROWS = 5000  # of a fold: more would not change the noise
NOISES = ("training", "held-out")


def with_held_out_noise(
    posterior: Any, trained: Trained, build: Callable[[Any], Any], train: Callable[..., Trained], key: Key
) -> Any:
    """The posterior with its noise fitted to held-out rows.

    Parameters
    ----------
    posterior : Posterior
        With the field ``params``, {"network": θ, "likelihood": φ}.
    trained : Trained
        The run of the posterior: its validation rows are the held-out rows, if it has some.
    build : callable
        ``build(state)`` returns the posterior of another run.
    train : callable
        ``train(members=members)`` trains more runs.
    key : Key

    Returns
    -------
    Posterior
        With another φ. The same, if φ is empty, and if there are no validation rows and the rows are a
        stream or fewer than 40.
    """
    (member,), rows = trained.members, trained.rows
    if not posterior.params["likelihood"]:
        return posterior
    key_folds, key_draws, *keys = jax.random.split(key, 4)
    if member.valid.any():
        parts, held = [posterior], [member.valid]
    elif trained.streamed or np.count_nonzero(member.train) < LEAST_ROWS:
        return posterior
    else:
        folds = member_folds(rows._replace(train=member.train), FOLDS, key_folds)[-2:]
        each = [[np.where(chosen, member.train, 0) for chosen in fold] for fold in folds]
        more = train(members=[Member(k, fit, np.zeros_like(fit)) for k, (fit, _) in zip(keys, each, strict=False)])
        parts, held = [build(state) for state in more.states], [each[number][1] for number in more.numbers]
    f, y, weight = [], [], []
    for part, kept in zip(parts, held, strict=True):
        chosen = np.flatnonzero(kept)[:MOST_ROWS]
        x, truth, w = pad_data(rows.x[chosen], rows.y[chosen], kept[chosen], padded_size(len(chosen)))
        seeds = part.sources(key_draws)[0][1]
        f, y, weight = [*f, network_outputs(part, seeds, x)], [*y, truth], [*weight, w]
    data = jnp.concatenate(f, axis=1), np.concatenate(y), np.concatenate(weight).astype(np.float32)
    params = {
        **posterior.params,
        "likelihood": best_noise(posterior.model.likelihood, posterior.params["likelihood"], *data),
    }
    return replace(posterior, params=params)


def best_noise(
    likelihood: Likelihood,
    phi: Params,
    f: Float[Array, "draws rows width"],
    y: Shaped[np.ndarray, "rows *columns"],
    weight: Float[np.ndarray, " rows"],
) -> Params:
    """The φ of the largest predictive likelihood.

    Parameters
    ----------
    likelihood : Likelihood
    phi : dict of arrays
        Where to start.
    f : array of shape (draws, rows, width)
        Outputs of the network.
    y : array of shape (rows, columns)
        Targets.
    weight : array of shape (rows,)
        Weights of the rows.

    Returns
    -------
    dict of arrays
        φ.
    """
    start, tree = ravel_pytree(phi)

    def loss(vector: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = mixture_loss(likelihood, tree(jnp.asarray(vector, jnp.float32)), f, y, weight)
        return float(value), np.asarray(ravel_pytree(slope)[0], float)

    found = minimize(loss, np.asarray(start, float), jac=True, method="L-BFGS-B", options={"ftol": 1e-9})
    return tree(jnp.asarray(found.x, jnp.float32))


@programs.jit
def network_outputs(posterior: Any, seeds: Shaped[Array, "draws ..."], x: Any) -> Float[Array, "draws rows width"]:
    """f of these draws at rows x."""
    return jax.vmap(lambda seed: posterior.model.network.apply(posterior.draw(seed)["network"], x))(seeds)


@programs.jit
def mixture_loss(likelihood: Likelihood, phi: Params, f: Any, y: Any, weight: Any) -> tuple[Array, Params]:
    """−(the objective)/Σw and its gradient."""

    def loss(phi: Params) -> Array:
        each = jax.vmap(lambda one: likelihood.log_prob_observed(likelihood.join(one, phi), y))(f)
        rows = jax.nn.logsumexp(each, axis=0) - jnp.log(float(len(f)))
        return -(jnp.sum(jnp.where(weight > 0, weight * rows, 0)) + likelihood.log_prior(phi)) / jnp.sum(weight)

    return jax.value_and_grad(loss)(phi)
