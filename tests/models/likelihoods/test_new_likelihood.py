"""The registry of likelihoods: to add a likelihood, write its file and add the name of the file to ``by_name``."""

import pathlib
import shutil
import subprocess
import sys

import pytest

import dubito
from dubito.estimators.files import codec
from dubito.models.likelihoods import by_name

PACKAGE = pathlib.Path(dubito.__file__).parent

NEW_LIKELIHOOD = '''
"""Logistic noise."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from dubito._jax.pytree import register_dataclass, static
from dubito.models.likelihoods.base import Entry, LocationScale, WithoutParameters


@register_dataclass
@dataclass(frozen=True)
class LogisticNoise(WithoutParameters, LocationScale):
    """y ~ f + a logistic error of the given scale."""

    scale: float = 1.0
    targets: int = static(default=1)

    @property
    def width(self):
        return self.targets

    def join(self, f, phi):
        return {"mean": f, "scale": jnp.full_like(f, self.scale)}

    def log_prob(self, z, y):
        u = (y - z["mean"]) / z["scale"]
        return jnp.sum(-u - 2 * jax.nn.softplus(-u) - jnp.log(z["scale"]), axis=1)

    def variance(self, z):
        return z["scale"] ** 2 * (jnp.pi**2 / 3)

    def cdf(self, z, y):
        return jax.nn.sigmoid((y - z["mean"]) / z["scale"])

    def sample(self, key, z):
        return z["mean"] + z["scale"] * jax.random.logistic(key, z["mean"].shape)


ENTRIES = {"logistic": Entry(LogisticNoise, "u + 2 log(1 + e^-u)", "logistic", "-tanh(u/2)", "numbers", "a test")}
'''

USE = """
import numpy as np
import dubito

assert dubito.LIKELIHOODS["logistic"].task == "regression"
x = np.linspace(-1, 1, 20)[:, None]
y = np.column_stack([x[:, 0], 2 - x[:, 0]])
method = dubito.MAP(epochs=2)
model = dubito.BayesianRegressor(method, hidden=(2,), likelihood="logistic", random_state=0).fit(x, y)
likelihood = model.posterior_.model.likelihood
assert (type(likelihood).__name__, likelihood.targets) == ("LogisticNoise", 2)
lower, upper = model.predict_interval(x)
assert lower.shape == (20, 2) and np.all(lower < upper)
model.save("model")
loaded = dubito.load("model")
assert loaded.posterior_.model.likelihood == likelihood and np.array_equal(loaded.predict(x), model.predict(x))
"""


@pytest.mark.slow
def test_new_likelihood_is_one_file_and_one_line(tmp_path):
    """The estimators, the table of likelihoods and the model file know it without being edited."""
    package = shutil.copytree(PACKAGE, tmp_path / "dubito", ignore=shutil.ignore_patterns("__pycache__"))
    (package / "models" / "likelihoods" / "logistic.py").write_text(NEW_LIKELIHOOD)
    registry = package / "models" / "likelihoods" / "by_name.py"
    text, line = registry.read_text(), 'FILES = ("gaussian", "robust", "positive", "shares", "counts", "classes")'
    assert text.count(line) == 1
    registry.write_text(text.replace(line, line.replace('"robust"', '"robust", "logistic"')))
    paths = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n"
    done = subprocess.run([sys.executable, "-c", paths + USE], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_classes_of_the_registry_are_those_of_the_model_file():
    assert {entry.kind for entry in by_name.LIKELIHOODS.values()} == set(codec.LIKELIHOODS)


@pytest.mark.parametrize(("name", "count", "attributes"), [
    ("gaussian", 3, {"targets": 3, "columns": 3}),
    ("censored", 4, {"targets": 2, "columns": 4}),
    ("censored", 1, {"targets": 1, "columns": 2}),
    ("poisson", 2, {"targets": 2}),
    ("bernoulli", 2, {"classes": 2}),
    ("ordered", 5, {"classes": 5}),
])  # fmt: skip
def test_make_sets_the_number_of_targets_or_classes(name, count, attributes):
    likelihood = by_name.get_likelihood(name).make(count)
    assert {attribute: getattr(likelihood, attribute) for attribute in attributes} == attributes
