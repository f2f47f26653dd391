"""Checks that a redesign does not change results: predictions of all methods and likelihoods, of loaded models, exit codes, public names.

    python benchmarks/unchanged.py store before.npz       # before
    python benchmarks/unchanged.py compare before.npz     # after: cases that differ, in standard deviations; code 1 beyond 1e-5

Everything is fitted with fixed seeds to small tables, and predicted in memory and through a saved model. Run both on one machine. Only
public names are used, so that files may move; if a public name changes, change it in this script too.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import warnings

import jax
import numpy as np
import pandas as pd

import dubito

LIMIT = 1e-5  # standard deviations of the predictive distribution
ROWS = 60
HIDDEN = (6,)
SHORT = {"epochs": 8}


def methods():
    """{name: method} with little training."""
    point, short = dubito.MAP(**SHORT), SHORT
    chains = {"chains": 2, "draws": 8, "warmup": 12, "warm_start_steps": 10}
    return {
        "maximum-likelihood": dubito.MaximumLikelihood(**short),
        "map": point,
        "map, clip, dropout and max-norm": dubito.MAP(**short, clip=1.0, dropout=0.1, max_norm=2.0),
        "mc-dropout": dubito.MCDropout(rate=0.1, **short),
        "concrete-dropout": dubito.ConcreteDropout(**short),
        "variational-dropout": dubito.VariationalDropout(**short),
        "sparse-variational-dropout": dubito.SparseVariationalDropout(**short),
        "bayes-by-backprop": dubito.BayesByBackprop(**short),
        "practical-vi": dubito.BayesByBackprop(gradient_estimator="fisher", **short),
        "laplace": dubito.LaplaceApproximation(point),
        "natural-gradient-vi": dubito.NaturalGradientVI(**short),
        "variational-gaussian": dubito.VariationalGaussian(**short),
        "ensemble": dubito.Ensemble(point, 3),
        "cross-fit": dubito.CrossFit(point, 3),
        "committee": dubito.Committee(point, 3),
        "hmc": dubito.HMC(**chains),
        "nuts": dubito.NUTS(**chains),
        "mclmc": dubito.MCLMC(chains=2, draws=8, warmup=120, warm_start_steps=10),
        "randomized-map": dubito.Ensemble(dubito.RandomizedMAP(**short), 3),
        "swag": dubito.SWAG(**short),
        "multi-swag": dubito.Ensemble(dubito.SWAG(**short), 2),
        "sgld": dubito.SGLD(draws=10, epochs=20, chains=2),
        "sghmc": dubito.SGHMC(draws=10, epochs=20, chains=2),
        "conjugate-noise": dubito.ConjugateNoise(dubito.MCDropout(rate=0.1, **short)),
    }


def tables():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 2))
    y = np.sin(2 * x[:, 0]) + 0.3 * x[:, 1] + 0.2 * rng.normal(size=ROWS)
    frame = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "kind": rng.choice(["u", "v", "w"], ROWS)})
    counts = rng.poisson(np.exp(0.5 * x[:, 0] + 1))
    return x, y, frame, counts, np.digitize(y, [-0.5, 0.5])


def regressor(method=None, **settings):
    return dubito.BayesianRegressor(method, random_state=0, **({"hidden": HIDDEN} | settings))


def classifier(method):
    return dubito.BayesianClassifier(method, hidden=HIDDEN, random_state=0)


def cases():
    """(name, function without arguments that returns a fitted estimator and inputs for it) of each case."""
    x, y, frame, counts, classes = tables()
    labels, point = np.array(["low", "mid", "high"])[classes], dubito.MAP(**SHORT)
    dropout, crossed = dubito.MCDropout(rate=0.1, **SHORT), dubito.CrossFit(dubito.MaximumLikelihood(**SHORT), 3)
    own = methods()
    found = {name: (regressor(method), x, y) for name, method in own.items()}
    for name in ("map", "mc-dropout", "bayes-by-backprop", "laplace", "swag", "hmc"):
        found[f"classes, {name}"] = (classifier(own[name]), x, labels)
    found["default"] = (regressor(crossed), frame, y)
    for name in ("heteroscedastic", "student-t", "laplace", "poisson", "negative-binomial"):
        target = counts if name in ("poisson", "negative-binomial") else y
        found[f"likelihood {name}"] = (regressor(point, likelihood=name), frame, target)
    stopped = regressor(dubito.MAP(epochs=40), early_stopping=True, n_iter_no_change=3)
    waves = regressor(point, hidden=(8, 8), activation="silu", periodic=2)
    found |= {
        "two targets": (regressor(dropout), x, np.c_[y, 3 * y + 1]),
        "early stopping": (stopped, x, y),
        "laplace prior": (regressor(point, prior=dubito.Laplace()), x, y),
        "waves": (waves, x, y),
    }
    for name, (model, inputs, target) in found.items():
        yield name, lambda model=model, inputs=inputs, target=target: (model.fit(inputs, target), inputs)
    yield "weights", lambda: (regressor(point).fit(x, y, sample_weight=np.arange(ROWS) % 3), x)
    yield "stream", lambda: (streamed(regressor(point), frame.assign(y=y)), frame)
    for kind in ("conformal", "quantiles"):
        yield f"calibrated, {kind}", lambda kind=kind: (calibrated(regressor(dropout), x, y, kind), x)


def streamed(model, table):
    """The model fitted to a Parquet file that is read piece by piece."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "t.parquet"
        table.to_parquet(path, row_group_size=20)
        return model.fit_file(path, "y")


