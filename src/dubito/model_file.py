"""Posteriors and what belongs to them as plain JSON and arrays, from a closed list of classes; and back.

A class outside the list cannot be saved, and a file that names one is refused. Arrays are never described twice: their
names, shapes and dtypes follow from the configuration, and ``described`` computes them before a byte of them is read.
"""

import importlib.metadata
from dataclasses import fields
from functools import lru_cache
from itertools import pairwise
from typing import Any

import jax
import numpy as np
from sklearn.base import RegressorMixin

from dubito import archive, criteria, likelihood, model, network, posterior, prior
from dubito.archive import ModelFileError, expect
from dubito.methods import bayes_by_backprop, cross_fit, ensemble, maximum, mc_dropout
from dubito.tables import Schema, TargetScaler

FORMAT = 1
LIST = 100_000  # entries of a list at most: a network may have so many numeric columns
LAYERS = 100  # of a network
LARGEST = 2**31  # a whole number is smaller
PARTS = 1000  # of a mixture
MODELS = 8  # different ones in a posterior: each is traced, which takes milliseconds
LIBRARIES = ("dubito", "jax", "numpy", "optax", "scikit-learn")

POINTS = (maximum.MaximumLikelihood, maximum.MAP)
METHODS = (*POINTS, mc_dropout.MCDropout, bayes_by_backprop.BayesByBackprop, ensemble.Ensemble, cross_fit.CrossFit)
NETWORKS = (network.MLP, cross_fit.WithNoise)  # an estimator has no other
LIKELIHOODS = tuple(type(entry.make(2)) for entry in criteria.LIKELIHOODS.values())  # a Criterion holds functions
PRIORS = (prior.Normal, prior.Laplace, prior.ScaleMixture)
CLASSES = {kind.__name__: kind for kind in (*METHODS, *NETWORKS, *LIKELIHOODS, *PRIORS, model.Model)}
# What stands in fields that are declared as Any.
FIELDS = {"method": METHODS, "network": NETWORKS, "mean": network.MLP, "likelihood": LIKELIHOODS, "optimizer": str}
FIELDS |= {"noise": network.MLP | None, "prior": (*PRIORS, type(None)), "rate": float | tuple | None}


def encoded(value, name="it"):
    """A number, text, None, tuple of such, or object of a listed class, as JSON; else ModelFileError about ``name``."""
    if value is None or isinstance(value, bool | str):
        return value
    if type(value) in (list, tuple):
        return [encoded(each, name) for each in value]
    if type(value).__name__ in CLASSES and type(value) is CLASSES[type(value).__name__]:
        own = {f.name: encoded(getattr(value, f.name), f.name) for f in fields(value)}
        return {"class": type(value).__name__} | own
    number = np.asarray(value)
    if number.ndim == 0 and number.dtype.kind in "iufb" and np.isfinite(number):
        return number.item()
    raise ModelFileError(
        f"{name}={value!r} cannot be saved: a model file holds finite numbers, texts and dubito's own classes, no "
        "callables. Choose activations and optimizers by name to save a model."
    )


def decoded(value) -> Any:
    """The inverse of ``encoded``; lists become tuples. Fields must have their declared types: JAX shall see nothing ill."""
    if isinstance(value, list):
        expect(len(value) <= LIST, f"a list of {len(value)} entries")
        return tuple(decoded(each) for each in value)
    if not isinstance(value, dict):
        return value
    expect(value.get("class") in CLASSES, f"it names the class {value.get('class')!r}")
    kind: Any = CLASSES[value["class"]]
    own: dict[str, Any] = {f.name: FIELDS[f.name] if f.type is Any else f.type for f in fields(kind)}
    expect(set(value) == {"class", *own}, f"the fields of {kind.__name__} are not its own")
    found = {name: decoded(value[name]) for name in own}
    for name, each in found.items():
        right = isinstance(each, own[name]) or type(each) is int and isinstance(1.0, own[name])
        small = type(each) is not int or 0 <= each < LARGEST
        expect(right and small, f"{kind.__name__} with {name}={str(each)[:99]!r}")
    expect(1e-6 < found.get("temperature", 1.0) < 1e6, f"the temperature {found.get('temperature')!r}")
    expect(found.get("link") in (None, "softplus", "exp"), f"the link {found.get('link')!r}")
    if kind is network.MLP:
        expect(network.mlp(**found) == kind(**found), "its network is none that dubito makes")
        expect(len(found["hidden"]) <= LAYERS and max(found["hidden"], default=0) < LARGEST, "its network is too large")
    return kind(**found)


