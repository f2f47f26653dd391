"""Training rows per second, in memory and from a file that is not loaded as a whole, and the memory needed.

python benchmarks/pieces.py [ROWS]    one network of 64 units, one epoch with batches of 256 rows: 10⁷ rows of 10 float32
                                      columns, as arrays and from Parquet
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from predict import NAMES, peak

import dubito


def made(rows, start=0):
    """Inputs (n, 10) and a target (n,) of the rows from ``start``."""
    rng = np.random.default_rng(start)
    x = rng.normal(size=(rows, 10)).astype(np.float32)
    return x, x[:, 0] * x[:, 1] + 0.1 * rng.normal(size=rows).astype(np.float32)


def written(path, rows):
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema([(name, pyarrow.float32()) for name in [*NAMES, "y"]])
    with parquet.ParquetWriter(path, schema, use_dictionary=False) as writer:
        for start in range(0, rows, 2**18):
            x, y = made(min(2**18, rows - start), start)
            writer.write_table(pyarrow.table([*x.T, y], schema=schema))


def fitted(x, y):
    model = dubito.Model(dubito.mlp(10, (64,)), dubito.Gaussian())
    return jax.block_until_ready(
        dubito.fit(model, x, y, dubito.MAP(epochs=1, batch_size=256), key=jax.random.key(0)).sample(
            jax.random.key(1), 1
        )
    )


def timed(kind, folder, rows):
    """Times the second fit, in a process of its own. A small table of two pieces is fitted first, and its memory is not counted. Arrays of
    each size have their own program, so the second fit of a size does not compile.
    """

    def sources(name, count):
        if kind == "file":
            return dubito.parquet_pieces(Path(folder) / f"{name}.parquet", NAMES, "y"), None
        parts = [made(min(2**18, count - start), start) for start in range(0, count, 2**18)]
        return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))

    few, many = sources("few", 2**17), sources("many", rows)
    fitted(*few)
    before = peak()
    fitted(*many)
    start, busy = time.perf_counter(), time.process_time()
    fitted(*many)
    seconds = time.perf_counter() - start
    used = f"{seconds:.1f} s, {time.process_time() - busy:.1f} s of CPU time"
    print(f"{kind:>6}: {rows / seconds:,.0f} rows/s ({used}), peak memory grew by {peak() - before:.0f} MB", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] in (["file"], ["memory"]):
        timed(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    else:
        rows = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
        with tempfile.TemporaryDirectory() as name:
            for table, count in (("few", 2**17), ("many", rows)):
                written(Path(name) / f"{table}.parquet", count)
            for kind in ("memory", "file"):
                subprocess.run([sys.executable, __file__, kind, name, str(rows)], check=True)