def calibrated(model, x, y, kind):
    model.fit(x[:40], y[:40])
    return model.calibrate(x[40:], y[40:], kind)


def answers(model, inputs):
    """{name: array} of what the model predicts for its inputs."""
    answer = model.predictive(inputs)
    found = {"sample": answer.sample(jax.random.key(1), 3)}
    if hasattr(model, "predict_proba"):
        return found | {"probs": answer.probs, "epistemic": answer.mutual_information}
    found |= {"mean": answer.mean, "std": answer.std, "epistemic": answer.epistemic, "median": answer.quantile(0.5)}
    if not answer.discrete:
        found["interval"] = np.stack(answer.interval(0.9))
    return found


def commands(folder):
    """{command: exit code} of the command line, run in ``folder``."""
    _, y, frame, _, _ = tables()
    frame.assign(y=y).to_csv(folder / "t.csv", index=False)
    lines = [
        "--help",
        "--version",
        "fit t.csv -t y -o m --method map --set epochs=3",
        "fit t.csv -t z -o m --method map",
        "fit t.csv -t y -o m --method mapp",
        "fit none.csv -t y -o m",
        "fit t.csv -t y -o t.csv",
        "predict m t.csv -o p.csv",
        "evaluate m t.csv",
        "calibrate m t.csv -o m2",
        "compare t.csv -t y --methods map,mc-dropout --folds 2",
        "inspect m",
        "nothing",
    ]
    codes = {}
    for line in lines:
        done = subprocess.run([sys.executable, "-m", "dubito", *line.split()], cwd=folder, capture_output=True)
        codes[line] = done.returncode
    return codes


def gather(only):
    """(arrays by name, everything else as a dictionary), for cases whose name contains ``only``."""
    arrays, refused = {}, {}
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = pathlib.Path(name)
        for case, make in cases():
            if only not in case:
                continue
            print(case, flush=True)
            model, inputs = make()
            first = answers(model, inputs)
            arrays |= {f"{case} | {what}": array for what, array in first.items()}
            path = folder / "model"
            model.save(path)
            for what, array in answers(dubito.load(path), inputs).items():
                if not np.array_equal(array, first[what]):
                    refused[f"{case} | {what}"] = "the loaded model answers otherwise"
        codes = {} if only else commands(folder)
        return arrays, {"loaded": refused, "codes": codes, "names": sorted(dubito.__all__)}


def difference(before, after, spread):
    if before.shape != after.shape:
        return np.inf
    return float(np.max(np.abs(np.float64(before) - np.float64(after)) / spread, initial=0.0))


def compared(before, after):
    """The largest difference, with a line for each that is not 0."""
    worst, equal = 0.0, 0
    for name in sorted(set(before) | set(after)):
        if name not in before or name not in after:
            print(f"{name}: only {'before' if name in before else 'after'}")
            worst = np.inf
            continue
        spread = before.get(f"{name.split(' | ')[0]} | std", np.ones(()))
        found = difference(before[name], after[name], np.min(spread))
        worst, equal = max(worst, found), equal + np.array_equal(before[name], after[name])
        if not np.array_equal(before[name], after[name]):
            print(f"{name}: {found:.1e} standard deviations")
    print(f"{equal} of {len(before)} arrays are equal to the bit; the largest difference is {worst:.1e}")
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["store", "compare"])
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--only", default="", metavar="TEXT", help="compare the cases with this text in their name")
    arguments = parser.parse_args()
    arrays, rest = gather(arguments.only)
    if arguments.action == "store":
        np.savez(arguments.file, rest=json.dumps(rest), **arrays)
        return 0
    with np.load(arguments.file) as stored:
        before = {name: stored[name] for name in stored.files if name != "rest"}
        before = {name: array for name, array in before.items() if arguments.only in name.split(" | ")[0]}
        rest_before = json.loads(str(stored["rest"]))
        if arguments.only:
            rest_before["codes"] = {}
    worst = compared(before, arrays)
    for part in ("codes", "loaded", "names"):
        if rest[part] != rest_before[part]:
            print(f"{part} before: {rest_before[part]}\n{part} after:  {rest[part]}")
            worst = worst if part == "names" else np.inf
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
