"""Model files: the same answers after loading, nothing but a whole and honest file is read, nothing is lost in writing.

The ill files are made by hand, most of them with a right hash, and each must be refused for its own reason; a process
under an audit hook proves that nothing else is opened, imported, run or fetched meanwhile.
"""

import copy
import hashlib
import io
import json
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import tempfile
import types
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import safetensors
from sklearn.exceptions import NotFittedError

import dubito
from dubito._process import archive
from dubito._process.archive import strict_json
from dubito.estimators.files import codec

CODES = {"float32": "F32", "float64": "F64", "uint32": "U32", "int32": "I32", "float16": "F16"}
FIELDS = ["posterior", "model", "network"]


def table(rows=24, columns=2):
    """A table of numbers, and its target."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, columns))
    return x, 3 + 2 * x[:, 0] + 0.1 * rng.normal(size=rows)


def mixed():
    """A frame with numbers, truth values and texts, and its target."""
    rng = np.random.default_rng(1)
    names = ["größe", "flag", "city", "kind"]
    columns = rng.normal(size=24), rng.random(24) < 0.5, rng.choice(["Łódź", "Rome"], 24), rng.choice([3, 5], 24)
    frame = pd.DataFrame(dict(zip(names, columns, strict=True)))
    return frame.astype({"kind": "category"}), frame["größe"].to_numpy() + frame["flag"]


def counts():
    return np.round(np.abs(table()[1]))


def labels(y):
    return np.array(["low", "middle", "high"])[np.digitize(y, [2, 4])]


def regressor(method, **settings):
    return dubito.BayesianRegressor(method, **({"hidden": (4,), "random_state": 0} | settings))


MEMBER = dubito.MaximumLikelihood(epochs=5, batch_size=16)
LOW_RANK = dubito.LaplaceApproximation(dubito.MAP(epochs=5), structure="low-rank", rank=2)
CASES = {
    "default": (regressor(dubito.CrossFit(MEMBER, 3), activation="silu", periodic=2), table()),
    "dropout": (regressor(dubito.MCDropout(epochs=5, rate=0.1), draws=7), table()),
    "bbb": (regressor(dubito.BayesByBackprop(epochs=5)), table()),
    "laplace": (regressor(dubito.LaplaceApproximation(dubito.MAP(epochs=5))), table()),
    "laplace noise": (regressor(dubito.CrossFit(LOW_RANK, 2)), table()),
    "low rank": (regressor(dubito.VariationalGaussian(epochs=5, rank=2)), table()),
    "dense": (regressor(dubito.VariationalGaussian(covariance="full", epochs=5)), table()),
    "ensemble": (regressor(dubito.Ensemble(dubito.MCDropout(epochs=5), 2)), table()),
    "committee": (regressor(dubito.Committee(dubito.MCDropout(epochs=5), 2)), table()),
    "renoised": (regressor(dubito.CrossFit(dubito.BayesByBackprop(epochs=5), 3, "constant")), table()),
    "targets": (regressor(MEMBER, likelihood="heteroscedastic"), (table()[0], table()[0] * [2.0, 1e-9])),
    "frame": (regressor(dubito.MAP(epochs=5), prior=dubito.Laplace(2.0)), mixed()),
    "classes": (
        dubito.BayesianClassifier(dubito.CrossFit(MEMBER, 3), hidden=(4,), random_state=np.int64(3)),
        (table()[0], labels(table()[1])),
    ),
    "two classes": (dubito.BayesianClassifier(MEMBER, hidden=(4,)), (mixed()[0], table()[1] > 3)),
    "counts": (regressor(dubito.CrossFit(MEMBER, 3), likelihood="negative-binomial"), (table()[0], counts())),
    "censored": (regressor(MEMBER, likelihood="censored"), (table()[0], np.column_stack([table()[1], counts() > 3]))),
    "ordered": (
        dubito.BayesianClassifier(MEMBER, hidden=(4,), likelihood="ordered"),
        (table()[0], counts().clip(1, 3)),
    ),
    "chains": (
        regressor(dubito.NUTS(draws=4, warmup=60, chains=2, max_depth=3, warm_start_steps=25), hidden=(2,)),
        table(),
    ),
    "swag": (regressor(dubito.Ensemble(dubito.SWAG(epochs=5, rank=3), 2)), table()),
    "conjugate": (regressor(dubito.ConjugateNoise(dubito.MCDropout(epochs=5))), table()),
    "tiny": (regressor(dubito.MAP(epochs=1), hidden=(2,)), table()),
}


def answers(estimator, x):
    """All that an estimator says about x."""
    if isinstance(estimator, dubito.BayesianClassifier):
        return [estimator.predict(x), estimator.predict_proba(x), estimator.sample_y(x, 5)]
    return [*estimator.predict(x, return_std=True), *estimator.predict_interval(x, 0.8), estimator.sample_y(x, 5)]


def same(a, b):
    return all(p.dtype == q.dtype and np.array_equal(p, q) for p, q in zip(a, b, strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


class Fitted(dict):
    """The cases by name, fitted and saved to ``folder`` when they are first asked for."""

    def __init__(self, folder):
        dict.__init__(self)
        self.folder = folder

    def __missing__(self, name):
        estimator, data = CASES[name]
        self[name] = copy.deepcopy(estimator).fit(*data)
        self[name].save(self.folder / name)
        return self[name]

    def file(self, name):
        """Where the case's file is."""
        self[name]
        return self.folder / name


@pytest.fixture(scope="module")
def fitted(folder):
    found = Fitted(folder)
    found["tiny"]
    return found


QUICK = {"dropout", "laplace", "frame", "classes", "tiny"}


@pytest.mark.parametrize(
    "case", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in CASES]
)
def test_load_and_pickle_give_the_same_predictions(fitted, folder, case):
    x, estimator = CASES[case][1][0], fitted[case]
    again, whole = dubito.load(folder / case), answers(estimator, x)
    assert same(whole, answers(again, x))
    assert same(whole, answers(pickle.loads(pickle.dumps(estimator)), x))
    learned = {name for name in vars(estimator) if name.endswith("_") and not name.startswith("_")}
    assert learned <= set(vars(again)) and type(again) is type(estimator)
    assert again.schema_ == estimator.schema_ and again.method_ == estimator.method_
    assert again.summary_ == estimator.summary_ and again.description == estimator.description
    assert {**again.get_params(), "random_state": 0} == {**estimator.get_params(), "random_state": 0}
    again.save(folder / f"{case} again")
    assert answers_of(folder / f"{case} again") == answers_of(folder / case)


def answers_of(path):
    """(configuration, bytes of every array) of a file, read by safetensors itself."""
    with safetensors.safe_open(path, "np") as file:
        names = list(file.keys())
        return json.loads(file.metadata()["dubito"]), {name: file.get_tensor(name).tobytes() for name in names}


