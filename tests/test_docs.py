"""The reference lists every public name once, and equation numbers refer to equations that exist."""

import importlib
import inspect
import json
import pathlib
import re
from collections import Counter

import pytest

import dubito

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
MATHEMATICS = (DOCS / "mathematics.md").read_text()
DIRECTIVE = re.compile(r"^\.\. (?:auto(?:class|function|exception)|py:data):: (\S+)", re.MULTILINE)
NAMES = [name for page in sorted((DOCS / "reference").glob("*.md")) for name in DIRECTIVE.findall(page.read_text())]
MODULES = (  # public beside dubito itself
    *("models.activations", "tables.datasets"),
    *(f"evaluation.{name}" for name in "calibration conformal decisions diagnostics elbo loo metrics".split()),
    *(f"inspection.{name}" for name in "graph.backprop landscape report".split()),
    *(f"inspection.plots.{name}" for name in "activation_curves predictions training".split()),
)


def resolve(name):
    """The object of a dotted name."""
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(module), last)


def test_reference_lists_no_object_twice():
    objects = Counter(id(resolve(name)) for name in NAMES)
    assert [name for name, count in Counter(NAMES).items() if count > 1] == []
    assert [name for name in NAMES if objects[id(resolve(name))] > 1] == []  # one object under two names


def test_reference_lists_every_public_name():
    own = {name for name in dubito.__all__ if not inspect.ismodule(getattr(dubito, name))}
    assert {f"dubito.{name}" for name in own} - set(NAMES) == set()


@pytest.mark.parametrize("name", MODULES)
def test_reference_lists_the_functions_and_classes_of_public_modules(name):
    module = importlib.import_module(f"dubito.{name}")
    own = {
        f"{module.__name__}.{key}"
        for key, value in vars(module).items()
        if (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == module.__name__
        and not key.startswith("_")
    }
    assert own
    assert own - set(NAMES) == set()


def test_equations_of_mathematics_are_numbered_in_order():
    displays, rows = r"\\qquad \((\d+)\)\$\$", r"^\| \((\d+)\) \|"
    numbers = [int(one or other) for one, other in re.findall(f"{displays}|{rows}", MATHEMATICS, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_references_to_equations_lead_to_existing_equations():
    last = max(map(int, re.findall(r"\((\d+)\)(?:\$\$| \|)", MATHEMATICS)))
    pages = [page for page in DOCS.rglob("*.md") if "_build" not in page.parts]
    found = [int(n) for page in pages for n in re.findall(r"equations? \((\d+)\)", page.read_text())]
    assert len(found) > 10
    assert [number for number in found if not 1 <= number <= last] == []


NOTEBOOKS = sorted((DOCS / "guides").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_store_the_output_of_one_run_and_nothing_that_changes_with_time(path):
    """`scripts/docs --interop` executes them, and the other builds show what they store."""
    notebook = json.loads(path.read_text())
    codes = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in codes] == list(range(1, len(codes) + 1))
    printing = [cell for cell in codes if re.search(r"^ *print\(|\.figure$", "".join(cell["source"]), re.MULTILINE)]
    assert len(printing) > 5
    assert [cell["execution_count"] for cell in printing if not cell["outputs"]] == []
    outputs = [output for cell in codes for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "execute_result"}  # no errors
    assert [output["text"] for output in outputs if output.get("name") == "stderr"] == []
    assert [cell["metadata"] for cell in codes if "execution" in cell["metadata"]] == []
    assert notebook["metadata"]["language_info"] == {"name": "python"}
    assert path.stat().st_size < 400_000


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["pytorch-images", "pytorch-regression"]


ROLES = re.compile(r"\{py:obj\}`(?:[^`<]*<)?(dubito[\w.]*)>?`")


def names_in_cross_references():
    pages = [page for page in DOCS.rglob("*.md") if "_build" not in page.parts]
    return {name for page in pages for name in ROLES.findall(page.read_text())}


def test_cross_references_lead_to_the_reference():
    text = "".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    documented = set()
    for name, options in re.findall(r"\.\. (?:auto|py:)\w+:: (dubito[\w.]*)\n((?: +:.*\n)*)", text):
        members = re.search(r":members:(.*)", options)
        listed = re.findall(r"\w+", members[1]) if members else []
        documented |= {name} | {f"{name}.{member}" for member in listed or ["*"] * bool(members)}
    missing = [n for n in names_in_cross_references() - documented if f"{n.rpartition('.')[0]}.*" not in documented]
    assert sorted(missing) == []


def test_cross_references_name_objects_that_exist():
    names = names_in_cross_references()

    def exists(name):
        parts = name.split(".")
        for stop in range(len(parts), 0, -1):
            try:
                value = importlib.import_module(".".join(parts[:stop]))
            except ImportError:
                continue
            for part in parts[stop:]:
                value = getattr(value, part, None)
            return value is not None
        return False

    assert len(names) > 100
    assert sorted(name for name in names if not exists(name)) == []
