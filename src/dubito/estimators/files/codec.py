"""Methods, models, calibrations and their parts as plain JSON, from a closed list of classes; and
back.

A class outside the list cannot be saved, and a file that names one is refused.
"""

from dataclasses import fields
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np

from dubito._process.archive import ModelFileError, expect
from dubito.evaluation import calibration, conformal
from dubito.methods import by_name as methods
from dubito.models import grouped_prior, linearized, model, networks, noise_network, priors, target_transforms
from dubito.models.likelihoods import by_name

LIST = 100_000  # largest number of entries of a list: a network may have so many numeric columns
LAYERS = 100  # largest number of layers of a network
LARGEST = 2**31  # a whole number is smaller
FAR = 1e30  # a number of a setting, which is in standardized units, lies between −FAR and FAR
FREEDOM = 1000  # degrees of freedom: the cdf is a sum of half as many terms, and beyond it the noise is Gaussian

METHODS: tuple[Any, ...] = methods.method_classes()
NETWORKS: tuple[Any, ...] = (networks.MLP, noise_network.MeanAndNoiseNetwork, linearized.Linearized)  # of estimators
LIKELIHOODS: tuple[Any, ...] = tuple(type(entry.make(2)) for entry in by_name.LIKELIHOODS.values())  # no functions
PRIORS: tuple[Any, ...] = (priors.Normal, priors.Laplace, priors.ScaleMixture, grouped_prior.GroupedNormal)
CALIBRATIONS: tuple[Any, ...] = (
    *(calibration.Temperature, calibration.Isotonic, calibration.Quantiles),
    *(conformal.Conformal, conformal.CVPlus),
)
TRANSFORMS: tuple[Any, ...] = (
    target_transforms.LogTransform,
    target_transforms.BoxCoxTransform,
    target_transforms.YeoJohnsonTransform,
)
KNOWN: tuple[Any, ...] = (*METHODS, *NETWORKS, *LIKELIHOODS, *PRIORS, *CALIBRATIONS, *TRANSFORMS, model.Model)
CLASSES: dict[str, Any] = {kind.__name__: kind for kind in KNOWN}
# The types of fields that are declared as Any.
FIELDS: dict[str, Any] = {"method": METHODS, "network": NETWORKS, "likelihood": LIKELIHOODS, "optimizer": str}
FIELDS |= {"mean": networks.MLP | linearized.Linearized, "noise": networks.MLP | None, "rate": float | tuple | None}
FIELDS |= {"prior": (*PRIORS, type(None))}


def runtime_types(hint: Any) -> tuple[Any, ...]:
    """The classes of an annotation, without parameters: (tuple, NoneType) for ``tuple[float, ...] |
    None``.
    """
    origin = get_origin(hint)
    if isinstance(hint, tuple) or origin in (Union, UnionType):
        members = hint if isinstance(hint, tuple) else get_args(hint)
        return tuple(kind for each in members for kind in runtime_types(each))
    if origin is Literal:
        return tuple({type(each) for each in get_args(hint)})
    return (type(None),) if hint is None else (origin or hint,)


def encode(value: Any, name: str = "it") -> Any:
    """Write a value as JSON.

    Parameters
    ----------
    value : object
        A number, a text, None, a list or tuple of such, or an object of a listed class.
    name : str
        What the value is, for the message.

    Returns
    -------
    object
        Plain values.

    Raises
    ------
    ModelFileError
        For anything else.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if type(value) in (list, tuple):
        return [encode(each, name) for each in value]
    if CLASSES.get(type(value).__name__) is type(value):
        own = {field.name: encode(vars(value)[field.name], field.name) for field in fields(value)}
        return {"class": type(value).__name__} | own
    number = np.asarray(value)
    if number.ndim == 0 and number.dtype.kind in "iufb" and np.isfinite(number):
        return number.item()
    if name == "network":
        raise ModelFileError(
            f"a network of type {type(value).__name__} cannot be saved: model files hold the networks of dubito's estimators. "
            "Save another network in its own framework, and wrap it again"
        )
    raise ModelFileError(
        f"cannot save {name}={value!r}: a model file holds finite numbers, texts and dubito's own classes, not callables. "
        "Choose activations, optimizers and target transforms by name to save a model."
    )


def decode(value: Any) -> Any:
    """Build a value from JSON: the inverse of ``encode``, except that lists become tuples.

    Parameters
    ----------
    value : object
        Plain values, which are not trusted.

    Returns
    -------
    object
        The value.

    Raises
    ------
    ModelFileError
        For a class outside the list, unexpected fields, and values of other types than the fields
        declare; this is checked before any of them is used.
    """
    if isinstance(value, list):
        expect(len(value) <= LIST, f"a list of {len(value)} entries")
        return tuple(decode(each) for each in value)
    if not isinstance(value, dict):
        return value
    expect(value.get("class") in CLASSES, f"it names the class {value.get('class')!r}")
    kind = CLASSES[value["class"]]
    types = {
        field.name: runtime_types(FIELDS[field.name] if field.type is Any else field.type) for field in fields(kind)
    }
    expect(set(value) == {"class", *types}, f"unexpected fields of {kind.__name__}")
    found = {name: decode(value[name]) for name in types}
    for name, each in found.items():
        right = isinstance(each, types[name]) or type(each) is int and float in types[name]
        small = 0 <= each < LARGEST if type(each) is int else type(each) is not float or abs(each) <= FAR
        expect(right and small, f"{kind.__name__} with {name}={str(each)[:99]!r}")
    expect(1e-6 < found.get("temperature", 1.0) < 1e6, f"the temperature {found.get('temperature')!r}")
    freedom = found.get("df")
    even = type(freedom) is int and 4 <= freedom <= FREEDOM and freedom % 2 == 0
    expect(freedom in (None, "auto") or even, f"the degrees of freedom {freedom!r}")
    noise_std = found.get("noise_std") or ()
    plain = all(type(each) is float and 0 <= each <= FAR for each in noise_std)
    expect(plain and len(noise_std) in (0, found.get("targets")), f"the noise {noise_std!r}")
    expect(found.get("link") in (None, "softplus", "exp"), f"the link {found.get('link')!r}")
    if kind is networks.MLP:
        expect(networks.mlp(**found) == kind(**found), "the network is not one that dubito.mlp creates")
        small = len(found["hidden"]) <= LAYERS and max(found["hidden"], default=0) < LARGEST
        expect(small, "its network is too large")
    return kind(**found)
