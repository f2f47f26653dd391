"""Natural gradients compared with Bayes by Backprop: the objective and the test NLL after a given number of epochs.

    python benchmarks/natural_gradient.py [--seeds 5]

There are three regressions (sine: 400 rows of two columns; scikit-learn's diabetes; friedman: 1,200 rows of ten), with a quarter of
the rows for testing. Data are standardized; the network has 50 rectified units and a learned noise precision; both methods use their
defaults. A fit of E epochs runs its whole schedule in them. Writes results/natural_gradient.md: means over seeds (split,
initialization and draws) ± standard errors.
"""

import argparse
import pathlib
import time

import jax
import numpy as np
from sklearn.datasets import load_diabetes, make_friedman1
from sklearn.model_selection import train_test_split

import dubito
from dubito.training.reports import history as collect_history

EPOCHS = (25, 100, 400)
METHODS = {"Bayes by Backprop": dubito.BayesByBackprop, "natural gradients": dubito.NaturalGradientVI}
RESULTS = pathlib.Path(__file__).parent / "results" / "natural_gradient.md"


def rows(name):
    """(x, y) of a regression."""
    if name == "diabetes":
        return load_diabetes(return_X_y=True)
    if name == "friedman":
        return make_friedman1(1200, noise=1.0, random_state=0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2))
    return x, np.sin(2 * x[:, 0]) + 0.5 * x[:, 1] + 0.1 * rng.normal(size=400)


def one(name, method, seed):
    """(objective in nats per example, mean over the last tenth of the epochs; test NLL; seconds of a second fit)."""
    x, held_x, y, held_y = train_test_split(*rows(name), random_state=seed, test_size=0.25)
    shift, scale, level, width = x.mean(0), x.std(0), y.mean(), y.std()
    x, held_x = (x - shift) / scale, (held_x - shift) / scale
    y, held_y = (y[:, None] - level) / width, (held_y[:, None] - level) / width
    model = dubito.Model(dubito.mlp(x.shape[1], (50,)), dubito.Gaussian(), dubito.Normal(by_network=True))
    reports = []
    posterior = dubito.fit(model, x, y, method, key=jax.random.key(seed), progress=reports.append)
    start = time.perf_counter()
    dubito.fit(model, x, y, method, key=jax.random.key(seed))
    seconds = time.perf_counter() - start
    history = collect_history(reports)[0][-max(1, method.epochs // 10) :]
    answer = dubito.predict(posterior, held_x, key=jax.random.key(seed), draws=200)
    return (history[:, 0] - history[:, 1]).mean(), -answer.log_prob(held_y).mean(), seconds


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="splits and starts (default: 5)")
    seeds = parser.parse_args().seeds
    lines = [
        "| rows | method | epochs | objective, nats per row | test NLL | ms per epoch |",
        "|---|---|---|---|---|---|",
    ]
    for name in ("sine", "diabetes", "friedman"):
        for label, kind in METHODS.items():
            for epochs in EPOCHS:
                found = np.array([one(name, kind(epochs=epochs), seed) for seed in range(seeds)])
                error = found.std(0, ddof=1) / np.sqrt(seeds)
                cells = [f"{found[:, k].mean():.3f} ± {error[k]:.3f}" for k in (0, 1)]
                cells.append(f"{1e3 * np.median(found[:, 2]) / epochs:.2f}")
                lines.append(f"| {name} | {label} | {epochs} | " + " | ".join(cells) + " |")
                print(lines[-1], flush=True)
    if seeds == 5:
        RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
