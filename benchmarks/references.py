"""Reference posteriors: long Hamiltonian Monte Carlo runs in double precision on six small real problems.

    python benchmarks/references.py [PROBLEM ...] [--draws 2000] [--key 0]
    python benchmarks/references.py --check     # compares NUTS in single precision with the files, by z-scores; writes nothing

Writes benchmarks/references/<problem>.safetensors and prints the convergence of the chains. For the evaluation rows of a
problem, a file contains: for regression ``f`` (S, n), the network outputs of S thinned draws, and ``log_precision`` (S,); for
classification the mean ``probs`` (n, C); and for each the Monte Carlo standard errors of the mean. ``benchmarks/truth.py`` compares
all methods with them. The problems come with scikit-learn and with dubito; no other data is needed.
"""

import argparse
import pathlib
import time
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from safetensors.numpy import load_file, save_file
from sklearn import datasets as sklearn_datasets

import dubito
from dubito import diagnostics
from dubito.tables.datasets import co2

FOLDER = pathlib.Path(__file__).parent / "references"
STORED = 500  # draws of a regression's outputs in a file


@dataclass(frozen=True)
class Problem:
    """Standardized training rows; evaluation rows at which posteriors are compared; and the targets of the first ``held`` of them."""

    model: Any
    x: np.ndarray
    y: np.ndarray
    x_new: np.ndarray
    y_new: np.ndarray  # of the first rows of x_new
    gap: np.ndarray | None = None  # which rows of x_new are in a gap of the inputs

    @property
    def classes(self):
        return self.model.likelihood.task == "classification"


def split(x, y, rows, new, seed=0):
    """Standardized training and evaluation rows; numeric targets are standardized too."""
    order = np.random.default_rng(seed).permutation(len(x))
    train, rest = order[:rows], order[rows : rows + new]
    mean, sd = x[train].mean(0), x[train].std(0)
    x = (x - mean) / np.where(sd > 0, sd, 1)
    if y.dtype.kind == "f":
        y = (y - y[train].mean()) / y[train].std()
    return x[train], y[train], x[rest], y[rest]


def network(inputs, hidden, outputs, likelihood):
    return dubito.Model(
        dubito.mlp(inputs, (hidden,), outputs, activation="tanh"), likelihood, dubito.Normal(by_network=True)
    )


def co2_gap():
    """The annual cycle of carbon dioxide without its trend, over 80 months; the summer months are missing, a gap in the inputs."""
    x, level = co2()
    time = x[:, 0] + (x[:, 1] - 0.5) / 12
    season = (level - np.polynomial.Polynomial.fit(time, level, 4)(time)) / 2.0  # ppm, over their standard deviation
    chosen = np.random.default_rng(0).permutation(len(x))[:80]
    part = (x[chosen, 1] - 6.5) / 3.5
    out = np.abs(part - 0.15) < 0.5
    grid = np.linspace(-1.7, 1.7, 60)
    x_new, y_new = np.concatenate([part[out], grid])[:, None], season[chosen][out][:, None]
    gap = np.concatenate([np.zeros(out.sum(), bool), np.abs(grid - 0.15) < 0.35])
    model = network(1, 4, 1, dubito.Gaussian())
    return Problem(model, part[~out][:, None], season[chosen][~out][:, None], x_new, y_new, gap)


def diabetes(columns, hidden):
    data = sklearn_datasets.load_diabetes()
    x, y, x_new, y_new = split(data.data[:, columns], data.target.astype(float), 300, 100)
    return Problem(network(len(columns), hidden, 1, dubito.Gaussian()), x, y[:, None], x_new, y_new[:, None])


def classes(load, hidden, rows, new):
    data = load()
    x, y, x_new, y_new = split(data.data, data.target, rows, new)
    count = len(data.target_names)
    likelihood = dubito.Bernoulli() if count == 2 else dubito.Categorical(count)
    return Problem(network(x.shape[1], hidden, likelihood.width, likelihood), x, y, x_new, y_new)


PROBLEMS = {
    "co2-gap": co2_gap,  # 13 weights
    "diabetes-3": lambda: diabetes([2, 3, 8], 5),  # 26
    "diabetes-10": lambda: diabetes(list(range(10)), 8),  # 97
    "iris": lambda: classes(sklearn_datasets.load_iris, 5, 100, 50),  # 43
    "wine": lambda: classes(sklearn_datasets.load_wine, 8, 118, 60),  # 139
    "breast-cancer": lambda: classes(sklearn_datasets.load_breast_cancer, 15, 300, 200),  # 481
}


