"""Time and memory as functions of the number of rows, width, draws and members, compared with the limits of the machine.

    python benchmarks/growth.py [--output FOLDER]     writes growth.md, growth.json and growth.png (to benchmarks/results)

Each point is measured in a process of its own, so that its peak memory is its own. The limit of a point is the time for its
arithmetic at the rates measured in the same run: matrix products, memory traffic and random numbers, added up.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time

RESULTS = pathlib.Path(__file__).parent / "results"
BATCH, COLUMNS, HIDDEN = 128, 10, 64
SERIES = {
    "fit, rows": (1_000, 10_000, 100_000, 1_000_000, 10_000_000),
    "predict, rows": (1_000, 10_000, 100_000, 1_000_000, 10_000_000),
    "fit, width": (16, 64, 256, 1024, 2048),
    "predict, draws": (1, 10, 100, 1_000, 10_000),
    "fit, members": (1, 4, 16, 64),
}
MEANING = {
    "fit, rows": f"one epoch of maximum likelihood, {COLUMNS}-{HIDDEN}-1, batch {BATCH}",
    "predict, rows": f"mean and standard deviation, {COLUMNS}-{HIDDEN}-1, 8 draws of MC dropout",
    "fit, width": f"one step of maximum likelihood, {COLUMNS}-width-width-1, batch {BATCH}",
    "predict, draws": f"mean and standard deviation at 1,000 rows, {COLUMNS}-{HIDDEN}-1, MC dropout",
    "fit, members": f"an ensemble of MC dropout, 455 rows, {COLUMNS}-{HIDDEN}-1, 40 epochs of 4 steps",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=pathlib.Path, default=RESULTS, help="the folder to write to (benchmarks/results)"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="warm runs of each point, of which the median counts (3)"
    )
    parser.add_argument("--largest", type=float, default=float("inf"), help="leave out points beyond this size")
    parser.add_argument("--point", nargs=2, metavar=("SERIES", "SIZE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.point:
        kind, size = arguments.point
        print(json.dumps(rates() if kind == "machine" else point(kind, int(size), arguments.repeats)))
        return
    limits = child("machine", 0, 1)
    print(json.dumps(limits))
    found = []
    for kind, sizes in SERIES.items():
        for size in sizes:
            if size <= arguments.largest:
                found.append(child(kind, size, arguments.repeats) | {"series": kind, "size": size})
                found[-1]["limit"] = limit(kind, size, limits)
                print(row(found[-1]), flush=True)
    arguments.output.mkdir(exist_ok=True, parents=True)
    (arguments.output / "growth.json").write_text(json.dumps({"rates": limits, "points": found}, indent=1) + "\n")
    (arguments.output / "growth.md").write_text(markdown(limits, found))
    plot(found, arguments.output / "growth.png")


def child(kind, size, repeats):
    command = (sys.executable, __file__, "--point", kind, str(size), "--repeats", str(repeats))
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def peak():
    """Peak memory of the process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def timed(call, repeats):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def rates():
    """Rates of the machine per second: float32 matrix products, memory traffic, and random words of our generator."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from dubito._jax import prng

    size, words = 2048, 20_000_000
    a = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
    device, product = jnp.asarray(a), jax.jit(jnp.matmul)
    long = np.zeros(2**26, np.float32)
    copied, key = long.copy(), prng.key_from_seed(0)
    draw = jax.jit(lambda k: jax.random.bits(k, (words,), jnp.uint32))

    def best(call):
        call()
        return min(timed(call, 5))

    return {
        "numpy_flops": 2 * size**3 / best(lambda: a @ a),
        "jax_flops": 2 * size**3 / best(lambda: product(device, device).block_until_ready()),
        "bytes": 2 * long.nbytes / best(lambda: np.copyto(copied, long)),
        "words": words / best(lambda: draw(key).block_until_ready()),
        "cores": os.cpu_count(),
    }


def point(kind, size, repeats):
    """Seconds per unit (epoch, call, step, fit), and memory in addition to imports and data."""
    import jax
    import numpy as np

    import dubito

    rng = np.random.default_rng(0)
    rows = size if kind.endswith("rows") else {"fit, width": 1280, "predict, draws": 1000, "fit, members": 455}[kind]
    x = rng.normal(size=(rows, COLUMNS)).astype(np.float32)
    y = np.sin(x[:, :1]) + 0.3 * rng.normal(size=(rows, 1)).astype(np.float32)
    width = (size, size) if kind == "fit, width" else (HIDDEN,)
    model = dubito.Model(dubito.mlp(COLUMNS, width, 1), dubito.Gaussian())
    settings = {"batch_size": BATCH, "learning_rate": 1e-3}

    def fitting(method):
        return lambda: jax.block_until_ready(dubito.fit(model, x, y, method, key=jax.random.key(0)))

    def predicting(draws):
        method = dubito.MCDropout(epochs=1, **settings)
        posterior = dubito.fit(model, x[:1000], y[:1000], method, key=jax.random.key(0))

        def call():
            answer = dubito.predict(posterior, x, key=jax.random.key(1), draws=draws)
            return answer.mean, answer.std

        return call

    if kind == "fit, rows":
        units = max(2, min(40, 400_000 // rows))
        call = fitting(dubito.MaximumLikelihood(epochs=units, **settings))
    elif kind == "fit, width":
        units = 10 * max(1, min(40, 4096 // size))
        call = fitting(dubito.MaximumLikelihood(epochs=units // 10, **settings))
    elif kind == "fit, members":
        units = 1
        call = fitting(dubito.Ensemble(dubito.MCDropout(epochs=40, **settings), size))
    else:
        units, call = 1, predicting(8 if kind == "predict, rows" else size)
    before = peak()
    call()
    times = timed(call, repeats)
    return {"seconds": statistics.median(times) / units, "memory_mb": peak() - before}


def limit(kind, size, machine):
    """Seconds for the arithmetic of a unit at the machine's rates: forward and backward products, the optimizer's memory traffic of
    28 bytes per weight and step, and one random word per mask.
    """
    width = size if kind == "fit, width" else HIDDEN
    weights = COLUMNS * width + width + (width**2 if kind == "fit, width" else 0)
    step = 6 * BATCH * weights / machine["jax_flops"] + 28 * weights / machine["bytes"]
    if kind == "fit, rows":
        return step * size / BATCH + (COLUMNS + 1) * 8 * size / machine["bytes"]
    if kind == "fit, width":
        return step
    if kind == "fit, members":
        cores = min(size, machine["cores"])  # a member's random numbers are one thread's, its products are all cores'
        return size * 160 * (step + BATCH * HIDDEN / machine["words"] / cores)
    rows, draws = (size, 8) if kind == "predict, rows" else (1000, size)
    return 2 * rows * draws * weights / machine["jax_flops"] + draws * HIDDEN / machine["words"]


def row(p):
    """One line of the table."""
    times = f"{quantity(p['seconds'])} | {quantity(p['limit'])} | {p['seconds'] / p['limit']:.3g}"
    return f"| {p['series']} | {p['size']:,} | {times} | {p['memory_mb']:.0f} |"


def quantity(seconds):
    for unit, factor in (("s", 1), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1 or unit == "µs":
            return f"{seconds * factor:.3g} {unit}"


def markdown(machine, found):
    meanings = [f"- {name}: {text}" for name, text in MEANING.items()]
    return "\n".join(
        [
            "# Growth of time and memory",
            "",
            "Written by `python benchmarks/growth.py`; [benchmarks](../README.md) discusses it. Times are medians of warm",
            "runs, each point in a process of its own. The limit is the time of the arithmetic at the rates measured in the",
            "same run: matrix products, memory traffic and random numbers, added up. Memory is the peak in addition to imports and data,",
            "including compilation.",
            "",
            *meanings,
            "",
            f"The machine: float32 products {machine['jax_flops'] / 1e9:.0f} GFLOP/s by JAX and {machine['numpy_flops'] / 1e9:.0f}",
            f"by NumPy, memory traffic of one thread {machine['bytes'] / 1e9:.1f} GB/s, random numbers of one thread"
            f" {machine['words'] / 1e6:.0f} million words/s.",
            "",
            "![Time and memory by size](growth.png)",
            "",
            "| series | size | time | limit | times the limit | memory, MB |",
            "|---|---|---|---|---|---|",
            *[row(p) for p in found],
            "",
        ]
    )


def plot(found, path):
    """Small multiples: time with its limit above, memory below."""
    from matplotlib.figure import Figure

    kinds = [kind for kind in SERIES if any(p["series"] == kind for p in found)]
    figure = Figure(figsize=(2.6 * len(kinds), 5), layout="constrained")
    axes = figure.subplots(2, len(kinds), squeeze=False, sharex="col")
    for column, kind in enumerate(kinds):
        points = [p for p in found if p["series"] == kind]
        sizes = [p["size"] for p in points]
        top, bottom = axes[:, column]
        top.loglog(sizes, [p["seconds"] for p in points], "o-", color="#0072B2", label="measured")
        top.loglog(sizes, [p["limit"] for p in points], "--", color="#777777", label="limit")
        top.set_title(kind, fontsize=10)
        bottom.loglog(sizes, [max(p["memory_mb"], 1) for p in points], "o-", color="#D55E00")
        bottom.set_xlabel(kind.split(", ")[1])
        bottom.set_ylim(1, 2 * max(p["memory_mb"] for p in found))  # the same for all, so that flat looks flat
        for axis in (top, bottom):
            axis.grid(alpha=0.3)
            axis.spines[["top", "right"]].set_visible(False)
    units = {"fit, rows": "s an epoch", "fit, width": "s a step", "fit, members": "s a fit"}
    for column, kind in enumerate(kinds):
        axes[0, column].set_ylabel(units.get(kind, "s a call"))
    axes[1, 0].set_ylabel("memory beyond imports, MB")
    axes[0, 0].legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
