"""Seconds for the loss landscape of a table's network: 455 rows of 13 columns, 50 units, 51 x 51 points.

    python benchmarks/landscape.py

The cold time is the first evaluation in a process, including compilation; the warm time is the median of five more on other planes.
The last line is the time for a descent path of 50 points over 200 epochs.
"""

import statistics
import time

import jax
import numpy as np

import dubito
from dubito import landscape


def timed(work):
    start = time.perf_counter()
    found = work()
    return found, time.perf_counter() - start


def main():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(455, 13)), rng.normal(size=(455, 1))
    model = dubito.Model(dubito.mlp(13, (50,)), dubito.Gaussian())
    params = model.init(jax.random.key(0))
    planes = [landscape.random_plane(params, key=jax.random.key(seed)) for seed in range(6)]
    seconds = [timed(lambda plane=plane: landscape.evaluate(model, x, y, plane))[1] for plane in planes]
    print(f"landscape, 51 x 51 points: cold {seconds[0]:.2f} s, warm {statistics.median(seconds[1:]):.2f} s")
    for number, optimizer in enumerate(("adam", "adam", "sgd")):
        method = dubito.MAP(epochs=200, optimizer=optimizer)
        path, spent = timed(lambda method=method: landscape.descent_path(model, x, y, method, key=jax.random.key(1)))
        print(f"path of {optimizer}, {len(path.steps)} points: {spent:.2f} s" + (", cold" if number != 1 else ", warm"))


if __name__ == "__main__":
    main()
