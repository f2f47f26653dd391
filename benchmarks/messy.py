"""A messy table as it is beside the same rows cleaned by hand: seconds, peak memory and RMSE of the default estimator.

    python benchmarks/messy.py [--rows 50000] [--seed 0] [--pairs 3] [--method NAME] [--peer PYTHON]

The table has 8 numbers and a category with 20 % of their values missing, 3 columns of dates, and a column of 500 categories. By
hand, numbers get medians and indicators, missing categories a category, dates their ordinal days, and the 30 commonest of the 500
categories a 0/1 column each and the others one. Each fit and prediction is a process of its own, in turns; a fifth of the rows is
held out. PYTHON, if given, is an interpreter of an environment with catboost and pandas, which then learns the same rows from the
messy table, with its defaults. Prints medians and ratios, and appends one JSON line per process to results/messy.jsonl.
"""

import argparse
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import time

import numpy as np

RESULTS = pathlib.Path(__file__).parent / "results"


def messy(rows, seed):
    """The frame, and the target: numbers, a season, a trend and the categories all matter."""
    import pandas as pd

    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(rows, 8))
    kind = rng.choice(["red", "green", "blue", "black"], rows)
    share = 1 / np.arange(1, 501)
    code = rng.choice(500, rows, p=share / share.sum())
    effect = rng.normal(size=500)
    days = rng.integers(0, 4 * 365, size=(rows, 3))
    season = np.sin(2 * np.pi * days[:, 0] / 365.25)
    y = numbers[:, 0] + numbers[:, 1] * numbers[:, 2] + np.sin(2 * numbers[:, 3]) + (kind == "red")
    y += season + 0.001 * days[:, 1] + effect[code] + 0.5 * rng.normal(size=rows)
    frame = pd.DataFrame({f"x{k}": numbers[:, k] for k in range(8)})
    frame["kind"] = kind
    for name in frame:
        frame.loc[rng.random(rows) < 0.2, name] = None
    start = pd.Timestamp("2020-01-01")
    for k in range(3):
        frame[f"date{k}"] = start + pd.to_timedelta(days[:, k], unit="D")
    return frame.assign(code=[f"c{value}" for value in code]), y


def cleaned(frame, train):
    """The columns as a careful person encodes them, from the training rows, as float64 (rows, columns)."""
    parts = []
    for name in frame.filter(like="x"):
        missing = frame[name].isna()
        parts += [frame[name].fillna(frame[name][train].median()), missing]
    kinds = frame["kind"].fillna("missing")
    parts += [kinds == value for value in sorted(set(kinds[train]))]
    parts += [frame[name].map(lambda day: day.toordinal()) for name in frame.filter(like="date")]
    common = frame["code"][train].value_counts().index[:30]
    parts += [frame["code"] == value for value in common] + [~frame["code"].isin(common)]
    return np.stack([np.asarray(part, float) for part in parts], axis=1)


def run(which, rows, seed, method):
    """Fit and predict once; returns the line of this process."""
    frame, y = messy(rows, seed)
    order = np.random.default_rng([seed, 1]).permutation(rows)
    train, test = np.sort(order[rows // 5 :]), np.sort(order[: rows // 5])
    start = time.perf_counter()
    if which == "catboost":
        import catboost

        texts = ["kind", "code"]
        data = frame.assign(**{name: frame[name].fillna("missing").astype(str) for name in texts})
        for name in frame.filter(like="date"):
            data[name] = frame[name].map(lambda day: day.toordinal())
        model = catboost.CatBoostRegressor(random_seed=seed, verbose=0, cat_features=texts, allow_writing_files=False)
        mean = model.fit(data.iloc[train], y[train]).predict(data.iloc[test])
    else:
        import dubito

        model = dubito.BayesianRegressor(method, random_state=seed)
        data = frame if which == "messy" else cleaned(frame, train)
        part = data.iloc if which == "messy" else data
        mean = model.fit(part[train], y[train]).predict(part[test])
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rmse = float(np.sqrt(np.mean((mean - y[test]) ** 2)))
    return {"which": which, "rows": rows, "seed": seed, "seconds": seconds, "megabytes": memory, "rmse": rmse}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--method", help="the name of a method; by default the default")
    parser.add_argument("--peer", metavar="PYTHON")
    parser.add_argument("--which", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.which:
        print(json.dumps(run(arguments.which, arguments.rows, arguments.seed, arguments.method)))
        return
    lines = []
    for turn in range(arguments.pairs):
        names = ["messy", "by hand"][:: 1 if turn % 2 == 0 else -1] + (["catboost"] if arguments.peer else [])
        for which in names:
            python = arguments.peer if which == "catboost" else sys.executable
            options = ["--rows", str(arguments.rows), "--seed", str(arguments.seed), "--which", which]
            options += ["--method", arguments.method] if arguments.method else []
            done = subprocess.run([python, __file__, *options], capture_output=True, text=True, check=True)
            lines.append(json.loads(done.stdout.splitlines()[-1]) | {"method": arguments.method or "default"})
            print(lines[-1], flush=True)
    with (RESULTS / "messy.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    found = {
        key: {
            w: statistics.median(line[key] for line in lines if line["which"] == w) for w in {x["which"] for x in lines}
        }
        for key in ("seconds", "megabytes", "rmse")
    }
    print({key: {name: round(value, 4) for name, value in each.items()} for key, each in found.items()})
    for key in found:
        print(f"{key}: as it is / by hand = {found[key]['messy'] / found[key]['by hand']:.3f}")
    if arguments.peer:
        print(f"rmse: as it is / catboost = {found['rmse']['messy'] / found['rmse']['catboost']:.3f}")


if __name__ == "__main__":
    main()
