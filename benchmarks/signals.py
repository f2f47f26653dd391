"""Signals at random times: how soon each command ends, and what it leaves behind.

    python benchmarks/signals.py [--moments 50] [--commands fit,demo] [--jobs 1]

Each command first runs undisturbed, with an empty cache of compiled programs (DUBITO_CACHE=0) and with a warm one. Then it receives
SIGINT and SIGTERM, at ``--moments`` seeded times each, uniform over its duration; every second run has the warm cache. A run that
ends with code 0 had finished. "Before the handlers" counts runs that Python's default handler ended while the interpreter started;
some of these print a traceback without a line of dubito and exit with code 1. "Left" counts unreadable outputs and temporary files.
The table is written to results/signals.md, tracebacks are printed.
"""

import argparse
import concurrent.futures
import csv
import os
import pathlib
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

RESULTS = pathlib.Path(__file__).parent / "results"
FIT = "--target y --method map".split()
COMMANDS = {
    "fit": ["fit", "{work}/table.csv", *FIT, "-o", "{out}/model.dubito", "--checkpoint", "{out}/checkpoint.dubito"],
    "predict": ["predict", "{work}/model.dubito", "{work}/long.csv", "-o", "{out}/answer.csv"],
    "compare": [
        *("compare", "{work}/table.csv", "--target", "y", "--folds", "2", "--methods", "map,mc-dropout"),
        *("--report", "{out}/report.html"),
    ],
    "calibrate": ["calibrate", "{work}/model.dubito", "{work}/table.csv", "-o", "{out}/model.dubito"],
    "demo": ["demo", "--output", "{out}/demo", "--methods", "maximum-likelihood"],
}
LONG = 200_000  # rows to predict
LIMIT = 120  # seconds after which a run counts as not ended
HEADER = (
    "command|signal|runs|had finished|before the handlers|ended|median, s|longest, s|exit codes|incomplete outputs|"
    "tracebacks"
).split("|")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=50, help="of each command and signal")
    parser.add_argument("--commands", default=",".join(COMMANDS), help="names separated by commas")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # children must not inherit that it is ignored
    with tempfile.TemporaryDirectory(prefix="dubito-signals-") as folder:
        work = pathlib.Path(folder)
        write_tables(work)
        run(work, [*map(str, ["fit", work / "table.csv", *FIT, "-o", work / "model.dubito"])], cache=False)
        rows, durations = measure(work, arguments)
    RESULTS.mkdir(exist_ok=True)
    text = report(arguments, rows, durations)
    (RESULTS / "signals.md").write_text(text)
    print(text)


def write_tables(work):
    rng = np.random.default_rng(0)
    for name, rows in (("table.csv", 300), ("long.csv", LONG)):
        x = rng.normal(size=(rows, 3))
        y = x[:, 0] + 0.3 * rng.normal(size=rows)
        np.savetxt(work / name, np.c_[x, y], "%.6g", delimiter=",", header="a,b,c,y", comments="")


