"""The encoding of a table's columns as nodes of an ONNX graph, and rows to check it with."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import narwhals as nw
import numpy as np
from jaxtyping import Float

from dubito._check import list_first
from dubito._values import Table
from dubito.estimators.onnx_files.graph import PREFIX, TYPES, OnnxGraph
from dubito.tables.columns import ColumnValues
from dubito.tables.dates import TIMES
from dubito.tables.encoding import ColumnEncoding
from dubito.tables.frames import take_rows
from dubito.tables.scaling import FARTHEST
from dubito.tables.schema import Schema

REACH = 3.0  # standard deviations of made-up numbers
GIVEN_ROWS = 1000  # of a user, to compare at
RARE = 0.1  # of made-up values: missing, and of no known category


class ComparedRows(NamedTuple):
    """Rows to compare at, in the forms that both sides take.

    Attributes
    ----------
    encoded : float32 array of shape (rows, width)
        As the library encodes them.
    fed : dict of arrays
        By the names of the graph's inputs.
    """

    encoded: Float[np.ndarray, "rows width"]
    fed: dict[str, np.ndarray]


def check_columns(schema: Schema) -> None:
    """Raise ValueError for columns that an ONNX graph cannot encode."""
    times = [repr(column.name) for column in schema.columns if column.kind in TIMES]
    if times:
        raise ValueError(
            f"ONNX has no dates and times: column {list_first(times)}. Give them to fit as numbers, such as the hour, to export a model"
        )
    empty = [repr(column.name) for column in schema.columns if "" in column.categories]
    if empty:
        raise ValueError(
            f"the empty text is a category of column {list_first(empty)}, and a missing value in ONNX: give it a name before fit to "
            "export a model"
        )
    names = [repr(column.name) for column in schema.columns if not column.name or column.name.startswith(PREFIX)]
    if schema.named and names:
        raise ValueError(
            f"ONNX needs names for inputs, and those with {PREFIX!r} are taken: rename column {list_first(names)} before fit to export "
            "a model"
        )
    mixed = [repr(column.name) for column in schema.columns if len({type(each) for each in column.categories}) > 1]
    if mixed:
        raise ValueError(
            f"categories of column {list_first(mixed)} are of several types: make them texts to export a model"
        )


def input_types(schema: Schema) -> dict[str, int]:
    """The types of the graph's inputs by their names: one for each column, or ``x`` for an array without names."""
    if not schema.named:
        return {"x": TYPES["float64"]}
    return {
        column.name: TYPES["string"] if _is_text(column) else TYPES["float64"]
        for column in schema.columns
        if column.kind != "left out"
    }


def add_encoding(graph: OnnxGraph, schema: Schema) -> str:
    """Add nodes from the inputs to the encoded rows.

    Parameters
    ----------
    graph : OnnxGraph
        The graph.
    schema : Schema
        The columns.

    Returns
    -------
    str
        The name of the encoded rows, float32 (rows, width).
    """
    parts = []
    for place, column in enumerate(schema.columns):
        if column.kind == "left out":
            continue
        values = column.name if schema.named else graph.node("Gather", "x", np.array([place]), axis=1)
        values = graph.node("Reshape", values, np.array([-1, 1]))
        parts += _encoded_text(graph, column, values) if _is_text(column) else _encoded_numbers(graph, column, values)
    return parts[0] if len(parts) == 1 else graph.node("Concat", *parts, axis=1)


def _is_text(column: ColumnEncoding) -> bool:
    return column.kind == "category" and all(isinstance(each, str) for each in column.categories)


def _encoded_numbers(graph: OnnxGraph, column: ColumnEncoding, values: str) -> list[str]:
    missing = graph.node("IsNaN", values)
    if column.kind == "category":
        known = np.array([column.categories], np.float64)
        found = graph.node("Cast", graph.node("Equal", values, known), to=TYPES["float32"])
        return [found, *_others(graph, column, found, missing), *_marks(graph, column, missing)]
    half, low, high = np.array([[0.5]]), np.array([[-FARTHEST]]), np.array([[FARTHEST]])
    halves = graph.node("Sub", graph.node("Mul", values, half), half * column.shift)
    scaled = graph.node("Div", halves, half * column.scale)
    scaled = graph.node("Min", graph.node("Max", scaled, low), high)
    filled = graph.node("Where", missing, np.zeros((1, 1)), scaled)
    return [graph.node("Cast", filled, to=TYPES["float32"]), *_marks(graph, column, missing)]


