"""Missing values, many categories, near-unique texts, and columns that count rows."""

import dataclasses
import json
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest

import dubito
from dubito import DataError, DataWarning
from dubito.tables import encoding, streams
from dubito.tables.changes import FILLED, UNKNOWN
from dubito.tables.schema import Schema

FRAMES = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.table}
HOLES = {"x": [1.0, None, 3.0, 8.0], "b": [True, False, None, True], "c": ["u", "v", "v", None]}


@pytest.mark.parametrize("make", FRAMES.values(), ids=FRAMES)
def test_missing_values_are_means_that_a_column_marks(make):
    schema = Schema.fit(make(HOLES))
    assert schema.width == 2 + 2 + 3 and schema.numeric == (0,)
    x = schema.encode(make(HOLES))
    values = np.array([1.0, 3.0, 8.0])
    np.testing.assert_allclose(x[[0, 2, 3], 0], (values - values.mean()) / values.std(), rtol=1e-6)
    assert x[:, 1:].tolist() == [
        [0, 1, 0, 1, 0, 0],
        [1, -1, 0, 0, 1, 0],
        [0, 0, 1, 0, 1, 0],
        [0, 1, 0, 0, 0, 1],
    ]
    assert x[1, 0] == 0
    rows, changes = schema.encode_and_count(make(HOLES), "error", "fill")
    assert np.array_equal(rows, x) and not any(changes.values())
    with pytest.raises(DataError, match="column 'x': 1 missing, 0 infinite, in row 1") as caught:
        schema.encode(make(HOLES), missing="error")
    assert "missing='fill'" in str(caught.value) and "--missing error" in caught.value.option
    labels = [label for column in schema.columns for label in column.labels]
    assert labels == ["x", "x missing", "b", "b missing", "c=u", "c=v", "c missing"]


def test_a_hole_where_fit_had_none_is_filled_and_counted():
    whole = {"x": [1.0, 2.0, 9.0], "b": [True, False, True], "c": ["u", "v", "v"]}
    schema = Schema.fit(pd.DataFrame(whole))
    assert schema.width == 1 + 1 + 2
    x, changes = schema.encode_and_count(pa.table(HOLES), "error", "fill")
    assert changes == {FILLED: {"x": 1, "b": 1, "c": 1}, UNKNOWN: {}}
    assert x[1, 0] == 0 and x[2, 1] == 0 and x[3, 2:].tolist() == [0, 0]
    model = dubito.BayesianRegressor(dubito.MAP(epochs=2), hidden=(4,), random_state=0).fit(
        pd.DataFrame(whole), [1, 2, 3]
    )
    with pytest.warns(DataWarning, match="had none in fit.*1 of 'x', 1 of 'b', 1 of 'c'"):
        found = model.predict(pa.table(HOLES))
    assert found[0] == model.predict(pd.DataFrame({"x": [1.0], "b": [True], "c": ["u"]}))[0]
    filled = pd.DataFrame({"x": [4.0], "b": [False], "c": ["v"]})
    assert found[1] == model.predict(filled)[0]  # 4 is the mean


def test_missing_values_of_arrays_and_of_weighted_rows():
    x = np.array([[1.0, 2.0], [np.nan, 5.0], [4.0, 7.0]])
    weight = np.array([1, 2, 3])
    assert Schema.fit(x).width == 3
    weighted, repeated = Schema.fit(x, weight), Schema.fit(np.repeat(x, weight, axis=0))
    assert weighted.columns[0].shift == pytest.approx(repeated.columns[0].shift) == 13 / 4
    assert Schema.fit(x, [1, 0, 1]).width == 2  # a row of weight 0 is a row removed
    with pytest.raises(DataError, match="column 0: 0 missing, 1 infinite"):
        Schema.fit([[np.inf, 1.0], [2.0, np.nan], [3.0, 2.0]])


def test_a_network_learns_what_a_missing_value_tells():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 1))
    y = x[:, 0].copy()
    x[::4], y[::4] = np.nan, 3.0
    model = dubito.BayesianRegressor(dubito.MAP(epochs=200), hidden=(16,), random_state=0).fit(x, y)
    assert np.sqrt(np.mean((model.predict(x) - y) ** 2)) < 0.1


