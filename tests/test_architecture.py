"""Imports follow the order of the packages: a package imports only from packages above it, a file only from files before it.

The order of the packages is defined here, that of the files of a package in the docstring of its ``__init__``.
"""

import ast
import pathlib
import re

import pytest

import dubito

PACKAGE = pathlib.Path(dubito.__file__).parent
FOLDERS = (
    *("_check", "_values", "_process", "_jax", "models", "tables", "posteriors", "training", "methods", "evaluation"),
    *("estimators", "inspection", "interop", "serving", "cli", "__main__"),
)
INDEPENDENT = [{"tables", "posteriors", "training"}, {"methods", "evaluation"}]  # do not import from each other
MAKES_KEYS = {"_jax.prng", "estimators.base", "estimators.fitted"}
FILE_LINES, FUNCTION_LINES = 400, 65
BESIDE = 10  # files in the package's own folder

SOURCES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path.read_text()
    for path in sorted(PACKAGE.rglob("*.py"))
}
FILES = [name for name in SOURCES if name.split(".")[-1] != "__init__"]
PACKAGES = [name.removesuffix(".__init__") for name in SOURCES if name.endswith(".__init__")]


def listed(package):
    """The files and folders in the docstring of a package, in order."""
    text = ast.get_docstring(ast.parse(SOURCES[f"{package}.__init__"])) or ""
    return re.findall(r"^- ``(\w+)``: ", text, re.MULTILINE)


ORDERS = {"": list(FOLDERS)} | {package: listed(package) for package in PACKAGES}


def above(module, other):
    """Whether ``other`` comes before ``module``, in the order of the innermost folder that contains both."""
    one, two = module.split("."), other.split(".")
    depth = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
    if depth == len(two) or depth == len(one):
        return False
    order = ORDERS[".".join(one[:depth])]
    return order.index(two[depth]) < order.index(one[depth])


def imported(module, source):
    """Modules of dubito that ``module`` imports anywhere, as names below the package ('' for the package itself)."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            parts = [alias.name.split(".") for alias in node.names]
            found |= {".".join(name[1:]) for name in parts if name[0] == "dubito"}
        elif isinstance(node, ast.ImportFrom):
            base = ["dubito", *module.split(".")][: -node.level] if node.level else []
            base += node.module.split(".") if node.module else []
            if base[0] == "dubito":
                found |= {submodule(base[1:], alias.name) for alias in node.names}
    return found


def submodule(base, name):
    """The module that ``from dubito.<base> import name`` reads: ``base.name`` if it is a module, else ``base``."""
    inner = ".".join([*base, name])
    return inner if inner in FILES or inner in PACKAGES else ".".join(base)


@pytest.mark.parametrize(
    ("module", "line", "expected"),
    [
        ("training.fit", "from dubito.models.model import Batch", {"models.model"}),
        ("training.fit", "from dubito.models import model, priors", {"models.model", "models.priors"}),
        ("training.fit", "from dubito import Model", {""}),
        ("training.fit", "from . import chunk", {"training.chunk"}),
        ("training.fit", "from .chunk import Batch", {"training.chunk"}),
        ("training.fit", "from ..models.model import Batch", {"models.model"}),
        ("training.fit", "import dubito.models.model as m, jax", {"models.model"}),
        ("training.fit", "import dubito", {""}),
        ("training.fit", "def f():\n    from dubito.cli.commands import main", {"cli.commands"}),
        ("training.fit", "from jax import random\nimport numpy", set()),
    ],
)
def test_imported_finds_all_forms_of_import(module, line, expected):
    assert imported(module, line) == expected


@pytest.mark.parametrize(
    ("module", "other", "expected"),
    [
        ("training.fit", "models.model", True),
        ("models.model", "training.fit", False),
        ("training.fit", "training.chunk", True),
        ("training.chunk", "training.fit", False),
        ("methods.laplace.laplace", "methods.map", True),
        ("methods.map", "methods.laplace.laplace", False),
        ("methods.laplace.laplace", "methods.laplace.curvature", True),
        ("training.fit", "training", False),
    ],
)
def test_above_follows_the_order_of_folders_and_files(module, other, expected):
    assert above(module, other) is expected


@pytest.mark.parametrize("package", PACKAGES)
def test_package_docstring_lists_its_files(package):
    inside = {name.removeprefix(f"{package}.").split(".")[0] for name in SOURCES if name.startswith(f"{package}.")}
    assert sorted(listed(package)) == sorted(inside - {"__init__"})


def test_top_folder_contains_only_packages_and_few_files():
    top = {path.stem for path in PACKAGE.iterdir() if not path.name.startswith("__") and path.name != "py.typed"}
    assert top - set(FOLDERS) == set()
    assert len([path for path in PACKAGE.iterdir() if path.is_file()]) <= BESIDE


@pytest.mark.parametrize("module", FILES)
def test_module_imports_only_modules_above_it(module):
    # the command line comes last, so it may use the public names of the package
    others = imported(module, SOURCES[module]) - ({""} if module == "cli.commands" else set())
    assert [other for other in sorted(others) if not above(module, other)] == []


@pytest.mark.parametrize("module", FILES)
def test_independent_packages_do_not_import_each_other(module):
    top = module.split(".")[0]
    others = {other for group in INDEPENDENT if top in group for other in group - {top}}
    assert [other for other in imported(module, SOURCES[module]) if other.split(".")[0] in others] == []


def length(function):
    """Lines of a function without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    first = function.body[0]
    documented = (first.end_lineno or first.lineno) - first.lineno + 1 if len(body) < len(function.body) else 0
    return (function.end_lineno or function.lineno) - function.lineno + 1 - documented


