"""The default's noise where many new rows are known: small tables drawn from large ones, and from functions without noise.

    python benchmarks/small_noise.py DATA [--tables energy:300,friedman:300,...] [--draws 5]

A table is its name, a colon, and its number of rows: drawn from the training rows of splits 0-4 of the tables of ``uci.py`` (up to 5,000
of the other training rows are scored, no test rows), or from ``friedman``, Friedman's function of six columns without noise. Prints means
over draws: ``noise_std_`` divided by the root of the squared error that all members have in common, that of their mean less a
tenth of their variance; the share of new rows in 90 % intervals; and the factor on the widths that is best in hindsight, with its gain.
"""

import argparse
import pathlib

import numpy as np
from uci import FACTORS, scaled_nll
from uci_tables import load

import dubito

TABLES = (
    "friedman:300,friedman:1000,yacht:150,energy:150,energy:300,concrete:100,concrete:300,concrete:600,stock:300,autompg:150,"
    "wine-quality-red:300,skillcraft:300,elevators:300,elevators:1000,power-plant:300,power-plant:1000"
)
MOST_NEW = 5000


def draw(data, name, rows, seed):
    """Training rows and new rows."""
    rng = np.random.default_rng(100 + seed)
    if name == "friedman":
        x = rng.uniform(size=(rows + MOST_NEW, 6))
        y = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    else:
        (x, y), _ = load(data, name, seed)
        order = rng.permutation(len(y))
        x, y = x[order], y[order]
    return (x[:rows], y[:rows]), (x[rows : rows + MOST_NEW], y[rows : rows + MOST_NEW])


def one(data, name, rows, seed):
    """(the ratio of noise_std_, coverage, NLL under FACTORS) of the fit to one table."""
    (x, y), (x_new, y_new) = draw(data, name, rows, seed)
    model = dubito.BayesianRegressor(random_state=seed).fit(x, y, groups=False)
    answer = model.predictive(x_new)
    lower, upper = answer.interval(0.9)
    common = np.mean((answer.mean - y_new) ** 2) - 0.1 * np.mean(answer.epistemic)
    return model.noise_std_ / np.sqrt(common), np.mean((lower <= y_new) & (y_new <= upper)), *scaled_nll(answer, y_new)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--tables", default=TABLES)
    parser.add_argument("--draws", type=int, default=5)
    chosen = parser.parse_args()
    print("| table: rows | noise_std_ over the common error | 90 % coverage | best factor |\n|---|---|---|---|")
    for table in chosen.tables.split(","):
        name, rows = table.split(":")
        found = np.array([one(chosen.data, name, int(rows), seed) for seed in range(chosen.draws)])
        (ratio, coverage), error = found[:, :2].mean(0), found[:, :2].std(0, ddof=1) / np.sqrt(len(found))
        nll = found[:, 2:].mean(0)
        gain = nll[len(FACTORS) // 2] - nll.min()
        print(
            f"| {table} | {ratio:.2f} ± {error[0]:.2f} | {100 * coverage:.1f} ± {100 * error[1]:.1f} | "
            f"{FACTORS[np.argmin(nll)]:.2f}: −{gain:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
