"""Mutated model files and checkpoints with a right hash, for ``test_fuzz.py`` and for longer runs by hand:

    python tests/estimators/files/fuzz_files.py --seconds 600 --seed 1

Each mutant changes a valid file's JSON or arrays in one to three places and gets its hash anew. Loading and predicting, or
going on from it, may end in an error of dubito's own and in nothing else: no other exception, no answer that is not finite,
no hang, and no memory beyond 50 times the file and 50 MB while it is loaded. Prints counts and findings as JSON.
"""

import argparse
import collections
import copy
import faulthandler
import itertools
import json
import linecache
import pathlib
import random
import signal
import tempfile
import time
import traceback
import warnings

import jax
import numpy as np
import safetensors.numpy

import dubito
from dubito._process import archive
from dubito.training import checkpoint, runs

BOUND = 60.0  # seconds a mutant may take, of which most are compilation
MEMORY = 50 * 2**20
OWN = (dubito.ModelFileError, dubito.CheckpointError, dubito.DataError, dubito.PredictionError, dubito.DivergenceError)
NUMBERS = [0, -1, 1, 2, 7, 2**15, 10**6, 10**6 + 1, 2**31 - 1, 2**31, 2**63, 10**30, -(10**9)]
NUMBERS += [0.0, -0.0, 0.5, -0.5, 1.5, 1e-5, 1e-45, 5e-324, 1e10, -1e10, 1e38, 1e39, 1e308, -1e308]
VALUES = [*NUMBERS, None, True, False, "", "x", "error", "é" * 99, [], {}, [[]], [0], [1.0, 2.0], {"class": "MAP"}]
FLOATS = [0.0, 1.0, -1.0, 1e-45, 1e10, -1e10, 3e38, -3e38, np.inf, np.nan]
ROWS = 24


class HangError(BaseException):
    """A mutant took longer than ``BOUND``."""


# --- valid files


def table():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 2))
    return x, 3 + 2 * x[:, 0] + 0.1 * rng.normal(size=ROWS)


def labels():
    return np.array(["low", "mid", "top"])[np.digitize(table()[1], [2, 4])]


def estimators():
    """Fitted estimators by name; each is of another kind of posterior or calibration."""
    (x, y), small = (
        table(),
        {"hidden": (4,), "random_state": 0},
    )  # shapes of test_model_file.py, whose programs are these
    member = dubito.MaximumLikelihood(epochs=3, batch_size=16)

    def regressor(method, **settings):
        return dubito.BayesianRegressor(method, **small, **settings).fit(x, y)

    def classifier(method, **settings):
        return dubito.BayesianClassifier(method, **small, **settings).fit(x, labels())

    laplace = dubito.LaplaceApproximation(dubito.MAP(epochs=3))
    yield "default", regressor(dubito.CrossFit(member, 3), activation="silu", periodic=2)
    yield "dropout", regressor(dubito.MCDropout(epochs=3), draws=5)
    yield "laplace", regressor(laplace, draws=5)
    yield "heteroscedastic", regressor(member, likelihood="heteroscedastic")
    yield "classes", classifier(dubito.CrossFit(member, 3))
    yield "quantiles", regressor(dubito.MAP(epochs=3)).calibrate(x, y)
    yield "conformal", regressor(dubito.BayesByBackprop(epochs=3), draws=5).calibrate(x, y, "conformal", coverage=0.8)
    yield "temperature", classifier(dubito.MAP(epochs=3)).calibrate(x, labels(), "temperature")
    yield "isotonic", classifier(dubito.MCDropout(epochs=3), draws=5).calibrate(x, labels(), "isotonic")
    yield "CV+", regressor(dubito.Committee(member, 2))
    yield "CV+ of classes", classifier(dubito.Committee(member, 2))


class StopFitError(Exception):
    """Ends a fit whose checkpoint is wanted."""


METHODS = {
    "checkpoint": dubito.MAP(epochs=8, batch_size=16),
    "checkpoints": dubito.CrossFit(dubito.MaximumLikelihood(epochs=6, batch_size=16), 2, "constant"),
}


def fitted_on(path, method, progress=None):
    """A core fit with the checkpoint ``path``."""
    x, y = table()
    model = dubito.Model(dubito.mlp(2, (3,)), dubito.Gaussian())
    options = {"early_stopping": True, "n_iter_no_change": 5} if "MAP" in repr(method) else {}
    y = y[:, None].astype(np.float32)
    return dubito.fit(
        model, x, y, method, key=jax.random.key(0), checkpoint=path, progress=progress, **options
    )  # the same as before, bit for bit