@pytest.mark.parametrize("module", FILES)
def test_files_and_functions_are_within_the_length_limits(module):
    source = SOURCES[module]
    functions = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {node.name: length(node) for node in functions}
    assert len(source.splitlines()) <= FILE_LINES
    assert {name: length for name, length in lengths.items() if length > FUNCTION_LINES} == {}


@pytest.mark.parametrize("module", FILES)
def test_module_uses_no_super_and_is_no_utils(module):
    assert module.split(".")[-1] != "utils"
    calls = [node for node in ast.walk(ast.parse(SOURCES[module])) if isinstance(node, ast.Call)]
    assert [n.lineno for n in calls if isinstance(n.func, ast.Name) and n.func.id == "super"] == []


def made_keys(source):
    """Lines that create a key from a number: ``jax.random.key`` or ``PRNGKey``, also under other names."""
    lines, aliases = [], {"random"}
    nodes = list(ast.walk(ast.parse(source)))
    for node in nodes:
        if isinstance(node, ast.Import):
            aliases |= {alias.asname for alias in node.names if alias.name == "jax.random" and alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module == "jax":
            aliases |= {alias.asname for alias in node.names if alias.name == "random" and alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module in ("jax.random", "dubito._jax.prng"):
            lines += [node.lineno for alias in node.names if alias.name in ("key", "PRNGKey", "key_from_seed")]
    for node in nodes:
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner = node.func.value
        name = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else None
        if node.func.attr in ("PRNGKey", "key_from_seed") or (node.func.attr == "key" and name in aliases):
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize(
    "source",
    [
        "import jax\njax.random.key(0)",
        "import jax.random as jr\n\njr.key(0)",
        "from jax import random\nrandom.PRNGKey(0)",
        "from jax.random import key",
        "from dubito._jax import prng\nprng.key_from_seed(0)",
        "from dubito._jax.prng import key_from_seed",
    ],
)
def test_made_keys_finds_all_ways_to_create_a_key(source):
    assert made_keys(source)


@pytest.mark.parametrize("module", [name for name in FILES if name not in MAKES_KEYS])
def test_module_creates_no_random_key(module):
    assert made_keys(SOURCES[module]) == []
