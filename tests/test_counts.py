"""Contracts are declared and documented: what ``scripts/measure`` counts and what must stay at zero."""

import ast
import importlib
import pathlib
import sys

import pytest

FOLDER = pathlib.Path(__file__).parent.parent / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="only a checkout has the benchmarks")

LAZY = "import math\nroot = getattr(math, 'sqrt')\n"
BORROWED = "class A:\n    def f(self): pass\n\nclass B:\n    f = A.f\n"
OVERRIDDEN = "class A:\n    def f(self): return 1\n\nclass B(A):\n    def f(self): return 2\n"
ABSTRACT = "class A:\n    @abstractmethod\n    def f(self): ...\n\nclass B(A):\n    def f(self): return 2\n"


@pytest.fixture(scope="module")
def house():
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("house")
    finally:
        sys.path.remove(str(FOLDER))
        sys.modules.pop("house", None)


@pytest.fixture(scope="module")
def trees(house):
    paths = sorted(house.PACKAGE.rglob("*.py"))
    return {path.relative_to(house.PACKAGE).as_posix(): ast.parse(path.read_text()) for path in paths}


def test_attributes_are_not_probed(house, trees):
    assert house.probes({"planted.py": ast.parse(LAZY)})
    assert house.probes(trees) == []


def test_methods_are_not_borrowed_from_other_classes(house, trees):
    assert house.borrowed({"planted.py": ast.parse(BORROWED)})
    assert house.borrowed(trees) == []


def test_concrete_methods_are_not_overridden(house, trees):
    assert house.overridden({"planted.py": ast.parse(OVERRIDDEN)})
    assert not house.overridden({"planted.py": ast.parse(ABSTRACT)})
    assert house.overridden(trees) == []


def test_public_names_are_defined_once(house, trees):
    planted = ast.parse("def f(): pass")
    assert house.defined_twice({"one.py": planted, "two.py": planted})
    assert house.defined_twice(trees) == []


def test_public_docstrings_have_sections(house, trees):
    assert house.public_count(trees) > 300
    assert house.without_sections(trees) == []


def test_every_parameter_is_annotated(house, trees):
    assert house.annotations({"planted.py": ast.parse("def f(x): pass")}) == (0, 1)
    annotated, total = house.annotations(trees)
    assert annotated == total
