"""The folders are the architecture: a folder imports only from folders above it, a file only from those before it in its folder.

The order of the folders stands here; that of the files in each folder in its ``__init__``. Both are read from the source.
"""

import ast
import pathlib
import re

import pytest

import dubito

PACKAGE = pathlib.Path(dubito.__file__).parent
FOLDERS = (
    *("_check", "_values", "_process", "_jax", "models", "tables", "posteriors", "training", "methods", "evaluation"),
    *("estimators", "inspection", "cli", "__main__"),
)
STRANGERS = [{"tables", "posteriors", "training"}, {"methods", "evaluation"}]  # do not import from each other
MAKES_KEYS = {"_jax.prng", "estimators.base", "tables.datasets", "inspection.report", "cli.demo", "cli.commands"}
FILE_LINES, FUNCTION_LINES = 400, 65
BESIDE = 10  # files in the package's own folder

SOURCES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path.read_text()
    for path in sorted(PACKAGE.rglob("*.py"))
}
FILES = [name for name in SOURCES if name.split(".")[-1] != "__init__"]
PACKAGES = [name.removesuffix(".__init__") for name in SOURCES if name.endswith(".__init__")]


def listed(package):
    """The files and folders that a package's docstring names, in their order."""
    text = ast.get_docstring(ast.parse(SOURCES[f"{package}.__init__"])) or ""
    return re.findall(r"^- ``(\w+)``: ", text, re.MULTILINE)


ORDERS = {"": list(FOLDERS)} | {package: listed(package) for package in PACKAGES}


def above(module, other):
    """Whether ``other`` stands before ``module``: where their paths part, in the order of the folder that both are in."""
    one, two = module.split("."), other.split(".")
    depth = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
    if depth == len(two) or depth == len(one):
        return False
    order = ORDERS[".".join(one[:depth])]
    return order.index(two[depth]) < order.index(one[depth])


def imported(module, source):
    """Modules of dubito that ``module`` imports anywhere in it, as names below the package ('' for the package)."""
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
    """What ``from dubito.<base> import name`` reads: a module if there is one of that name, otherwise ``base``."""
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
def test_imports_are_understood(module, line, expected):
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
def test_above_is_understood(module, other, expected):
    assert above(module, other) is expected


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_lists_its_files(package):
    inside = {name.removeprefix(f"{package}.").split(".")[0] for name in SOURCES if name.startswith(f"{package}.")}
    assert sorted(listed(package)) == sorted(inside - {"__init__"})


def test_few_files_stand_beside_the_packages():
    top = {path.stem for path in PACKAGE.iterdir() if not path.name.startswith("__") and path.name != "py.typed"}
    assert top - set(FOLDERS) == set()
    assert len([path for path in PACKAGE.iterdir() if path.is_file()]) <= BESIDE


@pytest.mark.parametrize("module", FILES)
def test_imports_go_up(module):
    # the command line stands last, so it alone may use the public names of the package
    others = imported(module, SOURCES[module]) - ({""} if module == "cli.commands" else set())
    assert [other for other in sorted(others) if not above(module, other)] == []


@pytest.mark.parametrize("module", FILES)
def test_strangers_do_not_import_each_other(module):
    top = module.split(".")[0]
    strangers = {other for group in STRANGERS if top in group for other in group - {top}}
    assert [other for other in imported(module, SOURCES[module]) if other.split(".")[0] in strangers] == []


@pytest.mark.parametrize("module", FILES)
def test_files_and_functions_stay_small(module):
    source = SOURCES[module]
    functions = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {node.name: (node.end_lineno or node.lineno) - node.lineno + 1 for node in functions}
    assert len(source.splitlines()) <= FILE_LINES
    assert {name: length for name, length in lengths.items() if length > FUNCTION_LINES} == {}


@pytest.mark.parametrize("module", FILES)
def test_no_super_and_no_utils(module):
    assert module.split(".")[-1] != "utils"
    calls = [node for node in ast.walk(ast.parse(SOURCES[module])) if isinstance(node, ast.Call)]
    assert [n.lineno for n in calls if isinstance(n.func, ast.Name) and n.func.id == "super"] == []


def made_keys(source):
    """Lines that make a key from a number: ``jax.random.key``, ``PRNGKey``, or either one by another name."""
    lines, aliases = [], {"random"}
    nodes = list(ast.walk(ast.parse(source)))
    for node in nodes:
        if isinstance(node, ast.Import):
            aliases |= {alias.asname for alias in node.names if alias.name == "jax.random" and alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module == "jax":
            aliases |= {alias.asname for alias in node.names if alias.name == "random" and alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module in ("jax.random", "dubito._jax.prng"):
            lines += [node.lineno for alias in node.names if alias.name in ("key", "PRNGKey")]
    for node in nodes:
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner = node.func.value
        name = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else None
        if node.func.attr == "PRNGKey" or (node.func.attr == "key" and name in aliases):
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize(
    "source",
    [
        "import jax\njax.random.key(0)",
        "import jax.random as jr\n\njr.key(0)",
        "from jax import random\nrandom.PRNGKey(0)",
        "from jax.random import key",
    ],
)
def test_a_made_key_is_seen(source):
    assert made_keys(source)


@pytest.mark.parametrize("module", [name for name in FILES if name not in MAKES_KEYS])
def test_keys_come_from_the_caller(module):
    assert made_keys(SOURCES[module]) == []
