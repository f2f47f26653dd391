"""Predict 10⁶ rows of 10 columns with the default regressor: rows per second, and the memory that it takes.

python benchmarks/predict.py [ROWS]
"""

import resource
import sys
import time

import numpy as np

import dubito


def main():
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1000, 10))
    model = dubito.BayesianRegressor(random_state=0).fit(X, X[:, 0] * X[:, 1] + 0.1 * rng.normal(size=1000))
    many = rng.normal(size=(rows, 10))
    for name, call in (("mean", model.predict), ("interval", model.predict_interval)):
        call(many[:20_000])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        call(many)
        seconds = time.perf_counter() - start
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(f"{name:>9}: {rows / seconds:,.0f} rows a second ({seconds:.1f} s), peak memory grew by {grown:.0f} MB")


if __name__ == "__main__":
    main()
