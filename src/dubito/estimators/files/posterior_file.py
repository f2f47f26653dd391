"""Posteriors as plain JSON and arrays; and back.

Arrays are never described twice: their names, shapes and dtypes follow from the JSON by the
``file_layout`` of each class, before a byte of them is read.
"""

from collections.abc import Callable
from dataclasses import fields
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dubito._jax.types import Params
from dubito._process.archive import Arrays, Config, Layout, ModelFileError, canonical, expect
from dubito.estimators.files.codec import decode, encode
from dubito.methods.laplace.laplace import LaplacePosterior
from dubito.models.model import Model
from dubito.posteriors import by_name
from dubito.posteriors.base import Posterior
from dubito.posteriors.file_layout import FileLayout

PARTS = 1000  # largest number of parts of a mixture
CLASSES: tuple[type[Posterior], ...] = (*by_name.POSTERIORS, LaplacePosterior)
POSTERIORS: dict[str, type[Posterior]] = {kind.__name__: kind for kind in CLASSES}


def posterior_config(posterior: Posterior) -> Config:
    """What is needed, beside the arrays, to build a posterior again.

    Parameters
    ----------
    posterior : Posterior
        An object of one of ``CLASSES``.

    Returns
    -------
    dict
        JSON values.

    Raises
    ------
    ModelFileError
        For other classes.
    """
    kind = type(posterior)
    if POSTERIORS.get(kind.__name__) is not kind:
        raise ModelFileError(
            f"a posterior of type {kind.__name__} cannot be saved: model files hold those of dubito's estimators. "
            "Save a wrapped network in its own framework, and wrap it again"
        )
    config = {"kind": kind.__name__, "model": encode(posterior.model, "model")}
    values = posterior.file_values() if kind.file_keys else {}
    config |= {name: encode(value, name) for name, value in values.items()}
    if posterior.part is not None:
        config["part"] = posterior_config(posterior.part)
    if posterior.parts:
        config["parts"] = [posterior_config(part) for part in posterior.parts]
    return config


def posterior_arrays(posterior: Posterior, config: Config, prefix: str = "posterior") -> Arrays:
    """The arrays, by name, of a posterior with this ``posterior_config``."""
    _, _, layout = _read(config)
    found: Arrays = {}
    for name in layout.arrays:
        found |= _named(vars(posterior)[name], f"{prefix}/{name}")
    inner = posterior.parts or [posterior.part]
    for part, (name, own) in zip(inner, _parts(config), strict=False):
        found |= posterior_arrays(part, own, f"{prefix}/{name}")
    return found


def expected_arrays(config: Config, prefix: str = "posterior") -> Layout:
    """The dtype and shape of each array, by name, of a posterior with this ``posterior_config``."""
    _, _, layout = _read(config)
    found = {}
    for name, tree in layout.arrays.items():
        found |= _named(tree, f"{prefix}/{name}", lambda leaf: ("float32", leaf.shape))
    for name, part in _parts(config):
        found |= expected_arrays(part, f"{prefix}/{name}")
    return found


def build_posterior(config: Config, arrays: Arrays, prefix: str = "posterior") -> Any:
    """The posterior of a ``posterior_config`` and its arrays."""
    kind, model, layout = _read(config)
    own = {name: _filled(tree, arrays, f"{prefix}/{name}") for name, tree in layout.arrays.items()}
    parts = [build_posterior(part, arrays, f"{prefix}/{name}") for name, part in _parts(config)]
    inner: Any = {"part": parts[0]} if "part" in config else {"parts": tuple(parts)} if "parts" in config else {}
    return kind(model, **own, **layout.fields, **inner)


def models_in(config: Config) -> set[str]:
    """The different models in a ``posterior_config``, as texts."""
    return {canonical(config["model"])}.union(*(models_in(part) for _, part in _parts(config)))


@lru_cache(maxsize=16)
def parameter_shapes(model: Model) -> Params:
    """The model's parameters as shapes; nothing is computed."""
    key = jax.ShapeDtypeStruct((2,), np.uint32)
    return jax.eval_shape(lambda data: model.init(jax.random.wrap_key_data(data, impl="threefry2x32")), key)


def _read(config: Config) -> tuple[Any, Model, FileLayout]:
    """The class, model and layout of a ``posterior_config``, whose own entries are checked."""
    name = config.get("kind")
    expect(name in POSTERIORS, f"it names the posterior {name!r}")
    kind: Any = POSTERIORS[str(name)]
    inner = {"part", "parts"} & {field.name for field in fields(kind)}
    expect(set(config) == {"kind", "model", *kind.file_keys, *inner}, f"unexpected keys of a posterior {name}")
    parts = config.get("parts", [None])
    expect(isinstance(parts, list), "its parts are not a list")
    expect(0 < len(parts) <= PARTS, f"a mixture with {len(parts)} parts (1 to {PARTS} are possible)")
    model = decode(config["model"])
    shapes = [parameter_shapes(decode(part["model"])) for _, part in _parts(config)]
    values = {key: config[key] for key in kind.file_keys}
    return kind, model, kind.file_layout(parameter_shapes(model), shapes, values)


def _parts(config: Config) -> list[tuple[Any, Config]]:
    """The names and ``posterior_config`` of the posteriors that a posterior is made of."""
    return [*enumerate(config.get("parts", ())), *([("part", config["part"])] if "part" in config else [])]


def _named(tree: Params, prefix: str, entry: Callable[[Any], Any] = np.asarray) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join([prefix, *(str(step.key) for step in path)]): entry(leaf) for path, leaf in leaves}


def _filled(shapes: Params, arrays: Arrays, prefix: str) -> Params:
    names = _named(shapes, prefix, lambda leaf: leaf)
    return jax.tree.unflatten(jax.tree.structure(shapes), [jnp.asarray(arrays[name]) for name in names])
