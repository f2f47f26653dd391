"""The examples of the README run, and its links exist."""

import os
import pathlib
import re
import subprocess

import pytest
from command_line import commands_of_shells
from short_default import shorten_fits

from dubito.methods.by_name import METHODS

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def blocks(language, *names):
    texts = re.findall(rf"```{language}\n(.*?)```", TEXT, re.S)
    return [pytest.param(text, id=name) for text, name in zip(texts, names, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("python", "first", "table", "network", "computation", "seeing"))
def test_python_block_of_the_readme_runs(block, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shorten_fits(monkeypatch)
    exec(compile(block, "README.md", "exec"), {})
    assert 0 < len(capsys.readouterr().out.splitlines()) < 30


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("sh", "first", "table"))
def test_shell_block_of_the_readme_runs(block, tmp_path, monkeypatch):
    os.symlink(ROOT / "src", tmp_path / "src")
    shorten_fits(monkeypatch)
    with commands_of_shells() as path:
        command = ["sh", "-ec", block]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PATH": path})
    assert done.returncode == 0, done.stderr
    files = {name for name in ("co2.dubito", "predictions.csv", "report.html") if name in block}
    assert len(files) == 2 and files <= set(os.listdir(tmp_path))
    assert "predictions.csv" in files or re.search(r"90 % intervals contain \d+ of 104 rows", done.stdout)


def test_relative_links_of_the_readme_exist():
    links = re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", TEXT)
    local = [one or other for one, other in links if not (one or other).startswith("https://")]
    assert len(local) > 5
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_extras_in_install_commands_are_quoted():
    """Without quotes, zsh expands the brackets as a pattern of file names."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    lines = [line for page in pages for line in page.read_text().splitlines() if "pip install" in line and "[" in line]
    assert lines and all("'" in line.split("pip install")[1].split("[")[0] for line in lines)


def test_guide_to_methods_names_every_method():
    table = (ROOT / "docs" / "guides" / "choosing.md").read_text()
    missing = {type(method).__name__ for method in METHODS.values() if method is not None}
    assert {name for name in missing if f"`{name}" not in table} == set()
