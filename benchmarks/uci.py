"""Accuracy of methods by name, with all defaults, on the UCI tables of the PBP protocol and four more, through the estimators, but for
``groups=False``: some rows of concrete, power-plant and wine repeat others, and the protocol separates them into training and test
rows, too.

    python benchmarks/uci.py DATA [--methods "auto;mc-dropout;..."] [--sets concrete,...] [--splits 5-19] [--choose] [--together]

DATA contains the folders uci, with one folder per table: data.txt, index_features.txt, index_target.txt,
index_{train,test}_<split>.txt; and extra, with one per table: data.csv.gz, whose last column is the target, and test_mask.csv.gz,
whose columns mark the test rows of ten folds. Appends one JSON line per fit to results/uci.jsonl, prints a Markdown table, and
writes it to results/uci.md with those of the other methods in the file.

Recipes of methods are chosen with --choose, which never reads test rows: an eighth of the training rows of splits 0-4 is scored.
Figures are reported on splits 5-19 (folds 5-9). With --together, folds of the training rows keep rows that repeat one another
together, as estimators do by default.
"""

import argparse
import json
import pathlib
import time

import numpy as np
from uci_tables import EXTRA, UCI, load, splits_of

import dubito
from dubito import metrics

VARIANTS = {  # of the default, as arguments of the estimator
    "auto, relu 50, no waves": {"hidden": (50,), "activation": "relu", "periodic": 0},
    "auto, no waves": {"periodic": 0},
    "auto, one Gaussian noise": {"likelihood": "gaussian"},
    "auto, Gaussian": {"likelihood": "heteroscedastic"},
}
FACTORS = np.exp(np.linspace(-0.6, 0.6, 41))
RESULTS = pathlib.Path(__file__).parent / "results"
NOTE = (
    "All methods by name with their defaults; means over splits ± standard errors, coverage of 90 % intervals pooled over the splits. "
    "The last column is the factor on the widths of all predictive distributions that is best in hindsight, with the NLL that it gains. "
    "The recipes were chosen on validation rows inside the training rows of splits 0-4; the test rows of splits 5-19 (folds 5-9 of "
    "autompg, elevators, skillcraft and stock) have been training or validation rows of those. Made by `python benchmarks/uci.py`."
)


def validation(x, y, split):
    """Training and validation rows: an eighth of the training rows, at least 20."""
    order = np.random.default_rng(1000 + split).permutation(len(y))
    count = max(len(y) // 8, 20)
    return [(x[chosen], y[chosen]) for chosen in (order[count:], order[:count])]


def run(data, name, split, method, choose, together):
    (x, y), test = load(data, name, split)
    if choose:
        (x, y), test = validation(x, y, split)
    start = time.perf_counter()
    model = dubito.BayesianRegressor(method.split(",")[0], random_state=split, **VARIANTS.get(method, {}))
    model.fit(x, y, groups=None if together else False)
    seconds = time.perf_counter() - start
    answer, y_test = model.predictive(test[0]), test[1]
    lower, upper = answer.interval(0.9)
    return {
        "set": name,
        "split": split,
        "method": method + (", copies together" if together else ""),
        "rmse": metrics.rmse(answer, y_test).value,
        "nll": metrics.nll(answer, y_test).value,
        "covered": int(np.sum((y_test >= lower) & (y_test <= upper))),
        "rows": len(y_test),
        "width": float(np.mean(upper - lower)),
        "seconds": seconds,
        "scaled": scaled_nll(answer, y_test),
    } | ({"choose": True} if choose else {})


def scaled_nll(answer, y):
    """The NLL of distributions that are FACTORS times as wide about their means."""
    centered = (y - answer.mean) / FACTORS[:, None]
    log_prob = np.stack([answer.log_prob(answer.mean + each) for each in centered]) - np.log(FACTORS)[:, None]
    return (-log_prob.mean(1)).tolist()


def best_factor(rows):
    """The factor that would have been best for all splits together, and how much better, in nats per row."""
    if not all("scaled" in row for row in rows):
        return "–"
    nll = np.average([row["scaled"] for row in rows], axis=0, weights=[row["rows"] for row in rows])
    return f"{FACTORS[np.argmin(nll)]:.2f}: −{nll[len(FACTORS) // 2] - nll.min():.3f}"


def line(rows):
    """One row of the table."""
    cells = [rows[0]["set"], rows[0]["method"], str(len(rows))]
    for key in ("rmse", "nll"):
        values = np.array([row[key] for row in rows])
        error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
        cells.append(f"{values.mean():.3f} ± {error:.3f}")
    covered, count = (sum(row[key] for row in rows) for key in ("covered", "rows"))
    share = covered / count
    cells.append(f"{100 * share:.1f} ± {100 * np.sqrt(share * (1 - share) / count):.1f}")
    cells += [f"{np.mean([row['width'] for row in rows]):.3g}", f"{np.median([row['seconds'] for row in rows]):.1f}"]
    return "| " + " | ".join([*cells, best_factor(rows)]) + " |"


HEAD = (
    "| table | method | splits | RMSE | NLL | 90 % coverage | width | seconds a fit | best factor |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def write_report():
    """results/uci.md from the reporting splits in results/uci.jsonl; of a fit that was made again, the last."""
    found = {}
    for row in map(json.loads, (RESULTS / "uci.jsonl").read_text().splitlines()):
        if not row.get("choose") and row["split"] >= 5:
            found.setdefault((row["set"], row["method"]), {})[row["split"]] = row
    lines = [line([rows[split] for split in sorted(rows)]) for _, rows in sorted(found.items())]
    (RESULTS / "uci.md").write_text("\n".join(["# UCI tables", "", NOTE, "", HEAD, *lines, ""]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument(
        "--methods", default="auto", help="names of dubito.METHODS, or variants of the default, separated by semicolons"
    )
    parser.add_argument("--sets", default=",".join([*UCI, *EXTRA]))
    parser.add_argument("--splits", default="5-19", help="first-last; of the four more tables, those that exist")
    parser.add_argument("--choose", action="store_true", help="score validation rows of the training rows")
    parser.add_argument("--together", action="store_true", help="keep rows that repeat one another in one fold")
    chosen = parser.parse_args()
    first, last = map(int, chosen.splits.split("-"))
    RESULTS.mkdir(exist_ok=True)
    print(HEAD)
    for name in chosen.sets.split(","):
        for method in chosen.methods.split(";"):
            rows = []
            for split in splits_of(name, first, last):
                rows.append(run(chosen.data, name, split, method, chosen.choose, chosen.together))
                with (RESULTS / "uci.jsonl").open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
            print(line(rows), flush=True)
    write_report()


if __name__ == "__main__":
    main()
