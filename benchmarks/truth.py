"""Distance of each method from the true posterior: every method against every reference of ``references.py``.

    python benchmarks/truth.py [--methods a,b,...] [--problems a,b,...] [--keys 2]

Writes benchmarks/results/truth.md, and truth.json, from which it is made; methods that are not named keep their results. Methods run
with their defaults, under their command-line names, and see the training rows only. Results are means over keys.

- TV: total variation distance of the mean class probabilities; agreement: how often the most probable class is the reference's.
- W1: 1-Wasserstein distance between the draws of the network output and the reference's, in standard deviations of the target;
  mean over rows.
- NLL of held-out targets in nats, minus the reference's; coverage of 90 % intervals.
- seconds: a fit and its predictions with compiled programs; the first one takes 3 to 30 more. Two problems ran at a time.
- gap: standard deviation of the outputs in a gap of the inputs, divided by that at the data.
"""

import argparse
import json
import pathlib
import warnings

import jax
import numpy as np
import references

import dubito
from dubito import metrics
from dubito.methods.by_name import METHODS

RESULTS = pathlib.Path(__file__).parent / "results"
DRAWS = 500


def wasserstein(a, b):
    """1-Wasserstein distances between columns of two sets of draws (S, n) and (T, n), from 400 quantiles."""
    q = (np.arange(400) + 0.5) / 400
    return np.abs(np.quantile(a, q, axis=0) - np.quantile(b, q, axis=0)).mean(0)


def truth(problem, found):
    """The predictive of the reference at the held-out rows."""
    rows = len(problem.y_new)
    likelihood = problem.model.likelihood
    if problem.classes:
        log_p = np.log(np.maximum(found["probs"][:rows], 1e-12))
        logits = log_p[:, 1:] - log_p[:, :1] if isinstance(likelihood, dubito.Bernoulli) else log_p
        return dubito.Predictive(likelihood, {"logits": logits[None].astype(np.float32)}, np.zeros(1), np.ones(1))
    f = found["f"][:, :rows, None]
    scale = np.broadcast_to(np.exp(-0.5 * found["log_precision"])[:, None, None], f.shape)
    return dubito.Predictive(likelihood, {"mean": f, "scale": np.array(scale)}, np.zeros(1), np.ones(1))


def compared(problem, found, answer, outputs, seconds):
    """The scores of one fit."""
    rows = len(problem.y_new)
    held = answer.by_rows() if len(answer) == rows else None
    own = next(held) if held is not None else part(answer, rows)
    exact = truth(problem, found)
    scores = {
        "seconds": seconds,
        "nll": metrics.nll(own, problem.y_new).value - metrics.nll(exact, problem.y_new).value,
    }
    if problem.classes:
        p, q = answer.probs, found["probs"]
        scores["agreement"] = float(np.mean(p.argmax(1) == q.argmax(1)))
        return scores | {"tv": float(np.mean(0.5 * np.abs(p - q).sum(1)))}
    scores["w1"] = float(wasserstein(outputs, found["f"]).mean())
    scores["coverage"] = metrics.coverage(own, problem.y_new, 0.9).value
    if problem.gap is not None:
        scores["gap"] = gap_to_data(problem, outputs)
    return scores


def gap_to_data(problem, outputs):
    """Standard deviation of the outputs (S, n) in the gap, divided by that at the data."""
    data = ~problem.gap & (np.abs(problem.x_new[:, 0]) <= np.abs(problem.x).max())
    sd = outputs.std(0)
    return float(sd[problem.gap].mean() / max(sd[data].mean(), 1e-9))


def part(answer, rows):
    """The same draws at the first rows."""
    z = jax.tree.map(lambda leaf: leaf[:, :rows], answer.z)
    return dubito.Predictive(answer.likelihood, z, answer.shift, answer.scale)