def sampled(problem, method, key):
    """((posterior, predictive at the evaluation rows), seconds) of a fit."""
    key_fit, key_predict = jax.random.split(key)
    start = time.perf_counter()
    posterior = dubito.fit(problem.model, problem.x, problem.y, method, key=key_fit)
    answer = dubito.predict(posterior, problem.x_new, key=key_predict)
    assert np.isfinite(answer.mean).all()  # which evaluates it
    return posterior, answer, time.perf_counter() - start


def outputs(problem, answer):
    """Outputs of the draws at the evaluation rows: f (S, n) for regression, class probabilities (S, n, C)."""
    if not problem.classes:
        return answer.z["mean"][:, :, 0]
    return np.asarray(jax.vmap(problem.model.likelihood.mean)(answer.z))


def arrays(problem, posterior, answer):
    """The arrays of a file."""
    found = np.asarray(outputs(problem, answer), float)
    values = found.reshape(posterior.chains, -1, found[0].size)
    error = values.std((0, 1), ddof=1) / np.sqrt(diagnostics.ess(values))
    kept = {"mcse": error.reshape(found.shape[1:]), "rhat": diagnostics.rhat(values).reshape(found.shape[1:])}
    if problem.classes:
        kept |= {"probs": found.mean(0)}
    else:
        chosen = np.linspace(0, len(found) - 1, STORED).round().astype(int)
        log_tau = np.asarray(posterior.params["likelihood"]["log_precision"], float)[:, 0]
        kept |= {"f": found[chosen], "mean": found.mean(0), "sd": found.std(0), "log_precision": log_tau[chosen]}
    return {name: np.ascontiguousarray(array, np.float32) for name, array in kept.items()}


def reference(name):
    """The arrays of a problem's file."""
    return load_file(FOLDER / f"{name}.safetensors")


def z_scores(name, method, key):
    """z-scores of the mean output, or class probability, of another sampler at each row, from both Monte Carlo errors."""
    problem, found = PROBLEMS[name](), reference(name)
    posterior, answer, _ = sampled(problem, method, key)
    again = arrays(problem, posterior, answer)
    mean = "probs" if problem.classes else "mean"
    return ((again[mean] - found[mean]) / np.hypot(again["mcse"], found["mcse"])).ravel()


def check(names):
    """Print the largest z-score of each problem; if both samplers are correct, z² is 1 on average."""
    for name in names:
        z = z_scores(name, dubito.NUTS(draws=2000, warmup=1500, acceptance=0.9), jax.random.key(11))
        print(f"{name}: {len(z)} numbers, largest |z| {np.abs(z).max():.2f}, mean z² {np.mean(z**2):.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", nargs="*", default=[*PROBLEMS], metavar="PROBLEM")
    parser.add_argument("--draws", type=int, default=2000, help="of each of 4 chains, every fifth kept")
    parser.add_argument("--warmup", type=int, default=1500)
    parser.add_argument("--thin", type=int, default=5)
    parser.add_argument("--key", type=int, default=0)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.check:
        check(options.problems)
        return
    jax.config.update("jax_enable_x64", True)
    method = dubito.HMC(options.draws, options.warmup, 4, thin=options.thin, acceptance=0.9)
    FOLDER.mkdir(exist_ok=True)
    for name in options.problems:
        problem = PROBLEMS[name]()
        posterior, answer, seconds = sampled(problem, method, jax.random.key(options.key))
        found = arrays(problem, posterior, answer)
        sd = found["sd"] if "sd" in found else np.sqrt(found["probs"] * (1 - found["probs"]))
        share = np.max(found["mcse"] / np.maximum(sd, 1e-3))
        save_file(found, FOLDER / f"{name}.safetensors")
        size = sum(leaf[0].size for leaf in jax.tree.leaves(posterior.params["network"]))
        print(
            f"{name}: {size} weights, {len(posterior)} draws of {posterior.chains} chains, {seconds:.0f} s; largest R-hat of "
            f"predictions {found['rhat'].max():.4f}, Monte-Carlo error at most {share:.1%} of the standard deviation",
            flush=True,
        )


if __name__ == "__main__":
    main()
