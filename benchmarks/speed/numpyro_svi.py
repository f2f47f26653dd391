"""NumPyro's side: stochastic variational inference, with all steps of a fit scanned in one jitted program."""

from functools import partial

import data
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import distributions as dist
from numpyro.infer import SVI, TraceMeanField_ELBO, init_to_value
from numpyro.infer.autoguide import AutoNormal

UNITS, BATCH = 50, 128


def network(params, x):
    return jax.nn.relu(x @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]


def model(x, y, scale):
    shapes = {"w1": (x.shape[1], UNITS), "b1": (UNITS,), "w2": (UNITS, 1), "b2": (1,)}
    params = {name: numpyro.sample(name, dist.Normal(0, 1).expand(s).to_event(len(s))) for name, s in shapes.items()}
    with numpyro.handlers.scale(scale=scale):
        numpyro.sample("y", dist.Normal(network(params, x), 1.0).to_event(1), obs=y)


def start():
    """He initialization, as on all sides."""
    rng = np.random.default_rng(0)
    weights = {
        name: rng.normal(size=s, scale=(2 / s[0]) ** 0.5) for name, s in (("w1", (13, UNITS)), ("w2", (UNITS, 1)))
    }
    return {name: jnp.asarray(w, jnp.float32) for name, w in weights.items()} | {
        "b1": jnp.zeros(UNITS),
        "b2": jnp.zeros(1),
    }


def backprop_fits(fits, epochs):
    """Sequential fits; 455 rows in 4 batches of 128 per epoch."""
    x, y = (jnp.asarray(a) for a in data.table())
    guide = AutoNormal(model, init_loc_fn=init_to_value(values=start()), init_scale=data.INITIAL_SCALE)
    optimizer = numpyro.optim.Adam(data.LEARNING_RATE)
    svi = SVI(model, guide, optimizer, TraceMeanField_ELBO())
    blocks = -(-len(x) // BATCH)

    @partial(jax.jit, static_argnums=1)
    def fit(key, epochs):
        key_init, key_rows = jax.random.split(key)
        state = svi.init(key_init, x[:BATCH], y[:BATCH], len(x) / BATCH)

        def epoch(state, key):
            order = jnp.resize(jax.random.permutation(key, len(x)), (blocks, BATCH))
            return jax.lax.scan(lambda s, rows: svi.update(s, x[rows], y[rows], len(x) / BATCH), state, order)

        state, losses = jax.lax.scan(epoch, state, jax.random.split(key_rows, epochs))
        return svi.get_params(state), losses

    def run():
        return [jax.block_until_ready(fit(jax.random.key(k), epochs)) for k in range(fits)]

    def check(results):
        params = {name: results[0][0][f"{name}_auto_loc"] for name in ("w1", "b1", "w2", "b2")}
        return float(0.5 * np.mean((network(params, x) - y) ** 2))

    return data.Task(run, check, fits * epochs * blocks)
