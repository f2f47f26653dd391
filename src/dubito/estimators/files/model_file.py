"""Fitted estimators as one safe file: their parameters, what they learned, and what was there to learn; and back."""

import importlib.metadata
import json
import os
import tempfile
import time
import warnings
from itertools import pairwise
from typing import Any

import numpy as np
from sklearn.base import RegressorMixin

from dubito._check import DataError, DataWarning
from dubito._process import archive
from dubito._process.archive import ModelFileError, expect
from dubito.estimators.files import codec, posterior_file
from dubito.estimators.files.codec import decode, encode
from dubito.evaluation.conformal import CVPlus
from dubito.models import networks
from dubito.models.linearized import Linearized
from dubito.posteriors.function_samples import check_draws
from dubito.tables.scaling import TargetScaler
from dubito.tables.schema import Schema

FORMAT = 1
TEXTS = archive.HEADER // 2  # bytes of names, categories and classes
MODELS = 8  # different ones in a posterior: each is traced, which takes milliseconds
LIBRARIES = ("dubito", "jax", "numpy", "optax", "scikit-learn")


def save(estimator, path):
    """Write a fitted estimator to ``path``; its parameters, what it learned, and what was there to learn."""
    kind = type(estimator)
    if not kind.__module__.startswith("dubito.estimators."):  # what a subclass adds would be lost
        raise ModelFileError(f"a {kind.__module__}.{kind.__qualname__} cannot be saved, only dubito's own estimators")
    classes, scaler = estimator._classes, estimator.scaler_
    params = estimator.get_params(deep=False)
    if not isinstance(params["random_state"], int | np.integer | None):
        params["random_state"] = None
    config = {
        "format": FORMAT,
        "kind": kind.__name__,
        "params": {name: encode(value, name) for name, value in params.items()},
        "method": encode(estimator.method_, "method"),
        "schema": estimator.schema_.to_dict(),
        "scaler": None if scaler is None else {"shift": list(scaler.shift), "scale": list(scaler.scale)},
        "classes": None if classes is None else {"dtype": classes.dtype.str, "values": classes.tolist()},
        "flat": vars(estimator).get("_flat", True),
        "key": estimator.key_.tolist(),
        "posterior": posterior_file.posterior_config(estimator.posterior_),
        "calibration": encode(estimator.calibration_, "calibration"),
        "summary": estimator.summary_,
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }
    try:  # what cannot be read again must not be written
        found = posterior_file.posterior_arrays(estimator.posterior_, config["posterior"])
        read = archive.strict_json(archive.canonical(config))
        _expected(read, {kind.__name__: kind})
        build_estimator(read, found, {kind.__name__: kind})
    except Exception as error:
        raise ModelFileError(f"the estimator cannot be saved: {error}") from error
    archive.write_archive(path, config, found)


def check_texts(schema, classes=None):
    """DataError, before anything is trained, where the names and texts of a table are more than a model file can hold;
    DataWarning where its number of columns is."""
    sizes = {f"column {column.name!r}": _bytes([column.name, *column.categories]) for column in schema.columns}
    sizes |= {} if classes is None else {"the target's classes": _bytes(classes.tolist())}
    largest = max(sizes, key=lambda name: sizes[name])
    if sum(sizes.values()) > TEXTS:
        raise DataError(
            f"The names and texts of this table have {sum(sizes.values()):,} bytes, of which a model file holds {TEXTS:,}. The "
            f"most are of {largest}: {sizes[largest]:,} bytes. Leave it out, shorten its texts, or pool its rare ones."
        )
    total = _bytes(schema.to_dict())
    if total > archive.HEADER - TEXTS // 2:
        warnings.warn(
            f"{len(schema.columns):,} columns need {total:,} bytes of description, about as many as a model file can hold "
            f"({archive.HEADER:,}): saving this model may fail.",
            DataWarning,
            stacklevel=4,
        )


def _bytes(value):
    """How many bytes a value takes in a model file, whose header holds JSON as a text in JSON."""
    return len(json.dumps(json.dumps(value, separators=(",", ":")), ensure_ascii=False))


def save_or_fall_back(estimator, path):
    """Save to ``path``; where that fails, to another folder, so that the work is not lost, and raise ModelFileError that
    names the file."""
    try:
        estimator.save(path)
    except ModelFileError as error:
        name = f"dubito-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.dubito"
        for folder in (tempfile.gettempdir(), os.path.expanduser("~"), os.getcwd()):
            other = os.path.join(folder, name)
            try:
                estimator.save(other)
            except ModelFileError:
                continue
            raise ModelFileError(f"{error} The model was written to {other!r} instead: move it from there.") from error
        raise


def read_estimator(path, kinds):
    """The estimator in the file; ``kinds``: the classes by name that it may be of. Raises ModelFileError."""
    try:
        config, found = archive.read_archive(path, lambda config: _expected(config, kinds))
        return build_estimator(config, found, kinds)
    except ModelFileError:
        raise
    except Exception as error:  # whatever an ill configuration makes of the code above, the file is at fault
        raise ModelFileError(f"not a usable model file: {error}") from error


