"""Parts of a comparison, each a file, from jobs that know nothing of one another; and all of them together.

A file holds JSON and a hash over it; numbers are written without loss. Nothing is imported by name and no
callable is built when it is read.
"""

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from dubito._check import DataError, list_first
from dubito._process.archive import canonical
from dubito._process.output_files import write_atomically
from dubito._process.strict_json import parse_json
from dubito.estimators.comparison_fits import Comparison, Outcomes
from dubito.estimators.cross_validation import CrossValidationResult, summarize
from dubito.estimators.fold_scores import FoldScores
from dubito.evaluation.diagnostics import MonteCarloError
from dubito.evaluation.interpretation import Setting
from dubito.evaluation.metrics import Score

FORMAT = "part of a comparison by dubito, 1"
KINDS: dict[str, Any] = {kind.__name__: kind for kind in (FoldScores, MonteCarloError, Setting, Score)}
ERRORS: dict[str, Any] = {"ImportError": ImportError, "ValueError": ValueError}  # others are of the second kind
KEYS = {"format", "experiment", "names", "part", "parts", "tasks", "refused", "left_out", "outcomes"}
SETTINGS = {"table", "target", "methods", "folds", "seed"}  # of the experiment, which are shown
MOST_PARTS = 10**6
FOLDS = "SHA-256 of the folds"  # which differs if anything else does


def parse_part(text: str, fits: int | None = None) -> tuple[int, int]:
    """Read which part of how many is meant.

    Parameters
    ----------
    text : str
        Such as "3/10", the third of ten.
    fits : int, optional
        The number of fits that there are to divide.

    Returns
    -------
    tuple of int
        The number of the part, from 1, and the number of parts.

    Raises
    ------
    ValueError
        For any other text, and for more parts than fits.
    """
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ValueError(f"--part must be a number and the number of parts, such as 3/10; got {text!r}")
    if fits is not None and int(count) > fits:
        raise ValueError(f"--part {text}: there are only {fits} fits (methods × folds). Divide them into fewer parts.")
    return int(number), int(count)


def tasks_of_part(plan: Comparison, part: tuple[int, int]) -> list[tuple[str, int]]:
    """The fits of one part: every n-th of all.

    Parameters
    ----------
    plan : Comparison
        The comparison.
    part : tuple of int
        As ``parse_part`` returns it.

    Returns
    -------
    list of tuple
        The name of the estimator and the number of the fold of each.
    """
    return plan.tasks[part[0] - 1 :: part[1]]


def write_part(
    path: str | Path, plan: Comparison, part: tuple[int, int], outcomes: Outcomes, experiment: Mapping[str, Any]
) -> None:
    """Write the results of one part, whole or not at all.

    Parameters
    ----------
    path : str or Path
        The file.
    plan : Comparison
        The comparison.
    part : tuple of int
        As ``parse_part`` returns it.
    outcomes : dict
        Of the tasks of the part.
    experiment : mapping
        What the results depend on, as plain values by name: it must be the same in all parts.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    found = {name: {str(number): _encode(one) for number, one in own.items()} for name, own in outcomes.items()}
    document = {
        **{"format": FORMAT, "experiment": {**experiment, FOLDS: hash_folds(plan)}},
        **{"part": part[0], "parts": part[1], "tasks": [list(task) for task in tasks_of_part(plan, part)]},
        **{"names": [*plan.estimators], "left_out": plan.left_out, "outcomes": found},
        "refused": {name: _encode(error) for name, error in plan.refused.items()},
    }
    with write_atomically(path) as file:
        file.write(canonical(document | {"sha256": _hash(document)}).encode())


def merge_parts(paths: Sequence[str | Path]) -> tuple[list[CrossValidationResult], dict[str, Any]]:
    """The results of a whole comparison from the files of all its parts.

    Parameters
    ----------
    paths : sequence of str or Path
        The files, in any order.

    Returns
    -------
    tuple
        The results of ``cross_validation.compare``, and the experiment.

    Raises
    ------
    DataError
        For a file that is not a part, and for parts that are missing, doubled, or of another
        comparison; the message names them.
    """
    documents = {str(path): _read(path) for path in paths}
    if len(documents) < len(paths):
        twice = sorted({str(path) for path in paths if [*map(str, paths)].count(str(path)) > 1})
        raise DataError(f"{list_first(twice)} is given twice.", "Pass each file once.")
    first, start = next(iter(documents.items()))
    for path, other in documents.items():
        _check_same(first, start, path, other)
    by_part: dict[int, list[str]] = {}
    for path, document in documents.items():
        by_part.setdefault(document["part"], []).append(path)
    doubled = [f"part {part} is in {' and in '.join(files)}" for part, files in sorted(by_part.items()) if files[1:]]
    if doubled:
        raise DataError(f"Some parts are there twice: {list_first(doubled)}.", "Pass one file of each part.")
    missing = [part for part in range(1, start["parts"] + 1) if part not in by_part]
    if missing:
        kind = "Part" if len(missing) == 1 else "Parts"
        verb = "is" if len(missing) == 1 else "are"
        raise DataError(
            f"{kind} {list_first(missing)} of {start['parts']} {verb} missing.",
            f"Run the comparison with --part {missing[0]}/{start['parts']}, and pass its file as well.",
        )
    outcomes: Outcomes = {}
    for document in documents.values():
        for name, own in document["outcomes"].items():
            outcomes.setdefault(name, {}).update(own)
    return summarize(start["names"], outcomes, start["refused"], start["left_out"]), start["experiment"]


def _check_same(first: str, start: Mapping[str, Any], path: str, other: Mapping[str, Any]) -> None:
    """Raise DataError, which names what differs, unless two files are parts of one comparison."""
    mine, theirs = ({**each["experiment"], "number of parts": each["parts"]} for each in (start, other))
    differ = [name for name in mine | theirs if mine.get(name) != theirs.get(name)]
    if differ:
        differ.sort(key=lambda name: name == FOLDS)
        name = differ[0]
        values = f"{mine.get(name)!r} in {first}, {theirs.get(name)!r} in {path}"
        others = f" ({list_first(differ[1:])} differ, too)" if differ[1:] else ""
        raise DataError(f"{path} is a part of another comparison than {first}: {name} is {values}{others}.")


def _read(path: str | Path) -> dict[str, Any]:
    """A part's document, decoded."""
    problem = f"{path} is not a complete part of a comparison. Run that part again with `dubito compare --part ... -o {path}`."
    try:
        document = parse_json(Path(path).read_text())
        given = document.pop("sha256")
        if given != _hash(document) or not _has_form(document):
            raise DataError(problem)
        outcomes = {
            name: {int(number): _decode(one) for number, one in own.items()}
            for name, own in document["outcomes"].items()
        }
        refused = {
            name: _decode(document["refused"][name]) for name in document["names"] if name in document["refused"]
        }
        if not all(_is_done(name, number, outcomes.get(name, {})) for name, number in document["tasks"]):
            raise DataError(problem)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(problem) from error
    return document | {"outcomes": outcomes, "refused": refused}


