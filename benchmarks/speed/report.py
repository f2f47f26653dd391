"""Results as one JSON file and as a Markdown table; a run of some works replaces their results and keeps the others."""

import importlib.metadata
import json
import os
import pathlib
import platform
import statistics

PACKAGES = (
    "dubito jax numpy scikit-learn torch torchbnn bayesian-torch blitz-bayesian-pytorch numpyro blackjax "
    "sklearn-contrib-bde"
).split()


DISTURBED = 0.1  # share of the machine that other programs took, beyond which a row says so


def write(found, folder, order):
    """Store the results of one work in speed.json, with the works in ``order``, and write speed.md from it."""
    folder.mkdir(exist_ok=True)
    path = folder / "speed.json"
    works = json.loads(path.read_text())["works"] if path.exists() else []
    works = [work for work in works if work["work"] != found["work"] and work["work"] in order] + [found]
    works.sort(key=lambda work: order.index(work["work"]))
    content = {"machine": machine(), "versions": versions(), "works": works}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    (folder / "speed.md").write_text(markdown(content))


def machine():
    """The name of the processor, its number of cores, and the memory."""
    processor = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        processor = names[0] if names else processor
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{processor}, {os.cpu_count()} cores, {memory:.0f} GB, {platform.system()}, Python {platform.python_version()}"
    )


def versions():
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def markdown(content):
    works = content["works"]
    lines = [
        "# Speed compared with other libraries",
        "",
        "Written by `scripts/bench`; [benchmarks](../README.md) describes the method. Times are medians of alternating warm",
        "runs; the ratio is theirs over ours (median and range over pairs), above 1 if ours is faster.",
        f"A row is marked as disturbed if other programs used more than {DISTURBED:.0%} of the machine: run it again.",
        "",
        f"Machine: {content['machine']}. Versions: {', '.join(f'{k} {v}' for k, v in content['versions'].items())}.",
        "",
        "| work | ours | theirs | ratio | goal | |",
        "|---|---|---|---|---|---|",
        *[line for work in works for line in rows(work)],
        "",
        "## First runs, memory and results",
        "",
        "The time of the first run in a process, including set-up and compilation; peak memory (the sum if there are several",
        "processes); and a result that shows whether the sides did the same work: half the mean squared error, the cross-entropy,",
        "the mean epistemic uncertainty, or the RMSE. The last column is the share of the machine that other programs used in the",
        "worst of the counted rounds; results with a large share are unreliable.",
        "",
        "| work | side | first run, s | peak, MB | result | others |",
        "|---|---|---|---|---|---|",
        *[line for work in works for line in details(work)],
        "",
    ]
    return "\n".join(lines)


def number(value):
    return f"{value:,.0f}" if value >= 1000 else f"{value:#.3g}".rstrip(".")


def rows(work):
    ours = work["sides"][0]
    if "failed" in ours:
        return [f"| {work['work']} | did not run | | | | |"]
    mine = f"{number(statistics.median(ours['figures']))} {work['unit']} ({ours['name']})"
    if not work["rows"]:
        return [f"| {work['work']} | {mine} | – | | reported | |"]
    return [
        f"| {work['work']} | {mine} | {theirs(side)} | {ratio(row)} | {goal(row)} | {verdict(row, work['others'])} |"
        for side, row in zip(work["sides"][1:], work["rows"], strict=True)
    ]


def theirs(side):
    return (
        f"{side['name']}: did not run"
        if "failed" in side
        else f"{number(statistics.median(side['figures']))} ({side['name']})"
    )


def ratio(row):
    found = row["ratios"]
    return f"{statistics.median(found):.3g} [{min(found):.3g}–{max(found):.3g}]" if found else "–"


def goal(row):
    return "reported" if row["goal"] is None else f"≥ {row['goal']:.2g}"


def verdict(row, others):
    """Whether the goal was met; a result measured while other programs were running is marked and decides nothing."""
    said = {None: "", True: "met", False: "**missed**"}[row["met"]]
    return f"{said} (disturbed)".strip() if others and others > DISTURBED else said


def details(work):
    return [
        f"| {work['work']} | {side['name']} | {optional(side['cold_seconds'])} | {optional(side['peak_mb'])} |"
        f" {optional(side['reached'])} | {percent(work['others'])} |"
        for side in work["sides"]
        if "failed" not in side
    ]


def percent(share):
    return "" if share is None else f"{share:.0%}"


def optional(value):
    return "" if value is None else number(value) if value > 0 else f"{value:.3g}"
