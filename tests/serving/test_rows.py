"""Requests: their form, their values, and the messages about what is wrong with them."""

import json

import numpy as np
import pytest

from dubito import DataError
from dubito.serving.rows import BadRequestError, as_table, beside, in_form_of, plain_values, read_request
from dubito.tables.schema import Schema

import served_table  # isort: skip

TABLE = served_table.frame()


@pytest.fixture(scope="module")
def schema():
    return Schema.fit(TABLE)


def read(document, most=100):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return read_request(body, ["a"], 0.9, most)


@pytest.mark.parametrize(
    ("document", "status", "message"),
    [
        (b"{", 400, "not JSON"),
        (b"", 400, "not JSON"),
        (b"\xff", 400, "not JSON"),
        (b"[" * 100_000, 400, "not JSON"),
        (b'{"rows": [{"a": NaN}]}', 400, "holds NaN"),
        (b'{"rows": [{"a": -Infinity}]}', 400, "holds -Infinity"),
        (b'{"rows": [{"a": 1e999}]}', 400, "holds 1e999"),
        (b'{"rows": [{"a": 1, "a": 2}]}', 400, "a key twice"),
        (b'{"rows": [{"a": ' + b"1" * 5000 + b"}]}", 400, "not JSON"),
        ([], 422, "must be a JSON object"),
        ({}, 422, "must be a JSON object"),
        ({"rows": [], "columns": {}}, 422, "either"),
        ({"rows": [], "row": 1}, 422, "unknown key 'row'; did you mean 'rows'?"),
        ({"rows": {"a": 1}}, 422, "rows must be a list of objects, got an object"),
        ({"rows": None}, 422, "got null"),
        ({"rows": [[1]]}, 422, "Row 0 must be an object .*, got a list"),
        ({"rows": [{"a": 1}, {"b": 1}]}, 422, "Row 0 has no 'b'.*Write null"),
        ({"rows": [{"a": 1}] * 101}, 413, "101 rows; at most 100"),
        ({"columns": {"a": [1] * 101}}, 413, "101 rows; at most 100"),
        ({"columns": {}}, 422, "got an empty object"),
        ({"columns": {"a": 1}}, 422, "Column 'a' must be a list of values, got a number"),
        ({"columns": {"a": [1], "b": []}}, 422, "'a' has 1 values and 'b' has 0"),
        ({"rows": [], "coverage": 1}, 422, r"coverage must be strictly between 0 and 1, got 1"),
        ({"rows": [], "coverage": "0.9"}, 422, "coverage must be"),
        ({"rows": [], "coverage": True}, 422, "coverage must be"),
        ({"rows": [], "coverage": None}, 422, "coverage must be"),
        ({"rows": [{"a": 1}], "keep": "a"}, 422, "keep must be a list"),
        ({"rows": [{"a": 1}], "keep": [1]}, 422, "keep must be a list"),
        ({"rows": [{"abc": 1}], "keep": ["abd"]}, 422, "no column 'abd'; did you mean 'abc'?"),
    ],
)
def test_read_request_refuses(document, status, message):
    with pytest.raises(BadRequestError, match=message) as error:
        read(document)
    assert error.value.status == status


def test_read_request_reads_both_forms():
    rows = read({"rows": [{"a": 1, "b": None}, {"b": "x", "a": 2}], "coverage": 0.5, "keep": ["b", "b"]})
    columns = read({"columns": {"a": [1, 2], "b": [None, "x"]}, "keep": "all"})
    assert rows.columns == columns.columns == {"a": [1, 2], "b": [None, "x"]}
    assert rows.count == columns.count == 2
    assert (rows.as_rows, rows.coverage, rows.keep) == (True, 0.5, ["b"])
    assert (columns.as_rows, columns.coverage, columns.keep) == (False, 0.9, ["a", "b"])
    assert read({"rows": []}).columns == {"a": []}


def columns_of(rows):
    return {name: [row[name] for row in rows] for name in rows[0]}


