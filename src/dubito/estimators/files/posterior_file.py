"""Posteriors as plain JSON and arrays; and back.

Arrays are never described twice: their names, shapes and dtypes follow from the JSON by each class's own ``file_layout``, before
a byte of them is read.
"""

from collections.abc import Callable
from dataclasses import fields
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from dubito._jax.types import Params
from dubito._process import archive
from dubito._process.archive import ModelFileError, expect
from dubito.estimators.files.codec import decode, encode
from dubito.methods.laplace.laplace import LaplacePosterior
from dubito.models.model import Model
from dubito.posteriors import by_name
from dubito.posteriors.base import Posterior
from dubito.posteriors.file_layout import FileLayout

PARTS = 1000  # of a mixture
CLASSES = (*by_name.POSTERIORS, LaplacePosterior)
POSTERIORS: dict[str, type[Posterior]] = {kind.__name__: kind for kind in CLASSES}


def posterior_config(posterior: Posterior) -> dict[str, Any]:
    """What is needed, beside the arrays, to build a posterior again: JSON values. Raises ModelFileError for other classes."""
    kind = type(posterior)
    if POSTERIORS.get(kind.__name__) is not kind:
        raise ModelFileError(f"a posterior of type {kind.__name__} cannot be saved")
    config = {"kind": kind.__name__, "model": encode(posterior.model, "model")}
    values = posterior.file_values() if kind.file_keys else {}
    config |= {name: encode(value, name) for name, value in values.items()}
    inner = {
        "part": lambda: posterior_config(posterior.part),
        "parts": lambda: [posterior_config(part) for part in posterior.parts],
    }
    return config | {name: inner[name]() for name in _inner(kind)}


def posterior_arrays(posterior: Posterior, config: dict[str, Any], prefix: str = "posterior") -> dict[str, np.ndarray]:
    """The arrays, by name, of a posterior with this ``posterior_config``."""
    _, _, layout = _read(config)
    found: dict[str, np.ndarray] = {}
    for name in layout.arrays:
        found |= _named(vars(posterior)[name], f"{prefix}/{name}")
    inner = posterior.parts or [posterior.part]
    for part, (name, own) in zip(inner, _parts(config), strict=False):
        found |= posterior_arrays(part, own, f"{prefix}/{name}")
    return found


def expected_arrays(config: dict[str, Any], prefix: str = "posterior") -> dict[str, tuple[str, tuple[int, ...]]]:
    """{name: (dtype, shape)} of the arrays that a posterior with this ``posterior_config`` has."""
    _, _, layout = _read(config)
    found = {}
    for name, tree in layout.arrays.items():
        found |= _named(tree, f"{prefix}/{name}", lambda leaf: ("float32", leaf.shape))
    for name, part in _parts(config):
        found |= expected_arrays(part, f"{prefix}/{name}")
    return found


def build_posterior(config: dict[str, Any], found: dict[str, np.ndarray], prefix: str = "posterior") -> Any:
    """The posterior of a ``posterior_config`` and its arrays."""
    kind, model, layout = _read(config)
    own: Any = {name: _filled(tree, found, f"{prefix}/{name}") for name, tree in layout.arrays.items()}
    parts = [build_posterior(part, found, f"{prefix}/{name}") for name, part in _parts(config)]
    inner: Any = {"part": parts[0]} if "part" in config else {"parts": tuple(parts)} if "parts" in config else {}
    return kind(model, **own, **layout.fields, **inner)


def models_in(config: dict[str, Any]) -> set[str]:
    """The different models in a posterior's ``posterior_config``, as texts."""
    return {archive.canonical(config["model"])}.union(*(models_in(part) for _, part in _parts(config)))


@lru_cache(maxsize=16)
def parameter_shapes(model: Model) -> Params:
    """The model's parameters as shapes; nothing is computed."""
    key = jax.ShapeDtypeStruct((2,), np.uint32)
    return jax.eval_shape(lambda data: model.init(jax.random.wrap_key_data(data, impl="threefry2x32")), key)


def _read(config: dict[str, Any]) -> tuple[Any, Model, FileLayout]:
    """(class, model, layout) of a ``posterior_config``, whose own entries are checked."""
    name = config.get("kind")
    expect(name in POSTERIORS, f"it names the posterior {name!r}")
    kind = POSTERIORS[str(name)]
    keys = {"kind", "model", *kind.file_keys, *_inner(kind)}
    expect(set(config) == keys, f"the keys of a posterior {name} are not its own")
    parts = config.get("parts", [None])
    expect(isinstance(parts, list) and 0 < len(parts) <= PARTS, "a mixture of no parts, or too many")
    model = decode(config["model"])
    inner = [parameter_shapes(decode(part["model"])) for _, part in _parts(config)]
    values = {key: config[key] for key in kind.file_keys}
    return kind, model, kind.file_layout(parameter_shapes(model), inner, values)


def _inner(kind: Any) -> list[str]:
    """Which of the fields "part" and "parts" a class has."""
    return [field.name for field in fields(kind) if field.name in ("part", "parts")]


def _parts(config: dict[str, Any]) -> list[tuple[Any, dict[str, Any]]]:
    """(name, ``posterior_config``) of the posteriors that a posterior is made of."""
    return [*enumerate(config.get("parts", ())), *([("part", config["part"])] if "part" in config else [])]


def _named(tree: Params, prefix: str, entry: Callable = np.asarray) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join([prefix, *(str(step.key) for step in path)]): entry(leaf) for path, leaf in leaves}


def _filled(shapes: Params, found: dict[str, np.ndarray], prefix: str) -> Params:
    named = _named(shapes, prefix, lambda leaf: leaf)
    return jax.tree.unflatten(jax.tree.structure(shapes), [jax.numpy.asarray(found[name]) for name in named])
