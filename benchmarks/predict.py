"""Predicted rows per second, and the memory needed.

python benchmarks/predict.py [ROWS]         the default regressor in memory: 10⁶ rows of 10 columns
python benchmarks/predict.py file [ROWS]    one network of 64 units and 8 draws, ``dubito predict`` from Parquet to Parquet:
                                            10⁷ rows of 10 columns, six output columns
"""

import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import dubito

NAMES = list("abcdefghij")


def peak():
    """Peak memory of this process, in MB. On Linux it does not include the parent process."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_memory(rows):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1000, 10))
    model = dubito.BayesianRegressor(random_state=0).fit(X, X[:, 0] * X[:, 1] + 0.1 * rng.normal(size=1000))
    many = rng.normal(size=(rows, 10))
    for name, call in (("mean", model.predict), ("interval", model.predict_interval)):
        call(many[:20_000])
        before = peak()
        start = time.perf_counter()
        call(many)
        seconds = time.perf_counter() - start
        print(
            f"{name:>9}: {rows / seconds:,.0f} rows/s ({seconds:.1f} s), peak memory grew by {peak() - before:.0f} MB"
        )


def from_file(rows):
    """Runs in a process of its own, so that the peak memory is that of the prediction."""
    import pandas as pd
    import pyarrow
    from pyarrow import parquet

    rng = np.random.default_rng(0)
    few = pd.DataFrame(rng.normal(size=(1000, 10)), columns=NAMES)
    method = dubito.BayesByBackprop(epochs=50)
    y = few["a"] * few["b"] + 0.1 * rng.normal(size=1000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dubito.BayesianRegressor(method, hidden=(64,), draws=8, random_state=0).fit(few, y).save(folder / "m.dubito")
        for table, count in (("few", 20_000), ("many", rows)):
            with parquet.ParquetWriter(folder / f"{table}.parquet", pyarrow.table(few).schema) as writer:
                for start in range(0, count, 2**20):
                    values = rng.normal(size=(min(2**20, count - start), 10))
                    writer.write_table(pyarrow.table(dict(zip(NAMES, values.T, strict=True))))
        subprocess.run([sys.executable, __file__, "timed", folder, str(rows)], check=True)


def timed(folder, rows):
    """Predicts a small table first, so that compilation and imports count as loading."""
    from dubito.cli.commands import predict

    folder = Path(folder)
    predict(folder / "m.dubito", str(folder / "few.parquet"), folder / "few-answers.parquet", 0.9)
    before = peak()
    start, busy = time.perf_counter(), time.process_time()
    predict(folder / "m.dubito", str(folder / "many.parquet"), folder / "answers.parquet", 0.9)
    seconds = time.perf_counter() - start
    used = f"{seconds:.1f} s, {time.process_time() - busy:.1f} s of CPU time"
    print(f"     file: {rows / seconds:,.0f} rows/s ({used}), peak memory grew by {peak() - before:.0f} MB")


if __name__ == "__main__":
    if sys.argv[1:2] == ["timed"]:
        timed(sys.argv[2], int(sys.argv[3]))
    elif sys.argv[1:2] == ["file"]:
        from_file(int(sys.argv[2]) if len(sys.argv) > 2 else 10_000_000)
    else:
        in_memory(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
