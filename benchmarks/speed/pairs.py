"""Two or more sides do the same work alternately (ours, theirs, ours, theirs, ...); the ratio is computed for each pair."""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from typing import Any

HERE = pathlib.Path(__file__).parent
PAUSE = 0.1  # seconds before a turn, in which the side before goes to sleep
QUIET = 0.03  # share of all cores' time that other programs may take in a round
WAIT = 3  # seconds after a round that was not quiet
STAT = pathlib.Path("/proc/stat")


@dataclass(frozen=True)
class Side:
    """Who does it: ``function`` of ``module`` with ``options`` in a warm worker process, or in ``processes`` of them at
    once, one thread each; or a whole cold process a time: ``command``, or with ``cold`` the same worker.

    A process runs in a folder of its own. ``cache``: "kept" is one folder for caches over all times, "empty" a new one each time.
    """

    name: str
    module: str = ""
    function: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    processes: int = 1
    command: tuple[str, ...] = ()
    cold: bool = False
    cache: str = "kept"

    @property
    def is_process(self):
        return self.cold or bool(self.command)


@dataclass(frozen=True)
class Work:
    """``unit`` is that of the times, ``per`` its seconds; ``theirs`` are pairs of a side and the goal: by which factor
    ours is to be faster (None: reported only). ``rate``: the figure is units a second instead of time a unit."""

    name: str
    unit: str
    per: float
    ours: Side
    theirs: tuple[tuple[Side, float | None], ...] = ()
    rate: bool = False


class FailedSide(Exception):
    """The process of a side ended; the text is the end of its standard error."""


class Worker:
    """One or more warm processes of a side."""

    def __init__(self, side, environment):
        extra = {"OMP_NUM_THREADS": "1"} if side.processes > 1 else {}
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 (close() closes it)
        self.processes = [
            subprocess.Popen(
                worker_command(side),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                text=True,
                env=environment | extra,
                cwd=HERE,
            )
            for _ in range(side.processes)
        ]
        self.cold = self.answer()

    def turn(self):
        """One run of the whole work, in all processes at once."""
        time.sleep(PAUSE)
        for process in self.processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        return self.answer()

    def answer(self):
        answers = [process.stdout.readline() for process in self.processes]
        if not all(answers):
            self.errors.seek(0)
            raise FailedSide(self.errors.read().decode(errors="replace")[-400:])
        answers = [json.loads(line) for line in answers]
        return {
            "seconds": max(a["seconds"] for a in answers),
            "units": sum(a["units"] for a in answers),
            "peak_mb": sum(a["peak_mb"] for a in answers),
            "reached": answers[0]["reached"],
        }

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()
        self.errors.close()


class Processes:
    """A side that starts a whole process for each measurement."""

    def __init__(self, side, environment):
        self.side, self.environment, self.cold, self.processes = side, environment, None, []

    def turn(self):
        time.sleep(PAUSE)
        command = self.side.command or worker_command(self.side)
        with tempfile.TemporaryDirectory() as folder:
            cache = {"XDG_CACHE_HOME": folder} if self.side.cache == "empty" else {}
            start = time.perf_counter()
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                env=self.environment | cache,
                cwd=folder,
            )
            seconds = time.perf_counter() - start
        if done.returncode:
            raise FailedSide(done.stderr[-400:])
        reached = None if self.side.command else json.loads(done.stdout.splitlines()[0])["reached"]
        return {"seconds": seconds, "units": 1, "peak_mb": None, "reached": reached}

    def close(self):
        pass


def worker_command(side):
    return (sys.executable, str(HERE / "worker.py"), side.module, side.function, json.dumps(side.options))


def measure(work, pairs, say):
    """All measurements of one work, as plain data for JSON."""
    sides = [work.ours, *[side for side, _ in work.theirs]]
    runners, failed = {}, {}
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"XDG_CACHE_HOME": cache}
        try:
            for side in sides:
                say(f"  {side.name}: first run ...")
                try:
                    runners[side.name] = (Processes if side.is_process else Worker)(side, environment)
                    if side.is_process:  # the first time reads files from the disk
                        runners[side.name].turn()
                except FailedSide as error:
                    failed[side.name] = str(error)

            def show(name, answer):
                say(f"  {name}: {figure(work, answer):.4g} {work.unit}")

            kept, others = rounds(runners, failed, pairs, show, say)
        finally:
            for runner in runners.values():
                runner.close()
    turns = {name: [one[name] for one in kept] for name in runners if name not in failed}
    return record(work, sides, runners, turns, failed, others)