def checkpoints(folder):
    """Names and paths of checkpoints of fits that were interrupted in the middle."""
    runs.CHUNK_SECONDS, runs.FIRST_CHUNK_STEPS, checkpoint.WRITE_INTERVAL = (
        0.0,
        3,
        0.0,
    )  # a report and a write after each few blocks
    for name, method in METHODS.items():
        reports = []

        def progress(report, reports=reports):
            reports.append(report)
            if len(reports) == 4:
                raise StopFitError

        with np.errstate(all="ignore"):
            try:
                fitted_on(folder / name, method, progress)
            except StopFitError:
                yield name, folder / name


def parts(path):
    """(configuration, arrays) of a file."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    return json.loads(json.loads(data[8:start])["__metadata__"]["dubito"]), safetensors.numpy.load(data)


def pack(config, arrays):
    """The bytes of a file as ``archive.write_archive`` makes them, without its checks."""
    document = archive.canonical(config)
    metadata = {"dubito": document, "sha256": archive.digest(document, arrays)}
    data = safetensors.numpy.save({name: np.asarray(a, order="C") for name, a in arrays.items()}, metadata)
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start]) | {"__metadata__": metadata}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(start - 8)
    return data[:8] + text + data[start:]


# --- mutants


def places(node, found):
    """(container, key) of every node below ``node``."""
    for key in node if isinstance(node, dict) else range(len(node)):
        found.append((node, key))
        if isinstance(node[key], dict | list):
            places(node[key], found)
    return found


def mutate_json(config, rng):
    found = places(config, [])
    if not found:
        return
    node, key = rng.choice(found)
    value, other = node[key], rng.choice(found)
    match rng.randrange(10):
        case 0 | 1 | 2:
            node[key] = copy.deepcopy(rng.choice(VALUES))
        case 3 | 4 if type(value) in (int, float):
            factor = rng.choice([-1, 2, 0.5, 1e-6, 1e6, 1e12, 1e30])
            node[key] = value + rng.choice([-1, 1]) if rng.random() < 0.4 else type(value)(value * factor)
        case 5:
            del node[key]
        case 6 if isinstance(node, list):
            node.insert(key, copy.deepcopy(value))
        case 6:
            node[str(key) + rng.choice(["", "_", "x"])] = node.pop(key)
        case 7:
            node[key] = copy.deepcopy(other[0][other[1]])
        case 8:
            node[key] = rng.choice([[value], {"class": value}, {str(key): value}])
        case _ if isinstance(value, list):
            rng.shuffle(value)
        case _:
            node[key] = rng.choice(NUMBERS)


def mutate_arrays(arrays, rng):
    name = rng.choice(sorted(arrays))
    array = np.array(arrays[name])
    match rng.randrange(7):
        case 0 | 1 if array.size:
            flat = array.reshape(-1)
            flat[rng.randrange(array.size)] = draw_number(array.dtype, rng)
            arrays[name] = flat.reshape(array.shape)
        case 2:
            arrays[name] = np.full_like(array, draw_number(array.dtype, rng))
        case 3:
            arrays[name] = np.resize(array, rng.choice([0, 1, array.size + 1, max(array.size - 1, 0), 3 * array.size]))
        case 4:
            arrays[name] = array[None] if rng.random() < 0.5 else array.reshape(-1)
        case 5:
            other = rng.choice([*sorted(arrays), f"{name}x"])
            arrays[other] = arrays.pop(name)
        case _:
            arrays[name] = array[::-1] if array.ndim else array.astype(rng.choice(["float64", "int32"]))


def draw_number(dtype, rng):
    """A number of the type; words of 32 bits, as checkpoints have, also as the bits of a float."""
    if dtype != np.uint32:
        return rng.choice(FLOATS)
    small = [0, 1, 2, 2**31, 2**32 - 1, rng.randrange(2**32)]
    return rng.choice([*small, *(int(np.float32(value).view(np.uint32)) for value in FLOATS)])


def mutated(config, arrays, rng):
    """Another (configuration, arrays); what a checkpoint says of its arrays is mostly kept right."""
    config, arrays = copy.deepcopy(config), dict(arrays)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        if rng.random() < (0.7 if "shapes" in config else 0.25) and arrays:
            mutate_arrays(arrays, rng)
        else:
            mutate_json(config, rng)
    if isinstance(config.get("shapes"), dict) and rng.random() < 0.7:
        config["shapes"] = {name: list(array.shape) for name, array in arrays.items()}
    return config, arrays


# --- what becomes of them


def peak():
    """(bytes of memory at most since the last reset, bytes now), of Linux."""
    lines = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
    return tuple(1024 * int(lines[name].split()[0]) for name in ("VmHWM", "VmRSS"))


def reset_peak():
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def predict_all(model, x):
    """Everything that the commands ask of a model; ValueError of the driver where something is not finite."""
    if isinstance(model, dubito.BayesianClassifier):
        answers = {"probs": model.predict_proba(x), "std": model.predictive(x).entropy}
    else:
        coverage = getattr(model.calibration_, "coverage", None) or 0.9
        mean, std = model.predict(x, return_std=True)
        answers = {"mean": mean, "std": std}
        for name, end in zip(("lower", "upper"), model.predict_interval(x, coverage), strict=True):
            if np.isnan(end).any():
                raise FloatingPointError(f"{name} has NaN")
        answers["sample"] = model.sample_y(x, 2)
    for name, values in answers.items():
        if not np.isfinite(values).all():
            raise FloatingPointError(f"{name} is not finite: {values.ravel()[:4]}")


def own_error(error):
    """Whether the exception is one that dubito raises on purpose."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    line = linecache.getline(frame.filename, frame.lineno).strip()
    return isinstance(error, OWN) or (
        type(error) is ValueError and "dubito" in pathlib.Path(frame.filename).parts and line.startswith("raise")
    )