AGAIN = """
import pathlib, pickle, sys
import dubito
sys.path.insert(0, sys.argv[2])
from test_model_file import answers
folder = pathlib.Path(sys.argv[1])
tables = pickle.loads((folder / "tables").read_bytes())
found = {name: answers(dubito.load(folder / name), x) for name, x in tables.items()}
(folder / "answers").write_bytes(pickle.dumps(found))
"""


def run(script, *arguments, **options):
    """What a Python process with this script says; its errors are ours."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_load_gives_the_same_predictions_in_another_process(fitted, folder):
    """Of a file for each kind of posterior: predictions are compiled anew there."""
    assert all(fitted.file(name).exists() for name in CASES)
    kinds = {type(fitted[name].posterior_): name for name in CASES}
    assert len(kinds) > 5
    (folder / "tables").write_bytes(pickle.dumps({name: CASES[name][1][0] for name in kinds.values()}))
    run(AGAIN, folder, pathlib.Path(__file__).parent)
    found = pickle.loads((folder / "answers").read_bytes())
    assert all(same(answers(fitted[name], CASES[name][1][0]), found[name]) for name in kinds.values())


def test_model_file_is_a_safetensors_file(fitted, folder):
    config, arrays = answers_of(folder / "tiny")
    params = jax.tree_util.tree_leaves_with_path(fitted["tiny"].posterior_.params)
    wanted = {
        "/".join(["posterior/params", *(step.key for step in path)]): np.asarray(leaf).tobytes()
        for path, leaf in params
    }
    assert arrays == wanted
    assert config["schema"]["columns"][1]["scale"] == pytest.approx(table()[0][:, 1].std(), rel=1e-12)
    assert config["scaler"] == {"shift": [pytest.approx(table()[1].mean())], "scale": [pytest.approx(table()[1].std())]}
    assert (folder / "tiny").stat().st_mode & 0o777 == 0o666 & ~umask()


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_equal_models_have_equal_files(tmp_path):
    arrays = {"w": np.ones((2, 3), np.float32), "ä": np.zeros(2, np.float32)}
    for number in range(20):
        archive.write_archive(tmp_path / str(number), {"b": "é", "a": 1}, arrays)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


@pytest.mark.slow
def test_model_file_holds_many_numeric_columns(folder):
    """The numeric columns of a network with periodic features are a list of the file that may be long."""
    x, y = table(columns=1500)
    estimator = regressor(dubito.MAP(epochs=1), hidden=(2,), periodic=1).fit(x, y)
    estimator.save(folder / "wide")
    assert same(answers(estimator, x), answers(dubito.load(folder / "wide"), x))


def test_model_file_does_not_hold_a_random_state(folder):
    estimator = regressor(dubito.MAP(epochs=1), hidden=(2,), random_state=np.random.RandomState(0)).fit(*table())
    estimator.save(folder / "state")
    again = dubito.load(folder / "state")
    assert again.random_state is None and np.array_equal(again.predict(table()[0]), estimator.predict(table()[0]))


# --- ill files


def parts(data):
    """(configuration, arrays by name) of a file's bytes, read by hand."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    config = json.loads(header.pop("__metadata__")["dubito"])
    spans = {name: entry["data_offsets"] for name, entry in header.items()}
    blob = data[8 + length :]
    return config, {
        name: np.frombuffer(blob[first:last], np.float32).reshape(header[name]["shape"])
        for name, (first, last) in spans.items()
    }


def text_of(config):
    return json.dumps(config, sort_keys=True, separators=(",", ":"))


def hashed(document, arrays):
    """SHA-256 over the JSON and every array, as the file's description says."""
    total = hashlib.sha256(document.encode())
    for name, array in sorted(arrays.items()):
        total.update(f"\0{name}\0{array.dtype.name}\0{array.shape}\0".encode() + array.tobytes())
    return total.hexdigest()


def entries_of(arrays):
    """(entries of the header, the arrays' bytes)."""
    found, end = {}, 0
    for name, array in arrays.items():
        span = [end, end + array.nbytes]
        found[name] = {"dtype": CODES[array.dtype.name], "shape": list(array.shape), "data_offsets": span}
        end = span[1]
    return found, b"".join(array.tobytes() for array in arrays.values())


def framed(text, blob, length=None):
    """A safetensors file of this header."""
    header = text.encode() if isinstance(text, str) else text
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header) if length is None else length) + header + blob


def packed(config, arrays, *, document=None, header=lambda header: header, metadata=lambda given: given, **entries):
    """A file with a right hash. ``document`` instead of the configuration's text; ``header`` and ``metadata`` change
    theirs; ``entries`` of the header by array (``bias``, ``weight``: the first layer's) change theirs."""
    document = text_of(config) if document is None else document
    found, blob = entries_of(arrays)
    for name, changes in entries.items():
        entry = found[f"posterior/params/network/layer_0/{name[0]}"]
        entry |= {key: change(entry[key]) if callable(change) else change for key, change in changes.items()}
    about = metadata({"dubito": document, "sha256": hashed(document, arrays)})
    made = header({"__metadata__": about, **found})
    return framed(made if isinstance(made, str | bytes) else json.dumps(made, separators=(",", ":")), blob)


def changed(config, path, value):
    """The configuration with the value at ``path`` (a list of keys) replaced; a function gets the old one."""
    config = copy.deepcopy(config)
    place = config
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value(place[path[-1]]) if callable(value) else value
    return config


def at(*path, value):
    """A file that differs in one value of its configuration, and in its hash."""
    return lambda config, arrays: packed(changed(config, path, value), arrays)


def document(change):
    """A file whose JSON text is changed, with a right hash."""
    return lambda config, arrays: packed(config, arrays, document=change(text_of(config)))


def without(*path):
    return at(*path[:-1], value=lambda old: {name: value for name, value in old.items() if name != path[-1]})


def tensor(name, change):
    """A file with another array: of the first layer, ``w`` or ``b``."""
    name = f"posterior/params/network/layer_0/{name}"
    return lambda config, arrays: packed(config, arrays | {name: np.array(change(arrays[name]))})


def as_classifier(config, arrays):
    """A file of a regression with the kind and the parameters of a classification."""
    params = {name: value for name, value in config["params"].items() if name != "target_transform"}
    other = {**config, "kind": "BayesianClassifier", "params": {**params, "class_weight": None}}
    return packed(other, arrays)


def spoiled(value):
    return lambda array: np.where(np.arange(array.size).reshape(array.shape) == 1, np.float32(value), array)


def raw(data):
    return lambda config, arrays: data


def header(text):
    return raw(framed(text, b"\0" * 64))


