"""The registry of posteriors: whoever adds a posterior writes its file, and an import and an entry of ``by_name``."""

import pathlib
import shutil
import subprocess
import sys

import pytest

import dubito
from dubito.estimators.files import posterior_file
from dubito.posteriors import by_name
from dubito.posteriors.base import Posterior

PACKAGE = pathlib.Path(dubito.__file__).parent

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
IMPORT, ENTRY = "from dubito.posteriors.uniform import Uniform", "    Uniform,"

USE = """
import jax
import jax.numpy as jnp
import numpy as np
import dubito
from dubito.posteriors.uniform import Uniform

x = np.linspace(-1, 1, 20)[:, None]
model = dubito.BayesianRegressor(dubito.MAP(epochs=2), hidden=(2,), random_state=0).fit(x, x[:, 0])
point = jax.tree.map(lambda leaf: leaf[0], model.posterior_.params)
width = jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.1), point)
model.posterior_ = Uniform(model.posterior_.model, point, width)
answer = dubito.predict(model.posterior_, x, key=jax.random.key(0), draws=30)
assert len(answer.draws) == 30 and np.all(answer.epistemic > 0)
model.save("model")
loaded = dubito.load("model")
assert type(loaded.posterior_) is Uniform
assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (loaded.posterior_, model.posterior_))))
assert np.array_equal(loaded.predict_interval(x), model.predict_interval(x))
"""


@pytest.mark.slow
def test_a_new_posterior_is_one_file_an_import_and_an_entry(tmp_path):
    """Predictions, estimators and the model file know it, though none of them is edited."""
    package = shutil.copytree(PACKAGE, tmp_path / "dubito", ignore=shutil.ignore_patterns("__pycache__"))
    (package / "posteriors" / "uniform.py").write_text(NEW_POSTERIOR)
    registry = package / "posteriors" / "by_name.py"
    start = "POSTERIORS: tuple[type[base.Posterior], ...] = ("
    text = registry.read_text()
    assert text.count(start) == 1
    registry.write_text(text.replace(start, f"{IMPORT}\n\n{start}\n{ENTRY}"))
    paths = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n"
    done = subprocess.run([sys.executable, "-c", paths + USE], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_posteriors_of_the_registry_are_those_of_the_model_file():
    """The posterior of ``LaplaceApproximation`` is defined beside that method, above the registry."""
    assert set(posterior_file.POSTERIORS.values()) == {*by_name.POSTERIORS, dubito.LaplacePosterior}


@pytest.mark.parametrize("kind", by_name.POSTERIORS, ids=lambda kind: kind.__name__)
def test_posteriors_are_final_classes_of_the_contract(kind):
    assert issubclass(kind, Posterior) and not kind.__abstractmethods__
    assert not any(issubclass(other, kind) for other in by_name.POSTERIORS if other is not kind)
    assert (kind.file_values is not Posterior.file_values) == bool(kind.file_keys)
