"""The benchmark drivers start, and the list of works is consistent. No times are measured."""

import ast
import importlib
import pathlib
import runpy
import sys

import pytest

FOLDER = pathlib.Path(__file__).parent.parent / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="only a checkout has the benchmarks")


@pytest.fixture(scope="module")
def works():
    """The list of works, from a folder that is not a package."""
    sys.path.insert(0, str(FOLDER / "speed"))
    try:
        return importlib.import_module("run").WORKS
    finally:
        sys.path.remove(str(FOLDER / "speed"))
        for name in ("run", "pairs", "report"):
            sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "driver",
    [
        "speed/run.py",
        "growth.py",
        "members.py",
        "regularizers.py",
        "gradient_variance.py",
        "natural_gradient.py",
        "references.py",
        "truth.py",
        "small.py",
        "signals.py",
        "serve.py",
    ],
)
def test_driver_prints_its_usage(driver, monkeypatch, capsys):
    path = FOLDER / driver
    monkeypatch.syspath_prepend(path.parent)
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    loaded = set(sys.modules)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    for name in set(sys.modules) - loaded:  # drivers' neighbors have names that tests' modules may have
        if str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    assert ended.value.code == 0
    assert "usage" in capsys.readouterr().out


def test_works_have_unique_names_and_positive_goals(works):
    assert len({work.name for work in works}) == len(works) > 0
    for work in works:
        sides = [work.ours, *[side for side, _ in work.theirs]]
        assert len({side.name for side in sides}) == len(sides)
        assert all(goal is None or goal > 0 for _, goal in work.theirs)
        assert all(bool(side.command) != bool(side.module) for side in sides)


def test_function_of_each_side_accepts_its_options(works):
    for work in works:
        for side in [work.ours, *[side for side, _ in work.theirs]]:
            if side.command:
                continue
            body = ast.parse((FOLDER / "speed" / f"{side.module}.py").read_text()).body
            found = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == side.function]
            assert found, f"{side.module}.{side.function}"
            taken = [argument.arg for argument in found[0].args.args]
            needed = taken[: len(taken) - len(found[0].args.defaults)]
            assert set(needed) <= set(side.options) <= set(taken)
