"""The registry of methods: whoever adds a method writes its file, and an import and an entry of ``by_name``."""

import dataclasses
import inspect
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

import dubito
from dubito.estimators.files import codec
from dubito.methods import by_name
from dubito.training.method import LoopMethod, Method, Wrapper, base_method

PACKAGE = pathlib.Path(dubito.__file__).parent

NEW_METHOD = '''
"""MAP with a power of the prior."""

from dataclasses import dataclass

from dubito._jax.pytree import register_dataclass
from dubito.methods.map import PointEstimate
from dubito.training import optimizers


@register_dataclass
@dataclass(frozen=True, kw_only=True)
class TemperedMAP(PointEstimate):
    """argmax log p(D | θ) + power · log p(θ), in nats."""

    power: float = 0.5

    def check(self, model):
        optimizers.check_descent(self)

    def log_prior(self, model, params):
        return self.power * model.log_prior(params)
'''
IMPORT, ENTRY = "from dubito.methods.tempered_map import TemperedMAP", '    "tempered-map": TemperedMAP(),'

USE = """
import numpy as np
import dubito
from dubito.methods import by_name

method = by_name.get_method("tempered-map", ["power=0.25", "epochs=2"])
assert (method.power, method.epochs) == (0.25, 2)
assert "tempered-map" in by_name.parse_names("all")
x = np.linspace(-1, 1, 20)[:, None]
model = dubito.BayesianRegressor(method, hidden=(2,), random_state=0).fit(x, x[:, 0])
model.save("model")
loaded = dubito.load("model")
assert loaded.method_ == method and np.array_equal(loaded.predict(x), model.predict(x))
"""


@pytest.mark.slow
def test_a_new_method_is_one_file_an_import_and_an_entry(tmp_path):
    """The command line's names and settings, the estimators and the model file know it, though none of them is edited."""
    package = shutil.copytree(PACKAGE, tmp_path / "dubito", ignore=shutil.ignore_patterns("__pycache__"))
    (package / "methods" / "tempered_map.py").write_text(NEW_METHOD)
    registry = package / "methods" / "by_name.py"
    last_import, first_entry = "from dubito.training.method import Method, Wrapper", '    "map": MAP(),'
    text = registry.read_text()
    assert text.count(last_import) == text.count(first_entry) == 1
    text = text.replace(last_import, f"{IMPORT}\n{last_import}").replace(first_entry, f"{first_entry}\n{ENTRY}")
    registry.write_text(text)
    paths = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n"
    done = subprocess.run([sys.executable, "-c", paths + USE], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


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