def parquet():
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(pa.table({"a": [1.0, 2.0]}), sink)
    return sink.getvalue().to_pybytes()


def npz(config, arrays):
    file = io.BytesIO()
    np.savez(file, **{name.replace("/", "_"): array for name, array in arrays.items()})
    return file.getvalue()


def zipped(config, arrays):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archived:
        archived.writestr("config.json", text_of(config))
    return file.getvalue()


class Running:
    def __reduce__(self):
        return os.mkdir, ("run-by-pickle",)


def nested(config, depth):
    """So many objects, one inside the other."""
    for _ in range(depth):
        config = {"kind": "FixedNoisePosterior", "model": {}, "part": config}
    return config


def of_many_models(config):
    spec = config["posterior"]
    sizes = [changed(spec, ["model", "network", "hidden"], [size]) for size in range(2, 13)]
    return changed(config, ["posterior"], {"kind": "Mixture", "model": spec["model"], "parts": sizes})


def of_other_size(config, arrays):
    """The same JSON beside arrays of a larger network; hash and header are right."""
    name = "posterior/params/network/layer_0/w"
    return packed(config, arrays | {name: np.ones((1, 2, 3), np.float32)})


WIDE = [1, 2, 2**40]
METHOD, NETWORK, BIAS = ("method",), ("posterior", "model", "network"), "posterior/params/network/layer_0/b"
# name: (which file it is made of, how, what must be said)
TEMPERATURE = {"class": "Temperature", "temperature": 2.0}


def quantiles(u=(0.0, 1.0), v=(0.0, 1.0), factor=1.0):
    return {"class": "Quantiles", "factors": [factor], "knots": [[list(u), list(v)]]}


def cv_plus(*errors):
    return {"class": "CVPlus", "coverage": 0.9, "errors": list(errors)}


def conformal(margins, score="residual"):
    return {"class": "Conformal", "coverage": 0.9, "margins": margins, "score": score}


