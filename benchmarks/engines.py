"""Predicted rows per second in Dask, Ray and Spark, beside ``dubito predict`` on the same rows in the same run.

python benchmarks/engines.py [ROWS] [ENGINE ...]     10⁷ rows of 10 columns, by default in all three
python benchmarks/engines.py batches                 CPU time of a batch of 1 to 100,000 rows in one process
python benchmarks/engines.py parts                   CPU time of a comparison of 5 fits, of its five parts, and of their merge
python benchmarks/engines.py fits                    seconds of a comparison of 40 fits in threads, and on one and two workers of loky, Dask and Ray

It needs dask, distributed, ray and pyspark, pandas and psutil, and for Spark Java. The model is one network of 64 units and 8 draws,
with six output columns beside the identifier of the row. The engines run the programs of docs/guides/engines.md as they stand there,
with two workers on this machine; ``dubito predict`` comes first and last. Each program also predicts 20,000 rows, which takes the time
that it needs to start, to load and to compile; this is subtracted for the rows per second. Other processes of the machine change the
seconds more than the seconds of CPU time, which are those of a program with all its descendants, read ten times a second. All answers are
compared with those of ``dubito predict``.
"""

import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow
from pyarrow import parquet

import dubito

PAGE = Path(__file__).parents[1] / "docs" / "guides" / "engines.md"
PROGRAMS = dict(
    re.findall(r"^## (\w+)\n(?:(?!^## ).)*?^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
)
NAMES = list("abcdefghij")
FEW, FILE_ROWS = 20_000, 2**18


def write_rows(folder, rows):
    """The same rows as one file and as a folder of several."""
    rng = np.random.default_rng(0)
    (folder / "rows").mkdir(parents=True)
    schema = pyarrow.schema([("id", pyarrow.int64()), *((name, pyarrow.float64()) for name in NAMES)])
    with parquet.ParquetWriter(folder / "rows.parquet", schema) as whole:
        for number, start in enumerate(range(0, rows, FILE_ROWS)):
            count = min(FILE_ROWS, rows - start)
            columns = [np.arange(start, start + count), *rng.normal(size=(10, count))]
            table = pyarrow.table(columns, schema=schema)
            whole.write_table(table)
            parquet.write_table(table, folder / "rows" / f"{number:04}.parquet")


def measured(command, folder):
    """(seconds, seconds of CPU time) of a program and its descendants."""
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    start, used = time.perf_counter(), {}
    log = folder / "log.txt"
    with log.open("w") as file, psutil.Popen(command, cwd=folder, env=environment, stdout=file, stderr=file) as process:
        while process.poll() is None:
            try:
                for each in [process, *process.children(recursive=True)]:
                    times = each.cpu_times()
                    used[each.pid] = times.user + times.system
            except psutil.NoSuchProcess:
                pass
            time.sleep(0.1)
    if process.returncode:
        sys.exit(f"{command} failed:\n{log.read_text()[-3000:]}")
    return time.perf_counter() - start, sum(used.values())


def equal(answers, expected):
    """Whether answers in any order are those of dubito predict, to the last bit."""
    found = parquet.read_table(answers, columns=expected.column_names).sort_by("id")
    return found.cast(expected.schema).equals(expected)


def fitted():
    rng = np.random.default_rng(0)
    few = pd.DataFrame(rng.normal(size=(1000, 10)), columns=NAMES)
    y = few["a"] * few["b"] + 0.1 * rng.normal(size=1000)
    return dubito.BayesianRegressor(dubito.BayesByBackprop(epochs=50), hidden=(64,), draws=8, random_state=0).fit(
        few, y
    )


def batches():
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model.dubito"
        fitted().save(path)
        predictor, rng = dubito.BatchPredictor(path), np.random.default_rng(0)
        for rows in (1, 100, 1000, 10_000, 100_000):
            batch = pyarrow.RecordBatch.from_arrays([*rng.normal(size=(10, rows))], NAMES)
            predictor(batch)
            start = time.process_time()
            for _ in range(20):
                predictor(batch)
            print(f"{rows:>8,} rows: {1000 * (time.process_time() - start) / 20:.1f} ms of CPU time")


def parts():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        X, y = dubito.datasets.diabetes()
        pd.DataFrame(X, columns=NAMES).assign(y=y).to_csv(folder / "t.csv", index=False)
        compare = [sys.executable, "-m", "dubito", "compare", "t.csv", "--target", "y", "--methods", "auto"]
        files = [f"part-{number}.json" for number in range(1, 6)]
        each = [[*compare, "--part", f"{number}/5", "-o", file] for number, file in enumerate(files, 1)]
        measured(each[0], folder)  # which stores compiled programs for the other runs
        for what, command in [("whole", compare), *zip(files, each, strict=True)]:
            print(f"{what}: {measured(command, folder)[1]:.1f} s of CPU time", flush=True)
        print(f"merge: {measured([*compare[:3], 'merge', *files], folder)[1]:.1f} s of CPU time")


ENGINES = [("threads", 1), ("threads", 2), ("loky", 2), ("dask", 1), ("dask", 2), ("ray", 1), ("ray", 2)]


def fits():
    """Each in a process of its own, from which the seconds of the comparison and its scores come back; one thread has one core."""
    first = None
    print("engine   workers   start   comparison   CPU")
    for engine, workers in ENGINES:
        alone = ["taskset", "-c", "0"] if (engine, workers) == ("threads", 1) else []
        with tempfile.TemporaryDirectory() as folder:
            command = [*alone, sys.executable, __file__, "fit", engine, str(workers)]
            seconds, used = measured(command, Path(folder))
            line = (Path(folder) / "log.txt").read_text().splitlines()[-1]
        compared, scores = line.split(" ", 1)
        first = first or scores
        assert scores == first, (engine, workers)
        print(
            f"{engine:8} {workers:7} {seconds - float(compared):6.1f}s {float(compared):11.1f}s {used:5.0f}s",
            flush=True,
        )


def fit(engine, workers):
    """40 fits on an engine: prints the seconds and the scores."""
    import contextlib

    import joblib

    from dubito import cross_validation

    X, y = dubito.datasets.diabetes()
    methods = {"auto": "auto", "mc-dropout": dubito.MCDropout(epochs=400)}
    estimators = {
        f"{name} {seed}": dubito.BayesianRegressor(method, random_state=seed)
        for seed in range(4)
        for name, method in methods.items()
    }
    with contextlib.ExitStack() as stack:
        if engine == "dask":
            from distributed import Client, LocalCluster

            options = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
            stack.enter_context(Client(stack.enter_context(LocalCluster(**options))))
        if engine == "ray":
            import ray
            from ray.util.joblib import register_ray

            register_ray()
            ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
        if engine != "threads":
            stack.enter_context(joblib.parallel_config(engine, n_jobs=workers))
        start = time.perf_counter()
        rows = cross_validation.compare(estimators, X, y)
        seconds = time.perf_counter() - start
    print(seconds, {row.name: row.scores["nll"].value for row in rows})


def main(rows, engines):
    with tempfile.TemporaryDirectory() as name:
        folder, model = Path(name), fitted()
        for place, count in ((folder / "few", FEW), (folder / "many", rows)):
            write_rows(place, count)
            model.save(place / "model.dubito")
            for engine in engines:
                (place / f"{engine}.py").write_text(PROGRAMS[engine])
        predict = [sys.executable, "-m", "dubito", "predict", "model.dubito", "rows.parquet", "--keep", "id"]
        commands = {"dubito predict": [*predict, "-o", "expected.parquet"]}
        commands |= {engine: [sys.executable, f"{engine}.py"] for engine in engines}
        commands["dubito predict again"] = [*predict, "-o", "again.parquet"]
        print(f"{rows:,} rows, {psutil.cpu_count()} cores", flush=True)
        print(
            "program               start    CPU     all    CPU      rows/s   CPU µs/row   against predict", flush=True
        )
        measured(commands["dubito predict"], folder / "few")  # which stores compiled programs for the other runs
        first = None
        for name, command in commands.items():
            (start, start_cpu), (total, cpu) = (measured(command, folder / size) for size in ("few", "many"))
            speed, each = (rows - FEW) / (total - start), 1e6 * (cpu - start_cpu) / (rows - FEW)
            first = first or each
            print(
                f"{name:20}{start:6.1f} s{start_cpu:5.1f} s{total:6.0f} s{cpu:5.0f} s{speed:12,.0f}{each:13.2f}{each / first:18.2f}",
                flush=True,
            )
            if name in engines:
                for size in ("few", "many"):
                    if not equal(folder / size / "answers", parquet.read_table(folder / size / "expected.parquet")):
                        sys.exit(f"{name}: the answers are not those of dubito predict.")
                    shutil.rmtree(folder / size / "answers")


if __name__ == "__main__":
    given = sys.argv[1:]
    if given in (["batches"], ["parts"]):
        sys.exit({"batches": batches, "parts": parts}[given[0]]())
    if given and given[0] in ("fit", "fits"):
        sys.exit(fits() if given[0] == "fits" else fit(given[1], int(given[2])))
    main(int(given.pop(0)) if given and given[0].isdigit() else 10_000_000, given or list(PROGRAMS))
