"""Methods by the number of rows: the estimators' usual networks on subsets of real tables, with all defaults.

    python benchmarks/small.py [DATA] [--rows 50,100,200,400] [--splits 2] [--methods a,b] [--tables a,b]

DATA, if given, is the folder of the UCI tables (``uci.py``); without it, only tables of scikit-learn and dubito are used. In each
split, the given number of rows of a table is drawn for training and up to 500 others for testing. Appends one JSON line per
fit to results/small.jsonl, and writes results/small.md from all of them: the mean NLL per row minus that of the best method for the
same rows, in nats; in parentheses the coverage of 90 % intervals (for regression).
"""

import argparse
import json
import pathlib
import time
import warnings

import numpy as np
from sklearn import datasets as sklearn_datasets

import dubito
from dubito import datasets, metrics
from dubito.methods.by_name import METHODS

RESULTS = pathlib.Path(__file__).parent / "results"
UCI = ("concrete", "energy", "power-plant", "wine-quality-red")
NAMES = "auto,map,ensemble,mc-dropout,bayes-by-backprop,laplace,randomized-map,hmc"
LARGEST = {"hmc": 200}  # rows for which it is run


def tables(data):
    """{name: (x, y)}; y of classes consists of whole numbers."""
    found = {"diabetes": datasets.diabetes(), "co2": datasets.co2()}
    for name in ("wine", "breast_cancer", "digits"):
        found[name] = getattr(sklearn_datasets, f"load_{name}")(return_X_y=True)
    for name in UCI if data else ():
        folder = pathlib.Path(data) / name
        table = np.loadtxt(folder / "data.txt")
        features, target = (np.loadtxt(folder / f"index_{part}.txt", dtype=int) for part in ("features", "target"))
        found[name] = table[:, features], table[:, target]
    return found


def run(name, x, y, rows, split, label):
    order = np.random.default_rng([split, rows]).permutation(len(x))
    train, test = order[:rows], order[rows : rows + 500]
    classes = y.dtype.kind != "f"
    make = dubito.BayesianClassifier if classes else dubito.BayesianRegressor
    start = time.perf_counter()
    model = make(METHODS[label], random_state=split).fit(x[train], y[train])
    seconds = time.perf_counter() - start
    if classes:  # those that the training rows have
        test = test[np.isin(y[test], model.classes_)]
    answer = model.predictive(x[test])
    line = {"table": name, "rows": rows, "split": split, "method": label, "seconds": round(seconds, 2)}
    line |= {"nll": metrics.nll(answer, y[test]).value}
    return line if classes else line | {"coverage": metrics.coverage(answer, y[test], 0.9).value}


def written(lines):
    """small.md: for each number of rows, methods by tables."""
    text = [
        "# Methods by number of rows\n",
        __doc__.split("\n\n", 2)[2].strip() + "\n",
        "    python benchmarks/small.py DATA\n",
    ]
    latest = {(line["table"], line["rows"], line["split"], line["method"]): line for line in lines}.values()
    for rows in sorted({line["rows"] for line in latest}):
        here = [line for line in latest if line["rows"] == rows]
        methods = {line["method"]: None for line in here}
        done = {
            name: {line["method"] for line in here if line["table"] == name}
            for name in {line["table"] for line in here}
        }
        names = sorted(name for name in done if len(done[name]) == len(methods))  # where all methods have been run
        cells = {(name, method): mean_of(here, name, method) for name in names for method in methods}
        best = {name: min(cells[name, method][0] for method in methods) for name in names}
        gaps = {method: np.mean([cells[name, method][0] - best[name] for name in names]) for method in methods}
        text += [
            f"## {rows} rows\n",
            "| method | mean | " + " | ".join(names) + " | seconds |",
            "|---" * (len(names) + 3) + "|",
        ]
        for method in sorted(methods, key=gaps.__getitem__):
            shown = [show(cells[name, method], best[name]) for name in names]
            seconds = np.median([line["seconds"] for line in here if line["method"] == method])
            text.append(f"| {method} | {gaps[method]:.2f} | " + " | ".join(shown) + f" | {seconds:.1f} |")
        text.append("")
    return "\n".join(text)


def mean_of(lines, name, method):
    """(NLL, coverage or None), averaged over splits."""
    found = [line for line in lines if (line["table"], line["method"]) == (name, method)]
    coverage = np.mean([line["coverage"] for line in found]) if "coverage" in found[0] else None
    return np.mean([line["nll"] for line in found]), coverage


def show(cell, best):
    nll, coverage = cell
    return f"{nll - best:.2f}" + ("" if coverage is None else f" ({coverage:.0%})")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", metavar="DATA")
    parser.add_argument("--rows", default="50,100,200,400")
    parser.add_argument("--splits", type=int, default=2)
    parser.add_argument("--methods", default=NAMES)
    parser.add_argument("--tables")
    options = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    path, found = RESULTS / "small.jsonl", tables(options.data)
    for name in options.tables.split(",") if options.tables else found:
        x, y = found[name]
        for rows in map(int, options.rows.split(",")):
            for label in options.methods.split(","):
                if rows > LARGEST.get(label, rows) or rows > 0.8 * len(x):
                    continue
                for split in range(options.splits):
                    line = run(name, x, y, rows, split, label)
                    print(line, flush=True)
                    with open(path, "a") as file:
                        file.write(json.dumps(line) + "\n")
    (RESULTS / "small.md").write_text(written([json.loads(line) for line in path.read_text().splitlines()]))


if __name__ == "__main__":
    main()