def _encoded_text(graph: OnnxGraph, column: ColumnEncoding, values: str) -> list[str]:
    names = list(column.categories)
    codes = graph.node(
        "LabelEncoder",
        values,
        domain="ai.onnx.ml",
        keys_strings=[*names, ""],
        values_int64s=[*range(len(names)), len(names) + 1],  # the empty text is missing
        default_int64=len(names),
    )
    found = graph.node("Equal", codes, np.arange(len(names))[None])
    found = graph.node("Cast", found, to=TYPES["float32"])
    missing = graph.node("Equal", codes, np.array([[len(names) + 1]]))
    return [found, *_others(graph, column, found, missing), *_marks(graph, column, missing)]


def _others(graph: OnnxGraph, column: ColumnEncoding, found: str, missing: str) -> list[str]:
    """The column that stands for all other categories."""
    if not column.pooled:
        return []
    known = graph.node("ReduceMax", found, np.array([1]), keepdims=1)
    absent = graph.node("Cast", missing, to=TYPES["float32"])
    return [graph.node("Sub", np.float32(1), graph.node("Max", known, absent))]


def _marks(graph: OnnxGraph, column: ColumnEncoding, missing: str) -> list[str]:
    return [graph.node("Cast", missing, to=TYPES["float32"])] if column.missing else []


def rows_to_compare(schema: Schema, count: int, X: Table = None) -> ComparedRows:
    """Rows whose values are spread like those of the fit, some missing and some of no known category; then rows of a user.

    Parameters
    ----------
    schema : Schema
        The columns.
    count : int
        How many rows to make up: the same for every call.
    X : frame or array, optional
        Rows of a user, of which at most ``GIVEN_ROWS``, evenly spaced, are used.

    Returns
    -------
    ComparedRows
        Both.

    Raises
    ------
    DataError
        For X that does not have the columns of the fit.
    """
    rng = np.random.default_rng(0)
    made = [None if column.kind == "left out" else _made_up(column, rng, count) for column in schema.columns]
    found = _encoded_and_fed(schema, made, count)
    if X is None:
        return found
    rows = nw.from_native(X, eager_only=True, pass_through=True).shape[0]
    some = X if rows <= GIVEN_ROWS else take_rows(X, np.linspace(0, rows - 1, GIVEN_ROWS).astype(int))
    given = _encoded_and_fed(schema, *schema.read(some, "fill"))
    both = zip(found.fed.items(), given.fed.values(), strict=True)
    fed = {name: np.concatenate([one, other]) for (name, one), other in both}
    return ComparedRows(np.concatenate([found.encoded, given.encoded]), fed)


def _encoded_and_fed(schema: Schema, columns: Sequence[ColumnValues | None], count: int) -> ComparedRows:
    encoded, fed, array = [], {}, np.full((count, len(schema.columns)), np.nan)
    for place, (column, values) in enumerate(zip(schema.columns, columns, strict=True)):
        if values is None or column.kind == "left out":
            continue
        encoded.append(column.encode(values, "ignore").values)
        given = _fed(column, values)
        fed[column.name] = given[:, None]
        if not _is_text(column):
            array[:, place] = given
    return ComparedRows(np.concatenate(encoded, axis=1), fed if schema.named else {"x": array})


def _fed(column: ColumnEncoding, values: ColumnValues) -> np.ndarray:
    """The values of a column as the graph takes them."""
    if _is_text(column):
        return np.array(["" if value is None else value for value in values.values], object)
    return np.array([np.nan if value is None else value for value in values.values], float)


def _made_up(column: ColumnEncoding, rng: Any, count: int) -> ColumnValues:
    absent, other = rng.random(count) < RARE, rng.random(count) < RARE
    if column.kind == "category":
        text = _is_text(column)
        unknown = "".join(map(str, column.categories)) + "?" if text else max(map(int, column.categories)) + 1
        values = [column.categories[place] for place in rng.integers(len(column.categories), size=count)]
        values = [unknown if new else value for new, value in zip(other, values, strict=True)]
        return ColumnValues("category", [None if gap else value for gap, value in zip(absent, values, strict=True)])
    if column.kind == "boolean":
        numbers = rng.integers(2, size=count).astype(float)
    else:
        numbers = column.shift + column.scale * np.clip(rng.normal(size=count), -REACH, REACH)
    return ColumnValues(column.kind, np.where(absent, np.nan, numbers))
