"""The installed package: a light import, types, and exactly the names of its stub."""

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


def test_import_of_dubito_does_not_import_jax():
    code = "import dubito, sys; assert 'jax' not in sys.modules"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_package_has_a_py_typed_marker():
    assert importlib.resources.files("dubito").joinpath("py.typed").is_file()


def test_public_names_equal_those_of_the_stub():
    assert NAMES
    assert sorted(dubito.__all__) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_public_name_can_be_loaded(name):
    assert getattr(dubito, name) is not None


def test_package_has_a_version_and_suggests_close_names():
    assert dubito.__version__ == importlib.metadata.version("dubito")
    assert {"metrics", "plots", "calibration", "BayesianRegressor"} <= set(dir(dubito))
    with pytest.raises(AttributeError, match="no attribute 'BayesianRegresor'; did you mean 'BayesianRegressor'"):
        dubito.BayesianRegresor  # noqa: B018
    with pytest.raises(AttributeError, match=r"no attribute '_private'$"):
        dubito._private  # noqa: B018
