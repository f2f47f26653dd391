"""Posteriors and what belongs to them as plain JSON and arrays, from a closed list of classes; and back.

A class outside the list cannot be saved, and a file that names one is refused. Arrays are never described twice: their
names, shapes and dtypes follow from the configuration, and ``described`` computes them before a byte of them is read.
"""

import importlib.metadata
from dataclasses import fields
from typing import Any

import jax
import numpy as np

from dubito import archive, likelihood, model, network, posterior, prior
from dubito.archive import ModelFileError
from dubito.methods import bayes_by_backprop, cross_fit, ensemble, maximum, mc_dropout
from dubito.tables import Schema, TargetScaler

FORMAT = 1
LIST = 1000  # entries of a list in a method, a network or a posterior at most
LIBRARIES = ("dubito", "jax", "numpy", "optax", "scikit-learn")

CLASSES = {
    kind.__name__: kind
    for kind in (
        maximum.MaximumLikelihood,
        maximum.MAP,
        mc_dropout.MCDropout,
        bayes_by_backprop.BayesByBackprop,
        ensemble.Ensemble,
        cross_fit.CrossFit,
        cross_fit.WithNoise,
        network.MLP,
        network.ConvNet,
        likelihood.Gaussian,
        likelihood.HeteroscedasticGaussian,
        likelihood.StudentT,
        likelihood.Bernoulli,
        likelihood.Categorical,
        prior.Normal,
        prior.Laplace,
        prior.ScaleMixture,
        model.Model,
    )
}


