"""`dubito serve` under load on this machine: latency quantiles, errors, rows per second, processor time.

    pip install 'dubito[serve]'
    python benchmarks/serve.py [--seconds 10] [--clients 1,4,16] [--output results/serve.md]

Fits the default regressor to the diabetes table (442 rows, 10 columns) and serves it from a process of its own. Clients are threads
of another process with one connection each, which ask again as soon as they have an answer: first for one row at a time, then for 1,000.
Beside it, in the same run, the plain road: `predictive` of the same row in a Python process, and its columns. Times are of the wall
clock; "processor" is what the server's process used, per request, which other programs on the machine hardly change.
"""

import argparse
import http.client
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np

COLUMNS = "clients|rows|requests|errors|requests/s|rows/s|smallest, ms|median, ms|90 %, ms|99 %, ms|largest, ms|processor, ms".split(
    "|"
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--clients", default="1,4,16", help="numbers of connections, separated by commas")
    parser.add_argument("--output", type=pathlib.Path, help="a file for the table, in Markdown")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dubito-serve-") as folder:
        model = pathlib.Path(folder) / "model.dubito"
        rows = fit(model)
        lines = [f"plain road, one row in a Python process: {plain_road(model, rows[0])}"]
        command = [sys.executable, "-m", "dubito", "serve", str(model), "--port", "0"]
        start = time.perf_counter()
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
            try:
                line = server.stderr.readline()
                lines.append(f"ready after {time.perf_counter() - start:.1f} s")
                port = int(re.search(r":(\d+)\s*$", line)[1])
                clock = time.perf_counter()
                status, _ = ask(http.client.HTTPConnection("127.0.0.1", port), body_of(rows[:1]))
                lines.append(f"the first request took {1000 * (time.perf_counter() - clock):.1f} ms (status {status})")
                lines += ["", "|".join(COLUMNS), "|".join("---" for _ in COLUMNS)]
                for clients in map(int, arguments.clients.split(",")):
                    lines.append(load(server.pid, port, clients, rows[:1], arguments.seconds))
                lines.append(load(server.pid, port, 2, (rows * 3)[:1000], arguments.seconds))
            finally:
                server.terminate()
            server.wait(30)
            lines += ["", f"exit code after SIGTERM: {server.returncode}"]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.output is not None:
        arguments.output.write_text(text)


def fit(path):
    """Fit and save a model. The rows of its table as JSON has them."""
    from sklearn.datasets import load_diabetes

    import dubito

    X, y = load_diabetes(return_X_y=True, as_frame=True)
    model = dubito.BayesianRegressor(random_state=0).fit(X, y)
    model.summary_ |= {"target": "progression"}
    model.save(path)
    return X.to_dict("records")


def plain_road(path, row):
    """How long the same answer takes without a server."""
    import pandas as pd

    import dubito
    from dubito.posteriors.readings import prediction_columns

    model, table = dubito.load(path), pd.DataFrame([row])
    times, before = [], time.process_time()
    for number in range(220):
        clock = time.perf_counter()
        prediction_columns(model.predictive(table))
        if number == 19:
            times, before = [], time.process_time()
        times.append(1000 * (time.perf_counter() - clock))
    used = 1000 * (time.process_time() - before) / len(times)
    return f"smallest {min(times):.1f} ms, median {statistics.median(times):.1f} ms, processor {used:.1f} ms"


def body_of(rows):
    return json.dumps({"rows": rows}).encode()


def ask(connection, body):
    """(status, body) of a request."""
    connection.request("POST", "/predict", body)
    answer = connection.getresponse()
    return answer.status, answer.read()


def load(process, port, clients, rows, seconds):
    """A line of the table."""
    body, times, errors, lock = body_of(rows), [], [], threading.Lock()
    end = time.perf_counter() + seconds

    def client():
        mine, wrong = [], []
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while time.perf_counter() < end:
            clock = time.perf_counter()
            try:
                status, text = ask(connection, body)
                if status != 200 or len(json.loads(text)["rows"]) != len(rows):
                    wrong.append(status)
            except (OSError, http.client.HTTPException, ValueError) as error:
                wrong.append(repr(error))
                connection.close()
            mine.append(time.perf_counter() - clock)
        connection.close()
        with lock:
            times.extend(mine)
            errors.extend(wrong)

    used, start = processor_seconds(process), time.perf_counter()
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed, used = time.perf_counter() - start, processor_seconds(process) - used
    for error in errors[:3]:
        print(f"error: {error}", file=sys.stderr)
    median, high, higher = 1000 * np.quantile(times, [0.5, 0.9, 0.99])
    rate = len(times) / elapsed
    cells = [clients, len(rows), len(times), len(errors), f"{rate:.0f}", f"{rate * len(rows):.0f}"]
    cells += [f"{value:.1f}" for value in (1000 * min(times), median, high, higher, 1000 * max(times))]
    cells.append(f"{1000 * used / len(times):.1f}")
    return "|".join(map(str, cells))


def processor_seconds(process):
    """The processor time that a process has used; NaN where the system does not say."""
    try:
        fields = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
