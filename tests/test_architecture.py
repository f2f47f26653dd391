"""The listing is the architecture: a file imports only from files above it, and stays small. Read from the source."""

import ast
import graphlib
import pathlib

import pytest

import dubito

PACKAGE = pathlib.Path(dubito.__file__).parent
ORDER = (
    "files interrupts threads checks texts programs pytree random activations backprop network trace autodiff noisy likelihood lattice counts criteria prior model posterior quantiles blocks draws folds readings columns outcomes "
    "predictive descent epochs archive rows curvature rotated structures marginal pieces checkpoint engine mcmc methods recipes crps metrics conformal recalibrated calibration diagnostics interpretation evidence leave_one_out decisions csv_quotes encoding tables targets "
    "batches codec posterior_file model_file answering estimators comparison fitted diagnosis sweeps datasets plots diagram activation_plots graph_layout graph_drawing computation_graph "
    "gradients explain landscape training_plots report demo output_parts command_tables streaming cache progress grids terminal cli __main__"
).split()
MAKES_KEYS = {"random", "estimators", "datasets", "report", "demo", "cli"}
FILE_LINES, FUNCTION_LINES = 400, 65

SOURCES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path.read_text()
    for path in sorted(PACKAGE.rglob("*.py"))
}
FILES = [name for name in SOURCES if name.split(".")[-1] != "__init__"]


def rank(module):
    """A module's place in the order; the package itself (whose names come from everywhere) comes after all."""
    top = module.split(".")[0]
    return ORDER.index(top) if top in ORDER else len(ORDER)


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
    known = inner in SOURCES or inner in ORDER
    return inner if known else ".".join(base)


@pytest.mark.parametrize(
    ("module", "line", "expected"),
    [
        ("engine", "from dubito.model import Batch", {"model"}),
        ("engine", "from dubito import model, prior", {"model", "prior"}),
        ("engine", "from dubito import Model", {""}),
        ("engine", "from . import model", {"model"}),
        ("engine", "from .model import Batch", {"model"}),
        ("engine", "import dubito.model as m, jax", {"model"}),
        ("engine", "import dubito", {""}),
        ("methods.maximum", "from ..model import Batch", {"model"}),
        ("methods.maximum", "from .. import model", {"model"}),
        ("methods.maximum", "from .ensemble import Ensemble", {"methods.ensemble"}),
        ("methods.maximum", "from . import ensemble", {"methods.ensemble"}),
        ("methods.maximum", "from dubito.methods.ensemble import Ensemble", {"methods.ensemble"}),
        ("engine", "def f():\n    from dubito.cli import main", {"cli"}),
        ("engine", "from jax import random\nimport numpy", set()),
    ],
)
def test_imports_are_understood(module, line, expected):
    assert imported(module, line) == expected


def test_every_file_has_its_place():
    assert FILES
    placed = {name for name in FILES if name in ORDER or name.startswith("methods.") and name.count(".") == 1}
    assert set(FILES) - placed == set()


@pytest.mark.parametrize("module", FILES)
def test_imports_go_up(module):
    inside_methods = {name for name in imported(module, SOURCES[module]) if name.startswith("methods.")}
    wrapped = inside_methods if module.startswith("methods.") else set()
    others = imported(module, SOURCES[module]) - wrapped
    # the command line stands last, so it alone may use the public names of the package
    allowed = len(ORDER) + 1 if module == "cli" else rank(module)
    assert {name or "dubito" for name in others if rank(name) >= allowed} == set()


def test_methods_wrap_without_cycles():
    wraps = {
        module: {name for name in imported(module, SOURCES[module]) if name.startswith("methods.")}
        for module in FILES
        if module.startswith("methods.")
    }
    graphlib.TopologicalSorter(wraps).prepare()


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
        elif isinstance(node, ast.ImportFrom) and node.module in ("jax.random", "dubito.random"):
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