def try_model(path, x):
    reset_peak()
    before = peak()[1]
    try:
        model = dubito.load(path)
    finally:
        grown = peak()[0] - before
        if grown > MEMORY + 50 * path.stat().st_size:
            raise MemoryError(f"{grown} bytes to load {path.stat().st_size}")
    model.draws = model.draws and min(model.draws, 10_000)  # more are allowed, and take their time
    try:
        predict_all(model, x)
    except Exception as error:
        if not own_error(error):
            raise
        return "refused in predict"
    return "answered"


def try_checkpoint(path, method):
    try:
        posterior = fitted_on(path, method)
    except (dubito.CheckpointError, dubito.DivergenceError):
        return "refused"
    for leaf in jax.tree.leaves(posterior.sample(jax.random.key(1), 2)):
        if not np.isfinite(leaf).all():
            raise FloatingPointError("the posterior is not finite")
    return "answered"


def alarm(*_):
    raise HangError


def fuzz(numbers, seed, folder, say=lambda line: None):
    """Counts of what the mutants of these numbers came to, and the findings, each a dict with the mutant's seed and the error."""
    files = [(name, path) for name, path in checkpoints(folder)]
    for name, estimator in estimators():
        estimator.save(folder / name)
        files.append((name, folder / name))
    bases = {name: parts(path) for name, path in files}
    x, path = table()[0][:5], folder / "mutant"
    for name, base in bases.items():  # the valid ones pass, and their programs are compiled
        path.write_bytes(pack(*base))
        result = try_checkpoint(path, METHODS[name]) if name in METHODS else try_model(path, x)
        assert result == "answered", (name, result)
    counts, findings = collections.Counter(), []
    before = signal.signal(signal.SIGALRM, alarm)
    for number in numbers:
        if number % 300 == 0:  # compiled programs hold mappings of memory, of which a process may have 65,530
            jax.clear_caches()
        name = list(bases)[number % len(bases)]
        rng = random.Random(f"{seed} {number}")
        try:
            data = pack(*mutated(*bases[name], rng))
        except (ValueError, TypeError, OverflowError):  # no file can say that
            continue
        path.write_bytes(data)
        counts["mutants"] += 1
        faulthandler.dump_traceback_later(2 * BOUND, exit=True)
        signal.setitimer(signal.ITIMER_REAL, BOUND)
        try:
            counts[try_checkpoint(path, METHODS[name]) if name in METHODS else try_model(path, x)] += 1
        except Exception as error:
            if type(error) is not FloatingPointError and own_error(error):
                counts["refused"] += 1
            else:
                findings.append(finding(name, number, error, folder, data, say))
        except HangError as error:
            findings.append(finding(name, number, error, folder, data, say))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    faulthandler.cancel_dump_traceback_later()
    signal.signal(signal.SIGALRM, before)
    return dict(counts), findings


def finding(name, number, error, folder, data, say):
    frames = [f"{pathlib.Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)][-6:]
    (folder / f"finding-{number}").write_bytes(data)
    found = {"base": name, "number": number, "error": f"{type(error).__name__}: {error}"[:300], "frames": frames}
    say(json.dumps(found))
    return found


def numbers_of(options):
    """The numbers of the mutants, from 1."""
    if options.mutants is not None:
        yield from range(1, options.mutants + 1)
        return
    end = time.monotonic() + options.seconds
    yield from itertools.takewhile(lambda _: time.monotonic() < end, itertools.count(1))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--mutants", type=int, help="this many, however long they take")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=pathlib.Path, help="keeps the files of findings")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or pathlib.Path(name)
        folder.mkdir(exist_ok=True)
        counts, findings = fuzz(numbers_of(options), options.seed, folder, lambda line: print(line, flush=True))
    print(json.dumps({"counts": counts, "findings": findings}))


if __name__ == "__main__":
    main()
