"""Posteriors as plain JSON and arrays; and back.

Arrays are never described twice: their names, shapes and dtypes follow from the configuration, and ``described`` computes them
before a byte of them is read.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np

from dubito._process import archive
from dubito._process.archive import ModelFileError, expect
from dubito.estimators.files.codec import decoded, encoded
from dubito.methods.ensembles import cross_fit
from dubito.methods.laplace import laplace
from dubito.posteriors import base
from dubito.posteriors import laplace as rotated

PARTS = 1000  # of a mixture
PARAMETERS = 10_000  # with all their correlations


class Kind(NamedTuple):
    """How a posterior is kept: ``trees``, for each field of arrays a function of (the shapes of the model's parameters, the
    ``spec``) giving its tree of shapes; ``keys``, what its ``spec`` has beside kind and model; ``numbers``, that of them."""

    kind: type
    trees: dict
    keys: frozenset = frozenset()
    numbers: Callable = lambda found: {}


def plain(shapes, numbers):
    del numbers
    return shapes


def leading(name):
    """Shapes with an axis first, as long as the number ``name``."""

    def longer(shapes, numbers):
        return jax.tree.map(lambda leaf: _shape(numbers[name], *leaf.shape), shapes)

    return longer


def square(shapes, numbers):
    del numbers
    total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    expect(total <= PARAMETERS, f"correlations of {total} parameters")
    return _shape(total, total)


def precisions(shapes, numbers):
    del numbers
    return shapes["likelihood"]["log_precision"]


def noise(shapes, numbers):
    del numbers
    return shapes["network"]["noise"]


def _shape(*shape):
    return jax.ShapeDtypeStruct(shape, np.float32)


def first(tree):
    return len(jax.tree.leaves(tree)[0])


def masks(found):
    rates = jax.tree.leaves(found.rates, is_leaf=lambda leaf: leaf is None)
    axes = [-2] * len(rates) if found.axes is None else list(found.axes)
    return {"rates": [encoded(rate, "rate") for rate in rates], "axes": axes, "masks": found.masks}


def counts(found):
    return {"draws": first(found.params), "chains": found.chains}


def groups(found):
    return {"groups": rotated.described(found)}


def rank(found):
    return {"rank": first(found.directions)}


KINDS = {
    kind.kind.__name__: kind
    for kind in (
        Kind(base.Samples, {"params": leading("draws")}, frozenset({"draws", "chains"}), counts),
        Kind(base.Normals, {"mean": plain, "scale": plain}),
        Kind(
            base.LowRank,
            {"mean": plain, "scale": plain, "directions": leading("rank")},
            frozenset({"rank"}),
            rank,
        ),
        Kind(base.Dense, {"mean": plain, "factor": square}),
        Kind(
            laplace.LaplacePosterior,
            dict.fromkeys(("log_evidence", "prior_factor"), lambda *_: _shape()),
            frozenset({"part"}),
        ),
        Kind(
            rotated.Rotated,
            {"mean": plain}
            | {field: lambda _, own, f=field: rotated.arrays(f, own["groups"]) for field in ("scale", "left", "right")},
            frozenset({"groups"}),
            groups,
        ),
        Kind(
            rotated.Contracted,
            {"mean": plain, "scale": plain, "directions": leading("rank")}
            | {"kept": lambda _, numbers: _shape(numbers["rank"])},
            frozenset({"rank"}),
            rank,
        ),
        Kind(base.GammaPrecision, {"shape": precisions, "rate": precisions}, frozenset({"part"})),
        Kind(base.Dropped, {"params": plain}, frozenset({"rates", "axes", "masks"}), masks),
        Kind(base.Mixture, {}, frozenset({"parts"})),
        Kind(cross_fit.Renoised, {"noise": noise}, frozenset({"part"})),
    )
}


def spec(found):
    """What is needed, beside the arrays, to build a posterior again: JSON values."""
    kind = KINDS.get(type(found).__name__)
    if kind is None or kind.kind is not type(found):
        raise ModelFileError(f"a posterior of type {type(found).__name__} cannot be saved")
    config = {"kind": type(found).__name__, "model": encoded(found.model, "model")} | kind.numbers(found)
    if hasattr(found, "parts"):
        return config | {"parts": [spec(part) for part in found.parts]}
    return config | ({"part": spec(found.part)} if hasattr(found, "part") else {})


def arrays(found, prefix="posterior"):
    """The arrays of a posterior by name."""
    own = {f"{prefix}/{name}": getattr(found, name) for name in KINDS[type(found).__name__].trees}
    parts = dict(enumerate(getattr(found, "parts", ()))) | ({"part": found.part} if hasattr(found, "part") else {})
    each = [_named(tree, name) for name, tree in own.items()]
    each += [arrays(part, f"{prefix}/{name}") for name, part in parts.items()]
    return {name: array for part in each for name, array in part.items()}


def described(config, prefix="posterior"):
    """{name: (dtype, shape)} of the arrays that a posterior with this ``spec`` has."""
    name = config.get("kind")
    expect(name in KINDS, f"it names the posterior {name!r}")
    kind, shapes = KINDS[name], shapes_of(decoded(config["model"]))
    _check_numbers(name, config, shapes)
    each = [
        _named(tree(shapes, config), f"{prefix}/{field}", lambda leaf: ("float32", leaf.shape))
        for field, tree in kind.trees.items()
    ]
    each += [described(part, f"{prefix}/{number}") for number, part in _parts(config)]
    return {key: entry for part in each for key, entry in part.items()}


def _parts(config):
    """(name, ``spec``) of the posteriors that a posterior is made of."""
    return [*enumerate(config.get("parts", ())), *([("part", config["part"])] if "part" in config else [])]


def _check_numbers(name, config, shapes):
    """What a ``spec`` says beside its model must be possible."""
    own = KINDS[name].keys
    expect(set(config) == {"kind", "model", *own}, f"the keys of a posterior {name} are not its own")
    for number in own & {"draws", "chains", "rank"}:
        expect(type(config[number]) is int and config[number] > 0, f"{config[number]!r} {number}")
    match name:
        case "Samples":
            expect(config["draws"] % config["chains"] == 0, "draws that are not the same number of each chain")
        case "Mixture":
            parts = config["parts"]
            expect(isinstance(parts, list) and 0 < len(parts) <= PARTS, "a mixture of no parts, or too many")
            expect(all(shapes_of(decoded(part["model"])) == shapes for part in parts), "the parts of a mixture differ")
        case "Renoised":
            mean = shapes_of(decoded(config["part"]["model"]))["network"]
            expect(shapes["network"]["mean"] == mean, "a posterior's noise stands beside another network")
        case "Rotated":
            expect(rotated.fits(config["groups"], jax.tree.leaves(shapes), PARAMETERS), "its groups of parameters")
        case "LaplacePosterior":
            own = {**shapes, "network": laplace.inner_params(shapes["network"])}
            expect(own == shapes_of(decoded(config["part"]["model"])), "a posterior stands around another network")
        case "GammaPrecision":
            expect(shapes == shapes_of(decoded(config["part"]["model"])), "a posterior's precision is of another model")
            expect("log_precision" in shapes["likelihood"], "its likelihood has no precision")
        case "Dropped":
            rates, axes, leaves = config["rates"], config["axes"], jax.tree.leaves(shapes["network"])
            fine = isinstance(rates, list) and isinstance(axes, list) and len(rates) == len(axes) == len(leaves)
            expect(fine and all(rate is None or 0 <= rate < 1 for rate in rates), "its dropout rates")
            each = zip(axes, rates, leaves, strict=True)
            expect(config["masks"] in ("bernoulli", "normal"), f"the masks {config['masks']!r}")
            expect(all(type(a) is int and (r is None or -w.ndim <= a < 0) for a, r, w in each), "its dropout axes")


def built(config, found, prefix="posterior") -> Any:
    """The posterior of a ``spec`` and its arrays."""
    its_model, kind = decoded(config["model"]), KINDS[config["kind"]]
    shapes = shapes_of(its_model)
    own = {name: _filled(tree(shapes, config), found, f"{prefix}/{name}") for name, tree in kind.trees.items()}
    parts = {name: built(part, found, f"{prefix}/{name}") for name, part in _parts(config)}
    own |= {"parts": tuple(parts.values())} if "parts" in config else parts
    match config["kind"]:
        case "Samples":
            own["chains"] = config["chains"]
        case "Rotated":
            own["groups"] = tuple(tuple(group[0]) for group in config["groups"])
        case "Dropped":
            own["rates"] = jax.tree.unflatten(jax.tree.structure(shapes["network"]), config["rates"])
            own |= {"axes": tuple(config["axes"]), "masks": config["masks"]}
    return kind.kind(its_model, **own)


def models_in(config):
    """The different models in a posterior's ``spec``, as texts."""
    return {archive.canonical(config["model"])}.union(*(models_in(part) for _, part in _parts(config)))


@lru_cache(maxsize=16)
def shapes_of(its_model):
    """The model's parameters as shapes; nothing is computed."""
    key = jax.ShapeDtypeStruct((2,), np.uint32)
    return jax.eval_shape(lambda data: its_model.init(jax.random.wrap_key_data(data, impl="threefry2x32")), key)


def _named(tree, prefix, entry=np.asarray):
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join([prefix, *(str(step.key) for step in path)]): entry(leaf) for path, leaf in leaves}


def _filled(shapes, found, prefix):
    named = _named(shapes, prefix, lambda leaf: leaf)
    return jax.tree.unflatten(jax.tree.structure(shapes), [jax.numpy.asarray(found[name]) for name in named])