def encoded(value):
    """A number, text, None, tuple of such, or object of a listed class, as JSON values. ModelFileError for others."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, list | tuple):
        return [encoded(each) for each in value]
    if type(value).__name__ in CLASSES and type(value) is CLASSES[type(value).__name__]:
        return {"class": type(value).__name__} | {f.name: encoded(getattr(value, f.name)) for f in fields(value)}
    if np.ndim(value) == 0 and np.asarray(value).dtype.kind in "iuf":
        number = np.asarray(value).item()
        if np.isfinite(number):
            return number
    raise ModelFileError(
        f"{value!r} cannot be saved: a model file holds numbers, texts and dubito's own classes, no callables. "
        "Choose activations and optimizers by name to save a model."
    )


def decoded(value) -> Any:
    """The inverse of ``encoded``; lists become tuples."""
    if isinstance(value, list):
        _expect(len(value) <= LIST, f"a list of {len(value)} entries")
        return tuple(decoded(each) for each in value)
    if not isinstance(value, dict):
        return value
    _expect(value.get("class") in CLASSES, f"it names the class {value.get('class')!r}")
    kind: Any = CLASSES[value["class"]]
    own = {"class", *(f.name for f in fields(kind))}
    _expect(set(value) == own, f"the fields of {kind.__name__} are not its own")
    return kind(**{name: decoded(each) for name, each in value.items() if name != "class"})


def spec(found):
    """What is needed, beside the arrays, to build a posterior again: JSON values."""
    config = {"kind": type(found).__name__, "model": encoded(found.model)}
    match found:
        case posterior.Samples():
            return config | {"draws": len(jax.tree.leaves(found.params)[0])}
        case posterior.Normals():
            return config
        case posterior.Dropped():
            rates = jax.tree.leaves(found.rates, is_leaf=lambda leaf: leaf is None)
            return config | {"rates": [encoded(rate) for rate in rates]}
        case posterior.Mixture():
            return config | {"parts": [spec(part) for part in found.parts]}
        case cross_fit.Renoised():
            return config | {"part": spec(found.part)}
    raise ModelFileError(f"a posterior of type {type(found).__name__} cannot be saved")


def arrays(found, prefix="posterior"):
    """The arrays of a posterior by name."""
    match found:
        case posterior.Samples() | posterior.Dropped():
            return _named(found.params, prefix)
        case posterior.Normals():
            return _named(found.mean, f"{prefix}/mean") | _named(found.scale, f"{prefix}/scale")
        case posterior.Mixture():
            parts = [arrays(part, f"{prefix}/{number}") for number, part in enumerate(found.parts)]
            return {name: array for part in parts for name, array in part.items()}
    return arrays(found.part, f"{prefix}/part") | _named(found.noise, f"{prefix}/noise")


def described(config, prefix="posterior"):
    """{name: (dtype, shape)} of the arrays that a posterior with this ``spec`` has."""
    kind, shapes = config.get("kind"), _shapes(decoded(config.get("model")))
    match kind:
        case "Samples":
            _expect(type(config["draws"]) is int and config["draws"] > 0, f"{config['draws']!r} draws")
            return _named(shapes, prefix, lambda leaf: ("float32", (config["draws"], *leaf.shape)))
        case "Dropped":
            return _named(shapes, prefix, lambda leaf: ("float32", leaf.shape))
        case "Normals":
            mean, scale = (
                _named(shapes, f"{prefix}/{part}", lambda leaf: ("float32", leaf.shape)) for part in ("mean", "scale")
            )
            return mean | scale
        case "Mixture":
            _expect(0 < len(config["parts"]) <= LIST, f"a mixture of {len(config['parts'])} parts")
            parts = [described(part, f"{prefix}/{number}") for number, part in enumerate(config["parts"])]
            return {name: entry for part in parts for name, entry in part.items()}
        case "Renoised":
            noise = _named(shapes["network"]["noise"], f"{prefix}/noise", lambda leaf: ("float32", leaf.shape))
            return described(config["part"], f"{prefix}/part") | noise
    raise ModelFileError(f"not a usable model file: it names the posterior {kind!r}")


def built(config, found, prefix="posterior") -> Any:
    """The posterior of a ``spec`` and its arrays."""
    its_model = decoded(config["model"])
    shapes = _shapes(its_model)
    match config["kind"]:
        case "Samples":
            return posterior.Samples(its_model, _filled(shapes, found, prefix))
        case "Normals":
            return posterior.Normals(
                its_model, _filled(shapes, found, f"{prefix}/mean"), _filled(shapes, found, f"{prefix}/scale")
            )
        case "Dropped":
            rates = jax.tree.unflatten(jax.tree.structure(shapes["network"]), config["rates"])
            return posterior.Dropped(its_model, _filled(shapes, found, prefix), rates)
        case "Mixture":
            parts = [built(part, found, f"{prefix}/{number}") for number, part in enumerate(config["parts"])]
            return posterior.Mixture(its_model, tuple(parts))
    part = built(config["part"], found, f"{prefix}/part")
    return cross_fit.Renoised(its_model, part, _filled(shapes["network"]["noise"], found, f"{prefix}/noise"))


def _expect(fine, what):
    if not fine:
        raise ModelFileError(f"not a usable model file: {what}")


def save(estimator, path):
    """Write a fitted estimator to ``path``; what it was constructed with, what it learned, and what was there to learn."""
    classes = getattr(estimator, "classes_", None)
    scaler = estimator.scaler_
    params = {name: getattr(estimator, name) for name in type(estimator)().get_params(deep=False)}
    if not isinstance(params["random_state"], int | np.integer | None):
        params["random_state"] = None
    config = {
        "format": FORMAT,
        "kind": type(estimator).__name__,
        "params": {name: encoded(value) for name, value in params.items()},
        "method": encoded(estimator.method_),
        "schema": estimator.schema_.to_dict(),
        "scaler": None if scaler is None else {"shift": list(scaler.shift), "scale": list(scaler.scale)},
        "classes": None if classes is None else {"dtype": classes.dtype.str, "values": classes.tolist()},
        "flat": getattr(estimator, "_flat", True),
        "key": estimator.key_.tolist(),
        "posterior": spec(estimator.posterior_),
        "summary": estimator.summary_,
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }
    archive.write(path, config, arrays(estimator.posterior_))


def load(path):
    """(class name, constructor's parameters, fitted attributes) of an estimator's file. Raises ModelFileError."""
    try:
        config, found = archive.read(path, _expected)
        params = {name: decoded(value) for name, value in config["params"].items()}
        schema = Schema.from_dict(config["schema"])
        attributes = {
            "method_": decoded(config["method"]),
            "schema_": schema,
            "scaler_": _scaler(config["scaler"]),
            "posterior_": built(config["posterior"], found),
            "key_": np.array(config["key"], np.uint32),
            "summary_": config["summary"],
            "history_": [],
            "_flat": config["flat"],
            "n_features_in_": len(schema.columns),
        }
        if config["classes"] is not None:
            attributes["classes_"] = _classes(config["classes"])
        if schema.named:
            attributes["feature_names_in_"] = np.array(schema.names, dtype=object)
        return config["kind"], params, attributes
    except ModelFileError:
        raise
    except Exception as error:  # whatever an ill configuration makes of the code above, the file is at fault
        raise ModelFileError(f"not a usable model file: {error}") from error


KEYS = {*"format kind params method schema scaler classes flat key posterior summary versions".split()}


def _expected(config):
    newer = type(config.get("format")) is int and config["format"] > FORMAT
    _expect(not newer, f"it was written by a newer dubito (format {config.get('format')}); update to read it")
    _expect(config.get("format") == FORMAT and set(config) == KEYS, "its configuration has other keys")
    _expect(config["kind"] in ("BayesianRegressor", "BayesianClassifier"), f"it is of kind {config['kind']!r}")
    return described(config["posterior"])


def _scaler(config):
    if config is None:
        return None
    _expect(set(config) == {"shift", "scale"}, "a scaler's keys")
    shift, scale = (tuple(float(value) for value in config[name]) for name in ("shift", "scale"))
    fine = len(shift) == len(scale) and min(scale) > 0 and np.all(np.isfinite([shift, scale]))
    _expect(fine, "a scaler's numbers")
    return TargetScaler(shift, scale)


def _classes(config):
    kind = np.dtype(config["dtype"])
    _expect(kind.kind in "iufbUO" and all(isinstance(v, str | int | float | bool) for v in config["values"]), "labels")
    return np.array(config["values"], dtype=kind)


def _shapes(its_model):
    """The model's parameters as shapes; nothing is computed."""
    key = jax.ShapeDtypeStruct((2,), np.uint32)
    return jax.eval_shape(lambda data: its_model.init(jax.random.wrap_key_data(data, impl="threefry2x32")), key)


def _named(tree, prefix, entry=np.asarray):
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {f"{prefix}/{'/'.join(str(step.key) for step in path)}": entry(leaf) for path, leaf in leaves}


def _filled(shapes, found, prefix):
    named = _named(shapes, prefix, lambda leaf: leaf)
    return jax.tree.unflatten(jax.tree.structure(shapes), [jax.numpy.asarray(found[name]) for name in named])
