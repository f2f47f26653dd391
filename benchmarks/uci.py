"""Accuracy on the UCI tables of the PBP protocol, with all defaults, through the estimators, but for ``groups=False``: some rows of
concrete, power-plant and wine repeat others, and the protocol separates them into training and test rows, too.

    python benchmarks/uci.py DATA [--methods default,mc-dropout,...] [--sets concrete,...] [--splits 0,1,2,3,4] [--together]

DATA contains one folder per table: data.txt, index_features.txt, index_target.txt, index_{train,test}_<split>.txt. Prints a Markdown
table, and appends one JSON line per fit to benchmarks/results/uci.jsonl. All methods except the default use the same network, 128-128
SiLU with periodic features, so that the effect of each part is visible. With --together, folds of the training rows keep rows that
repeat one another together, as estimators do by default.
"""

import argparse
import json
import pathlib
import time

import numpy as np

import dubito
from dubito import metrics

SETS = ("concrete", "energy", "power-plant", "wine-quality-red", "yacht")
RESULTS = pathlib.Path(__file__).parent / "results" / "uci.jsonl"
NETWORK = {"hidden": (128, 128), "activation": "silu", "periodic": 8}


def methods(size):
    """{name: (method, network)}. The wrapped method of the default gets its epochs and batch size for ``size`` rows."""
    base = dubito.default_method(size)
    steps = {
        "epochs": base.method.epochs,
        "batch_size": base.method.batch_size,
        "learning_rate": base.method.learning_rate,
        "clip": base.method.clip,
    }
    alone = {
        "maximum-likelihood": dubito.MaximumLikelihood(**steps),
        "map": dubito.MAP(**steps),
        "mc-dropout": dubito.MCDropout(rate=0.05, **steps),
        "bayes-by-backprop": dubito.BayesByBackprop(**steps),
        "ensemble of 10": dubito.Ensemble(dubito.MaximumLikelihood(**steps), 10),
    }
    pace = {"epochs": steps["epochs"], "batch_size": steps["batch_size"]}
    alone |= {
        "laplace": dubito.LaplaceApproximation(dubito.MAP(**steps)),
        "concrete-dropout": dubito.ConcreteDropout(**steps),
        "variational-dropout": dubito.VariationalDropout(**steps),
        "natural-gradient-vi": dubito.NaturalGradientVI(**pace),
        "swag": dubito.SWAG(**pace, clip=steps["clip"]),
        "randomized-map": dubito.Ensemble(dubito.RandomizedMAP(**steps), 20),
    }
    crossed = {f"cross-fit {name}": dubito.CrossFit(method, 10) for name, method in list(alone.items())[1:4]}
    constant = dubito.CrossFit(base.method, 10, noise="constant", df=None)
    return {
        "default": (None, {}),
        "default, relu 50, no waves": (None, {"hidden": (50,), "activation": "relu", "periodic": 0}),
        "default, no waves": (None, {"periodic": 0}),
        "default, one Gaussian noise": (constant, NETWORK | {"likelihood": dubito.Gaussian(precision=1.0)}),
        "default, Gaussian": (
            dubito.CrossFit(base.method, 10, df=None),
            NETWORK | {"likelihood": dubito.Gaussian(precision=1.0)},
        ),
    } | {name: (method, NETWORK) for name, method in (alone | crossed).items()}


def load(folder, name, split):
    folder = folder / name
    table = np.loadtxt(folder / "data.txt")
    features, target = (np.loadtxt(folder / f"index_{part}.txt", dtype=int) for part in ("features", "target"))
    rows = [np.loadtxt(folder / f"index_{part}_{split}.txt", dtype=int) for part in ("train", "test")]
    return [(table[chosen][:, features], table[chosen, target]) for chosen in rows]


def run(folder, name, split, label, together=False):
    (x, y), (x_test, y_test) = load(folder, name, split)
    method, network = methods(len(x))[label]
    start = time.perf_counter()
    model = dubito.BayesianRegressor(method, random_state=split, **network).fit(
        x, y, groups=None if together else False
    )
    seconds = time.perf_counter() - start
    answer = model.predictive(x_test)
    lower, upper = answer.interval(0.9)
    return {
        "set": name,
        "split": split,
        "method": label + (", copies together" if together else ""),
        "rmse": metrics.rmse(answer, y_test).value,
        "nll": metrics.nll(answer, y_test).value,
        "covered": int(np.sum((y_test >= lower) & (y_test <= upper))),
        "rows": len(y_test),
        "width": float(np.mean(upper - lower)),
        "seconds": seconds,
    }


def line(rows):
    """One row of the table: means over splits ± standard errors; coverage pooled over the splits."""
    cells = [rows[0]["set"], rows[0]["method"]]
    for key in ("rmse", "nll"):
        values = np.array([row[key] for row in rows])
        error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
        cells.append(f"{values.mean():.3f} ± {error:.3f}")
    covered, count = (sum(row[key] for row in rows) for key in ("covered", "rows"))
    share = covered / count
    cells.append(f"{100 * share:.1f} ± {100 * np.sqrt(share * (1 - share) / count):.1f}")
    cells += [f"{np.mean([row['width'] for row in rows]):.3g}", f"{np.median([row['seconds'] for row in rows]):.1f}"]
    return "| " + " | ".join(cells) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--methods", default=",".join(["default"]), help="labels separated by ';', or 'all'")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--splits", default="0,1,2,3,4")
    parser.add_argument("--together", action="store_true", help="keep rows that repeat one another in one fold")
    chosen = parser.parse_args()
    labels = list(methods(1000)) if chosen.methods == "all" else chosen.methods.split(";")
    RESULTS.parent.mkdir(exist_ok=True)
    print("| table | method | RMSE | NLL | 90 % coverage | width | seconds a fit |\n|---|---|---|---|---|---|---|")
    for name in chosen.sets.split(","):
        for label in labels:
            rows = []
            for split in chosen.splits.split(","):
                rows.append(run(chosen.data, name, int(split), label, chosen.together))
                with RESULTS.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
            print(line(rows), flush=True)


if __name__ == "__main__":
    main()
