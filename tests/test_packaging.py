"""What an installed dubito promises: a light import, types, and exactly the names of its stub."""

import ast
import importlib.metadata
import importlib.resources
import pathlib
import subprocess
import sys

import pytest

import dubito

STUB = pathlib.Path(dubito.__file__).with_suffix(".pyi")
NAMES = [
    alias.asname or alias.name
    for node in ast.parse(STUB.read_text()).body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
]


def test_importing_dubito_imports_no_jax():
    code = "import dubito, sys; assert 'jax' not in sys.modules"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_package_is_typed():
    assert importlib.resources.files("dubito").joinpath("py.typed").is_file()


def test_the_public_names_are_the_stubs():
    assert NAMES
    assert sorted(dubito.__all__) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_public_name_loads(name):
    assert getattr(dubito, name) is not None


def test_version_submodules_and_suggestions():
    assert dubito.__version__ == importlib.metadata.version("dubito")
    assert {"metrics", "plots", "calibration", "BayesianRegressor"} <= set(dir(dubito))
    with pytest.raises(AttributeError, match="no attribute 'BayesianRegresor'; did you mean 'BayesianRegressor'"):
        dubito.BayesianRegresor  # noqa: B018
    with pytest.raises(AttributeError, match=r"no attribute '_private'$"):
        dubito._private  # noqa: B018