def start(work, arguments, cache):
    environment = os.environ | {"DUBITO_CACHE": str(work / "cache") if cache else "0"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    program = [sys.executable, "-m", "dubito", *arguments]
    return subprocess.Popen(program, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def run(work, arguments, cache):
    """Seconds of an undisturbed run; raises RuntimeError if it fails."""
    begun = time.perf_counter()
    with start(work, arguments, cache) as process:
        _, errors = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{arguments} failed: {errors}")
    return time.perf_counter() - begun


def filled(command, work, out):
    out.mkdir()
    return [part.format(work=work, out=out) for part in COMMANDS[command]]


def measure(work, arguments):
    """(rows of the table, seconds of each undisturbed command without and with the cache)."""
    rows, durations, rng = [], {}, random.Random(arguments.seed)
    for command in arguments.commands.split(","):
        for turn, cache in enumerate((False, True, True)):  # the second fills the cache
            durations[command, cache] = run(work, filled(command, work, work / f"{command}-{turn}"), cache)
        print(command, *(f"{durations[command, cache]:.1f} s" for cache in (False, True)), flush=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            moments = [(bool(k % 2), rng.random()) for k in range(arguments.moments)]
            jobs = [
                (work, command, number, cache, share * durations[command, cache], work / f"{command}-{number}-{k}")
                for k, (cache, share) in enumerate(moments)
            ]
            with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
                found = list(pool.map(lambda job: disturbed(*job), jobs))
            rows.append(summary(command, number, found))
            print(rows[-1], flush=True)
            print(*(one[2] for one in found if "Traceback" in one[2]), sep="\n\n", flush=True)
    return rows, durations


def disturbed(work, command, number, cache, moment, out):
    """(exit code or None, seconds from the signal to the end, stderr, files that should not be there) of one run."""
    with start(work, filled(command, work, out), cache) as process:
        time.sleep(moment)
        sent = time.perf_counter()
        process.send_signal(number)
        try:
            _, errors = process.communicate(timeout=LIMIT)
            code, seconds = process.returncode, time.perf_counter() - sent
        except subprocess.TimeoutExpired:
            process.kill()
            _, errors = process.communicate()
            code, seconds = None, float("inf")
    left = [str(path.relative_to(out)) for path in sorted(out.rglob("*")) if path.is_file() and not whole(path)]
    if code == 0 and not any(out.iterdir()):
        left.append("nothing, though it had finished")
    shutil.rmtree(out)
    return code, seconds, errors, left


def whole(path):
    """Whether a file is a complete output; files with other names, such as temporary ones, are not."""
    import dubito

    try:
        if path.suffix == ".csv":
            rows = list(csv.reader(path.open()))
            return len(rows) == LONG + 1 if path.name == "answer.csv" else len({len(row) for row in rows}) == 1
        if path.suffix == ".png":
            return path.read_bytes().endswith(b"IEND\xaeB`\x82")
        if path.suffix == ".html":
            return path.read_text().rstrip().endswith("</html>")
        if path.name == "checkpoint.dubito":
            from dubito._process import archive
            from dubito.training import checkpoint

            archive.read_archive(path, checkpoint._expected)
            return True
        return path.name == "model.dubito" and dubito.load(path) is not None
    except (ValueError, OSError) as error:
        print(path, error)
        return False


def summary(command, number, found):
    """The cells of a table row."""
    finished = [one for one in found if one[0] == 0]
    early = [one for one in found if one[0] == -number or one[0] == 1 and "dubito" not in one[2]]
    ended = [one for one in found if one[0] == 128 + number]
    seconds = [one[1] for one in found if one[0] != 0]
    codes = {code: sum(one[0] == code for one in found) for code in sorted({one[0] or 0 for one in found})}
    return [
        command,
        number.name,
        str(len(found)),
        str(len(finished)),
        str(len(early)),
        f"{len(ended) + len(early)} of {len(found) - len(finished)}",
        f"{statistics.median(seconds):.2f}" if seconds else "",
        f"{max(seconds):.2f}" if seconds else "",
        ", ".join(f"{code}: {count}" for code, count in codes.items()),
        ", ".join(name for one in found for name in one[3]) or "nothing",
        str(sum("Traceback" in one[2] for one in found if one not in early)),
    ]


def report(arguments, rows, durations):
    settings = (
        f"{arguments.moments} moments of each command and signal, {arguments.jobs} at once, seed {arguments.seed}."
    )
    times = "; ".join(
        f"{command} {durations[command, False]:.1f} s and {durations[command, True]:.1f} s"
        for command in arguments.commands.split(",")
    )
    lines = ["| " + " | ".join(cells) + " |" for cells in (HEADER, ["---"] * len(HEADER), *rows)]
    head = f"# Signals at random times\n\n{settings} Undisturbed times, without and with the cache of programs: {times}.\n\n"
    return head + "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
