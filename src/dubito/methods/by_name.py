"""Methods as users choose them: by name, by default for a table with the network beside it, and fields by their path."""

import ast
from dataclasses import fields, is_dataclass, replace
from numbers import Integral
from typing import Any

from dubito._check import did_you_mean
from dubito.methods.conjugate_noise import ConjugateNoise
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
from dubito.models.networks import mlp

METHODS = {
    "auto": None,  # ``default_method``, by task and rows
    "maximum-likelihood": MaximumLikelihood(),
    "map": MAP(),
    "mc-dropout": MCDropout(),
    "concrete-dropout": ConcreteDropout(),
    "variational-dropout": VariationalDropout(),
    "sparse-variational-dropout": SparseVariationalDropout(),
    "bayes-by-backprop": BayesByBackprop(),
    "laplace": LaplaceApproximation(),
    "practical-vi": BayesByBackprop(noise="fisher"),  # Graves 2011 but for the prior, which he fits beside
    "natural-gradient-vi": NaturalGradientVI(),
    "variational-gaussian": VariationalGaussian(),
    "ensemble": Ensemble(MAP(), 5),
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
    "conjugate-noise": ConjugateNoise(MCDropout()),
}


# What a likelihood asked for by name says of the noise that cross-fitting finds, where that is not Student's of each row.
NOISES = {"gaussian": {"noise": "constant", "df": None}, "heteroscedastic": {"df": None}}


def default_method(size, task="regression", likelihood=None):
    """The cross-fitted ensemble that the committed benchmark shows best, for ``size`` rows; ``likelihood``: its name, if any.

    A member sees some 300,000 rows in training (550,000 of a large table; 120,000 with classes, where dropout keeps it
    from overfitting), whatever the size, within limits.
    """
    small = size < 4000
    seen = 120_000 if task == "classification" else 300_000 if small else 550_000
    least, most = (100, 600) if small and task == "regression" else (20, 200)
    member = MaximumLikelihood(
        epochs=min(max(seen // size, least), most),
        batch_size=64 if small else 256,
        learning_rate=3e-3 if task == "classification" else 1e-2,
        clip=5.0,
        dropout=0.2 if task == "classification" else None,
    )
    return CrossFit(member, 10, **(NOISES.get(likelihood, {}) if isinstance(likelihood, str) else {}))


def table_network(schema, outputs, recipe, hidden=None, activation=None, periodic=None):
    """The network for a table: of ``recipe`` (hidden, activation, periodic) where the method is the default, else (None)
    one layer of 50 rectified units; what is given comes first."""
    usual = ((50,), "relu", 0) if recipe is None else recipe
    if isinstance(hidden, str) or not (hidden is None or isinstance(hidden, Integral) or hasattr(hidden, "__iter__")):
        raise ValueError(f"hidden is the width of a hidden layer or a sequence of widths, as (50, 50); got {hidden!r}")
    widths: Any = (hidden,) if isinstance(hidden, Integral) else hidden
    return mlp(
        schema.width,
        usual[0] if widths is None else tuple(widths),
        outputs,
        usual[1] if activation is None else activation,
        periodic=usual[2] if periodic is None else periodic,
        numeric=schema.numeric,
        last_variance=1.0 if recipe is None else 0.1,
    )


def method_params(method, prefix):
    """``method__rate`` and so on, for scikit-learn's get_params; wrapped methods too."""
    found = {}
    for field in fields(method):
        value = getattr(method, field.name)
        found[f"{prefix}{field.name}"] = value
        if is_dataclass(value):
            found |= method_params(value, f"{prefix}{field.name}__")
    return found


def replaced(method, path, value):
    """``method`` with the field at ``path`` (a list of names) set to ``value``."""
    if method is None:
        raise ValueError(
            f"the default method has no setting {path[0]!r}: choose a method, as in method=MAP({path[0]}={value!r})"
        )
    if not is_dataclass(method) or path[0] not in {field.name for field in fields(method)}:
        raise ValueError(f"Invalid parameter {path[0]!r} for method {method!r}.")
    inner = value if len(path) == 1 else replaced(getattr(method, path[0]), path[1:], value)
    return replace(method, **{path[0]: inner})  # type: ignore[type-var]


def named(name, settings=(), *, size=1000, task="regression"):
    """The method called ``name``, with texts FIELD=VALUE set (``rate=0.1``; ``method.rate=0.1`` in a wrapped method).

    None for "auto" without settings, the estimators' default; with them it is that for ``size`` rows. Raises ValueError for unknown names and
    for values that are not of the field's kind.
    """
    if name not in METHODS:
        raise ValueError(f"method {name!r} is unknown{did_you_mean(name, METHODS)} Choose one of {', '.join(METHODS)}.")
    method = METHODS[name]
    if settings and method is None:
        method = default_method(size, task)
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"a setting is FIELD=VALUE, got {setting!r}")
        names, given = path.split("."), value(text)
        usual = method_params(method, "").get("__".join(names))
        if isinstance(usual, int | float) and isinstance(given, str):
            raise ValueError(f"{path} is a number, as {usual!r}; got {text!r}")
        method = replaced(method, names, given)
    return method


def chosen(text):
    """The names in a list with commas, or all. Raises ValueError for one that is unknown, and for one named twice."""
    names = [*METHODS] if text == "all" else [name.strip() for name in text.split(",")]
    for name in names:
        named(name)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"method {twice!r} is named twice: name each once")
    return names


def value(text):
    """A number, tuple, None or truth value written as in Python; any other text as it is."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
