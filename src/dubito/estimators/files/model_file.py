"""Fitted estimators as one safe file: their parameters, and what they learned from which data; and
back.
"""

import json
import os
import tempfile
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np

from dubito._check import DataError, DataWarning, warn
from dubito._process import archive
from dubito._process.archive import Arrays, Config, Layout, ModelFileError, expect
from dubito._process.versions import library_versions
from dubito.estimators.files import codec, posterior_file
from dubito.estimators.files.codec import decode, encode
from dubito.evaluation.conformal import CVPlus
from dubito.models.likelihoods.gaussian import Gaussian, HeteroscedasticGaussian
from dubito.models.model import Model
from dubito.posteriors.function_samples import check_draws
from dubito.tables.class_weights import class_weights
from dubito.tables.scaling import TargetScaler
from dubito.tables.schema import Schema

Kinds: TypeAlias = Mapping[str, Any]  # classes of estimators by name

FORMAT = 4
# Fields since format 3, with the values that say how models of format 2 were fitted.
SINCE_3: dict[str, dict[str, Any]] = {
    **{
        name: {"noise": "training", "ema_epochs": None}
        for name in ("MAP", "MaximumLikelihood", "MCDropout", "ConcreteDropout", "VariationalDropout")
    },
    **{
        name: {"warm_up": 0.0, "ema_epochs": None}
        for name in ("BayesByBackprop", "SparseVariationalDropout", "VariationalGaussian")
    },
    "CrossFit": {"overlap": 0.0},
    "MLP": {"wave_scale": 1.0, "input_limit": None},
    "MeanAndNoiseNetwork": {"noise_std": None},
    "NaturalGradientVI": {"warm_up": 0.0, "clip_radius": 1e6},
}
SINCE_4: dict[str, Any] = {"held_out_uncertainty": None}  # keys since format 4: what earlier models know
KEYS = {
    *"format kind params method schema scaler transform classes flat key posterior calibration summary versions".split(),
    "held_out_uncertainty",
}
UNSAVED = {"verbose"}  # parameters of how a fit is shown
TEXTS = archive.HEADER // 2  # bytes of names, categories and classes
MODELS = 8  # different ones in a posterior: each is traced, which takes milliseconds


def save(estimator: Any, path: str | Path) -> None:
    """Write a fitted estimator to a file.

    Parameters
    ----------
    estimator : BayesianRegressor or BayesianClassifier
        A fitted estimator.
    path : str or Path
        The file.

    Raises
    ------
    ModelFileError
        If the file cannot be written, or if it could not be read again.
    """
    kind = type(estimator)
    if not kind.__module__.startswith("dubito.estimators."):  # what a subclass adds would be lost
        raise ModelFileError(f"a {kind.__module__}.{kind.__qualname__} cannot be saved, only dubito's own estimators")
    classes, scaler, uncertainty = estimator._classes, estimator.scaler_, estimator.held_out_uncertainty_
    params = {name: value for name, value in estimator.get_params(deep=False).items() if name not in UNSAVED}
    if isinstance(params.get("class_weight"), dict):
        params["class_weight"] = [*params["class_weight"].items()]
    if not isinstance(params["random_state"], int | np.integer | None):
        params["random_state"] = None
    if isinstance(params["method"], type):
        params["method"] = estimator.method_
    config = {
        "format": FORMAT,
        "kind": kind.__name__,
        "params": {name: encode(value, name) for name, value in params.items()},
        "method": encode(estimator.method_, "method"),
        "schema": estimator.schema_.to_dict(),
        "scaler": None if scaler is None else {"shift": list(scaler.shift), "scale": list(scaler.scale)},
        "transform": encode(estimator.transform_, "target_transform"),
        "classes": None if classes is None else {"dtype": classes.dtype.str, "values": classes.tolist()},
        "flat": scaler is None or len(scaler.shift) == 1,
        "key": estimator.key_.tolist(),
        "posterior": posterior_file.posterior_config(estimator.posterior_),
        "calibration": encode(estimator.calibration_, "calibration"),
        "held_out_uncertainty": None if uncertainty is None else uncertainty.tolist(),
        "summary": estimator.summary_,
        "versions": library_versions(),
    }
    try:  # what cannot be read again must not be written
        arrays = posterior_file.posterior_arrays(estimator.posterior_, config["posterior"])
        read = archive.strict_json(archive.canonical(config))
        _layout(read, {kind.__name__: kind})
        build_estimator(read, arrays, {kind.__name__: kind})
    except Exception as error:
        raise ModelFileError(f"the estimator cannot be saved: {error}") from error
    archive.write_archive(path, config, arrays)


