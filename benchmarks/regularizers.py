"""Regularizers compared on few digits, a small version of Srivastava et al. 2014, table 9.

    python benchmarks/regularizers.py [--splits 6] [--threads N]

Each of 6 disjoint sixths of scikit-learn's 1,797 digits is used to train a network 64-256-256-10, which is tested on the other 1,498
rows. The settings of each regularizer are chosen by the mean log likelihood of 3-fold cross-validation within the sixth; then it is
fitted to the whole sixth and tested once. Writes results/regularizers.md: means over the sixths, and paired differences to no
regularizer, each ± its standard error over the sixths.
"""

import argparse
import itertools
import os
import pathlib
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
from sklearn.model_selection import StratifiedKFold

import dubito
from dubito import datasets

HIDDEN, CLASSES, FOLDS = (256, 256), 10, 3
TRAINING = {"epochs": 150, "batch_size": 50, "learning_rate": 3e-3}
PATIENCE = {"early_stopping": True, "validation_fraction": 0.2, "n_iter_no_change": 10}
RESULTS = pathlib.Path(__file__).parent / "results" / "regularizers.md"
DIGITS = 3  # after the point, in the table


class Regularizer(NamedTuple):
    """Fields of a method with the values to choose from, and the error in percent that the paper reports for MNIST."""

    name: str
    grid: dict
    published: str = ""
    options: dict | None = None  # of fit


L1, L2 = [1e-6, 1e-5, 1e-4, 1e-3], [1e-5, 1e-4, 1e-3, 1e-2]
DROPOUT, MAX_NORM = [0.1, 0.25, 0.5, 0.7], [0.3, 0.5, 1.0, 1.5, 2.0]
REGULARIZERS = [
    Regularizer("none", {}),
    Regularizer("early stopping", {}, options=PATIENCE),
    Regularizer("L2", {"l2": L2}, "1.62"),
    Regularizer("L1", {"l1": L1}),
    Regularizer("max-norm", {"max_norm": MAX_NORM}, "1.35"),
    Regularizer("dropout", {"dropout": DROPOUT}),
    Regularizer("dropout + L2", {"dropout": DROPOUT[2:], "l2": L2[1:]}, "1.25"),
    Regularizer("dropout + max-norm", {"dropout": DROPOUT[2:], "max_norm": MAX_NORM[1:4]}, "1.05"),
]


def settings(regularizer):
    """Every combination of a regularizer's values."""
    return [
        dict(zip(regularizer.grid, values, strict=True)) for values in itertools.product(*regularizer.grid.values())
    ]


def fitted(setting, x, y, weight, key, options):
    """The posterior of a point estimate; rows of weight 0 keep the shapes, so that nothing is recompiled."""
    size = int(weight.sum())
    fields = TRAINING | {name: value for name, value in setting.items() if name in ("dropout", "max_norm")}
    if "l1" in setting:
        prior, method = dubito.Laplace.from_l1(setting["l1"], size), dubito.MAP(**fields)
    elif "l2" in setting:
        prior, method = dubito.Normal.from_l2(setting["l2"], size), dubito.MAP(**fields)
    else:
        prior, method = None, dubito.MaximumLikelihood(**fields)
    network = dubito.mlp(x.shape[1], HIDDEN, CLASSES)
    model = dubito.Model(network, dubito.Categorical(classes=CLASSES), prior)
    return dubito.fit(model, x, y, method, key=key, weight=weight, **options)


def scores(posterior, x, y, key):
    """(error in percent, negative log likelihood in nats) on rows."""
    probs = np.asarray(dubito.predict(posterior, x, key=key).probs, float)
    return 100 * np.mean(probs.argmax(1) != y), -np.mean(np.log(np.maximum(probs[np.arange(len(y)), y], 1e-30)))


def one(regularizer, split, train, X, y):
    """(error, NLL, chosen setting, fraction of zeros) of one regularizer on one sixth."""
    key = jax.random.key(split)
    x, labels, options = X[train], y[train], regularizer.options or {}
    folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=split).split(x, labels))
    every = settings(regularizer)

    def validated(setting):
        """Mean NLL of the held-out rows of each fold."""
        total = 0.0
        for _, out in folds:
            weight = np.ones(len(x))
            weight[out] = 0.0
            total += scores(fitted(setting, x, labels, weight, key, options), x[out], labels[out], key)[1] / FOLDS
        return total

    best = min(every, key=validated) if len(every) > 1 else every[0]
    posterior = fitted(best, x, labels, np.ones(len(x)), key, options)
    rest = np.setdiff1d(np.arange(len(y)), train)
    return (*scores(posterior, X[rest], y[rest], key), best, dubito.sparsity(posterior)["all"])


def mean(values):
    """Mean over the sixths with its standard error."""
    return f"{np.mean(values):.{DIGITS}f} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.{DIGITS}f}"


def table(found, seconds):
    """Markdown; ``found`` contains the results of the sixths for each regularizer."""
    none = np.array([row[:2] for row in found["none"]])
    lines = [
        f"{len(none)} sixths of the digits, {seconds:.0f} s of CPU time in total. Errors in percent, NLL in nats per row; reductions are relative to no regularizer.",
        "",
        "| regularizer | error, % | reduction | NLL | reduction | chosen | zeros, % | published error, % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for regularizer in REGULARIZERS:
        rows = found[regularizer.name]
        both = np.array([row[:2] for row in rows])
        less = ["", ""] if regularizer.name == "none" else [mean((none - both)[:, k]) for k in (0, 1)]
        counts = Counter(", ".join(f"{name} {value:g}" for name, value in row[2].items()) for row in rows)
        chosen = "; ".join(f"{what} ({times})" if times > 1 else what for what, times in counts.most_common() if what)
        zeros = f"{100 * np.mean([row[3] for row in rows]):.1f}"
        cells = [regularizer.name, mean(both[:, 0]), less[0], mean(both[:, 1]), less[1], chosen, zeros]
        lines.append("| " + " | ".join([*cells, regularizer.published]) + " |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--splits", type=int, default=6, help="how many of the sixths (default: all 6)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="fits at once (default: one a core)")
    arguments = parser.parse_args()
    start = time.perf_counter()
    X, y = datasets.digits()
    X = X / 16.0  # ink from 0 to 1
    sixths = [part for _, part in StratifiedKFold(6, shuffle=True, random_state=0).split(X, y)][: arguments.splits]
    found = {}
    with ThreadPoolExecutor(arguments.threads) as pool:
        jobs = {
            each.name: [pool.submit(one, each, number, train, X, y) for number, train in enumerate(sixths)]
            for each in REGULARIZERS
        }
        for name, futures in jobs.items():
            found[name] = [future.result() for future in futures]
            errors = ", ".join(f"{row[0]:.2f}" for row in found[name])
            print(f"{time.perf_counter() - start:5.0f} s  {name}: {errors} %", flush=True)
    text = table(found, time.process_time())
    print(text)
    if len(sixths) == 6:
        RESULTS.write_text(text)


if __name__ == "__main__":
    main()