ILL = {
    # no such format
    "empty": ("tiny", raw(b""), "0 bytes"),
    "seven bytes": ("tiny", raw(b"\x02" + b"\0" * 6), "7 bytes"),
    "npz": ("tiny", npz, "impossible length"),
    "npy": ("tiny", raw(b"\x93NUMPY\x01\x00v\0{'descr': '<f4'}" + b" " * 99), "impossible length"),
    "pickle": ("tiny", raw(pickle.dumps(Running())), "impossible length"),
    "zip": ("tiny", zipped, "impossible length"),
    "parquet": ("tiny", raw(parquet()), "impossible length"),
    "hdf5": ("tiny", raw(b"\x89HDF\r\n\x1a\n" + b"\0" * 99), "impossible length"),
    "json": ("tiny", lambda config, arrays: text_of(config).encode(), "impossible length"),
    "zeros": ("tiny", raw(b"\0" * 4096), "impossible length"),
    "someone's safetensors": ("tiny", lambda c, a: framed(text_of(entries_of(a)[0]), b""), "not a dubito model"),
    # headers
    "header of 2^60": ("tiny", raw(struct.pack("<Q", 2**60) + b"{}" * 9), "impossible length"),
    "header of 2^63": ("tiny", raw(struct.pack("<Q", 2**63) + b"{}" * 9), "impossible length"),
    "header of 2^64 - 1": ("tiny", raw(struct.pack("<Q", 2**64 - 1) + b"{}" * 9), "impossible length"),
    "header past the end": ("tiny", raw(framed("{}", b"", length=9)), "impossible length"),
    "header of more than is read": ("tiny", header(" " * (archive.HEADER + 8)), "impossible length"),
    "header of bytes": ("tiny", header(b"\xff" * 80), "not text"),
    "header of an array": ("tiny", header("[]"), "not an object"),
    "header of a number": ("tiny", header("1e400"), "1e400"),
    "header of nothing": ("tiny", header(" " * 16), "Expecting value"),
    "header of depth 10^5": ("tiny", header('{"":' * 10**5), "recursion"),
    "header of brackets": ("tiny", header("[" + "[]," * (archive.HEADER // 3 - 9) + "[]]"), "too many brackets"),
    "header of objects": ("tiny", header("[" + "{}," * (archive.BRACKETS - 2) + "{}]"), "not an object"),
    "header of texts": ("tiny", header("[" + '"",' * (archive.HEADER // 3 - 9) + '""]'), "not an object"),
    "header of digits": ("tiny", header("9" * (archive.HEADER - 8)), "integer string conversion"),
    "header that never ends": ("tiny", header('"' + '\\"' * (archive.HEADER // 2 - 9)), "Unterminated string"),
    "metadata missing": ("tiny", lambda c, a: packed(c, a, header=lambda h: {BIAS: h[BIAS]}), "not a dubito model"),
    "metadata more": ("tiny", lambda c, a: packed(c, a, metadata=lambda m: m | {"code": "x"}), "not a dubito model"),
    "metadata of numbers": ("tiny", lambda c, a: packed(c, a, metadata=lambda m: m | {"sha256": 1}), "not texts"),
    "metadata a text": ("tiny", lambda c, a: packed(c, a, metadata=lambda m: "x"), "not a dubito model"),
    "another hash": ("tiny", lambda c, a: packed(c, a, metadata=lambda m: m | {"sha256": "0" * 64}), "checksum"),
    "hash in capitals": (
        "tiny",
        lambda c, a: packed(c, a, metadata=lambda m: m | {"sha256": m["sha256"].upper()}),
        "checksum",
    ),
    # JSON
    "doubled key": ("tiny", document(lambda text: '{"format":1,' + text[1:]), "a key twice"),
    "doubled array": (
        "tiny",
        lambda c, a: packed(c, a, header=lambda h: text_of(h)[:-1] + f',"{BIAS}":' + text_of(h[BIAS]) + "}"),
        "a key twice",
    ),
    "NaN": ("tiny", document(lambda text: text.replace('"seconds":', '"seconds":NaN,"a":')), "holds NaN"),
    "infinity": ("tiny", document(lambda text: text.replace('"seconds":', '"seconds":-Infinity,"a":')), "-Infinity"),
    "1e999": ("tiny", document(lambda text: text.replace('"seconds":', '"seconds":1e999,"a":')), "1e999"),
    "spaces in JSON": ("tiny", document(lambda text: text.replace(",", ", ")), "not canonical"),
    "unsorted JSON": ("tiny", document(lambda text: '{"zero":0,' + text[1:]), "not canonical"),
    "JSON cut": ("tiny", document(lambda text: text[:-1]), "not a usable"),
    "JSON of a list": ("tiny", document(lambda text: f"[{text}]"), "not canonical"),
    "JSON of depth 10^5": ("tiny", document(lambda text: '[{"a":' * 10**5), "recursion"),
    "posterior of depth 10^5": ("tiny", document(lambda text: '{"part":' * 10**5 + text + "}" * 10**5), "recursion"),
    "posterior of depth 20": ("tiny", at("posterior", value=lambda old: nested(old, 20)), "not a usable"),
    # configuration
    "no keys": ("tiny", lambda c, a: packed({}, a), "unexpected keys"),
    "unknown key": ("tiny", lambda c, a: packed(c | {"callback": "os.system"}, a), "unexpected keys"),
    "missing key": ("tiny", lambda c, a: packed({k: v for k, v in c.items() if k != "versions"}, a), "unexpected keys"),
    "newer version": ("tiny", at("format", value=5), "newer dubito wrote it.*update"),
    "older version": ("tiny", at("format", value=1), r"an older dubito wrote it \(format 1\): fit the model again"),
    "version true": ("tiny", at("format", value=True), "unexpected keys"),
    "version 0": ("tiny", at("format", value=0), "unexpected keys"),
    "version a text": ("tiny", at("format", value="1"), "unexpected keys"),
    "kind os.system": ("tiny", at("kind", value="os.system"), "kind 'os.system'"),
    "kind a list": ("tiny", at("kind", value=["BayesianRegressor"]), "not a usable"),
    "kind of other task": ("tiny", at("kind", value="BayesianClassifier"), "parameters have other names"),
    "kind and parameters of other task": ("tiny", as_classifier, "do not match the task"),
    "network os.system": ("tiny", at(*NETWORK, "class", value="os.system"), "the class 'os.system'"),
    "network a path": ("tiny", at(*NETWORK, "class", value="../../etc/passwd"), "the class '../../etc/passwd'"),
    "network a method": ("tiny", at(*NETWORK, value=lambda old: {"class": "Normal"}), "unexpected fields of Normal"),
    "network without class": ("tiny", without(*NETWORK, "class"), "the class None"),
    "network of class a list": ("tiny", at(*NETWORK, "class", value=["MLP"]), "not a usable"),
    "network with more": ("tiny", at(*NETWORK, value=lambda old: old | {"code": "x"}), "unexpected fields of MLP"),
    "network with less": ("tiny", without(*NETWORK, "activation"), "unexpected fields of MLP"),
    "method os.system": ("tiny", at(*METHOD, "class", value="os.system"), "the class 'os.system'"),
    "method a prior": ("tiny", at(*METHOD, value={"class": "Laplace", "scale": 1.0, "biases": 1.0}), "not a usable"),
    "method a text": ("tiny", at(*METHOD, value="MAP"), "not a usable"),
    "optimizer os.system": ("tiny", at(*METHOD, "optimizer", value="os.system"), "optimizer='os.system' is unknown"),
    "schedule a path": ("tiny", at(*METHOD, "schedule", value="/etc/passwd"), "schedule='/etc/passwd' is unknown"),
    "activation unknown": ("tiny", at(*NETWORK, "activation", value="__import__"), "'__import__' is unknown"),
    "activation none": ("tiny", at(*NETWORK, "activation", value=None), "MLP with activation='None'"),
    "hidden size 10^9": ("tiny", at(*NETWORK, "hidden", value=[10**9]), "must be "),
    "hidden sizes 10^9": ("tiny", at(*NETWORK, "hidden", value=[10**9] * 2), "not a usable"),
    "hidden size 10^99": ("tiny", at(*NETWORK, "hidden", value=[10**99]), "not a usable"),
    "hidden size -2": ("tiny", at(*NETWORK, "hidden", value=[-2]), "at least 1"),
    "hidden size 2.0": ("tiny", at(*NETWORK, "hidden", value=[2.0]), "whole number"),
    "hidden size a text": ("tiny", at(*NETWORK, "hidden", value=["2"]), "whole number"),
    "hidden of 10^6 sizes": ("tiny", at(*NETWORK, "hidden", value=[2] * 10**6), "a list of 1000000 entries"),
    "hidden of 10^5 sizes": ("tiny", at(*NETWORK, "hidden", value=[2] * 10**5), "too large"),
    "method of 10^6 entries": ("tiny", at(*METHOD, "clip", value=[1] * 10**6), "a list of 1000000 entries"),
    "parameter of 10^6 entries": ("tiny", at("params", "hidden", value=[1] * 10**6), "a list of 1000000 entries"),
    "numeric of another column": ("default", at(*NETWORK, "mean", "numeric", value=[0, 7]), "numeric names columns"),
    "draws 10^12": ("tiny", at("posterior", "draws", value=10**12), "must be "),
    "draws 0": ("tiny", at("posterior", "draws", value=0), "0 draws"),
    "draws true": ("tiny", at("posterior", "draws", value=True), "True draws"),
    "posterior os.system": ("tiny", at("posterior", "kind", value="os.system"), "the posterior 'os.system'"),
    "posterior with more": (
        "tiny",
        at("posterior", value=lambda old: old | {"code": 1}),
        "unexpected keys of a posterior",
    ),
    "posterior with less": ("tiny", without("posterior", "draws"), "unexpected keys of a posterior"),
    "posterior a list": ("tiny", at("posterior", value=[1]), "not a usable"),
    "rate 1.5": ("dropout", at("posterior", "rates", value=lambda old: [None, None, None, 1.5]), "dropout rates"),
    "rate a text": ("dropout", at("posterior", "rates", value=lambda old: [*old[:-1], "0.1"]), "not a usable"),
    "masks of another kind": ("dropout", at("posterior", "masks", value="concrete"), "masks 'concrete'"),
    "rates fewer": ("dropout", at("posterior", "rates", value=[None]), "dropout rates"),
    "mixture of nothing": ("ensemble", at("posterior", "parts", value=[]), "a mixture with 0 parts"),
    "mixture of 10^5": (
        "ensemble",
        at("posterior", "parts", value=lambda old: [{"model": 1}] * 10**5),
        "a mixture with 100000 parts",
    ),
    "mixture of others": (
        "ensemble",
        at("posterior", "parts", 1, "model", "network", "hidden", value=[5]),
        "parts of a mixture differ",
    ),
    "mixture of many models": ("tiny", lambda c, a: packed(of_many_models(c), a), "too many models"),
    "noise for another network": (
        "renoised",
        at("posterior", "parts", 0, "part", "model", "network", "hidden", value=[5]),
        "belongs to another network",
    ),
    "groups with a leaf twice": (
        "laplace",
        at("posterior", "part", "part", "groups", value=lambda old: [*old, old[-1]]),
        "groups of parameters",
    ),
    "groups with a vast side": (
        "laplace",
        at("posterior", "part", "part", "groups", 0, 1, value=10**9),
        "groups of parameters",
    ),
    "around another network": (
        "laplace",
        at("posterior", "part", "model", "network", "hidden", value=[5]),
        "belongs to another network",
    ),
    # the estimator
    "parameter more": ("tiny", at("params", value=lambda old: old | {"callback": 1}), "parameters have other names"),
    "parameter less": ("tiny", without("params", "draws"), "parameters have other names"),
    "parameter of a class": ("tiny", at("params", "prior", value={"class": "posix.system"}), "class 'posix.system'"),
    "calibration a prior": (
        "tiny",
        at("calibration", value={"class": "Laplace", "scale": 1.0, "biases": 1.0}),
        "invalid calibr",
    ),
    "calibration of classes": ("tiny", at("calibration", value=TEMPERATURE), "a temperature is for classes"),
    "calibration of numbers": ("classes", at("calibration", value=quantiles()), "for regression"),
    "calibration that falls": (
        "tiny",
        at("calibration", value=quantiles(v=[1.0, 0.0])),
        "quantile map knots must increase",
    ),
    "calibration of texts": ("tiny", at("calibration", value=quantiles(v=["0", "1"])), "tuples of numbers"),
    "calibration of one knot": ("tiny", at("calibration", value=quantiles(u=[0.0], v=[0.0])), "not a usable"),
    "calibration of factor 0": ("tiny", at("calibration", value=quantiles(factor=0.0)), "factors are positive"),
    "calibration of more targets": ("targets", at("calibration", value=quantiles()), "not for 2 targets"),
    "margins of texts": ("tiny", at("calibration", value=conformal(["0"])), "not a usable"),
    "margins of more targets": ("tiny", at("calibration", value=conformal([0.0, 0.0])), "1 finite numbers"),
    "CV+ of a member less": ("committee", at("calibration", value=cv_plus([[0.1]])), "belongs to other members"),
    "CV+ of no committee": ("tiny", at("calibration", value=cv_plus([[0.1]])), "belongs to other members"),
    "CV+ of texts": ("committee", at("calibration", value=cv_plus([["0"]], [["1"]])), "not a usable"),
    "CV+ out of order": ("committee", at("calibration", value=cv_plus([[0.2, 0.1]], [[0.3]])), "sorted errors"),
    "CV+ of more targets": ("committee", at("calibration", value=cv_plus([[0.1], [0.1]], [[], []])), "of 1 targets"),
    "CV+ of nothing": ("committee", at("calibration", value=cv_plus([[]], [[]])), "no errors"),
    "score os.system": ("tiny", at("calibration", value=conformal(None, score="os.system")), "score='os.system'"),
    "handle_unknown": ("tiny", at("params", "handle_unknown", value="skip"), "handle_unknown"),
    "parameter draws -1": ("tiny", at("params", "draws", value=-1), "draws must be a whole number"),
    "parameter draws a text": ("tiny", at("params", "draws", value="../x"), "draws must be a whole number"),
    "parameter draws 2^40": ("tiny", at("params", "draws", value=2**40), "draws must be a whole number"),
    "class weights of no pairs": ("classes", at("params", "class_weight", value=[[1, 2, 3]]), "not a usable"),
    "class weights of lists": ("classes", at("params", "class_weight", value=[[["low"], 1.0]]), "class_weight has"),
    "class weight 0": ("classes", at("params", "class_weight", value=[["low", 0]]), "positive finite numbers"),
    "class weight a text": ("classes", at("params", "class_weight", value="../x"), "class_weight must be None"),
    "class weight of a regression": ("tiny", at("params", "class_weight", value=None), "parameters have other names"),
    "parameter verbose": ("tiny", at("params", "verbose", value=True), "parameters have other names"),
    "schema of other width": ("tiny", at("schema", "columns", value=lambda old: old[:1]), "does not match the table"),
    "schema more": ("tiny", at("schema", value=lambda old: old | {"path": "x"}), "table schema"),
    "schema with scale 0": ("tiny", at("schema", "columns", 0, "scale", value=0.0), "table schema"),
    "scale 0": ("tiny", at("scaler", "scale", value=[0.0]), "numbers of a scaler"),
    "scale a text": ("tiny", at("scaler", "scale", value=["1.0"]), "numbers of a scaler"),
    "scale of two": (
        "tiny",
        at("scaler", value={"shift": [0.0, 0.0], "scale": [1.0, 1.0]}),
        "does not match the table",
    ),
    "no scale": ("tiny", at("scaler", value=None), "do not match the task"),
    "key of one": ("tiny", at("key", value=[1]), "invalid key"),
    "key of fractions": ("tiny", at("key", value=[1.5, 2.0]), "invalid key"),
    "key below 0": ("tiny", at("key", value=[-1, 2]), "not a usable"),
    "flat 1": ("tiny", at("flat", value=1), "shape of its target"),
    "flat of two targets": ("targets", at("flat", value=True), "shape of its target"),
    "temperature 1e-320": (
        "classes",
        at("posterior", "model", "likelihood", "temperature", value=1e-320),
        "temperature",
    ),
    "classes of 4 GB": ("classes", at("classes", "dtype", value="<U100000000"), "dtype of its classes"),
    "classes cut": ("classes", at("classes", "dtype", value="<U2"), "do not match their dtype"),
    "classes dates": ("classes", at("classes", "dtype", value="<M8[s]"), "dtype of its classes"),
    "classes void": ("classes", at("classes", "dtype", value="i4,O"), "dtype of its classes"),
    "classes unsorted": ("classes", at("classes", "values", value=lambda old: old[::-1]), "not sorted"),
    "classes twice": ("classes", at("classes", "values", value=lambda old: [old[0], *old[:2]]), "not sorted"),
    "classes fewer": ("classes", at("classes", "values", value=lambda old: old[:2]), "does not match the table"),
    "classes mixed": ("classes", at("classes", "values", value=[1, "a", 2.0]), "invalid classes"),
    "classes of lists": ("classes", at("classes", "values", value=[[1], [2], [3]]), "invalid classes"),
    "classes missing": ("classes", at("classes", value=None), "do not match the task"),
    # arrays
    "NaN weight": ("tiny", tensor("w", spoiled(np.nan)), "not finite"),
    "infinite weight": ("tiny", tensor("b", spoiled(-np.inf)), "not finite"),
    "missing array": ("tiny", lambda c, a: packed(c, {k: v for k, v in a.items() if k != BIAS}), "not those"),
    "extra array": ("tiny", lambda c, a: packed(c, a | {"code": np.ones(3, np.float32)}), "not those"),
    "renamed array": ("tiny", lambda c, a: packed(c, {f"{k}/../x": v for k, v in a.items()}), "not those"),
    "float64 array": ("tiny", tensor("w", lambda array: array.astype(np.float64)), "must be float32"),
    "int32 array": ("tiny", tensor("w", lambda array: array.view(np.int32)), "must be float32"),
    "swapped dtype": ("tiny", lambda c, a: packed(c, a, weight={"dtype": "U32"}), "must be float32"),
    "unknown dtype": ("tiny", lambda c, a: packed(c, a, weight={"dtype": "F4_EVIL"}), "must be float32"),
    "dtype a list": ("tiny", lambda c, a: packed(c, a, weight={"dtype": ["F32"]}), "must be float32"),
    "flat shape": ("tiny", lambda c, a: packed(c, a, weight={"shape": [4]}), "must be "),
    "shape bomb": ("tiny", lambda c, a: packed(c, a, weight={"shape": WIDE}), "must be "),
    "shape that overflows": ("tiny", lambda c, a: packed(c, a, weight={"shape": [2**32, 2**32]}), "must be "),
    "shape of fractions": (
        "tiny",
        lambda c, a: packed(c, a, weight={"shape": [1.0, 2.0, 2.0]}),
        "Error while deserializing",
    ),
    "shape of truth": ("tiny", lambda c, a: packed(c, a, weight={"shape": [True, 2, 2]}), "Error while deserializing"),
    "shape a text": ("tiny", lambda c, a: packed(c, a, weight={"shape": "x"}), "must be "),
    "other network": ("tiny", of_other_size, "must be "),
    "overlap": (
        "tiny",
        lambda c, a: packed(c, a, bias={"data_offsets": lambda span: [end - 4 for end in span]}),
        "Error while deserializing",
    ),
    "gap at the start": ("tiny", lambda c, a: framed_with_gap(c, a), "left over"),
    "offsets below 0": ("tiny", lambda c, a: packed(c, a, bias={"data_offsets": [-8, 0]}), "Error while deserializing"),
    "offsets reversed": ("tiny", lambda c, a: packed(c, a, bias={"data_offsets": [8, 0]}), "Error while deserializing"),
    "offsets past the end": (
        "tiny",
        lambda c, a: packed(c, a, bias={"data_offsets": [2**50, 2**50 + 8]}),
        "Error while deserializing",
    ),
    "offsets of fractions": (
        "tiny",
        lambda c, a: packed(c, a, bias={"data_offsets": [0.0, 8.0]}),
        "Error while deserializing",
    ),
    "one offset": ("tiny", lambda c, a: packed(c, a, bias={"data_offsets": [8]}), "Error while deserializing"),
    "entry more": ("tiny", lambda c, a: packed(c, a, bias={"code": 1}), "malformed entry"),
    "entry a list": ("tiny", lambda c, a: packed(c, a, header=lambda h: h | {BIAS: []}), "malformed entry"),
    "one byte more": ("tiny", lambda c, a: packed(c, a) + b"\0", "left over"),
    "a line end more": ("tiny", lambda c, a: packed(c, a) + b"\n", "left over"),
    "twice": ("tiny", lambda c, a: packed(c, a) * 2, "left over"),
    "one byte less": ("tiny", lambda c, a: packed(c, a)[:-1], "left over"),
}


def framed_with_gap(config, arrays):
    """All arrays eight bytes later than they should be."""
    found, blob = entries_of(arrays)
    for entry in found.values():
        entry["data_offsets"] = [end + 8 for end in entry["data_offsets"]]
    about = {"dubito": text_of(config), "sha256": hashed(text_of(config), arrays)}
    return framed(json.dumps({"__metadata__": about, **found}, separators=(",", ":")), b"\0" * 8 + blob)


SPECIAL = {
    "a link": (lambda path, good: path.symlink_to(good), "a link is not followed"),
    "a link to nowhere": (lambda path, good: path.symlink_to("nowhere"), "cannot read"),
    "a loop": (lambda path, good: path.symlink_to(path), "cannot read"),
    "a pipe": (lambda path, good: os.mkfifo(path), "not a regular file"),
    "a device": (lambda path, good: os.mknod(path, 0o20666, os.makedev(1, 5)), "not a regular file"),
    "a folder": (lambda path, good: path.mkdir(), "not a regular file"),
    "nothing": (lambda path, good: None, "No such file"),
    "a sparse giant": (lambda path, good: sparse(path, 2**33), "impossible length"),
    "too large": (lambda path, good: sparse(path, 2**34 + 1), "17179869185 bytes"),
    "a giant of zeros": (lambda path, good: sparse(path, 2**33, good.read_bytes()), "left over"),
}


def sparse(path, size, start=b""):
    path.write_bytes(start)
    os.truncate(path, size)


AUDIT = """
import json, sys, time
import dubito
jobs, watched = json.load(sys.stdin), []
for good in jobs["good"]:
    dubito.load(good)
sys.addaudithook(lambda event, args: watched.append([event, str(args[0]) if args else ""]))
found = {}
for name, path in jobs["ill"].items():
    watched.clear()
    start = time.process_time()  # not that of others beside it
    try:
        error, words = None, repr(dubito.load(path))
    except dubito.ModelFileError as caught:
        error, words = "ModelFileError", str(caught)
    except BaseException as caught:
        error, words = type(caught).__name__, str(caught)
    seconds = time.process_time() - start
    found[name] = {"error": error, "words": words, "seconds": seconds, "events": list(watched)}
print(json.dumps(found))
"""
SILENT = ("object.", "sys._getframe", "code.__new__", "gc.", "array.__new__", "builtins.id")  # inside Python only


@pytest.fixture(scope="module")
def verdicts(fitted, folder):
    """What another process, under an audit hook, says of every ill and every special file."""
    ill = folder / "ill"
    ill.mkdir()
    paths = {name: str(ill / name.replace("/", " ")) for name in [*ILL, *SPECIAL]}
    for name, (base, make, _) in ILL.items():
        pathlib.Path(paths[name]).write_bytes(make(*parts(fitted.file(base).read_bytes())))
    for name, (make, _) in SPECIAL.items():
        try:
            make(pathlib.Path(paths[name]), folder / "tiny")
        except PermissionError:  # only root makes devices
            paths[name] = "/dev/zero"
    jobs = {"good": [str(fitted.file(name)) for name in CASES], "ill": {**paths, "/dev/zero": "/dev/zero"}}
    found = json.loads(run(AUDIT, input=json.dumps(jobs), cwd=ill))
    return {name: verdict | {"path": jobs["ill"][name]} for name, verdict in found.items()}


@pytest.mark.slow
def test_load_reads_files_packed_by_hand(fitted, folder):
    """So that each ill file is refused for what is ill about it."""
    for case in CASES:
        path = folder / f"{case} by hand"
        path.write_bytes(packed(*parts(fitted.file(case).read_bytes())))
        dubito.load(path).save(folder / f"{case} again")
        assert answers_of(folder / f"{case} again") == answers_of(folder / case)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ILL, *SPECIAL, "/dev/zero"])
def test_load_refuses_malformed_files(verdicts, name):
    wanted = {name: case[-1] for name, case in (ILL | SPECIAL).items()} | {"/dev/zero": "not a regular file"}
    verdict = verdicts[name]
    assert verdict["error"] == "ModelFileError"
    with pytest.raises(ValueError, match=wanted[name]):
        raise ValueError(verdict["words"])
    assert len(verdict["words"]) < 1000
    assert verdict["seconds"] < 1
    heard = [event for event in verdict["events"] if not event[0].startswith(SILENT)]
    descriptor = [["open", str(number)] for number in range(9)]  # of the file that is open already
    heard = [
        event for event in heard if not (event[0] == "open" and event[1].endswith(".py"))
    ]  # sources, for JAX's errors
    assert all(event == ["open", verdict["path"]] or event in descriptor for event in heard)
    assert not os.path.exists(os.path.join(os.path.dirname(verdict["path"]), "run-by-pickle"))


def described(data):
    """What ``archive.read_archive`` expects in this file, without asking JAX again."""
    wanted = {name: (array.dtype.name, array.shape) for name, array in parts(data)[1].items()}
    return lambda config: wanted


def refused(path, expected):
    try:
        archive.read_archive(path, expected)
    except dubito.ModelFileError:
        return True
    return False


def test_load_refuses_truncated_files(fitted, folder, tmp_path):
    data, large = (fitted.file(name).read_bytes() for name in ("tiny", "renoised"))
    path, expected = tmp_path / "cut", described(data)
    path.write_bytes(data)
    assert not refused(path, expected)
    for length in reversed(range(len(data))):
        os.truncate(path, length)
        assert refused(path, expected), length
    path.write_bytes(large)
    for length in [len(large) - 1, *range(len(large) - 2, 64, -97), *reversed(range(64))]:
        os.truncate(path, length)
        with pytest.raises(dubito.ModelFileError):
            dubito.load(path)


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80, 0xFF])
def test_read_archive_refuses_any_flipped_byte(fitted, folder, tmp_path, mask):
    data = (folder / "tiny").read_bytes()
    path, expected = tmp_path / "flipped", described(data)
    path.write_bytes(data)
    with open(path, "r+b", buffering=0) as file:
        for place, byte in enumerate(data):
            os.pwrite(file.fileno(), bytes([byte ^ mask]), place)
            assert refused(path, expected), place
            os.pwrite(file.fileno(), bytes([byte]), place)
    assert not refused(path, expected)


@pytest.mark.parametrize("path", ["", "a\0b", "\udcff", "x" * 300, b"bytes", 10**6, None, 1.5])
def test_load_and_save_refuse_impossible_paths(path, fitted):
    with pytest.raises(dubito.ModelFileError):
        dubito.load(path)
    if isinstance(path, str) and path != "\udcff":
        with pytest.raises(dubito.ModelFileError):
            fitted["tiny"].save(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a":"[[[[{{{{\\"[[["}', {"a": '[[[[{{{{"[[['}),
        ("[" * 32 + "]" * 32, None),
        ('"\\\\"', "\\"),
        ("[1.5e3,-0.0,1]", [1500.0, -0.0, 1]),
        ('"' + "[" * 1000 + '"', "[" * 1000),
        ('{"\\u0061":{"a":1},"b":{"a":1}}', {"a": {"a": 1}, "b": {"a": 1}}),
    ],
)
def test_strict_json_reads(text, value):
    assert strict_json(text) == (json.loads(text) if value is None else value)


@pytest.mark.parametrize(
    "text", ["[" * 10**5 + "]" * 10**5, '{"a":1,"a":1}', '{"a":1,"\\u0061":1}', "NaN", "[1e999]", "", "{]", "1 2"]
)
def test_strict_json_refuses(text):
    with pytest.raises(dubito.ModelFileError):
        strict_json(text)


# --- saving


def littered(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".dubito-")]


def blocked(folder):
    """Ways in which a path in ``folder`` cannot be written: (path, words)."""
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    (folder / "full").mkdir()
    (folder / "full" / "file").touch()
    (folder / "file").write_bytes(b"old")
    (folder / "link").symlink_to(folder / "file")
    return {
        "pipe": (folder / "pipe", "not a regular file"),
        "folder": (folder / "folder", "it is a folder"),
        "full folder": (folder / "full", "it is a folder"),
        "link": (folder / "link", "a symbolic link, not a regular file"),
        "parent": (folder / "missing" / "model", "No such file or directory"),
        "parent a file": (folder / "file" / "model", "Not a directory"),
        "long": (folder / ("x" * 300), "name too long"),
        "device": (pathlib.Path("/dev/null"), "not a regular file"),
    }


def test_save_says_why_a_path_cannot_be_written(fitted, tmp_path):
    for path, words in blocked(tmp_path).values():
        before = (
            os.lstat(path) if os.path.lexists(path.parent) and len(path.name) < 256 and os.path.lexists(path) else None
        )
        with pytest.raises(dubito.ModelFileError, match=words) as caught:
            fitted["tiny"].save(path)
        assert str(path) in str(caught.value)
        assert before is None or os.lstat(path).st_ino == before.st_ino
        assert littered(tmp_path) == []
    assert (tmp_path / "file").read_bytes() == b"old" and (tmp_path / "full" / "file").exists()


@pytest.mark.parametrize("name", ["größe 模型 🎲.dubito", "x" * 200, ".hidden", "-o", "a b", "new\nline"])
def test_save_accepts_unusual_file_names(fitted, tmp_path, name, monkeypatch):
    fitted["tiny"].save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    fitted["tiny"].save(name)  # over the old one, by a relative path
    assert np.array_equal(dubito.load(name).predict(table()[0]), fitted["tiny"].predict(table()[0]))
    assert os.listdir(tmp_path) == [name]


def test_save_keeps_the_permissions_of_the_file(fitted, tmp_path):
    path = tmp_path / "model"
    fitted["tiny"].save(path)
    path.chmod(0o600)
    fitted["tiny"].save(path)
    assert path.stat().st_mode & 0o777 == 0o600


NOBODY = """
import os, pathlib, sys
from dubito._process import archive
if os.geteuid() == 0:
    os.setegid(65534), os.seteuid(65534)
for path in sys.argv[1:]:
    try:
        archive.write_archive(path, {}, {})
        print("written")
    except archive.ModelFileError as error:
        print(error)
"""


def test_save_without_permission_leaves_the_old_file():
    """As root nothing is forbidden, so the process becomes another user."""
    with tempfile.TemporaryDirectory() as name:
        closed, opened = pathlib.Path(name) / "closed", pathlib.Path(name) / "open"
        for folder, mode in ((closed, 0o555), (opened, 0o777)):
            folder.mkdir()
            (folder / "file").write_bytes(b"old")
            (folder / "file").chmod(0o444)
            folder.chmod(mode)
        os.chmod(name, 0o755)
        said = run(NOBODY, closed / "new", closed / "file", opened / "file", opened / "new").splitlines()
        assert [line.split(": ")[-1] for line in said[:3]] == [
            "Permission denied. An older file there is unchanged.",
            "it is read-only. An older file there is unchanged.",
            "it is read-only. An older file there is unchanged.",
        ]
        assert said[3] == "written" and archive.read_archive(opened / "new", lambda config: {}) == ({}, {})
        assert (closed / "file").read_bytes() == (opened / "file").read_bytes() == b"old"
        assert littered(closed) == littered(opened) == []
        closed.chmod(0o755)


FULL = """
import resource, signal, sys
import numpy as np
from dubito._process import archive
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    archive.write_archive(sys.argv[1], {}, {"a": np.ones(10_000, np.float32)})
except archive.ModelFileError as error:
    print(error)
"""


@pytest.mark.parametrize("room", [0, 1, 4096, 40_000])
def test_save_on_a_full_disk_leaves_the_old_file(tmp_path, room):
    path = tmp_path / "model"
    archive.write_archive(path, {}, {"a": np.zeros(3, np.float32)})
    before = path.read_bytes()
    assert "File too large. An older file there is unchanged" in run(FULL, path, room)
    assert path.read_bytes() == before and littered(tmp_path) == []
    assert run(FULL, path, 10**6) == "" and archive.read_archive(path, lambda config: {"a": ("float32", (10_000,))})


WRITER = """
import sys
import numpy as np
from dubito._process import archive
for _ in range(int(sys.argv[3])):
    archive.write_archive(sys.argv[1], {"from": sys.argv[2]}, {"a": np.full(50_000, float(sys.argv[2]), np.float32)})
"""


def whole(path, size):
    """Which writer's file this is; it is read to the last byte."""
    config, arrays = archive.read_archive(path, lambda config: {"a": ("float32", (size,))})
    assert np.all(arrays["a"] == float(config["from"]))
    return config["from"]


def test_readers_see_whole_files_while_two_processes_save(tmp_path):
    path = tmp_path / "model"
    archive.write_archive(path, {"from": "0"}, {"a": np.zeros(50_000, np.float32)})
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), each, "150"]) for each in "12"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        seen.add(whole(path, 50_000))  # a reader never sees half a file either
    assert [writer.returncode for writer in writers] == [0, 0]
    assert whole(path, 50_000) in ("1", "2") and seen >= {"1", "2"}
    assert os.listdir(tmp_path) == ["model"]


KILLED = """
import os, random, signal, sys, time
import numpy as np
from dubito._process import archive
path, moments = sys.argv[1], random.Random(0)
for turn in range(20):
    child = os.fork()
    if child == 0:
        number = 0
        while True:
            number += 1
            archive.write_archive(path, {"from": str(number)}, {"a": np.full(200_000, float(number), np.float32)})
    time.sleep(moments.uniform(0.0, 0.06))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    config, arrays = archive.read_archive(path, lambda config: {"a": ("float32", (200_000,))})
    assert np.all(arrays["a"] == float(config["from"])), turn
    print(config["from"])
"""


def test_a_killed_save_leaves_a_whole_file(tmp_path):
    path = tmp_path / "model"
    archive.write_archive(path, {"from": "0"}, {"a": np.zeros(200_000, np.float32)})
    last = run(KILLED, path).split()
    assert len(last) == 20 and len(set(last)) > 1  # the moments were before, between and within several saves


def with_posterior(estimator, found):
    other = copy.copy(estimator)
    other.posterior_ = found
    return other


def test_save_refuses_callables_and_foreign_classes(fitted, tmp_path):
    tiny = fitted["tiny"]
    own = dubito.Network(lambda key: {"w": np.ones((2, 1), np.float32)}, lambda params, x: x @ params["w"])
    samples = dubito.Samples(dubito.Model(own, dubito.Gaussian()), {"network": {"w": np.ones((1, 2, 1))}})
    gradient = dubito.MAP(optimizer=optax.adam(1e-3))
    activated = dubito.mlp(2, (2,), activation=jnp.tanh)
    cases = {
        "activation=<.*tanh": copy.copy(tiny).set_params(activation=jax.numpy.tanh),
        "activation=<PjitFunction of <function tanh": with_posterior(
            tiny, dubito.Samples(dubito.Model(activated, dubito.Gaussian()), {})
        ),
        r"a network of type Network cannot be saved": with_posterior(tiny, samples),
        "optimizer=.*GradientTransformation": copy.copy(tiny).set_params(method=gradient),
        "a posterior of type SimpleNamespace": with_posterior(tiny, types.SimpleNamespace(model=None)),
        "learning_rate=inf": copy.copy(tiny).set_params(method=dubito.MAP(learning_rate=np.inf)),
        "a .*Mine cannot be saved": Mine.of(tiny),
    }
    for words, estimator in cases.items():
        with pytest.raises(dubito.ModelFileError, match=words):
            estimator.save(tmp_path / "model")
    with pytest.raises(NotFittedError):
        dubito.BayesianRegressor().save(tmp_path / "model")
    assert os.listdir(tmp_path) == []


class Mine(dubito.BayesianRegressor):
    """What is added here would be lost in a file."""

    @classmethod
    def of(cls, estimator):
        found = cls()
        vars(found).update(vars(estimator))
        return found


def test_save_writes_nothing_that_cannot_be_read(fitted, tmp_path):
    """Better to hear it while the model is still there."""
    path = tmp_path / "model"
    fitted["tiny"].save(path)
    before = path.read_bytes()
    deep = copy.copy(fitted["tiny"]).set_params(hidden=(1,) * (codec.LIST + 1))
    lost = with_posterior(fitted["tiny"], dubito.Samples(fitted["tiny"].posterior_.model, broken(fitted["tiny"])))
    for estimator, words in ((deep, "a list of 100001 entries"), (lost, "not finite")):
        with pytest.raises(dubito.ModelFileError, match=words):
            estimator.save(path)
    with pytest.raises(dubito.ModelFileError, match=r"too large to save: its description .* has \d+ bytes"):
        archive.write_archive(path, {"a": "x" * archive.HEADER}, {})
    assert path.read_bytes() == before and littered(tmp_path) == []


def broken(estimator):
    return jax.tree.map(lambda leaf: leaf * np.float32(np.nan), estimator.posterior_.params)
