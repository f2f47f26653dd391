"""Two members of an ensemble in parallel, one thread each, compared with one after the other on the whole machine.

    python benchmarks/members.py [--widths 16 128 512 1024 2048] [--batches 32 256 1024] [--repeats 3]

Prints a table with the milliseconds per step of both members (the minimum over alternating runs), the number of cores used in that
run, and the ratios of wall times and CPU times. Above 1 the threads are faster; the ratio of CPU times is also valid when other
programs use the cores. Larger products within a step use more cores, so the advantage of threads should decrease with width and
batch size.
"""

import argparse
import time

import jax
import numpy as np

import dubito
from dubito.training import fit

BLOCKS, SECONDS = 4, 0.5  # blocks of an epoch; about how long a run should take
NETWORKS = {"784-w-w-10": (784, 10), "10-w-w-1": (10, 1)}
METHODS = {"maximum likelihood": dubito.MaximumLikelihood, "bayes by backprop": dubito.BayesByBackprop}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 128, 512, 1024, 2048])
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 256, 1024])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print("| network | method | w | batch | parameters | one after the other | side by side | times | CPU times |")
    print("|---|---|---|---|---|---|---|---|---|")
    for network, sizes in NETWORKS.items():
        for name, method in METHODS.items():
            for width in arguments.widths:
                for batch in arguments.batches:
                    count, alone, beside = point(*sizes, method, width, batch, arguments.repeats)
                    sides = " | ".join(f"{wall * 1e3:.3g} ms, {cpu / wall:.2f} cores" for wall, cpu in (alone, beside))
                    ratios = " | ".join(f"{a / b:.2f}" for a, b in zip(alone, beside, strict=True))
                    print(f"| {network} | {name} | {width} | {batch} | {count:,} | {sides} | {ratios} |", flush=True)
                    jax.clear_caches()


def point(inputs, outputs, method, width, batch, repeats):
    """(number of parameters, (wall, CPU) seconds per step of two members in sequence, and in parallel)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BLOCKS * batch, inputs)).astype(np.float32)
    likelihood = dubito.Gaussian() if outputs == 1 else dubito.Categorical(outputs)
    y = x[:, 0] if outputs == 1 else rng.integers(outputs, size=len(x))
    model = dubito.Model(dubito.mlp(inputs, (width, width), outputs), likelihood)

    def run(threads, epochs):
        fit.cores = lambda: threads
        members = dubito.Ensemble(method(epochs=epochs, batch_size=batch, learning_rate=1e-4), 2)
        start = time.perf_counter(), time.process_time()
        dubito.fit(model, x, y, members, key=jax.random.key(0))
        steps = epochs * BLOCKS
        return (time.perf_counter() - start[0]) / steps, (time.process_time() - start[1]) / steps

    run(1, 1)
    epochs = max(1, min(500, round(SECONDS / (run(2, 2)[0] * BLOCKS))))
    alone, beside = zip(*[[run(threads, epochs) for threads in (1, 2)] for _ in range(repeats)], strict=True)
    count = sum(leaf.size for leaf in jax.tree.leaves(model.init(jax.random.key(0))))
    return count, min(alone), min(beside)


if __name__ == "__main__":
    main()
