"""Known noise: 90 % intervals of a method by name on y = 3x + N(0, 0.3²), x ~ N(0, 1), with all defaults.

    python benchmarks/linear_noise.py [--methods map] [--rows 30,64,65,100] [--tables 20]
    python benchmarks/linear_noise.py --methods auto --rows 60,100,200,300

Prints for each number of rows the means over tables, ± standard errors, of the intervals' width divided by that of the noise, of the
share of 10,000 new rows that they contain, and of ``noise_std_`` divided by the noise.
"""

import argparse

import numpy as np

import dubito

NOISE, NORMAL_95 = 0.3, 1.6449


def one(method, rows, seed):
    """(width over that of the noise, coverage, noise_std_ over the noise) of the fit to one table."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows + 10_000, 1))
    y = 3 * x[:, 0] + NOISE * rng.normal(size=len(x))
    model = dubito.BayesianRegressor(method, random_state=seed).fit(x[:rows], y[:rows])
    lower, upper = model.predict_interval(x[rows:])
    covered = (lower <= y[rows:]) & (y[rows:] <= upper)
    noise_std = model.noise_std_ if hasattr(model, "noise_std_") else np.nan
    return np.mean(upper - lower) / (2 * NORMAL_95 * NOISE), np.mean(covered), noise_std / NOISE


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="map", help="names of dubito.METHODS, separated by commas")
    parser.add_argument("--rows", default="30,64,65,100")
    parser.add_argument("--tables", type=int, default=20)
    chosen = parser.parse_args()
    print("| method | rows | width over the noise's | coverage | noise_std_ over the noise |\n|---|---|---|---|---|")
    for method in chosen.methods.split(","):
        for rows in map(int, chosen.rows.split(",")):
            found = np.array([one(method, rows, seed) for seed in range(chosen.tables)])
            means, errors = found.mean(0), found.std(0, ddof=1) / np.sqrt(len(found))
            cells = [f"{m:.3f} ± {e:.3f}" for m, e in zip(means, errors, strict=True)]
            print(f"| {method} | {rows} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