def _has_form(document: Mapping[str, Any]) -> bool:
    """Whether the values of a document are of the kinds that ``write_part`` writes; anyone can make a hash."""
    part, parts, names = document["part"], document["parts"], document["names"]
    return (
        document["format"] == FORMAT
        and {*document} == KEYS
        and {*document["experiment"]} >= SETTINGS
        and type(part) is type(parts) is int
        and 1 <= part <= parts <= MOST_PARTS
        and all(isinstance(name, str) for name in (*names, *document["left_out"]))
        and {*document["outcomes"], *document["refused"]} <= {*names}
        and all(name in names and type(number) is int for name, number in document["tasks"])
    )


def _is_done(name: str, number: int, own: Mapping[int, Any]) -> bool:
    """Whether a fit has a result, or one before it of the same method has failed."""
    known = {fold: one for fold, one in own.items() if isinstance(one, FoldScores | Exception)}
    return number in known or any(isinstance(one, Exception) for fold, one in known.items() if fold < number)


def hash_folds(plan: Comparison) -> str:
    """The SHA-256 of the rows of all folds, and of the methods that are fitted to them.

    Parameters
    ----------
    plan : Comparison
        The comparison.

    Returns
    -------
    str
        In hexadecimal digits.
    """
    found = hashlib.sha256(canonical(plan.tasks).encode())
    for rows in (plan.table.rows, *(part for split in plan.splits for part in split)):
        found.update(np.asarray(rows, np.int64).tobytes() + b"|")
    return found.hexdigest()


def _hash(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(document).encode()).hexdigest()


def _encode(value: Any) -> Any:
    """Results as plain JSON, without loss."""
    if isinstance(value, np.ndarray):
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {"array": [value.dtype.str, list(value.shape), data]}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": str(value)}
    if isinstance(value, Exception):
        return {"error": ["ImportError" if isinstance(value, ImportError) else "ValueError", str(value)]}
    if isinstance(value, MonteCarloError):
        return {"MonteCarloError": [_encode(vars(value)[field.name]) for field in fields(value)]}
    if isinstance(value, FoldScores | Setting | Score):
        return {type(value).__name__: [_encode(each) for each in value]}
    if isinstance(value, dict):
        return {"dict": [[key, _encode(each)] for key, each in value.items()]}  # in their order
    if isinstance(value, tuple):
        return {"tuple": [_encode(each) for each in value]}
    return value


def _decode(value: Any) -> Any:
    """The inverse of ``_encode``."""
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "array":
        dtype, shape, data = content
        if np.dtype(dtype).hasobject:
            raise ValueError(dtype)
        return np.frombuffer(base64.b64decode(data), dtype).reshape(shape).copy()
    if kind == "number":
        return float(content)
    if kind == "error":
        return ERRORS[content[0]](content[1])
    if kind == "dict":
        return {key: _decode(each) for key, each in content}
    if kind == "tuple":
        return tuple(map(_decode, content))
    return KINDS[kind](*map(_decode, content))