@pytest.mark.parametrize("make", FRAMES.values(), ids=FRAMES)
def test_columns_that_cannot_be_inputs_are_left_out(make):
    n = 60
    columns = {
        "name": [f"n{k}" for k in range(n)],
        "x": [float(k * k % 17) for k in range(n)],
        "empty": [None] * n,
        "Unnamed: 0": list(range(n)),
        "town": ["Bern", "Rome", "Oslo"] * (n // 3),
    }
    words = "'name' (nearly every row has another text), 'empty' (no value at all), 'Unnamed: 0' (an index of rows"
    with pytest.warns(DataWarning) as caught:
        schema = Schema.fit(make(columns))
    assert len(caught) == 1 and words in str(caught[0].message)
    assert [column.kind for column in schema.columns] == ["left out", "numeric", "left out", "left out", "category"]
    without = {name: columns[name] for name in ("x", "town")}
    assert np.array_equal(schema.encode(make(columns)), schema.encode(make(without)))
    assert np.array_equal(schema.encode(make(without)), Schema.fit(make(without)).encode(make(without)))
    changed = make(columns | {"name": [1.0] * n, "empty": [b"any"] * n})
    assert np.array_equal(schema.encode(changed), schema.encode(make(without)))
    with pytest.warns(DataWarning, match="Unnamed: 0"):
        assert not Schema.fit(make(columns | {"Unnamed: 0": [17 * k % 60 for k in range(n)]})).columns[3].width
    with pytest.warns(DataWarning):
        assert Schema.fit(make(columns | {"Unnamed: 0": [0.5 * k for k in range(n)]})).columns[3].width == 1
    with pytest.raises(DataError, match=r"No column can be used\. Left out: 'name'"):
        Schema.fit(make({"name": columns["name"]}))


def test_texts_of_few_or_repeated_values_are_categories():
    few = [f"n{k}" for k in range(encoding.FEW_TEXTS)]
    repeated = [f"n{k // 2}" for k in range(60)]
    for texts in (few, repeated, pd.Categorical([f"n{k}" for k in range(30)])):
        assert Schema.fit(pd.DataFrame({"c": texts})).columns[0].kind == "category"


def test_rarer_categories_share_a_column():
    values = [f"c{k}" for k in range(80) for _ in range(2 + k // 30)]
    with pytest.warns(DataWarning, match="commonest categories have a column each, all rarer ones share one: 'c'"):
        schema = Schema.fit(pd.DataFrame({"c": values}))
    (column,) = schema.columns
    assert set(column.categories) == {f"c{k}" for k in range(30, 80)} and column.pooled and column.width == 51
    x = schema.encode(pd.DataFrame({"c": ["c0", "c79", "never seen"]}), handle_unknown="error")
    assert x[:, -1].tolist() == [1, 0, 1] and x.sum(1).tolist() == [1, 1, 1]
    each = sorted(set(values))
    with pytest.warns(DataWarning):
        weighted = Schema.fit(pd.DataFrame({"c": pd.Categorical(each)}), [values.count(value) for value in each])
    assert weighted.columns == schema.columns  # weights are repeated rows


@pytest.mark.parametrize(("rows", "columns"), [(9, 50), (10, 200)])
def test_categories_of_ten_rows_have_a_column_up_to_a_limit(rows, columns):
    values = [f"c{k}" for k in range(210)] * rows
    with pytest.warns(DataWarning, match="rarer ones share one"):
        (column,) = Schema.fit(pd.DataFrame({"c": values})).columns
    assert len(column.categories) == columns and column.pooled
    (column,) = Schema.fit(pd.DataFrame({"c": [f"c{k}" for k in range(200)] * 10})).columns
    assert len(column.categories) == 200 and not column.pooled


def test_a_column_that_counts_rows_is_noted():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"n": np.arange(1, 41), "x": rng.normal(size=40), "year": 2 * np.arange(40)})
    with pytest.warns(
        DataWarning, match=r"increase from row to row like row numbers, which say nothing about new rows: 'n'\.$"
    ):
        assert Schema.fit(frame).width == 3
    Schema.fit(frame[["n"]])  # the only input is meant
    Schema.fit(frame.sample(frac=1.0, random_state=0))


def test_a_stream_learns_the_schema_of_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "PIECE_ROWS", 64)
    rng = np.random.default_rng(0)
    n = 300
    frame = pd.DataFrame(
        {
            "x": np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n)),
            "t": pd.date_range("2023-01-01", periods=n, freq="31h").strftime("%Y-%m-%d %H:%M"),
            "many": [f"m{int(k)}" for k in rng.integers(0, 100, n)],
            "id": [f"id{k}" for k in range(n)],
            "y": rng.normal(size=n),
        }
    )
    frame.loc[:70, "t"] = None  # a piece without any
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.warns(DataWarning):
        streamed, _, rows, _ = streams.learn_table(tmp_path / "t.parquet", "y", "regression")
        whole = Schema.fit(frame.drop(columns="y"))
    assert rows == n
    for one, two in zip(streamed.columns, whole.columns, strict=True):
        assert (one.shift, one.scale) == (pytest.approx(two.shift), pytest.approx(two.scale))
        assert dataclasses.replace(one, shift=0.0, scale=1.0) == dataclasses.replace(two, shift=0.0, scale=1.0)


def test_a_schema_survives_json_and_refuses_what_fit_would_not_make():
    frame = pd.DataFrame(
        {"x": [1.0, None, 3.0], "t": pd.date_range("2020-01-01", periods=3, freq="300D"), "c": ["u", "v", None]}
    )
    schema = Schema.fit(frame)
    plain = json.loads(json.dumps(schema.to_dict()))
    assert Schema.from_dict(plain) == schema
    for column, changes in [
        (0, {"missing": 1}),
        (0, {"cycles": ["day"]}),
        (0, {"pooled": True}),
        (0, {"kind": "left out"}),
        (1, {"cycles": ["year", "day"]}),
        (1, {"cycles": ["hour"]}),
        (2, {"pooled": True}),
        (2, {"categories": [f"c{k}" for k in range(201)]}),
        (2, {"categories": []}),
    ]:
        other = json.loads(json.dumps(plain))
        other["columns"][column] |= changes
        with pytest.raises(DataError, match="Not a table schema"):
            Schema.from_dict(other)


@pytest.mark.parametrize(
    ("texts", "unit"),
    [
        (["5.2 kg", "-6kg", "1,000 kg"], True),
        (["10km/h", "20 km/h"], True),
        (["5 °C", "7 °C"], True),
        (["5 kg", "7 g"], False),
        (["5th", "6th", "7th"], False),
        (["12 Main St", "13 Main St"], False),
        (["a1", "a2"], False),
        (["3 doors", "5 doors"], True),
    ],
)
def test_numbers_with_one_unit_are_noted(texts, unit):
    frame = pd.DataFrame({"t": texts * 3, "x": np.arange(3.0 * len(texts)) ** 2})
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        assert Schema.fit(frame).columns[0].kind == "category"
    noted = [f"Numbers with a unit are texts; write them without: 't' (such as {texts[0]!r})."]
    assert [str(each.message) for each in found] == (noted if unit else [])