def test_as_table_has_the_encoding_of_the_frame(schema):
    columns = columns_of(served_table.as_json())
    found = schema.encode(as_table(columns | {"other": [[]] * len(TABLE)}, schema, len(TABLE)))
    assert np.array_equal(found, schema.encode(TABLE))
    reordered = dict(reversed(columns.items()))
    assert np.array_equal(schema.encode(as_table(reordered, schema, len(TABLE))), found)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("size", ["x", 1.0], "Column 'size' has the text 'x' in row 0"),
        ("size", ["3.5"], "was numeric at fit; now it is text, such as '3.5' in row 0"),
        ("size", [1, True], "was numeric in fit, but row 1 has true"),
        ("size", [1, [2]], "has a list in row 1"),
        ("size", [{}], "has an object in row 0"),
        ("size", [10**400], "infinity or a value too large"),
        ("new", [True, 1], "mixes booleans with other values"),
        ("new", [2], "was boolean at fit; now row 0 has the value 2"),
        ("new", ["yes"], "was boolean at fit; now it is text"),
        ("city", ["Oslo", 7], 'was text in fit, but row 1 has 7. Write it as the string "7"'),
        ("city", [True], "was text in fit, but row 0 has true"),
        ("city", ["\ud800"], "not valid Unicode"),
        ("zone", [True], "was numeric in fit, but row 0 has true"),
        ("zone", ["a", 1], "has the text 'a'"),
        ("day", [20240131], "was time at fit; now it is numeric"),
        ("day", ["31 Jan"], "was time at fit; now it is text, such as '31 Jan' in row 0"),
        ("hour", [True], "was clock at fit; now it is boolean"),
    ],
)
def test_values_of_other_types_are_refused(schema, name, values, message):
    first = served_table.as_json()[0]
    columns = {key: [value] * len(values) for key, value in first.items()} | {name: values}
    with pytest.raises(DataError, match=message):
        schema.encode(as_table(columns, schema, len(values)), "error", "fill")


def test_missing_values_are_null_or_spelled(schema):
    first = served_table.as_json()[0]
    columns = {key: [value] * 3 for key, value in first.items()} | {"size": [None, "NA", 1.0], "zone": [None, "n/a", 1]}
    found, changes = schema.encode_and_count(as_table(columns, schema, 3), "ignore", "fill")
    assert np.array_equal(found[0], found[1])
    assert next(iter(changes.values())) == {"size": 2, "zone": 2}
    alone = {key: [value] for key, value in first.items()} | {"size": ["NA"]}
    assert np.array_equal(schema.encode(as_table(alone, schema, 1))[0, 0], found[0, 0])  # whatever the other rows are


def test_an_array_has_numbered_columns():
    schema = Schema.fit(served_table.inputs("array"))
    columns = columns_of(served_table.as_json("array"))
    assert np.array_equal(schema.encode(as_table(columns, schema, 24)), schema.encode(served_table.inputs("array")))
    with pytest.raises(DataError, match=r"There is no column x1\. The model reads the columns x0 to x1"):
        as_table({"x0": [1.0]}, schema, 1)


def test_an_answer_has_the_form_of_the_request_and_no_numbers_that_are_not_finite():
    predictions = {"mean": np.array([1.5, np.nan]), "upper": np.array([np.inf, -np.inf]), "p": np.array([1, 2])}
    rows = read({"rows": [{"a": "x"}, {"a": "y"}], "keep": ["a"]})
    columns = read({"columns": {"a": ["x", "y"]}, "keep": ["a"]})
    expected = {"a": ["x", "y"], "mean": [1.5, None], "upper": [None, None], "p": [1, 2]}
    assert in_form_of(columns, beside(columns, predictions)) == {"columns": expected}
    first = {"a": "x", "mean": 1.5, "upper": None, "p": 1}
    assert in_form_of(rows, beside(rows, predictions))["rows"][0] == first
    assert plain_values(np.array(["a"])) == ["a"]
    with pytest.raises(DataError, match="keep 'a': the predictions have a column of the same name"):
        beside(rows, {"a": np.array([1.0, 2.0])})


def test_many_unknown_columns_take_time_in_proportion_to_their_number(schema):
    """With a list in place of a set, these 200,000 would take hours, and so would a search for a similar name."""
    row = dict.fromkeys(map(str, range(200_000)), 0)
    assert len(read({"rows": [row], "keep": "all"}).keep) == 200_000
    with pytest.raises(BadRequestError, match="keep: the rows have no column 'city'"):
        read({"rows": [row], "keep": ["city"]})