def spec(found):
    """What is needed, beside the arrays, to build a posterior again: JSON values."""
    config = {"kind": type(found).__name__, "model": encoded(found.model, "model")}
    match found:
        case posterior.Samples():
            return config | {"draws": len(jax.tree.leaves(found.params)[0])}
        case posterior.Normals():
            return config
        case posterior.Dropped():
            rates = jax.tree.leaves(found.rates, is_leaf=lambda leaf: leaf is None)
            axes = [-2] * len(rates) if found.axes is None else list(found.axes)
            return config | {"rates": [encoded(rate, "rate") for rate in rates], "axes": axes}
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


SPECS = {"Samples": ["draws"], "Normals": [], "Dropped": ["rates", "axes"], "Mixture": ["parts"], "Renoised": ["part"]}


def described(config, prefix="posterior"):
    """{name: (dtype, shape)} of the arrays that a posterior with this ``spec`` has."""
    kind = config.get("kind")
    expect(kind in SPECS, f"it names the posterior {kind!r}")
    expect(set(config) == {"kind", "model", *SPECS[kind]}, f"the keys of a posterior {kind} are not its own")
    shapes = _shapes(decoded(config["model"]))
    match kind:
        case "Samples":
            draws = config["draws"]
            expect(type(draws) is int and draws > 0, f"{draws!r} draws")
            return _named(shapes, prefix, lambda leaf: ("float32", (draws, *leaf.shape)))
        case "Normals":
            return described_as(shapes, f"{prefix}/mean") | described_as(shapes, f"{prefix}/scale")
        case "Mixture":
            parts = config["parts"]
            expect(isinstance(parts, list) and 0 < len(parts) <= PARTS, "a mixture of no parts, or too many")
            expect(all(_shapes(decoded(part["model"])) == shapes for part in parts), "the parts of a mixture differ")
            each = [described(part, f"{prefix}/{number}") for number, part in enumerate(parts)]
            return {name: entry for part in each for name, entry in part.items()}
        case "Renoised":
            mean = _shapes(decoded(config["part"]["model"]))["network"]
            expect(shapes["network"]["mean"] == mean, "a posterior's noise stands beside another network")
            noise = described_as(shapes["network"]["noise"], f"{prefix}/noise")
            return described(config["part"], f"{prefix}/part") | noise
    rates, axes, leaves = config["rates"], config["axes"], jax.tree.leaves(shapes["network"])
    fine = isinstance(rates, list) and isinstance(axes, list) and len(rates) == len(axes) == len(leaves)
    expect(fine and all(rate is None or 0 <= rate < 1 for rate in rates), "its dropout rates")
    inside = (type(a) is int and (r is None or -w.ndim <= a < 0) for a, r, w in zip(axes, rates, leaves, strict=True))
    expect(all(inside), "its dropout axes")
    return described_as(shapes, prefix)


def described_as(shapes, prefix):
    return _named(shapes, prefix, lambda leaf: ("float32", leaf.shape))


def built(config, found, prefix="posterior") -> Any:
    """The posterior of a ``spec`` and its arrays."""
    its_model = decoded(config["model"])
    shapes = _shapes(its_model)
    match config["kind"]:
        case "Samples":
            return posterior.Samples(its_model, _filled(shapes, found, prefix))
        case "Normals":
            mean, scale = (_filled(shapes, found, f"{prefix}/{part}") for part in ("mean", "scale"))
            return posterior.Normals(its_model, mean, scale)
        case "Dropped":
            rates = jax.tree.unflatten(jax.tree.structure(shapes["network"]), config["rates"])
            return posterior.Dropped(its_model, _filled(shapes, found, prefix), rates, tuple(config["axes"]))
        case "Mixture":
            parts = [built(part, found, f"{prefix}/{number}") for number, part in enumerate(config["parts"])]
            return posterior.Mixture(its_model, tuple(parts))
    part = built(config["part"], found, f"{prefix}/part")
    return cross_fit.Renoised(its_model, part, _filled(shapes["network"]["noise"], found, f"{prefix}/noise"))