KEYS = {*"format kind params method schema scaler classes flat key posterior calibration summary versions".split()}


def _expected(config, kinds):
    version = config.get("format")
    expect(type(version) is not int or version <= FORMAT, f"a newer dubito wrote it (format {version}): update dubito")
    expect(type(version) is int and version == FORMAT and set(config) == KEYS, "its configuration has other keys")
    expect(config["kind"] in kinds, f"it is of kind {config['kind']!r}")
    expect(len(posterior_file.models_in(config["posterior"])) <= MODELS, "its posterior is of too many models")
    return posterior_file.expected_arrays(config["posterior"])


def build_estimator(config, found, kinds):
    """The estimator of a configuration and its arrays, whose parts must fit one another."""
    schema, posterior_ = Schema.from_dict(config["schema"]), posterior_file.build_posterior(config["posterior"], found)
    scaler, classes = _scaler(config["scaler"]), _classes(config["classes"])
    method, params = (
        decode(config["method"]),
        {name: decode(value) for name, value in config["params"].items()},
    )
    kind = kinds[config["kind"]]
    expect(set(params) == set(kind().get_params(deep=False)), "its parameters have other names")
    expect(params["handle_unknown"] in ("error", "ignore"), "its parameter handle_unknown")
    check_draws(params["draws"])
    method.check(posterior_.model)
    task = "regression" if issubclass(kind, RegressorMixin) else "classification"
    expect((scaler is None, classes is None) == (task != "regression", task == "regression"), "its kind of target")
    wanted = len(scaler.shift if classes is None else classes)
    expect(task == posterior_.model.likelihood.task, "its likelihood's task")
    expect(_fits(posterior_.model, schema.width, wanted), "its network fits not its table")
    flat, key = config["flat"], config["key"]
    expect(type(flat) is bool and not (flat and classes is None and wanted > 1), "the shape of its target")
    expect([*map(type, [*key, config["summary"]])] == [int, int, dict], "its key or summary")
    calibration = decode(config["calibration"])
    expect(isinstance(calibration, (*codec.CALIBRATIONS, type(None))), "its calibration")
    if calibration is not None:
        calibration.check(posterior_.model.likelihood, wanted)
    if isinstance(calibration, CVPlus):
        expect(len(calibration.errors) == len(posterior_.parts), "its calibration is of other members")
    attributes = {
        "method_": method,
        "schema_": schema,
        "scaler_": scaler,
        "posterior_": posterior_,
        "key_": np.array(key, np.uint32),
        "calibration_": calibration,
        "summary_": config["summary"],
        "history_": [],
        "_flat": flat,
        "n_features_in_": len(schema.columns),
    }
    attributes |= {} if classes is None else {"classes_": classes}
    attributes |= {"feature_names_in_": np.array(schema.names, dtype=object)} if schema.named else {}
    vars(estimator := kind(**params)).update(attributes)
    return estimator


def _fits(its_model, width, wanted):
    """Whether the model takes rows of ``width`` columns and answers with ``wanted`` targets or classes."""
    found, noise = _plain(its_model.network), its_model.likelihood
    count = noise.targets if noise.task == "regression" else noise.classes
    if isinstance(found, networks.MLP):
        return found.inputs == width and found.outputs == noise.width and count == wanted
    beside = found.noise is None or (found.noise.inputs, found.noise.outputs) == (width, wanted)
    mean = _plain(found.mean)
    inside = mean.inputs == width and mean.outputs >= wanted
    return beside and inside and noise.width == 2 * wanted and found.targets == count == wanted


def _plain(found):
    return found.network if isinstance(found, Linearized) else found


def _scaler(config) -> Any:
    if config is None:
        return None
    expect(set(config) == {"shift", "scale"}, "a scaler's keys")
    shift, scale = (tuple(config[name]) for name in ("shift", "scale"))
    plain = all(type(value) is float for value in shift + scale)  # the JSON holds finite ones only
    expect(plain and len(shift) == len(scale) and min(scale) > 0, "a scaler's numbers")
    return TargetScaler(shift, scale)


def _classes(config) -> Any:
    if config is None:
        return None
    expect(set(config) == {"dtype", "values"}, "the keys of its classes")
    kind, values = np.dtype(config["dtype"]), config["values"]
    expect(kind.kind in "iufbUO" and kind.itemsize * len(values) <= archive.HEADER, "the dtype of its classes")
    expect(len(values) > 1 and {type(value) for value in values} in ({str}, {int}, {float}, {bool}), "its classes")
    expect(all(a < b for a, b in pairwise(values)), "the order of its classes")
    classes = np.array(values, dtype=kind)
    expect(archive.canonical(classes.tolist()) == archive.canonical(values), "its classes are not of their dtype")
    return classes
