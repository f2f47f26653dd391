"""The registry of methods: by name, with fields by their path.

``METHODS`` is read by the command line, the model file and the documentation. To
add a method, write its file, import it here and add its entry.
"""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any

from dubito._check import check_choice, list_first
from dubito.methods.conjugate_noise import ConjugateNoise
from dubito.methods.default import default_method
from dubito.methods.dropout.concrete_dropout import ConcreteDropout
from dubito.methods.dropout.mc_dropout import MCDropout
from dubito.methods.dropout.variational_dropout import SparseVariationalDropout, VariationalDropout
from dubito.methods.ensembles.committee import Committee
from dubito.methods.ensembles.cross_fit import CrossFit
from dubito.methods.ensembles.ensemble import Ensemble
from dubito.methods.ensembles.randomized_map import RandomizedMAP
from dubito.methods.laplace.laplace import LaplaceApproximation
from dubito.methods.map import MAP, MaximumLikelihood
from dubito.methods.sampling.hmc import HMC
from dubito.methods.sampling.mclmc import MCLMC
from dubito.methods.sampling.nuts import NUTS
from dubito.methods.sampling.sghmc import SGHMC
from dubito.methods.sampling.sgld import SGLD
from dubito.methods.swag import SWAG
from dubito.methods.variational.bayes_by_backprop import BayesByBackprop
from dubito.methods.variational.natural_gradient import NaturalGradientVI
from dubito.methods.variational.variational_gaussian import VariationalGaussian
from dubito.training.method import Method, Wrapper

METHODS: dict[str, Method | None] = {
    "auto": None,  # ``default_method``, by task and rows
    "maximum-likelihood": MaximumLikelihood(),
    "map": MAP(),
    "mc-dropout": MCDropout(),
    "concrete-dropout": ConcreteDropout(),
    "variational-dropout": VariationalDropout(),
    "sparse-variational-dropout": SparseVariationalDropout(),
    "bayes-by-backprop": BayesByBackprop(),
    "laplace": LaplaceApproximation(),
    "practical-vi": BayesByBackprop(gradient_estimator="fisher"),  # Graves 2011, who also fits the prior
    "natural-gradient-vi": NaturalGradientVI(),
    "variational-gaussian": VariationalGaussian(),
    "ensemble": Ensemble(MAP(noise="held-out"), 5),
    "cross-fit": CrossFit(MAP(), 10),
    "committee": Committee(MAP(), 10),
    "hmc": HMC(),
    "nuts": NUTS(),
    "mclmc": MCLMC(),
    "randomized-map": Ensemble(RandomizedMAP(), 20),
    "swag": SWAG(),
    "multi-swag": Ensemble(SWAG(), 5),
    "sgld": SGLD(),
    "sghmc": SGHMC(),
    "conjugate-noise": ConjugateNoise(MCDropout(noise="training")),  # it replaces the noise,
}


def method_classes() -> tuple[type[Method], ...]:
    """All classes of the registry, those inside wrappers too; each once."""
    found = [type(one) for method in METHODS.values() for one in with_wrapped(method)]
    return tuple(dict.fromkeys(found))


def with_wrapped(method: Method | None) -> Iterator[Method]:
    """The method, and those that it wraps."""
    while method is not None:
        yield method
        method = method.method if isinstance(method, Wrapper) else None


def method_params(method: Any, prefix: str) -> dict[str, Any]:
    """``method__rate`` and so on, for scikit-learn's get_params; wrapped methods too."""
    found: dict[str, Any] = {}
    for field in fields(method):
        value = vars(method)[field.name]
        found[f"{prefix}{field.name}"] = value
        if is_dataclass(value):
            found |= method_params(value, f"{prefix}{field.name}__")
    return found


def with_setting(method: Any, path: Sequence[str], value: Any) -> Any:
    """``method`` with the field at ``path`` (a list of names) set to ``value``."""
    name, *rest = path
    if method is None:
        raise ValueError(
            f"the default method has no setting {name!r}: choose a method, as method=MAP({name}={value!r})"
        )
    if not is_dataclass(method) or name not in {field.name for field in fields(method)}:
        raise ValueError(f"Invalid parameter {name!r} for method {method!r}.")
    inner = with_setting(vars(method)[name], rest, value) if rest else value
    return replace(method, **{name: inner})  # type: ignore[type-var]


def get_method(name: str, settings: Sequence[str] = (), *, size: int = 1000, task: str = "regression") -> Method | None:
    """The method of a name, with settings.

    Parameters
    ----------
    name : str
        A name of ``METHODS``.
    settings : sequence of str
        Texts FIELD=VALUE (``rate=0.1``; ``method.rate=0.1`` in a wrapped method).
    size : int
        The number of rows for which "auto" with settings is made.
    task : str
        The task for which it is made.

    Returns
    -------
    Method or None
        None for "auto" without settings, the estimators' default.

    Raises
    ------
    ValueError
        For an unknown name, and for a value of the wrong kind.
    """
    check_choice("method", name, METHODS)
    method = METHODS[name]
    if settings and method is None:
        method = default_method(size, task)
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"a setting is FIELD=VALUE, got {setting!r}")
        names, given = path.split("."), parse_value(text)
        usual = method_params(method, "").get("__".join(names))
        if isinstance(usual, int | float) and isinstance(given, str):
            raise ValueError(f"{path} is a number, such as {usual!r}; got {text!r}")
        method = with_setting(method, names, given)
    return method


def resolve_method(method: Any, task: str) -> Method | None:
    """The method that a user named.

    Parameters
    ----------
    method : Method, type, str or None
        A method, its class if it needs no settings, or a name of ``METHODS``.
    task : str
        "regression" or "classification".

    Returns
    -------
    Method or None
        None for the estimators' default, ``"auto"``.

    Raises
    ------
    ValueError
        For anything else.
    """
    if isinstance(method, str):
        return get_method(method, task=task)
    if isinstance(method, type) and issubclass(method, Method):
        needed = [field.name for field in fields(method) if field.default is field.default_factory is MISSING]  # type: ignore[arg-type]
        if needed:
            raise ValueError(
                f"method={method.__name__} is a class, and needs {list_first(needed)}. "
                f"Pass an object, such as {method.__name__}({needed[0]}=MAP())."
            )
        return method()
    if method is None or isinstance(method, Method):
        return method
    raise ValueError(f"method must be a method such as MAP(), a name of dubito.METHODS, or None; got {method!r}")


def parse_names(text: str) -> list[str]:
    """The names in a list with commas, or all. Raises ValueError for one that is unknown, and for one named twice."""
    names = [*METHODS] if text == "all" else [name.strip() for name in text.split(",")]
    for name in names:
        get_method(name)
        if names.count(name) > 1:
            raise ValueError(f"method {name!r} is named twice: name each once")
    return names


def parse_value(text: str) -> Any:
    """A number, tuple, None or truth value written as in Python; any other text as it is."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
