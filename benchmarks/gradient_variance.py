"""Variance of the gradient of Bayes by Backprop by estimator and layer, as in Kingma, Salimans & Welling 2015, table 1.

    python benchmarks/gradient_variance.py [--draws 200]

The network is 64-128-128-10 on scikit-learn's digits, at initialization and after 30 epochs. At both points, and for batches of 16,
64 and 256 rows, the script samples gradients of the negative log likelihood per example, with respect to ρ and to the means of
each layer's weights. Each sample uses a new batch. "No noise" fixes the weights at their means, so that its variance is due to the
choice of rows only; it has no gradient for ρ. "Separate" draws the weights anew for each row. Writes results/gradient_variance.md with the mean variance over the weights of a layer
and the seconds per gradient.
"""

import argparse
import pathlib
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import dubito
from dubito import datasets
from dubito._jax import prng
from dubito.methods.variational.bayes_by_backprop import IndependentNormals, perturb
from dubito.models.model import Batch

BATCHES, EPOCHS, LAYERS = (16, 64, 256), 30, ("layer_0", "layer_1", "layer_2")
NOISES = ("draw", "flipout", "separate", "local")
RESULTS = pathlib.Path(__file__).parent / "results" / "gradient_variance.md"


@partial(jax.jit, static_argnames=("noise", "rows"))
def gradients(model, noise, rows, x, y, posterior, keys):
    """For each key, the μ-gradients and ρ-gradients of the weights of each layer, for ``rows`` rows chosen by the key."""
    method = dubito.BayesByBackprop(gradient_estimator="draw" if noise in (None, "separate") else noise)

    def one(key):
        key_rows, key_noise, key_draw = jax.random.split(key, 3)
        chosen = jax.random.choice(key_rows, len(x), (rows,), replace=False)
        batch = Batch(x[chosen], y[chosen], jnp.ones(rows), jnp.float32(1), jnp.float32(rows))

        def objective(mean, rho):
            if noise is None:
                return -model.log_likelihood(mean, batch) / rows
            scale = jax.tree.map(jax.nn.softplus, rho)
            q = IndependentNormals(mean, scale)
            if noise == "separate":
                return -separate_log_likelihood(model, q, batch, key_noise) / rows
            return -method.estimate(model, q, batch, (key_noise, key_draw))[0] / rows

        rho = jax.tree.map(lambda s: jnp.log(jnp.expm1(s)), posterior.scale)
        return [
            {layer: part["network"][layer]["w"] for layer in LAYERS}
            for part in jax.grad(objective, argnums=(0, 1))(posterior.mean, rho)
        ]

    return jax.lax.map(one, keys)


def separate_log_likelihood(model, q, batch, key):
    """log p(D | θ) with weights drawn anew for each row, which takes the memory of as many sets of parameters."""

    def one(x, y, key):
        return model.likelihood.log_prob(model.outputs(perturb(key, *q), x[None]), y[None])[0]

    log_prob = jax.vmap(one)(batch.x, batch.y, jax.random.split(key, len(batch.x)))
    return model.weighted_sum(log_prob, batch)


def variances(model, noise, rows, x, y, posterior, keys):
    """([variances for μ by layer, variances for ρ by layer], seconds per gradient)."""
    run = partial(gradients, model, noise, rows, x, y, posterior)
    jax.block_until_ready(run(keys))
    start = time.perf_counter()
    found = jax.block_until_ready(run(keys))
    seconds = (time.perf_counter() - start) / len(keys)
    return [[float(part[layer].var(0).mean()) for layer in LAYERS] for part in found], seconds


def table(model, x, y, posterior, draws):
    lines = [
        "| rows | noise | ρ, layer 1 | ρ, layer 2 | ρ, layer 3 | μ, layer 1 | μ, layer 2 | μ, layer 3 | ms |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    keys = jax.random.split(prng.fast(jax.random.key(2)), draws)
    for rows in BATCHES:
        for noise in (*NOISES, None):
            (means, rhos), seconds = variances(model, noise, rows, x, y, posterior, keys)
            each = [f"{value:.1e}" if value else "" for value in (*rhos, *means)]
            cells = [str(rows), noise or "no noise", *each, f"{1e3 * seconds:.1f}"]
            lines.append("| " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
    return lines


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=200, help="gradients of each kind (default: 200)")
    draws = parser.parse_args().draws
    X, labels = datasets.digits()
    x, y = jnp.asarray((X - X.mean()) / X.std(), jnp.float32), jnp.asarray(labels)
    prior = dubito.Normal(by_network=True)
    model = dubito.Model(dubito.mlp(64, (128, 128), 10), dubito.Categorical(classes=10), prior)
    mean = model.init(jax.random.key(0))
    first = dubito.DiagonalNormal(model, mean, jax.tree.map(lambda m: jnp.full_like(m, 0.02), mean))
    trained = dubito.fit(model, x, labels, dubito.BayesByBackprop(epochs=EPOCHS), key=jax.random.key(1))
    lines = [
        f"{draws} gradients each: the variance of a single weight has a standard error of {100 * np.sqrt(2 / draws):.0f} %, the mean over a layer a smaller one.",
        "",
    ]
    for name, posterior in (("At the start (σ = 0.02)", first), (f"After {EPOCHS} epochs", trained)):
        lines += [f"## {name}", "", *table(model, x, y, posterior, draws), ""]
    if draws >= 200:
        RESULTS.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
