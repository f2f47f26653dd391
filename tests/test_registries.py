"""The registries: whoever adds a likelihood, a method or a posterior writes its file and names it in ``by_name``.

A copy of the package with one more of each, in a process of its own: estimators, the command line's names and settings,
predictions and the model file know them, though none of these is edited.
"""

import pathlib
import shutil
import subprocess
import sys

import pytest

import dubito

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
NEW_POSTERIOR = '''
"""Independent uniform distributions."""

from dataclasses import dataclass

import jax

from dubito._jax import prng
from dubito._jax.pytree import register_dataclass
from dubito._jax.types import Params
from dubito.models.model import Model
from dubito.posteriors.base import KeyedPosterior
from dubito.posteriors.file_layout import FileLayout


@register_dataclass
@dataclass(frozen=True)
class Uniform(KeyedPosterior):
    """θ = mean + width·u, u uniform between −1 and 1."""

    model: Model
    mean: Params
    width: Params

    def draw(self, seed):
        means, tree = jax.tree.flatten(self.mean)
        u = tree.unflatten(prng.uniforms(prng.fast(seed), [mean.shape for mean in means]))
        return jax.tree.map(lambda m, w, u: m + w * (2 * u - 1), self.mean, self.width, u)

    @classmethod
    def file_layout(cls, params, parts, values):
        return FileLayout({"mean": params, "width": params}, {})
'''
FILES = {
    "models/likelihoods/logistic.py": NEW_LIKELIHOOD,
    "methods/tempered_map.py": NEW_METHOD,
    "posteriors/uniform.py": NEW_POSTERIOR,
}
EDITS = [  # (registry, its text, what is written instead): a word for a likelihood, else an import and an entry
    ("models/likelihoods/by_name.py", 'FILES = ("gaussian", "robust", ', 'FILES = ("gaussian", "robust", "logistic", '),
    (
        "methods/by_name.py",
        "from dubito.training.method import Method, Wrapper",
        "from dubito.methods.tempered_map import TemperedMAP\nfrom dubito.training.method import Method, Wrapper",
    ),
    ("methods/by_name.py", '    "map": MAP(),', '    "map": MAP(),\n    "tempered-map": TemperedMAP(),'),
    (
        "posteriors/by_name.py",
        "POSTERIORS: tuple[type[base.Posterior], ...] = (",
        "from dubito.posteriors.uniform import Uniform\n\nPOSTERIORS: tuple[type[base.Posterior], ...] = (\n    Uniform,",
    ),
]

USE = """
import jax
import jax.numpy as jnp
import numpy as np
import dubito
from dubito.methods import by_name
from dubito.posteriors.uniform import Uniform

x = np.linspace(-1, 1, 20)[:, None]
y = np.column_stack([x[:, 0], 2 - x[:, 0]])

assert dubito.LIKELIHOODS["logistic"].task == "regression"
method = by_name.get_method("tempered-map", ["power=0.25", "epochs=2"])
assert (method.power, method.epochs) == (0.25, 2)
assert "tempered-map" in by_name.parse_names("all")

model = dubito.BayesianRegressor(method, hidden=(2,), likelihood="logistic", random_state=0).fit(x, y)
likelihood = model.posterior_.model.likelihood
assert (type(likelihood).__name__, likelihood.targets) == ("LogisticNoise", 2)
point = jax.tree.map(lambda leaf: leaf[0], model.posterior_.params)
for posterior in (model.posterior_, Uniform(model.posterior_.model, point, jax.tree.map(lambda w: jnp.full_like(w, 0.1), point))):
    model.posterior_ = posterior
    lower, upper = model.predict_interval(x)
    assert lower.shape == (20, 2) and np.all(lower < upper)
    model.save("model")
    loaded = dubito.load("model")
    assert loaded.method_ == method and loaded.posterior_.model.likelihood == likelihood
    assert type(loaded.posterior_) is type(posterior)
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (loaded.posterior_, posterior))))
    assert np.array_equal(loaded.predict(x), model.predict(x))
    assert np.array_equal(loaded.predict_interval(x), (lower, upper))

answer = dubito.predict(model.posterior_, x, key=jax.random.key(0), draws=30)
assert len(answer.draws) == 30 and np.all(answer.epistemic > 0)
"""


@pytest.mark.slow
def test_a_new_likelihood_method_and_posterior_are_a_file_and_an_entry_each(tmp_path):
    package = shutil.copytree(PACKAGE, tmp_path / "dubito")  # with the compiled files of what is not edited
    for name, text in FILES.items():
        (package / name).write_text(text)
    for name, old, new in EDITS:
        text = (package / name).read_text()
        assert text.count(old) == 1
        (package / name).write_text(text.replace(old, new))
    paths = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n"
    done = subprocess.run([sys.executable, "-c", paths + USE], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