def rounds(runners, failed, pairs, show, say):
    """The ``pairs`` least disturbed rounds of all sides, in their order, and the largest share of the machine that other programs used
    in one of them. Rounds continue until enough were quiet, but there are at most 3 · pairs.
    """
    found = []
    while len(found) < 3 * pairs and sum(others <= QUIET for others, _ in found) < pairs:
        processes = [process for runner in runners.values() for process in runner.processes]
        before, answers = busy(processes), {}
        for name, runner in runners.items():
            if name not in failed:
                try:
                    answers[name] = runner.turn()
                    show(name, answers[name])
                except FailedSide as error:
                    failed[name] = str(error)
        found.append((disturbance(before, busy(processes)), answers))
        if found[-1][0] > QUIET:
            say(f"  (other programs took {found[-1][0]:.0%} of the machine in this round)")
            time.sleep(WAIT)
    kept = sorted(sorted(range(len(found)), key=lambda k: found[k][0])[:pairs])
    return [found[k][1] for k in kept], max(found[k][0] for k in kept)


def busy(processes):
    """Seconds that all cores were busy, seconds of these processes, of this one and of its ended children, and the clock.

    Where the system does not report it (only Linux does), nothing counts as busy.
    """
    tick, total, ours = os.sysconf("SC_CLK_TCK"), 0.0, sum(os.times()[:4])
    if STAT.exists():
        fields = [int(part) for part in STAT.read_text().splitlines()[0].split()[1:]]
        total = (sum(fields[:3]) + sum(fields[5:7])) / tick  # all but idle and waiting
        for process in processes:
            path = pathlib.Path(f"/proc/{process.pid}/stat")
            if path.exists():
                ours += sum(int(part) for part in path.read_text().rsplit(")", 1)[1].split()[11:15]) / tick
    return total, ours, time.perf_counter()


def disturbance(before, after):
    """The share of the time of all cores between two readings that other programs used."""
    total, ours, clock = (b - a for a, b in zip(before, after, strict=True))
    return max(0.0, (total - ours) / clock / (os.cpu_count() or 1))


def figure(work, answer):
    """The time per unit, or units per second."""
    per = answer["seconds"] / answer["units"] / work.per
    return 1 / per if work.rate else per


def record(work, sides, runners, turns, failed, others):
    found = []
    for side in sides:
        if side.name in failed:
            found.append({"name": side.name, "failed": failed[side.name]})
            continue
        answers, cold = turns[side.name], runners[side.name].cold
        found.append(
            {
                "name": side.name,
                "figures": [figure(work, answer) for answer in answers],
                "seconds": [answer["seconds"] for answer in answers],
                "units": answers[0]["units"],
                "reached": answers[-1]["reached"],
                "peak_mb": answers[-1]["peak_mb"],
                "cold_seconds": cold["seconds"] if cold else None,
            }
        )
    return {
        "work": work.name,
        "unit": work.unit,
        "measured": time.strftime("%Y-%m-%d %H:%M"),
        "others": others,
        "sides": found,
        "rows": [
            compared(work, found[0], theirs, goal) for theirs, (_, goal) in zip(found[1:], work.theirs, strict=True)
        ],
    }


def compared(work, ours, theirs, goal):
    """The ratio of the times per unit, pair by pair."""
    if "failed" in ours or "failed" in theirs:
        return {"theirs": theirs["name"], "goal": goal, "ratios": [], "met": None}
    pairs = zip(ours["figures"], theirs["figures"], strict=True)
    ratios = [a / b if work.rate else b / a for a, b in pairs]
    met = None if goal is None else statistics.median(ratios) >= goal
    return {"theirs": theirs["name"], "goal": goal, "ratios": ratios, "met": met}