def check_texts(schema: Schema, classes: np.ndarray | None = None) -> None:
    """Check, before training, that a model file can hold the names and texts of a table.

    Parameters
    ----------
    schema : Schema
        The columns.
    classes : array, optional
        The classes of the target.

    Raises
    ------
    DataError
        If it cannot. For too many columns there is only a DataWarning.
    """
    sizes = {f"column {column.name!r}": _bytes([column.name, *column.categories]) for column in schema.columns}
    sizes |= {} if classes is None else {"the target's classes": _bytes(classes.tolist())}
    largest = max(sizes, key=lambda name: sizes[name])
    if sum(sizes.values()) > TEXTS:
        raise DataError(
            f"The names and texts of this table have {sum(sizes.values()):,} bytes, but a model file holds at most "
            f"{TEXTS:,}. Most of them belong to {largest}: {sizes[largest]:,} bytes.",
            "Leave it out, shorten its texts, or pool its rare ones.",
        )
    total = _bytes(schema.to_dict())
    if total > archive.HEADER - TEXTS // 2:
        message = f"{len(schema.columns):,} columns need {total:,} bytes of description, about as many as a model file "
        warn(f"{message}can hold ({archive.HEADER:,}): saving this model may fail.", DataWarning)


def _bytes(value: Any) -> int:
    """How many bytes a value takes in a model file, whose header holds JSON as a text in JSON."""
    return len(json.dumps(json.dumps(value, separators=(",", ":")), ensure_ascii=False))


def save_or_fall_back(estimator: Any, path: str | Path) -> None:
    """Save an estimator, to another folder if ``path`` is impossible, so that the work is not lost.

    Parameters
    ----------
    estimator : BayesianRegressor or BayesianClassifier
        A fitted estimator.
    path : str or Path
        The file.

    Raises
    ------
    ModelFileError
        If ``path`` cannot be written; the message names the other file.
    """
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


def read_estimator(path: str | Path, kinds: Kinds) -> Any:
    """Read the estimator in a file.

    Parameters
    ----------
    path : str or Path
        The file.
    kinds : mapping
        The possible classes by name.

    Returns
    -------
    BayesianRegressor or BayesianClassifier
        The estimator.

    Raises
    ------
    ModelFileError
        For anything that ``save`` has not written.
    """
    try:
        config, arrays = archive.read_archive(path, lambda config: _layout(config, kinds))
        return build_estimator(config, arrays, kinds)
    except ModelFileError:
        raise
    except Exception as error:  # whatever exception a malformed configuration causes above, the file is at fault
        raise ModelFileError(f"not a usable model file: {error}") from error


def _layout(config: Config, kinds: Kinds) -> Layout:
    """The dtypes and shapes of the arrays of a configuration."""
    version = config.get("format")
    expect(type(version) is not int or version <= FORMAT, f"a newer dubito wrote it (format {version}): update dubito")
    expect(type(version) is not int or version != 1, "an older dubito wrote it (format 1): fit the model again")
    known = {2: KEYS - set(SINCE_4), 3: KEYS - set(SINCE_4), FORMAT: KEYS}
    valid = type(version) is int and set(config) == known.get(version)
    expect(valid, "unexpected keys in the configuration")
    expect(config["kind"] in kinds, f"unknown kind {config['kind']!r}")
    posterior = upgraded(config)["posterior"]
    expect(len(posterior_file.models_in(posterior)) <= MODELS, "its posterior has too many models")
    return posterior_file.expected_arrays(posterior)


