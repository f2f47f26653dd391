"""Every page of the documentation runs, with short fits; `scripts/docs` shows what it prints."""

import os
import pathlib
import re
import warnings
from unittest import mock

import jax
import pytest
from command_line import commands_of_shells
from short_default import shorten_fits

DOCS = pathlib.Path(__file__).parents[1] / "docs"
CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OPTIONS = re.compile(r"\A(?:---\n.*?^---\n|(?::[^\n]*\n)*)", re.MULTILINE | re.DOTALL)


def cells(page):
    return [OPTIONS.sub("", cell) for cell in CELL.findall(page.read_text())]


PAGES = [page for page in [*sorted(DOCS.glob("[!_]*/*.md")), DOCS / "index.md"] if cells(page)]


@pytest.fixture
def promotion():
    """JAX's own rules of promotion, as people have them."""
    names = ("jax_numpy_rank_promotion", "jax_numpy_dtype_promotion")
    before = {name: jax.config.values[name] for name in names}
    for name, value in zip(names, ("allow", "standard"), strict=True):
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_runs(page, monkeypatch, promotion):
    shells = pytest.importorskip("IPython.core.interactiveshell")
    monkeypatch.chdir(page.parent)
    if page.stem != "checkpoints":  # whose fit is interrupted at epoch 100
        shorten_fits(monkeypatch)
    shell = shells.InteractiveShell.instance()
    shell.reset(new_session=False)
    monkeypatch.setattr(shell, "enable_gui", lambda gui=None: None)  # without which %matplotlib inline is an error
    with commands_of_shells() as path, mock.patch.dict(os.environ, {"PATH": path}), warnings.catch_warnings():
        for cell in cells(page):
            shell.run_cell(cell).raise_error()
