"""The registry of methods; ``test_registries`` adds one."""

import dataclasses
import inspect
import re

import pytest

import dubito
from dubito.estimators.files import codec
from dubito.methods import by_name
from dubito.training.method import LoopMethod, Method, Wrapper, base_method


def test_classes_of_the_registry_are_those_of_the_model_file():
    classes = by_name.method_classes()
    assert set(classes) == {type(one) for method in by_name.METHODS.values() for one in by_name.with_wrapped(method)}
    assert set(classes) <= set(codec.CLASSES.values())
    assert dubito.RandomizedMAP in classes  # wrapped in an ensemble only


@pytest.mark.parametrize("kind", by_name.method_classes(), ids=lambda kind: kind.__name__)
def test_methods_are_final_classes_of_the_contract(kind):
    """Each gives what is abstract, extends abstract classes only, and is a wrapper or driven by the loop."""
    assert issubclass(kind, Method) and not kind.__abstractmethods__
    assert issubclass(kind, Wrapper) != issubclass(kind, LoopMethod)
    assert not any(issubclass(other, kind) for other in by_name.method_classes() if other is not kind)


@pytest.mark.parametrize("kind", by_name.method_classes(), ids=lambda kind: kind.__name__)
def test_a_call_with_wrong_settings_says_how_to_write_them(kind):
    """Too many without a name, one that does not exist, and a required one left out: each message lists all settings."""
    names = list(inspect.signature(kind.__init__).parameters)[1:]
    call = f"{kind.__name__}({', '.join(f'{name}=...' for name in names)})"
    name = names[-1]
    with pytest.raises(TypeError, match=rf"^{kind.__name__} takes its settings by name: {re.escape(call)}$"):
        kind(*range(len(names) + 1))
    with pytest.raises(
        TypeError,
        match=rf"^{kind.__name__} has no setting '{name}s'; did you mean '{name}'\? It has {re.escape(call)}$",
    ):
        kind(**{f"{name}s": 1})
    required = [field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING]
    for missing in required:
        with pytest.raises(TypeError, match=rf"argument: '{missing}'. Write {re.escape(call)}$"):
            kind()


def test_base_method_is_inside_all_wrappers():
    inner = dubito.MCDropout()
    assert base_method(dubito.ConjugateNoise(dubito.Ensemble(inner, 2))) is inner
    assert base_method(inner) is inner


@pytest.mark.parametrize("wrong", [dubito.MAP, "map", None])
def test_fit_refuses_what_is_no_method(wrong, key):
    model, x = dubito.Model(dubito.mlp(1, (2,)), dubito.Gaussian()), [[0.0], [1.0]]
    for method in (wrong, dubito.Ensemble(wrong, 2)):
        with pytest.raises(ValueError, match="method must be a method such as MAP"):
            dubito.fit(model, x, [0.0, 1.0], method, key=key)