def build_estimator(config: Config, arrays: Arrays, kinds: Kinds) -> Any:
    """The estimator of a configuration and its arrays, whose parts must match."""
    config = upgraded(config)
    schema, posterior = Schema.from_dict(config["schema"]), posterior_file.build_posterior(config["posterior"], arrays)
    scaler, classes = _scaler(config["scaler"]), _classes(config["classes"])
    method, calibration = decode(config["method"]), decode(config["calibration"])
    estimator = kinds[config["kind"]]()
    params = {name: decode(value) for name, value in config["params"].items()}
    expect(set(params) == set(estimator.get_params(deep=False)) - UNSAVED, "its parameters have other names")
    if isinstance(params.get("class_weight"), tuple):
        params["class_weight"] = dict(params["class_weight"])
    expect(params["handle_unknown"] in ("error", "ignore"), "invalid parameter handle_unknown")
    expect(params["missing"] in ("fill", "error"), "invalid parameter missing")
    check_draws(params["draws"])
    method.check(posterior.model)
    regression = estimator.task == "regression"
    matching = (scaler is not None, classes is None) == (regression, regression)
    expect(matching, "the scaler and the classes do not match the task")
    values: Any = classes if scaler is None else scaler.shift
    count = len(values)
    expect(estimator.task == posterior.model.likelihood.task, "the likelihood does not match the task")
    expect(_fits(posterior.model, schema.width, count), "the network does not match the table")
    transform = _transform(config["transform"], posterior.model, count)
    flat, key = config["flat"], config["key"]
    expect(type(flat) is bool and not (flat and classes is None and count > 1), "invalid shape of its target")
    expect([*map(type, [*key, config["summary"]])] == [int, int, dict], "invalid key or summary")
    expect(isinstance(calibration, (*codec.CALIBRATIONS, type(None))), "invalid calibration")
    if calibration is not None:
        calibration.check(posterior.model.likelihood, count)
    if isinstance(calibration, CVPlus):
        expect(len(calibration.errors) == len(posterior.parts), "the calibration belongs to other members")
    uncertainty = _uncertainty(config["held_out_uncertainty"], count if regression else 1)
    vars(estimator).update(params)
    learned = {"method_": method, "scaler_": scaler, "posterior_": posterior, "key_": np.array(key, np.uint32)}
    learned |= {"transform_": transform, "calibration_": calibration, "summary_": config["summary"], "history_": []}
    learned |= {"_held_out_rows": None, "_held_out_uncertainty": uncertainty}
    if classes is not None and params["class_weight"] is not None:
        class_weights(params["class_weight"], classes, np.ones(len(classes)))  # checks them
    estimator._set_fitted(schema, classes, **learned)
    return estimator


def upgraded(config: Config) -> Config:
    """The configuration in the current format."""
    config = _with_new_fields(config) if config["format"] == 2 else config
    return SINCE_4 | config


def _with_new_fields(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_new_fields(each) for each in value]
    if not isinstance(value, dict):
        return value
    name: Any = value.get("class")
    added = SINCE_3.get(name, {}) if isinstance(name, str) else {}
    return {**added, **{key: _with_new_fields(each) for key, each in value.items()}}


def _fits(model: Model, width: int, count: int) -> bool:
    """Whether a model takes rows of ``width`` columns and predicts ``count`` targets or classes.
    Nothing is computed.
    """
    likelihood, params = model.likelihood, posterior_file.parameter_shapes(model)["network"]
    try:
        outputs = jax.eval_shape(model.network.apply, params, jax.ShapeDtypeStruct((1, width), np.float32))
    except TypeError:
        return False
    predicted = likelihood.targets if likelihood.task == "regression" else likelihood.classes
    return predicted == count and outputs.shape == (1, likelihood.width)


def _scaler(config: Config | None) -> TargetScaler | None:
    if config is None:
        return None
    expect(set(config) == {"shift", "scale"}, "unexpected keys of a scaler")
    shift, scale = tuple(config["shift"]), tuple(config["scale"])
    plain = all(type(value) is float for value in shift + scale)  # the JSON holds only finite ones
    expect(plain and len(shift) == len(scale) and min(scale) > 0, "invalid numbers of a scaler")
    return TargetScaler(shift, scale)


def _uncertainty(config: Any, columns: int) -> np.ndarray | None:
    """The epistemic uncertainty of held-out rows."""
    if config is None:
        return None
    plain = isinstance(config, list) and all(type(value) is float and value >= 0 for value in config)
    expect(plain and len(config) == columns, "invalid uncertainty of held-out rows")
    return np.array(config)


def _transform(config: Config | None, model: Model, count: int) -> Any:
    transform = decode(config)
    expect(isinstance(transform, (*codec.TRANSFORMS, type(None))), "invalid transform of its target")
    if transform is not None:
        noise = isinstance(model.likelihood, Gaussian | HeteroscedasticGaussian)
        expect(noise and transform.targets in (None, count), "the transform belongs to another target")
        lambdas = vars(transform).get("lambdas", ())
        expect(
            all(type(each) in (int, float) and 0 <= each <= 2 for each in lambdas), "invalid transform of its target"
        )
    return transform


def _classes(config: Config | None) -> np.ndarray | None:
    if config is None:
        return None
    expect(set(config) == {"dtype", "values"}, "unexpected keys of its classes")
    kind, values = np.dtype(config["dtype"]), config["values"]
    expect(kind.kind in "iufbUO" and kind.itemsize * len(values) <= archive.HEADER, "invalid dtype of its classes")
    expect(len(values) > 1 and {type(value) for value in values} in ({str}, {int}, {float}, {bool}), "invalid classes")
    expect(all(a < b for a, b in pairwise(values)), "its classes are not sorted")
    classes = np.array(values, dtype=kind)
    expect(archive.canonical(classes.tolist()) == archive.canonical(values), "its classes do not match their dtype")
    return classes
