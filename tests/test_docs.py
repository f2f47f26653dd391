"""The reference is complete: every public name stands in it exactly once. Building the site is `scripts/docs`."""

import importlib
import inspect
import pathlib
import re
from collections import Counter

import pytest

import dubito

REFERENCE = pathlib.Path(__file__).parents[1] / "docs" / "reference"
DIRECTIVE = re.compile(r"^\.\. (?:auto(?:class|function|exception)|py:data):: (\S+)", re.MULTILINE)
NAMES = [name for page in sorted(REFERENCE.glob("*.md")) for name in DIRECTIVE.findall(page.read_text())]
MODULES = (  # public beside dubito itself
    *("models.activations", "tables.datasets"),
    *(f"evaluation.{name}" for name in "calibration conformal decisions diagnostics elbo loo metrics".split()),
    *(f"inspection.{name}" for name in "graph.backprop landscape report".split()),
    *(f"inspection.plots.{name}" for name in "activation_curves predictions training".split()),
)


def found(name):
    """The object of a dotted name."""
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(module), last)


def test_no_name_stands_twice():
    objects = Counter(id(found(name)) for name in NAMES)
    assert [name for name, count in Counter(NAMES).items() if count > 1] == []
    assert [name for name in NAMES if objects[id(found(name))] > 1] == []  # one thing under two names


def test_the_public_names_are_there():
    own = {name for name in dubito.__all__ if not inspect.ismodule(getattr(dubito, name))}
    assert {f"dubito.{name}" for name in own} - set(NAMES) == set()


@pytest.mark.parametrize("name", MODULES)
def test_a_public_modules_functions_and_classes_are_there(name):
    module = importlib.import_module(f"dubito.{name}")
    own = {
        f"{module.__name__}.{key}"
        for key, value in vars(module).items()
        if (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == module.__name__
        and not key.startswith("_")
    }
    assert own
    assert own - set(NAMES) == set()
