"""The rows of a request as a table, with the types that JSON gives them; predictions as JSON.

A row must have every column that the model reads; a missing value is null. What was text in fit must be text, and numbers must be
numbers, or a text that means a missing value, such as NA.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from dubito._check import DataError, check_number, did_you_mean, list_first
from dubito._process.strict_json import parse_json
from dubito.tables.columns import as_float64
from dubito.tables.dates import TIMES
from dubito.tables.encoding import ColumnEncoding
from dubito.tables.schema import Schema
from dubito.tables.texts import means_missing
from dubito.tables.validation import check_names_exist

Columns: TypeAlias = dict[str, list[Any]]

FIELDS = ("rows", "columns", "coverage", "keep")
NAMES = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}


class BadRequestError(ValueError):
    """A request that cannot be answered.

    Parameters
    ----------
    status : int
        The HTTP status.
    message : str
        What is wrong, and what to do.
    """

    def __init__(self, status: int, message: str) -> None:
        ValueError.__init__(self, message)
        self.status = status


@dataclass(frozen=True)
class PredictRequest:
    """A request for predictions.

    Parameters
    ----------
    columns : dict of list
        The values of each column, in any order.
    count : int
        The number of rows.
    as_rows : bool
        Whether they came as rows; the answer has the same form.
    coverage : float
        Of the intervals.
    keep : sequence of str
        Columns to put first in the answer, unchanged.
    """

    columns: Columns
    count: int
    as_rows: bool
    coverage: float
    keep: Sequence[str]


def read_request(body: bytes, names: Sequence[str], coverage: float, most: int) -> PredictRequest:
    """Read the body of a request.

    Parameters
    ----------
    body : bytes
        JSON: an object with "rows", a list of objects, or "columns", an object of lists; optionally
        "coverage" and "keep".
    names : sequence of str
        The columns of the answer to a request without rows.
    coverage : float
        If the request has none.
    most : int
        The largest number of rows.

    Returns
    -------
    PredictRequest
        The request, of which only the form is checked.

    Raises
    ------
    BadRequestError
        400 for what is not JSON, 413 for too many rows, 422 for another form.
    """
    try:
        given = parse_json(body.decode())
    except ValueError as error:  # also bytes that are not UTF-8
        raise BadRequestError(400, f"The body is not JSON that can be read: {error}") from None
    if not isinstance(given, dict) or ("rows" in given) == ("columns" in given):
        form = 'with either "rows", a list of objects, or "columns", an object of lists'
        raise BadRequestError(422, f"The body must be a JSON object {form}.")
    for name in given:
        if name not in FIELDS:
            hint = did_you_mean(name, FIELDS)
            raise BadRequestError(422, f"The body has the unknown key {name!r}{hint} It may have {', '.join(FIELDS)}.")
    as_rows = "rows" in given
    columns, count = _columns_of_rows(given["rows"], names, most) if as_rows else _columns(given["columns"], most)
    keep = given.get("keep", [])
    if keep == "all":
        keep = list(columns)
    if not isinstance(keep, list) or not all(isinstance(name, str) for name in keep):
        raise BadRequestError(422, 'keep must be a list of names of columns, or "all".')
    try:
        check_number("coverage", given.get("coverage", coverage), "(0, 1)")
        check_names_exist(keep, list(columns), "keep: the rows have no column")
    except ValueError as error:
        raise BadRequestError(422, str(error)) from None
    return PredictRequest(columns, count, as_rows, given.get("coverage", coverage), list(dict.fromkeys(keep)))


def _columns_of_rows(rows: Any, names: Sequence[str], most: int) -> tuple[Columns, int]:
    """(the columns of a list of objects, their number of rows)."""
    if not isinstance(rows, list):
        raise BadRequestError(422, f"rows must be a list of objects, got {_kind(rows)}.")
    _check_count(len(rows), most)
    if not rows:
        return {name: [] for name in names}, 0
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise BadRequestError(422, f"Row {number} must be an object such as {{name: value}}, got {_kind(row)}.")
    found = dict.fromkeys(name for row in rows for name in row)
    for number, row in enumerate(rows):
        if len(row) < len(found):
            absent = next(name for name in found if name not in row)
            hint = "Write null where a value is missing."
            raise BadRequestError(422, f"Row {number} has no {absent!r}, which other rows have. {hint}")
    return {name: [row[name] for row in rows] for name in found}, len(rows)


def _columns(columns: Any, most: int) -> tuple[Columns, int]:
    """(the columns of an object of lists, their number of rows)."""
    if not isinstance(columns, dict) or not columns:
        raise BadRequestError(422, f"columns must be an object of lists, got {_kind(columns)}.")
    for name, values in columns.items():
        if not isinstance(values, list):
            raise BadRequestError(422, f"Column {name!r} must be a list of values, got {_kind(values)}.")
    lengths = {name: len(values) for name, values in columns.items()}
    first, *others = lengths
    for name in others:
        if lengths[name] != lengths[first]:
            found = f"{first!r} has {lengths[first]} values and {name!r} has {lengths[name]}"
            raise BadRequestError(422, f"All columns must have the same number of values, but {found}.")
    _check_count(lengths[first], most)
    return columns, lengths[first]


def _check_count(count: int, most: int) -> None:
    if count > most:
        raise BadRequestError(413, f"The request has {count:,} rows; at most {most:,} are answered at a time.")


def _kind(value: Any) -> str:
    return NAMES.get(type(value), "null") if not isinstance(value, dict) or value else "an empty object"


def as_table(columns: Columns, schema: Schema, count: int) -> Any:
    """The columns that a model reads, as a table.

    Parameters
    ----------
    columns : dict of list
        Of a request; others are left out.
    schema : Schema
        The model's.
    count : int
        The number of rows.

    Returns
    -------
    pyarrow.Table or array
        In the order of the fit; an array (rows, columns) if the model was fitted to one.

    Raises
    ------
    DataError
        For values of another type than in fit; ``Schema.encode`` checks them further.
    """
    import pyarrow

    known = [column for column in schema.columns if column.name in columns]
    if not schema.named:
        absent = [column.name for column in schema.columns if column.name not in columns]
        if absent:
            names = f"{schema.columns[0].name} to {schema.columns[-1].name}"
            raise DataError(f"There is no column {list_first(absent)}. The model reads the columns {names}.")
        arrays = [_as_array(column, columns[column.name]).to_numpy(zero_copy_only=False) for column in known]
        return np.array(arrays, np.float64).reshape(len(known), count).T
    used = [column for column in known if column.kind != "left out"]
    return pyarrow.table({column.name: _as_array(column, columns[column.name]) for column in used})


def _as_array(column: ColumnEncoding, values: list[Any]) -> Any:
    """The values of one column as an Arrow array of the type that they have; null where they are missing."""
    import pyarrow

    texts = any(isinstance(category, str) for category in column.categories)
    if not texts and column.kind not in TIMES:
        values = [None if isinstance(value, str) and means_missing(value) else value for value in values]
    kinds = {type(value) for value in values} - {type(None)}
    _check_kinds(column, values, kinds, texts)
    if kinds == {str}:
        try:
            return pyarrow.array(values, pyarrow.string())
        except UnicodeEncodeError as error:
            raise DataError(f"Column {column.name!r} has a text that is not valid Unicode: {error.reason}.") from None
    if kinds == {bool}:
        return pyarrow.array(values, pyarrow.bool_())
    if kinds == {int} and all(value is None or abs(value) < 2**63 for value in values):
        return pyarrow.array(values, pyarrow.int64())
    return pyarrow.array(_as_numbers(column.name, values), pyarrow.float64(), from_pandas=True)


def _check_kinds(column: ColumnEncoding, values: list[Any], kinds: set[type], texts: bool) -> None:
    """Raise DataError for lists and objects, for several types, and for a type that the library would convert."""
    for kind in kinds & {list, dict}:
        row = next(row for row, value in enumerate(values) if type(value) is kind)
        what = "A value is a number, a string, true, false or null."
        raise DataError(f"Column {column.name!r} has {NAMES[kind]} in row {row}. {what}")
    truths = column.kind == "boolean" or any(isinstance(category, bool) for category in column.categories)
    wrong = {int, float, bool} if texts else {bool} if not truths else set()
    if kinds & wrong and column.kind not in TIMES:
        row = next(row for row, value in enumerate(values) if type(value) in wrong)
        shown, was = json.dumps(values[row]), "text" if texts else "numeric"
        hint = f' Write it as the string "{shown}".' if texts else ""
        raise DataError(f"Column {column.name!r} was {was} in fit, but row {row} has {shown}.{hint}")
    if bool in kinds and len(kinds) > 1:
        raise DataError(f"Column {column.name!r} mixes booleans with other values. Write values of one type.")


def _as_numbers(name: str, values: list[Any]) -> np.ndarray:
    """Numbers as float64, NaN where they are missing; DataError for texts."""
    found = np.empty(len(values), object)
    found[:] = values
    return as_float64(found, f"Column {name!r}")


def beside(request: PredictRequest, predictions: Mapping[str, np.ndarray]) -> Columns:
    """The columns of an answer: those to keep, then the predictions.

    Parameters
    ----------
    request : PredictRequest
        The request.
    predictions : mapping
        The predictions of its rows, by name.

    Returns
    -------
    dict of list
        Plain values, None for numbers that are not finite.

    Raises
    ------
    DataError
        If a column to keep has the name of a prediction.
    """
    twice = [repr(name) for name in request.keep if name in predictions]
    if twice:
        raise DataError(f"keep {list_first(twice)}: the predictions have a column of the same name.", "Do not keep it.")
    found = {name: request.columns[name] for name in request.keep}
    return found | {name: plain_values(values) for name, values in predictions.items()}


def plain_values(values: np.ndarray) -> list[Any]:
    """An array's values as JSON has them: None for NaN and infinities.

    Parameters
    ----------
    values : array
        Any shape and dtype.

    Returns
    -------
    list
        Plain values.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        values = np.where(np.isfinite(values), values.astype(object), np.array(None))
    return values.tolist()


def in_form_of(request: PredictRequest, columns: Columns) -> dict[str, Any]:
    """The answer in the form that the request has: {"rows": ...} or {"columns": ...}.

    Parameters
    ----------
    request : PredictRequest
        The request.
    columns : dict of list
        As ``beside`` returns them.

    Returns
    -------
    dict
        Plain values.
    """
    if not request.as_rows:
        return {"columns": columns}
    names = list(columns)
    return {"rows": [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]}
