"""Two members of an ensemble on a thread each, and one after the other with all of the machine: where does it turn?

python benchmarks/members.py [--widths 16 128 512 1024 2048] [--batches 32 256 1024] [--repeats 3]

Prints a table of milliseconds a step of both members, the least of alternating runs, and the ratio: above 1 the threads win.
Products within a step fill more cores the larger they are, so the gain of threads falls with width and batch.
"""

import argparse
import time

import jax
import numpy as np

import dubito
from dubito import engine

BLOCKS, SECONDS = 4, 0.5  # blocks of an epoch; about how long a run should take
NETWORKS = {"784-w-w-10": (784, 10), "10-w-w-1": (10, 1)}
METHODS = {"maximum likelihood": dubito.MaximumLikelihood, "bayes by backprop": dubito.BayesByBackprop}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 128, 512, 1024, 2048])
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 256, 1024])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print("| network | method | w | batch | parameters | one after the other, ms | side by side, ms | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for network, sizes in NETWORKS.items():
        for name, method in METHODS.items():
            for width in arguments.widths:
                for batch in arguments.batches:
                    count, alone, beside = point(*sizes, method, width, batch, arguments.repeats)
                    cells = f"{count:,} | {alone * 1e3:.3g} | {beside * 1e3:.3g} | {alone / beside:.2f}"
                    print(f"| {network} | {name} | {width} | {batch} | {cells} |", flush=True)
                    jax.clear_caches()


def point(inputs, outputs, method, width, batch, repeats):
    """(parameters of a member, seconds a step of two members one after the other, and side by side)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BLOCKS * batch, inputs)).astype(np.float32)
    likelihood = dubito.Gaussian() if outputs == 1 else dubito.Categorical(outputs)
    y = x[:, 0] if outputs == 1 else rng.integers(outputs, size=len(x))
    model = dubito.Model(dubito.mlp(inputs, (width, width), outputs), likelihood)

    def run(threads, epochs):
        engine.cores = lambda: threads
        members = dubito.Ensemble(method(epochs=epochs, batch_size=batch, learning_rate=1e-4), 2)
        start = time.perf_counter()
        dubito.fit(model, x, y, members, key=jax.random.key(0))
        return (time.perf_counter() - start) / (epochs * BLOCKS)

    run(1, 1)
    epochs = max(1, min(500, round(SECONDS / (run(2, 2) * BLOCKS))))
    times = [[run(threads, epochs) for threads in (1, 2)] for _ in range(repeats)]
    count = sum(leaf.size for leaf in jax.tree.leaves(model.init(jax.random.key(0))))
    return count, *np.min(times, axis=0)


if __name__ == "__main__":
    main()