def scored(name, method, keys):
    """Mean scores over the keys; ``cold`` is the time of a first fit including compilation."""
    problem, found, runs = references.PROBLEMS[name](), references.reference(name), []
    _, _, cold = references.sampled(problem, method, keys[0])
    for key in keys:
        key_fit, key_predict = jax.random.split(key)
        posterior, _, seconds = references.sampled(problem, method, key_fit)
        draws = None if isinstance(posterior, dubito.Samples) else DRAWS
        answer = dubito.predict(posterior, problem.x_new, key=key_predict, draws=draws)
        outputs = np.asarray(references.outputs(problem, answer), float)
        runs.append(compared(problem, found, answer, outputs, seconds))
    return {key: float(np.mean([run[key] for run in runs])) for key in runs[0]} | {"cold": cold}


COLUMNS = {
    "tv": ("TV", "{:.3f}"),
    "agreement": ("agreement, %", "{:.1%}"),
    "w1": ("W1", "{:.3f}"),
    "nll": ("NLL less the reference's", "{:+.3f}"),
    "coverage": ("90 % intervals cover", "{:.1%}"),
    "gap": ("gap", "{:.2f}"),
    "seconds": ("seconds", "{:.1f}"),
}


def table(rows, keys):
    """Markdown of {method: scores}, in order of distance."""
    order = sorted(rows, key=lambda name: rows[name][keys[0]])
    lines = ["| method | " + " | ".join(COLUMNS[key][0] for key in keys) + " |", "|---|" + "---|" * len(keys)]
    for name in order:
        cells = [COLUMNS[key][1].format(rows[name][key]) if key in rows[name] else "" for key in keys]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def written(scores):
    """truth.md of {problem: {method: scores}}."""
    text = [f"# Every method against the true posterior\n\n{__doc__.split('    python')[0].strip()}\n"]
    text += ["    python benchmarks/truth.py\n", __doc__[__doc__.index("Methods run") :].strip() + "\n"]
    methods = [name for name in METHODS if all(name in scores[problem] for problem in scores)]
    total = {}
    for name in methods:
        runs = [scores[problem][name] for problem in scores]
        total[name] = {
            "distance": float(np.mean([run.get("tv", run.get("w1")) for run in runs])),
            "tv": float(np.mean([run["tv"] for run in runs if "tv" in run])),
            "w1": float(np.mean([run["w1"] for run in runs if "w1" in run])),
            "nll": float(np.mean([run["nll"] for run in runs])),
            "seconds": float(np.mean([run["seconds"] for run in runs])),
        }
    COLUMNS["distance"] = ("mean of both", "{:.3f}")
    if total:
        text += ["## All problems\n", table(total, ["distance", "tv", "w1", "nll", "seconds"]) + "\n"]
    for problem, rows in scores.items():
        keys = [key for key in COLUMNS if any(key in row for row in rows.values())]
        text += [f"## {problem}\n", table(rows, keys) + "\n"]
        if "gap" in keys:
            true = gap_to_data(references.PROBLEMS[problem](), references.reference(problem)["f"])
            text.append(f"The gap ratio of the true posterior is {true:.2f}.\n")
    return "\n".join(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(name for name in METHODS if name != "auto"))
    parser.add_argument("--problems", default=",".join(references.PROBLEMS))
    parser.add_argument("--keys", type=int, default=2)
    options = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    path = RESULTS / "truth.json"
    keys = jax.random.split(jax.random.key(0), options.keys)
    for problem in options.problems.split(","):
        for name in options.methods.split(","):
            try:
                found = scored(problem, METHODS[name], keys)
            except ValueError as error:  # a method that this problem is not for
                print(f"{problem}, {name}: {error}", flush=True)
                continue
            print(problem, name, {key: round(value, 3) for key, value in found.items()}, flush=True)
            scores = json.loads(path.read_text()) if path.exists() else {}  # another run may have written meanwhile
            scores.setdefault(problem, {})[name] = found
            path.write_text(json.dumps(scores, indent=1) + "\n")
    scores = json.loads(path.read_text())
    (RESULTS / "truth.md").write_text(written(scores))


if __name__ == "__main__":
    main()