def save(estimator, path):
    """Write a fitted estimator to ``path``; its parameters, what it learned, and what was there to learn."""
    kind = type(estimator)
    if kind.__module__ != "dubito.estimators":  # what a subclass adds would be lost
        raise ModelFileError(f"a {kind.__module__}.{kind.__qualname__} cannot be saved, only dubito's own estimators")
    classes, scaler = getattr(estimator, "classes_", None), estimator.scaler_
    params = estimator.get_params(deep=False)
    if not isinstance(params["random_state"], int | np.integer | None):
        params["random_state"] = None
    config = {
        "format": FORMAT,
        "kind": kind.__name__,
        "params": {name: encoded(value, name) for name, value in params.items()},
        "method": encoded(estimator.method_, "method"),
        "schema": estimator.schema_.to_dict(),
        "scaler": None if scaler is None else {"shift": list(scaler.shift), "scale": list(scaler.scale)},
        "classes": None if classes is None else {"dtype": classes.dtype.str, "values": classes.tolist()},
        "flat": getattr(estimator, "_flat", True),
        "key": estimator.key_.tolist(),
        "posterior": spec(estimator.posterior_),
        "summary": estimator.summary_,
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }
    found = arrays(estimator.posterior_)
    try:  # what cannot be read again must not be written
        read = archive.strict_json(archive.canonical(config))
        _expected(read, {kind.__name__: kind})
        assembled(read, found, {kind.__name__: kind})
    except Exception as error:
        raise ModelFileError(f"the estimator cannot be saved: {error}") from error
    archive.write(path, config, found)


def load(path, kinds):
    """The estimator in the file; ``kinds``: the classes by name that it may be of. Raises ModelFileError."""
    try:
        config, found = archive.read(path, lambda config: _expected(config, kinds))
        return assembled(config, found, kinds)
    except ModelFileError:
        raise
    except Exception as error:  # whatever an ill configuration makes of the code above, the file is at fault
        raise ModelFileError(f"not a usable model file: {error}") from error


KEYS = {*"format kind params method schema scaler classes flat key posterior summary versions".split()}


def _expected(config, kinds):
    version = config.get("format")
    expect(type(version) is not int or version <= FORMAT, f"a newer dubito wrote it (format {version}): update dubito")
    expect(type(version) is int and version == FORMAT and set(config) == KEYS, "its configuration has other keys")
    expect(config["kind"] in kinds, f"it is of kind {config['kind']!r}")
    expect(len(_models(config["posterior"])) <= MODELS, "its posterior is of too many models")
    return described(config["posterior"])


def _models(config):
    """The different models in a posterior's ``spec``, as texts."""
    parts = config.get("parts", [config["part"]] if "part" in config else [])
    return {archive.canonical(config["model"])}.union(*map(_models, parts))


def assembled(config, found, kinds):
    """The estimator of a configuration and its arrays, whose parts must fit one another."""
    schema, posterior_ = Schema.from_dict(config["schema"]), built(config["posterior"], found)
    scaler, classes = _scaler(config["scaler"]), _classes(config["classes"])
    method, params = decoded(config["method"]), {name: decoded(value) for name, value in config["params"].items()}
    kind = kinds[config["kind"]]
    expect(set(params) == set(kind().get_params(deep=False)), "its parameters have other names")
    expect(params["handle_unknown"] in ("error", "ignore"), "its parameter handle_unknown")
    expect(type(params["draws"]) in (int, type(None)) and 0 < (params["draws"] or 1) < LARGEST, "its parameter draws")
    method.check(posterior_.model)
    task = "regression" if issubclass(kind, RegressorMixin) else "classification"
    expect((scaler is None, classes is None) == (task != "regression", task == "regression"), "its kind of target")
    wanted = len(scaler.shift if classes is None else classes)
    expect(task == posterior_.model.likelihood.task, "its likelihood's task")
    expect(_fits(posterior_.model, schema.width, wanted), "its network fits not its table")
    flat, key = config["flat"], config["key"]
    expect(type(flat) is bool and not (flat and classes is None and wanted > 1), "the shape of its target")
    expect([*map(type, [*key, config["summary"]])] == [int, int, dict], "its key or summary")
    attributes = {
        "method_": method,
        "schema_": schema,
        "scaler_": scaler,
        "posterior_": posterior_,
        "key_": np.array(key, np.uint32),
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
    found, noise = its_model.network, its_model.likelihood
    count = 2 if isinstance(noise, likelihood.Bernoulli) else getattr(noise, "targets", None) or noise.classes
    if isinstance(found, network.MLP):
        return found.inputs == width and found.outputs == noise.width and count == wanted
    beside = found.noise is None or (found.noise.inputs, found.noise.outputs) == (width, wanted)
    inside = found.mean.inputs == width and found.mean.outputs >= wanted
    return beside and inside and noise.width == 2 * wanted and found.targets == count == wanted


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


@lru_cache(maxsize=MODELS)
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
