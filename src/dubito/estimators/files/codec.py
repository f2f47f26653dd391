"""Methods, models, calibrations and their parts as plain JSON, from a closed list of classes; and back.

A class outside the list cannot be saved, and a file that names one is refused.
"""

from dataclasses import fields
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np

from dubito._process.archive import ModelFileError, expect
from dubito.evaluation import calibration, conformal
from dubito.methods import by_name as methods
from dubito.models import linearized, model, networks, noise_network, priors
from dubito.models.likelihoods import by_name

LIST = 100_000  # entries of a list at most: a network may have so many numeric columns
LAYERS = 100  # of a network
LARGEST = 2**31  # a whole number is smaller
FAR = 1e30  # a number of a setting, which is in standardized units, lies between −FAR and FAR
FREEDOM = 1000  # degrees of freedom: the cdf is a sum of half as many terms, and beyond it the noise is Gaussian

METHODS = methods.method_classes()
NETWORKS = (networks.MLP, noise_network.MeanAndNoiseNetwork, linearized.Linearized)  # an estimator has no other
LIKELIHOODS: tuple[Any, ...] = tuple(
    type(entry.make(2)) for entry in by_name.LIKELIHOODS.values()
)  # a Criterion holds functions
PRIORS = (priors.Normal, priors.Laplace, priors.ScaleMixture)
CALIBRATIONS = (
    calibration.Temperature,
    calibration.Isotonic,
    calibration.Quantiles,
    conformal.Conformal,
    conformal.CVPlus,
)
KNOWN = (*METHODS, *NETWORKS, *LIKELIHOODS, *PRIORS, *CALIBRATIONS, model.Model)
CLASSES = {kind.__name__: kind for kind in KNOWN}
# What stands in fields that are declared as Any.
FIELDS = {
    "method": METHODS,
    "network": NETWORKS,
    "mean": networks.MLP | linearized.Linearized,
    "likelihood": LIKELIHOODS,
    "optimizer": str,
}
FIELDS |= {"noise": networks.MLP | None, "prior": (*PRIORS, type(None)), "rate": float | tuple | None}


def runtime_types(hint: Any) -> tuple[Any, ...]:
    """The classes of a field's annotation, without their parameters: (tuple, NoneType) of ``tuple[float, ...] | None``."""
    origin = get_origin(hint)
    if isinstance(hint, tuple):
        return tuple(kind for each in hint for kind in runtime_types(each))
    if origin in (Union, UnionType):
        return tuple(kind for each in get_args(hint) for kind in runtime_types(each))
    if origin is Literal:
        return tuple({type(each) for each in get_args(hint)})
    return (type(None),) if hint is None else (origin or hint,)


def encode(value: Any, name: str = "it") -> Any:
    """A value as JSON.

    Parameters
    ----------
    value
        A number, a text, None, a list or tuple of such, or an object of a listed class.
    name
        What the value is, for the message.

    Raises
    ------
    ModelFileError
        For anything else.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if type(value) in (list, tuple):
        return [encode(each, name) for each in value]
    if type(value).__name__ in CLASSES and type(value) is CLASSES[type(value).__name__]:
        own = {f.name: encode(vars(value)[f.name], f.name) for f in fields(value)}
        return {"class": type(value).__name__} | own
    number = np.asarray(value)
    if number.ndim == 0 and number.dtype.kind in "iufb" and np.isfinite(number):
        return number.item()
    raise ModelFileError(
        f"{name}={value!r} cannot be saved: a model file holds finite numbers, texts and dubito's own classes, no "
        "callables. Choose activations and optimizers by name to save a model."
    )


def decode(value: Any) -> Any:
    """The inverse of ``encode``, except that lists become tuples.

    Raises ModelFileError for a class outside the list, for other fields than its own, and for values that do not have the declared
    types of these, before any of them is used.
    """
    if isinstance(value, list):
        expect(len(value) <= LIST, f"a list of {len(value)} entries")
        return tuple(decode(each) for each in value)
    if not isinstance(value, dict):
        return value
    expect(value.get("class") in CLASSES, f"it names the class {value.get('class')!r}")
    kind: Any = CLASSES[value["class"]]
    own = {f.name: runtime_types(FIELDS[f.name] if f.type is Any else f.type) for f in fields(kind)}
    expect(set(value) == {"class", *own}, f"the fields of {kind.__name__} are not its own")
    found = {name: decode(value[name]) for name in own}
    for name, each in found.items():
        right = isinstance(each, own[name]) or type(each) is int and float in own[name]
        small = 0 <= each < LARGEST if type(each) is int else type(each) is not float or abs(each) <= FAR
        expect(right and small, f"{kind.__name__} with {name}={str(each)[:99]!r}")
    expect(1e-6 < found.get("temperature", 1.0) < 1e6, f"the temperature {found.get('temperature')!r}")
    freedom = found.get("df")
    expect(freedom is None or 4 <= freedom <= FREEDOM and freedom % 2 == 0, f"the degrees of freedom {freedom!r}")
    expect(found.get("link") in (None, "softplus", "exp"), f"the link {found.get('link')!r}")
    if kind is networks.MLP:
        expect(networks.mlp(**found) == kind(**found), "its network is none that dubito makes")
        expect(len(found["hidden"]) <= LAYERS and max(found["hidden"], default=0) < LARGEST, "its network is too large")
    return kind(**found)
