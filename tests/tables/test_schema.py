"""Tables: what is read, what is refused and in which words, and that scaling loses nothing that float32 can hold."""

import contextlib
import datetime
import decimal
import io
import json
import pickle
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest
import scipy.sparse
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.exceptions import DataConversionWarning

from dubito._check import DataError, DataWarning
from dubito.tables import frames, reading, scaling
from dubito.tables.columns import as_float64
from dubito.tables.scaling import TargetScaler
from dubito.tables.schema import Schema
from dubito.tables.validation import check_target, check_weight, target_kind

EPSILON = np.finfo(np.float64).eps
DAYS = pd.to_datetime(["2020-01-01", "2021-01-01"])
FRAMES = {"pandas": pd.DataFrame, "polars": lambda d: pl.DataFrame(d, strict=False), "pyarrow": pa.table}


def column(x):
    return np.array(x)[:, None]


def truth(x, weight=None):
    """Standardized values in extended precision: an independent computation, by the definition."""
    exact = np.asarray(x, np.longdouble)
    w = np.ones(len(exact), np.longdouble) if weight is None else np.asarray(weight, np.longdouble)
    mean = np.sum(w * exact) / np.sum(w)
    sd = np.sqrt(np.sum(w * (exact - mean) ** 2) / np.sum(w))
    return (exact - mean) / sd, np.abs(exact).max() / sd


def check_exact(x, weight=None):
    """Encoded values are the truth up to rounding: of float32 in the result, of float64 in the one stored mean."""
    z = Schema.fit(column(x), weight).encode(column(x))[:, 0]
    exact, ratio = truth(x, weight)
    assert np.all(np.abs(z - exact) <= 2.0**-23 * np.abs(exact) + 8 * EPSILON * ratio + 1e-44)


FLOATS = st.floats(-1.7e308, 1.7e308, allow_subnormal=False)


@pytest.mark.filterwarnings("ignore::dubito.DataWarning")  # outliers are warned of, and still exact
@settings(deadline=None, max_examples=300)
@given(hnp.arrays(np.float64, st.integers(2, 40), elements=FLOATS | st.floats(-1e3, 1e3) | st.integers(-9, 9)))
def test_standardization_is_exact(x):
    ratio = np.longdouble(0.0) if np.ptp(x * 0.5) == 0 else truth(x)[1]
    assume(0 < ratio < 0.99 / scaling.CONSTANT and np.abs(x).max() > 1e-290)
    check_exact(x)


@pytest.mark.filterwarnings("ignore::dubito.DataWarning")
@settings(deadline=None)
@given(hnp.arrays(np.float64, 30, elements=st.floats(-1e3, 1e3)), hnp.arrays(np.int64, 30, elements=st.integers(0, 5)))
def test_weighted_standardization_is_exact(x, weight):
    used = weight > 0
    assume(used.sum() > 1 and np.ptp(x[used]) > 1e-6)
    kept = Schema.fit(column(x[used]), weight[used])
    assert Schema.fit(column(x), weight) == kept  # a weight of zero is a row removed, to the last bit
    check_exact(x[used], weight[used])
    repeated = Schema.fit(column(np.repeat(x, weight))).columns[0]
    np.testing.assert_allclose(
        [kept.columns[0].shift, kept.columns[0].scale], [repeated.shift, repeated.scale], 1e-9, 1e-9
    )


@pytest.mark.parametrize(
    "x",
    [
        1_700_000_000 + np.arange(-10, 11),
        2**40 + 1000 * np.arange(12),
        np.array([2**31 + 5, 2**31 + 6, 2**31 + 9]),
        np.array([1e300, -1e300, 3e299]),
        np.array([1.7e308, -1.7e308, 1.7e308, 1.7e308]),
        np.array([1e-300, 2e-300, 5e-300]),
        np.array([200, 100, 255], np.uint8),
        np.array([1, 2, 3], np.float16),
    ],
    ids=["unix time", "ids", "beyond int32", "1e300", "largest", "1e-300", "uint8", "float16"],
)
def test_encode_preserves_numbers_of_any_magnitude(x):
    check_exact(x)
    z = Schema.fit(column(x)).encode(column(x))[:, 0]
    assert len(np.unique(z)) == len(np.unique(x)) and np.array_equal(np.argsort(z), np.argsort(x.astype(float)))


def test_standardization_is_invariant_to_scale():
    x = np.random.default_rng(0).normal(size=(50, 1))
    scales = 2.0 ** np.arange(-40, 41, 8)  # powers of two, about 1e-12 to 1e12: the same to the last bit
    z = Schema.fit(x * scales).encode(x * scales)
    assert np.array_equal(z, np.repeat(z[:, :1], len(scales), axis=1))
    y = x * [1e18, 1.0, 1e-18]
    z = TargetScaler.fit(y).transform(y)
    np.testing.assert_allclose(z, np.repeat(truth(x[:, 0])[0][:, None], 3, axis=1).astype(float), rtol=2e-7)


def test_encode_keeps_far_values_finite():
    schema = Schema.fit([[0.0], [1.0]])
    z = schema.encode([[1e30], [-1e300], [3.0]])[:, 0]
    assert z.tolist() == [np.float32(1e18), np.float32(-1e18), 5.0] and np.isfinite(np.square(z)).all()


def test_constant_columns_warn_once():
    with pytest.warns(DataWarning, match=r"Constant columns.*'x0', 'x2', 'x3', 'x4'\.$") as caught:
        x = np.array([[7.0, 1.0, 1e18, 1.0, 1e18], [7.0, 2.0, 1e18, 1.0 + 1e-11, 1e18 + 1024]])
        schema = Schema.fit(x)
    assert len(caught) == 1 and [c.scale for c in schema.columns] == [1.0, 0.5, 1.0, 1.0, 512.0]
    assert schema.encode(x)[:, [0, 1, 2, 4]].tolist() == [[0, -1, 0, -1], [0, 1, 0, 1]]
    with pytest.warns(DataWarning, match="'a', 'b', 'c'") as caught:
        Schema.fit(pd.DataFrame({"a": [1, 1], "b": [True, True], "c": ["x", "x"]}))
    assert len(caught) == 1
    for relative in (0.9e-10, 1.1e-10):  # the border, on both sides
        x = 1e3 + relative * 1e3 * column([-1.0, 1.0])
        with pytest.warns(DataWarning) if relative < 1e-10 else contextlib.nullcontext():
            assert (Schema.fit(x).columns[0].scale == 1) == (relative < 1e-10)


@pytest.mark.parametrize("value", [0.0, 3.5, -1e18, 1e-18])
def test_constant_target_gets_a_small_scale(value):
    with pytest.warns(DataWarning, match="Constant targets.*target 0") as caught:
        scaler = TargetScaler.fit(np.full((5, 1), value))
    assert len(caught) == 1 and scaler.shift == (value,)
    assert scaler.scale == (pytest.approx(1e-6 * (abs(value) or 1), rel=1e-12),)
    assert not scaler.transform(np.full((5, 1), value)).any()


def test_schema_and_scaler_warn_of_outliers():
    x = np.random.default_rng(0).normal(size=(100, 2))
    x[17, 1] = 1e9
    with pytest.warns(DataWarning, match=r"'x1' \(row 17\)\.$"):
        assert np.isfinite(Schema.fit(x).encode(x)).all()
    with pytest.warns(DataWarning, match=r"target 1 \(row 17\)\.$"):
        TargetScaler.fit(x)
    weight = np.arange(100) != 17
    assert Schema.fit(x, weight).columns[1].scale < 2
    Schema.fit(column([0.0] * 99 + [1.0]))  # a rare indicator is no outlier


def test_encode_is_invariant_to_row_order_and_slices():
    x = np.random.default_rng(0).normal(size=(20, 5000))
    schema = Schema.fit(x)
    z = schema.encode(x)
    assert schema.width == 5000 and schema.numeric == tuple(range(5000)) and schema.names is None
    assert np.array_equal(np.concatenate([schema.encode(x[i : i + 3]) for i in range(0, 20, 3)]), z)
    order = np.random.default_rng(1).permutation(20)
    assert np.array_equal(schema.encode(x[order]), z[order])
    assert np.array_equal(Schema.fit(x[:, [0, 0]]).encode(x[:, [0, 0]]), z[:, [0, 0]])  # duplicate columns


def test_schema_is_invariant_to_memory_layout_and_dtype():
    x = np.random.default_rng(0).integers(0, 9, (12, 3)).astype(float)
    frozen = x.copy()
    frozen.flags.writeable = False
    z = Schema.fit(x).encode(x)
    same = [
        frozen,
        np.asfortranarray(x),
        np.repeat(x, 2, 0)[::2],
        x.tolist(),
        x.astype(object),
        x.astype(">f4"),
        x.astype(np.uint8),
    ]
    same += [np.array([[decimal.Decimal(int(v)) for v in row] for row in x]), pd.DataFrame(x), x.astype(np.longdouble)]
    for other in same:
        assert np.array_equal(Schema.fit(other).encode(other), z) and np.array_equal(Schema.fit(x).encode(other), z)
    assert np.array_equal(frozen, x)


MIXED = {"i": [3, 1, 2], "f": [0.5, 0.25, 1.0], "b": [True, False, True], "t": ["y", "x", "z"]}


def test_schema_is_the_same_for_all_libraries():
    encoded = {name: Schema.fit(make(MIXED)).encode(make(MIXED)) for name, make in FRAMES.items()}
    schema = Schema.fit(pd.DataFrame(MIXED))
    assert all(np.array_equal(z, encoded["pandas"]) for z in encoded.values())
    assert all(Schema.fit(make(MIXED)) == schema for make in FRAMES.values())
    assert schema.width == 6 and schema.numeric == (0, 1) and schema.names == ("i", "f", "b", "t") and schema.named
    expected = [[1, 0, 1, 0], [-1, 1, 0, 0], [1, 0, 0, 1]]
    assert encoded["polars"][:, 2:].tolist() == expected
    np.testing.assert_allclose(encoded["pyarrow"][:, 0], np.array([1, -1, 0]) * np.sqrt(1.5), rtol=1e-7)


DECIMALS = [decimal.Decimal("0.1"), decimal.Decimal("0.3"), decimal.Decimal("12345.987654321")]


@pytest.mark.parametrize(
    "series",
    [
        pd.Series(DECIMALS),
        pl.Series(DECIMALS),
        pa.chunked_array([DECIMALS]),
        pd.Series(DECIMALS, dtype=pd.ArrowDtype(pa.decimal128(20, 9))),
        pl.Series([float(d) for d in DECIMALS], dtype=pl.Object),
        pd.Series([float(d) for d in DECIMALS], dtype="Float64"),
    ],
)
def test_schema_reads_decimals_and_objects(series):
    frame = pa.table({"d": series}) if isinstance(series, pa.ChunkedArray) else type(series.to_frame())({"d": series})
    truth = np.array([[float(d)] for d in DECIMALS])
    assert np.array_equal(Schema.fit(frame).encode(frame), Schema.fit(truth).encode(truth))


def test_schema_reads_integers_of_any_width():
    ids = [2**53 - 1, 2**53 - 2**31, 2**53 - 2**31 + 2**24]
    frames = [pl.DataFrame({"a": pl.Series(ids, dtype=d)}) for d in (pl.Int128, pl.Int64, pl.UInt64)]
    frames += [pd.DataFrame({"a": pd.array(ids, dtype="Int64")}), pa.table({"a": ids})]
    assert all(Schema.fit(frame) == Schema.fit(frames[0]) for frame in frames)
    check_exact(np.array(ids))


@pytest.mark.parametrize(
    ("series", "categories"),
    [
        (pd.Series(pd.Categorical(["b", "a"], categories=["c", "b", "a"])), ("a", "b", "c")),
        (pd.Series(pd.Categorical(["b", "a"], categories=["c", "b", "a"], ordered=True)), ("a", "b", "c")),
        (pd.Series(pd.Categorical([7, 5], categories=[7, 6, 5])), (5, 6, 7)),
        (pd.Series(pd.Categorical([7, 5], categories=[7, 6, 5], ordered=True)), (5, 6, 7)),
        (pd.Series(pd.Categorical([True, False])), (False, True)),
        (pl.Series(["b", "a"], dtype=pl.Enum(["c", "b", "a"])), ("a", "b", "c")),
        (pl.Series(["b", "a"], dtype=pl.Categorical), ("a", "b")),
        (pd.Series(["b", "a"], dtype=object), ("a", "b")),
        (pd.Series(["b", "a"], dtype=pd.ArrowDtype(pa.string())), ("a", "b")),
        (pa.array(["b", "a"]).dictionary_encode(), ("a", "b")),
    ],
)
def test_schema_reads_categorical_types(series, categories):
    pl.Series(["elsewhere"], dtype=pl.Categorical)  # polars shares categories between columns: they must not leak in
    frame = pa.table({"c": series}) if isinstance(series, pa.Array) else type(series.to_frame())({"c": series})
    schema = Schema.fit(frame)
    assert schema.columns[0].categories == categories and schema.width == len(categories) and schema.numeric == ()
    assert [type(c) for c in schema.columns[0].categories] == [type(c) for c in categories]
    expected = (
        [[float(value == c) for c in categories] for value in series.to_pylist()]
        if isinstance(series, pa.Array)
        else [[float(value == c) for c in categories] for value in series.to_list()]
    )
    assert schema.encode(frame).tolist() == expected
    assert schema.encode(frame).dtype == np.float32
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema


def test_schema_ignores_categories_of_zero_weight_rows():
    frame, weight = pl.DataFrame({"c": ["a", "b", "z"], "v": [1.0, 2.0, 1e9]}), [1, 1, 0]
    schema = Schema.fit(frame, weight)
    assert schema == Schema.fit(frame[:2])
    with pytest.raises(DataError, match="'c' has the value 'z'"):
        schema.encode(frame)
    assert schema.encode(frame, handle_unknown="ignore")[2, :2].tolist() == [0, 0]


@pytest.mark.parametrize("make", FRAMES.values(), ids=FRAMES)
def test_encode_refuses_or_ignores_unseen_categories(make):
    schema = Schema.fit(make(MIXED))
    new = make({**MIXED, "t": ["x", "Oslo", "y"]})
    with pytest.raises(DataError, match=r"Column 't' has the value 'Oslo' \(row 1\).*'x', 'y', 'z'.*handle_unknown"):
        schema.encode(new)
    assert schema.encode(new, handle_unknown="ignore")[:, 3:].tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]
    with pytest.raises(ValueError, match="handle_unknown='skip' is unknown"):
        schema.encode(new, handle_unknown="skip")
    with pytest.raises(DataError, match="'i' was numeric at fit; now it is text, such as '3' in row 0"):
        schema.encode(make({**MIXED, "i": ["3", "1", "2"]}))
    with pytest.raises(DataError, match="'b' was boolean at fit; now row 1 has the value 2"):
        schema.encode(make({**MIXED, "b": [0, 2, 1]}))
    as_numbers = make({**MIXED, "i": [3.0, 1.0, 2.0], "b": [1, 0, 1]})  # another type, the same values
    assert np.array_equal(schema.encode(as_numbers), schema.encode(make(MIXED)))


@pytest.mark.parametrize("make", FRAMES.values(), ids=FRAMES)
def test_encode_refuses_other_columns(make):
    schema, head = Schema.fit(make(MIXED)), "The feature names should match those that were passed during fit.\n"
    for names, words in [
        ("tbfi", "Feature names must be in the same order as they were in fit.\n"),
        ("ifb", "Feature names seen at fit time, yet now missing:\n- t\n"),
        ("ifbn", "Feature names unseen at fit time:\n- n\nFeature names seen at fit time, yet now missing:\n- t\n"),
    ]:
        with pytest.raises(DataError) as caught:
            schema.encode(make({name: MIXED.get(name, DAYS[:1].tolist() * 3) for name in names}))
        assert str(caught.value) == head + words
    with pytest.warns(DataWarning, match="Ignored columns that were not in fit: 'n'"):
        x = schema.encode(make({name: MIXED.get(name, DAYS[:1].tolist() * 3) for name in ("n", *MIXED)}))
    assert np.array_equal(x, schema.encode(make(MIXED)))
    assert schema.encode(make(MIXED)[:0] if make is not FRAMES["pyarrow"] else make(MIXED).slice(0, 0)).shape == (0, 6)
    assert schema.encode(make({name: [] for name in MIXED})).shape == (0, 6)


def test_schema_warns_of_missing_or_additional_names():
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 5.0]})
    named, bare = Schema.fit(frame), Schema.fit(frame.to_numpy())
    assert np.array_equal(named.encode(frame), bare.encode(frame.to_numpy()))
    with pytest.warns(
        DataWarning, match="X does not have valid feature names, but MyModel was fitted with feature names"
    ):
        named.encode(frame.to_numpy(), owner="MyModel")
    with pytest.warns(DataWarning, match="X has feature names, but Schema was fitted without feature names"):
        bare.encode(frame)
    for schema in (named, bare):
        with pytest.raises(DataError, match=r"^X has 3 features, but MyModel is expecting 2 features as input"):
            schema.encode(np.ones((4, 3)), owner="MyModel")
    assert bare.encode(np.empty((0, 2))).shape == (0, 2)
    assert not Schema.fit(pd.DataFrame([[1, 2], [3, 5]])).named  # integers are no names
    with pytest.raises(TypeError, match=r"only supported if all input features have string names.*\['int', 'str'\]"):
        Schema.fit(pd.DataFrame([[1, 2], [3, 5]], columns=["a", 1]))
    for twice in (pd.DataFrame([[1, 2], [3, 5]], columns=["a", "a"]), pa.table([[1, 2], [3, 5]], names=["a", "a"])):
        with pytest.raises(DataError, match=r"same name.*\n?.*'a'"):
            Schema.fit(twice)


BAD = [np.nan, np.inf, -np.inf]


@pytest.mark.parametrize("value", BAD)
def test_schema_names_missing_values_of_arrays(value):
    x = np.ones((9, 3)) * column(np.arange(9.0))
    schema = Schema.fit(x)
    x[[4, 7], 1] = value
    missing, infinite = (2, 0) if np.isnan(value) else (0, 2)
    words = "NaN" if missing else r"infinity or a value too large for dtype\('float64'\)"
    where = f"Input X contains {words}.\ncolumn 1: {missing} missing, {infinite} infinite, in rows 4, 7"
    given = {"missing": "error"} if missing else {}
    for call in (Schema.fit, schema.encode, lambda x, **given: Schema.fit(x, np.arange(9) > 2, **given)):
        with pytest.raises(DataError, match=where):
            call(x, **given)
    assert Schema.fit(x, np.arange(9) < 3, missing="error") == Schema.fit(x[:3])
    with pytest.raises(DataError, match=f"Input y contains {words}.\ntarget 0: {missing} missing"):
        check_target(x[:, 1], 9, "regression")
    if missing:  # some of several targets may be
        assert np.array_equal(check_target(x, 9, "regression")[0], x, equal_nan=True)
    else:
        with pytest.raises(DataError, match=f"Input y contains {words}.\ntarget 1: 0 missing, 2 infinite"):
            check_target(x, 9, "regression")
    with pytest.raises(DataError, match="Input X contains NaN"):
        Schema.fit(np.array([[1, None], [2, 3]], object), missing="error")


@pytest.mark.parametrize(
    ("frame", "count", "row"),
    [
        (pd.DataFrame({"a": [1.0, np.nan, np.nan]}), 2, 1),
        (pd.DataFrame({"a": pd.array([None, 1, 2], dtype="Int64")}), 1, 0),
        (pd.DataFrame({"a": pd.array([True, None, False], dtype="boolean")}), 1, 1),
        (pd.DataFrame({"a": pd.array([1.5, 2.5, None], dtype="Float64")}), 1, 2),
        (pd.DataFrame({"a": pd.array([1, None, 3], dtype=pd.ArrowDtype(pa.int64()))}), 1, 1),
        (pd.DataFrame({"a": ["x", None, "y"]}), 1, 1),
        (pd.DataFrame({"a": np.array(["x", None, np.nan], object)}), 2, 1),
        (pd.DataFrame({"a": pd.Categorical(["x", None, "y"])}), 1, 1),
        (pd.DataFrame({"a": np.array([1, pd.NA, 2], object)}), 1, 1),
        (pd.DataFrame({"a": [None, None, None]}), 3, 0),
        (pl.DataFrame({"a": [1, None, 2]}), 1, 1),
        (pl.DataFrame({"a": [1.0, None, float("nan")]}), 2, 1),
        (pl.DataFrame({"a": ["x", "y", None]}), 1, 2),
        (pl.DataFrame({"a": [True, None, None]}), 2, 1),
        (pl.DataFrame({"a": [None, None, None]}), 3, 0),
        (pa.table({"a": [1, None, 2]}), 1, 1),
        (pa.table({"a": [1.0, None, float("nan")]}), 2, 1),
        (pa.table({"a": ["x", None, "y"]}), 1, 1),
        (pa.table({"a": pa.array([None] * 3)}), 3, 0),
    ],
)
def test_schema_names_missing_values_of_frames(frame, count, row):
    with pytest.raises(
        DataError, match=f"Input X contains NaN.\ncolumn 'a': {count} missing, 0 inf.*in rows? {row}[.,]"
    ):
        Schema.fit(frame, missing="error")


def test_message_about_many_columns_is_short():
    with pytest.raises(DataError, match=r"column 9: 2 missing.*\nand 90 more columns\. Fill"):
        Schema.fit(np.full((2, 100), np.nan), missing="error")


@pytest.mark.parametrize(
    ("X", "words"),
    [
        (np.empty((0, 3)), r"Found array with 0 sample\(s\) \(shape=\(0, 3\)\) while a minimum of 1 is required."),
        (pd.DataFrame({"a": [], "b": []}), r"0 sample\(s\) \(shape=\(0, 2\)\) while a minimum of 1 is required."),
        (np.empty((12, 0)), r"0 feature\(s\) \(shape=\(12, 0\)\) while a minimum of 1 is required."),
        (pd.DataFrame(index=[1, 2]), r"0 feature\(s\) \(shape=\(2, 0\)\) while a minimum of 1 is required."),
        (np.ones((1, 3)), "n_samples = 1"),
        (np.ones(5), "Expected 2D array, got 1D array instead(.|\n)*Reshape your data"),
        (np.ones((5, 2, 2)), "Found array with dim 3"),
        (3.0, "Expected 2D array, got scalar array instead"),
        (pd.Series([1, 2]), "Expected a 2-dimensional container"),
        (pl.LazyFrame({"a": [1]}), r"LazyFrame.*X.collect\(\)"),
        (np.ones((5, 2)) * 1j, "Complex data not supported"),
        ([[1, 2], [1]], "inhomogeneous"),
        (np.array([["a"], ["b"]]), "the text 'a' in row 0, which is not a number.*Only columns of a data frame"),
        (np.array([["1"], ["2"]], object), "text '1' in row 0"),
        ([[1, "a"], [2, "b"]], "the text 'a' in row 0"),
        (np.array([[1, 2], [3, b"b"]], object), "text b'b' in row 1"),
        (np.array([["2020"], ["2021"]], "datetime64[s]"), r"dtype datetime64\[s\]"),
        (np.array([[1], [2]], "timedelta64[s]"), r"dtype timedelta64\[s\]"),
        (np.array([[10**400], [1]], object), "too large"),
        (np.ma.array([[1.0], [2.0]], mask=[[True], [False]]), "masked values"),
    ],
)
def test_schema_refuses_unusable_arrays(X, words):
    with pytest.raises(DataError, match=words):
        Schema.fit(X)


@pytest.mark.parametrize("value", [{"foo": "bar"}, 1j, datetime.datetime(2020, 1, 1), np.datetime64("2020", "ns"), [1]])
def test_schema_refuses_other_objects(value):
    x = np.array([[1.0], [2.0], [3.0]], object)
    x[1, 0] = value
    with pytest.raises(TypeError, match=r"argument must be .* string.* number, not '.*' as in row 1"):
        Schema.fit(x)
    with pytest.raises(TypeError, match="Column 'a': argument must be"):
        Schema.fit(pd.DataFrame({"a": x[:, 0]}))
    with pytest.raises(DataError, match="Column 'a' has the text 'x' in row 2"):
        Schema.fit(pd.DataFrame({"a": [1, 2.5, "x"]}))


def test_schema_takes_sparse_matrices_that_fit_into_memory():
    x = np.random.default_rng(0).normal(size=(12, 3)) * [1, 0.5, 2]
    for sparse in (scipy.sparse.csr_matrix, scipy.sparse.coo_array, scipy.sparse.csc_matrix):
        schema = Schema.fit(sparse(x))
        assert schema == Schema.fit(x) and np.array_equal(schema.encode(sparse(x)), schema.encode(x))
        assert np.array_equal(frames.take_rows(sparse(x), [2, 5]).toarray(), x[[2, 5]])
    with pytest.raises(DataError, match=r"X is sparse, with 10,000 × 10,000 values.*TruncatedSVD"):
        Schema.fit(scipy.sparse.eye(10_000))


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pd.DataFrame({"a": [1j, 2j]}), "Column 'a' has the dtype complex128"),
        (pd.DataFrame({"a": pd.arrays.SparseArray([0, 1])}), "Column 'a' has the dtype Sparse"),
        (pd.DataFrame({"a": pd.cut([1, 2], 2)}), "Column 'a' has categories of type Interval"),
        (pd.DataFrame({"a": pd.Categorical([1.5, 2.5])}), "Column 'a' has categories of type float"),
        (pd.DataFrame({"a": [b"x", b"y"]}), "Column 'a' has the text b'x'"),
        (pl.DataFrame({"a": [[1], [2]]}), r"Column 'a' has the dtype List\(Int64\)"),
        (pl.DataFrame({"a": [b"x", b"y"]}), "Column 'a' has the dtype Binary"),
        (pa.table({"a": [{"b": 1}] * 2}), "Column 'a' has the dtype struct"),
        (pa.table({"a": [f"t{i}" for i in range(10_001)]}), "No column can be used.*'a' .nearly every row has another"),
    ],
)
def test_schema_refuses_columns_of_other_types(frame, words):
    with pytest.raises(DataError, match=words):
        Schema.fit(frame)


class OnlyConverts:
    """An array-like that gives an array when asked and refuses NumPy's functions."""

    def __array__(self, dtype=None, copy=None):
        return np.array([1, 0, 2], dtype)

    def __array_function__(self, function, types, args, kwargs):
        raise TypeError(function)


def test_check_weight_accepts_any_library_and_names_errors():
    assert check_weight(None, 3).tolist() == [1, 1, 1] and check_weight(2, 3).tolist() == [2, 2, 2]
    for weight in ([1, 0, 2], OnlyConverts(), pd.Series([1, 0, 2]), pl.Series([1, 0, 2]), np.array([1, 0, 2], object)):
        assert check_weight(weight, 3).tolist() == [1, 0, 2] and check_weight(weight, 3).dtype == np.float32
    for weight, words in [
        ([1, 2], r"sample_weight.shape == \(2,\), expected \(3,\)!"),
        ([[1], [2], [3]], "Sample weights must be 1D array or scalar"),
        ([1, np.nan, 2], "Input sample_weight contains NaN(.|\n)*, in row 1"),
        ([1, 1e39, 2], "Input sample_weight contains infinity"),
        ([1, 2, -1], "Negative values in data passed to `sample_weight`, the first in row 2"),
        ([0, 0, 0], "Sample weights must contain at least one non-zero number"),
        (["a", "b", "c"], "Input sample_weight has the text 'a' in row 0"),
        ({}, "Sample weights must be 1D array or scalar, got dict"),
        ([1e-40] * 3, "weights in sample_weight sum to 3e-40, but.*Divide the weights by their mean"),
        ([1e38] * 3, "weights in sample_weight sum to 3e.38"),
    ]:
        with pytest.raises(DataError, match=words):
            check_weight(weight, 3)
    with pytest.raises(DataError, match="n_samples = 1"):
        Schema.fit(np.eye(3), [0, 2, 0])


def test_target_scaler_uses_weights():
    y = np.random.default_rng(0).normal(size=(20, 2))
    weight = np.arange(20) % 4
    scaler = TargetScaler.fit(y, weight)
    assert scaler == TargetScaler.fit(y[weight > 0], weight[weight > 0])
    np.testing.assert_allclose(scaler.transform(y)[:, 1], truth(y[:, 1], weight)[0].astype(float), rtol=1e-6)


def test_check_target_reads_numbers_and_names_errors():
    for y in (
        [1, 2, 4],
        pd.Series([1, 2, 4]),
        pl.Series([1, 2, 4]),
        pa.chunked_array([[1, 2, 4]]),
        np.array([1, 2, 4], object),
    ):
        values, flat = check_target(y, 3, "regression")
        assert values.tolist() == [[1], [2], [4]] and values.dtype == np.float64 and flat
    for y in (
        [[1], [2], [4]],
        pd.DataFrame({"a": [1, 2, 4]}),
        [[1, 5], [2, 6], [4, 7]],
        pl.DataFrame({"a": [1, 2, 4]}),
    ):
        values, flat = check_target(y, 3, "regression")
        assert np.array_equal(values, np.asarray(y)) and not flat
    for y, words in [
        (None, "requires y to be passed, but the target y is None"),
        ([1, None, 2], "Input y contains NaN.\ntarget 0: 1 missing, 0 infinite, in row 1"),
        (pd.array([1, None, 2], dtype="Int64"), "Input y contains NaN"),
        (pl.Series([1, None, 2]), "Input y contains NaN"),
        ([1, 2, np.inf], "Input y contains infinity"),
        ([1, 2], r"Found input variables with inconsistent numbers of samples: \[3, 2\]"),
        (["1", "12,345", "c"], "Input y has the text '12,345' in row 1, which is not a number"),
        (["1", "2", "3"], "Input y has the text '1' in row 0, a number that is written as text"),
        (pd.Series(["a", "b", "c"]), "Input y has the text 'a' in row 0"),
        (np.array([1j, 2, 3]), "Complex data not supported"),
        (np.array(["2020"] * 3, "datetime64[s]"), "dtype datetime64"),
        (np.ones((3, 2, 2)), "dim 3"),
    ]:
        with pytest.raises(DataError, match=words):
            check_target(y, 3, "regression")
    with pytest.raises(ValueError, match="task='ranking' is unknown"):
        check_target([1, 2, 3], 3, "ranking")


@pytest.mark.parametrize(
    ("y", "classes", "kind"),
    [
        (["b", "a", "b"], ["a", "b"], "O"),
        (np.array(["b", "a", "b"]), ["a", "b"], "U"),
        (pd.Series(["b", "a", "b"]), ["a", "b"], "O"),
        (pl.Series(["b", "a", "b"]), ["a", "b"], "U"),
        (pd.Series(pd.Categorical(["b", "a", "b"])), ["a", "b"], "O"),
        ([7, -1, 7], [-1, 7], "i"),
        ([True, False, True], [False, True], "b"),
        (np.array([True, False, True], object), [False, True], "b"),
        (np.array([2.0, 1.0, 2.0]), [1.0, 2.0], "f"),
        (np.array([9, 3, 9], np.uint8), [3, 9], "u"),
        (pd.array([9, 3, 9], dtype="Int64"), [3, 9], "i"),
        (pa.chunked_array([[2**40, 5, 2**40]]), [5, 2**40], "i"),
    ],
)
def test_check_target_reads_class_labels(y, classes, kind):
    found, places = check_target(y, 3, "classification")
    assert found.tolist() == classes and found.dtype.kind == kind
    assert places.tolist() == [1, 0, 1] and places.dtype == np.int32


@pytest.mark.parametrize(
    ("y", "words"),
    [
        ([0.5, 1.5, 2.5], "Unknown label type: continuous"),
        ([1, "a", 2], "Unknown label type: int, str"),
        (np.array(["a", 1, "b"], object), "Unknown label type: int, str"),
        (np.array(["2020"] * 3, "datetime64[s]"), "Unknown label type: datetime64"),
        ([b"a", b"b", b"a"], "Unknown label type: bytes"),
        ([{}, {}, {}], "Unknown label type: dict"),
        (np.array([1j, 2, 3]), "Complex data not supported"),
        ([1.0, np.nan, 2.0], "Input y contains NaN"),
        (np.array([1.0, np.nan, 2.0]), "Input y contains NaN"),
        (np.array([1.0, np.inf, 2.0]), "Input y contains infinity"),
        (pd.Series(["a", None, "b"]), "Input y contains NaN.*\ny: 1 missing, 0 infinite, in row 1"),
        (pd.Series(pd.Categorical(["a", None, "b"])), "Input y contains NaN.*\ny: 1 missing, 0 infinite, in row 1"),
        (pa.array(["a", None, "b"]), "Input y contains NaN.*\ny: 1 missing, 0 infinite, in row 1"),
        (pa.array(["a", None, "b"]).dictionary_encode(), "Input y contains NaN.*\ny: 1 missing, 0 infinite, in row 1"),
        (pa.chunked_array([pa.array(["a", None, "b"]).dictionary_encode()]), "Input y contains NaN.*\ny: 1 missing"),
        (
            pl.Series(["a", None, "b"], dtype=pl.Categorical),
            "Input y contains NaN.*\ny: 1 missing, 0 infinite, in row 1",
        ),
        (pl.Series(["a", "b", None]), "Input y contains NaN"),
        (np.array([True, pd.NA, False], object), "Input y contains NaN"),
        (np.ones((3, 2), int), "y should be a 1d array"),
        ([1, 2], r"inconsistent numbers of samples: \[3, 2\]"),
    ],
)
def test_check_target_refuses_other_labels(y, words):
    with pytest.raises(DataError, match=words):
        check_target(y, 3, "classification")


def test_check_target_warns_of_a_column_of_labels():
    with pytest.warns(DataConversionWarning, match="A column-vector y was passed"):
        assert check_target([["b"], ["a"]], 2, "classification")[1].tolist() == [1, 0]


def test_check_target_reads_ten_thousand_classes():
    with pytest.warns(UserWarning, match="unique classes is greater than 50%"):
        classes, places = check_target(np.arange(10_000)[::-1], 10_000, "classification")
    assert np.array_equal(classes[places], np.arange(10_000)[::-1])


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["a", "b"], "classification"),
        ([True, False, None], "classification"),
        ([0.0, 1.0, 0.0, 1.0], "regression"),
        ([0, 1, 1, 0, None], "classification"),
        ([-1, 1, 1, -1], "classification"),
        (list(range(10)) * 2, "classification"),
        (list(range(1, 11)) * 2, "classification"),
        (list(range(11)) * 2, "regression"),
        ([3, 4, 5, 6, 7, 8] * 9, "regression"),
        ([0, 1, 3] * 9, "regression"),
        ([1, 2, 3], "regression"),
        (DECIMALS, "regression"),
    ],
)
def test_target_kind_follows_the_values(values, kind):
    # pandas alone turns integers with a gap into floats, and truth values with a gap into objects
    assert target_kind(pd.DataFrame({"y": values}), "y") in {kind, "regression" if None in values else kind}
    assert target_kind(pl.DataFrame({"y": values}), "y") == target_kind(pa.table({"y": values}), "y") == kind


def test_target_kind_refuses_other_types():
    assert target_kind(pd.DataFrame({"y": pd.Categorical([1.5, 2.5])}), "y") == "classification"
    for frame in (pd.DataFrame({"y": DAYS}), pl.DataFrame({"y": [None, None]})):
        with pytest.raises(DataError, match=r"The target .y. has .* neither numbers nor classes"):
            target_kind(frame, "y")


NUMBERS = [f"{value:.1f}" for value in range(30)]


@pytest.mark.parametrize("make", FRAMES.values(), ids=FRAMES)
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([*NUMBERS, "12,345", "?"], "30 of its 31 values|'12,345' in row 30 is not one"),
        ([*NUMBERS, "9.50 EUR"], "'9.50 EUR' in row 30 is not one"),
        (["0,5", *NUMBERS], "'0,5' in row 0 is not one"),
        (["1,5", "2,5", "3,5"] * 9, "'1,5' in row 0 is not one"),
        ([*NUMBERS, "?"], r"'\?' in row 30 is not one"),
        ([*NUMBERS, None, "n.a."], "'n.a.' in row 31 is not one"),
        (NUMBERS, "all its values are numbers, such as '0.0'"),
        ([f"id{row}" for row in range(30)], "30 different values in 30 rows: too many to be classes"),
    ],
)
def test_target_kind_refuses_texts_that_cannot_be_classes(make, values, words):
    with pytest.raises(DataError, match=f"The target 'y' is text, (but|and).*({words})") as caught:
        target_kind(make({"y": values}), "y")
    assert "--task classification" in caught.value.option and "--" not in str(caught.value)


@pytest.mark.parametrize(
    "values", [["0", "1", "2"] * 5, ["low", "high", None] * 2, [f"town {k}" for k in range(40)] * 3]
)
@pytest.mark.parametrize("make", FRAMES.values(), ids=FRAMES)
def test_target_kind_accepts_texts_that_can_be_classes(make, values):
    assert target_kind(make({"y": values}), "y") == "classification"


@pytest.mark.parametrize("make", FRAMES.values(), ids=FRAMES)
@pytest.mark.parametrize("text", ["44.2%", "$5.21", "1,234", "1 234.5", "7 EUR", "abc", "12,5", "3+"])
def test_schema_refuses_a_column_of_numbers_with_a_text(make, text):
    values = [*NUMBERS[:17], text, *NUMBERS[17:], text]
    words = rf"Column 'a' is text, but 3[02] of its 32 values are numbers; {text!r} in row 17 is not a plain number".replace(
        "$", r"\$"
    )
    for table in (make({"a": values}), make({"b": [1] * 32, "a": values})):
        with pytest.raises(DataError, match=words.replace("+", r"\+")) as caught:
            Schema.fit(table)
        assert "X['a'].astype('category')" in str(caught.value) and "--categorical a" in caught.value.option


@pytest.mark.parametrize("text", ["?", "unknown", "n.a.", "N/A", " NULL ", "-"])
def test_schema_reads_spellings_of_missing_in_a_column_of_numbers(text):
    values = [*NUMBERS, text]
    with pytest.raises(DataError, match=rf"{re.escape(repr(text))} in row 30 stands for a missing value"):
        Schema.fit(pd.DataFrame({"a": values}))
    with pytest.raises(DataError, match="column 'a': 1 missing, 0 infinite, in row 30"):
        Schema.fit(pd.DataFrame({"a": [*map(float, NUMBERS), text]}), missing="error")
    found = reading.parse_missing_spellings(pa.chunked_array([values]))
    assert found.type == pa.float64() and found.to_pylist() == [*map(float, NUMBERS), None]


@pytest.mark.parametrize(
    "column",
    [
        pd.Series(["1", "2", "x"] * 5).astype("category"),
        pd.Series(["a", "b", "?", "1"] * 5),
        pd.Series(["01234", "99999"] * 5),
        pd.Series(["20-29", "30-39", "1.2.3"] * 5),
        pd.Series(["2020-01-01", "CSE 101", "1st", "5 kg"] * 5),
    ],
)
def test_schema_accepts_declared_categories_and_other_texts(column):
    frame = pd.DataFrame({"a": column})
    assert Schema.fit(frame).columns[0].categories == tuple(sorted(column.unique()))
    assert reading.parse_missing_spellings(pa.chunked_array([column.tolist()])).type == pa.string()


def test_read_table_reads_named_columns_as_categories(tmp_path):
    (tmp_path / "t.csv").write_text("zip,n,y\n01234,1,5\n00001,2,6\n01234,1,7\n")
    table = reading.read_table(tmp_path / "t.csv", ["zip", "n"], "y")
    assert [column.categories for column in Schema.fit(table.drop_columns("y")).columns] == [
        ("00001", "01234"),
        ("1", "2"),
    ]
    with pytest.raises(DataError, match="no column 'zap'; did you mean 'zip'"):
        reading.read_table(tmp_path / "t.csv", ["zap"])


def test_drop_missing_target_counts_and_drops_rows():
    for values in ([1.0, None, 3.0, float("nan")], ["a", None, "b", None], [True, None, False, None]):
        for make in FRAMES.values():
            rows, missing = frames.drop_missing_target(make({"x": [1, 2, 3, 4], "y": values}), "y")
            assert missing == 2 and frames.split_target(rows, "y")[1].tolist() == [
                v for v in values if v == v and v is not None
            ]
            assert [int(x) for x in frames.split_target(rows, "x")[1]] == [1, 3]
    codes = pa.table({"y": pa.array(["b", None, "a"]).dictionary_encode()})
    assert frames.split_target(codes, "y")[1].tolist() == ["b", None, "a"]
    assert frames.drop_missing_target(codes, "y")[0]["y"].to_pylist() == ["b", "a"]


@pytest.mark.parametrize("make", FRAMES.values(), ids=FRAMES)
def test_split_target_keeps_the_library(make):
    features, target = frames.split_target(make(MIXED), "t")
    assert type(features) is type(make(MIXED)) and Schema.fit(features).names == ("i", "f", "b")
    assert target.tolist() == ["y", "x", "z"]
    with pytest.raises(DataError, match=r"no column 'tt'; did you mean 't'\? The columns are 'i', 'f', 'b', 't'\."):
        frames.split_target(make(MIXED), "tt")


def test_schema_round_trips_through_json():
    schema = Schema.fit(
        pd.DataFrame({**MIXED, "f": [0.1, 1e300, -1e300 / 3], "c": pd.Categorical([5, 7, 5]), "ü\n": [1, 2, 3]})
    )
    text = json.dumps(schema.to_dict(), allow_nan=False)
    assert Schema.from_dict(json.loads(text)) == schema == pickle.loads(pickle.dumps(schema))
    assert hash(Schema.from_dict(json.loads(text))) == hash(schema)


BROKEN = {
    "extra key": lambda d: d.update(more=1),
    "missing key": lambda d: d.pop("named"),
    "named": lambda d: d.update(named=1),
    "no columns": lambda d: d.update(columns=[]),
    "columns of another type": lambda d: d.update(columns={"a": 1}),
    "column of another type": lambda d: d["columns"].append("a"),
    "extra column key": lambda d: d["columns"][0].update(more=1),
    "missing column key": lambda d: d["columns"][0].pop("scale"),
    "name": lambda d: d["columns"][0].update(name=3),
    "same names": lambda d: d["columns"][0].update(name="t"),
    "kind": lambda d: d["columns"][0].update(kind="os.system"),
    "kind of another type": lambda d: d["columns"][0].update(kind=[]),
    "infinite": lambda d: d["columns"][0].update(shift=float("inf")),
    "not a number": lambda d: d["columns"][0].update(shift=float("nan")),
    "zero scale": lambda d: d["columns"][0].update(scale=0.0),
    "negative scale": lambda d: d["columns"][0].update(scale=-1.0),
    "text scale": lambda d: d["columns"][0].update(scale="1"),
    "truth scale": lambda d: d["columns"][0].update(scale=True),
    "huge scale": lambda d: d["columns"][0].update(scale=10**400),
    "categories of a number": lambda d: d["columns"][0].update(categories=["a"]),
    "no categories": lambda d: d["columns"][3].update(categories=[]),
    "same categories": lambda d: d["columns"][3].update(categories=["a", "a"]),
    "categories of lists": lambda d: d["columns"][3].update(categories=[["a"]]),
    "null category": lambda d: d["columns"][3].update(categories=[None]),
    "categories as text": lambda d: d["columns"][3].update(categories="ab"),
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_from_dict_refuses_every_change(change):
    d = Schema.fit(pd.DataFrame(MIXED)).to_dict()
    assert Schema.from_dict(d)
    change(d)
    with pytest.raises(DataError, match="Not a table schema"):
        Schema.from_dict(d)


@pytest.mark.parametrize("d", [None, [], "columns", 3, {}])
def test_from_dict_refuses_other_objects(d):
    with pytest.raises(DataError, match="Not a table schema"):
        Schema.from_dict(d)


def written(folder, name, data):
    (folder / name).write_bytes(data)
    return folder / name


TABLE = 'a,b,c\n1,x,0.5\n2,"y\nz",\n'


def test_read_table_reads_all_formats(tmp_path, monkeypatch):
    expected = {"a": [1, 2], "b": ["x", "y\nz"], "c": [0.5, None]}
    csv = written(tmp_path, "täble.CSV", b"\xef\xbb\xbf" + TABLE.encode())
    tsv = written(tmp_path, "t.tsv", TABLE.replace(",", "\t").encode())
    pyarrow.parquet.write_table(pa.table(expected), tmp_path / "t.parquet")
    for source in (csv, str(csv), tsv, tmp_path / "t.parquet"):
        assert reading.read_table(source).to_pydict() == expected
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(TABLE.encode())))
    assert reading.read_table("-").to_pydict() == expected
    late = written(tmp_path, "late.csv", b"a,b\n" + b"1,2\n" * 400_000 + b"1.5,x\n")
    assert [str(kind) for kind in reading.read_table(late).schema.types] == ["double", "string"]
    assert reading.read_table(written(tmp_path, "head.csv", b"a,b\n")).shape == (0, 2)
    assert reading.read_table(written(tmp_path, "gap.csv", b"a,b\nx,\n,2\n"))["a"].to_pylist() == ["x", None]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("t.csv", None, "t.csv cannot be read"),
        ("t.parquet", None, "t.parquet cannot be read"),
        ("t.csv", b"", "t.csv cannot be read.*[Ee]mpty"),
        ("t.parquet", b"", "t.parquet cannot be read"),
        ("t.parquet", b"a,b\n1,2\n", "t.parquet cannot be read"),
        ("t.csv", b"a,b\n1,2,3\n", "Expected 2 columns, got 3"),
        ("t.csv", b"a,a\n1,2\n", "several columns are named a"),
        ("t.csv", "é,b\n".encode() + b"\xe9,2\n", "byte 0xe9 at position 5 is not UTF-8, as the text before it is"),
        ("t.xls", b"", "only .csv, .tsv, .txt, .xlsx and .parquet"),
        ("table", b"", "only .csv, .tsv, .txt, .xlsx and .parquet"),
    ],
)
def test_read_table_refuses_unreadable_files(tmp_path, name, data, words):
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(DataError, match=words):
        reading.read_table(path)


def test_read_table_refuses_a_folder(tmp_path):
    for name in ("t.csv", "t.parquet"):
        (tmp_path / name).mkdir()
        with pytest.raises(DataError, match=f"{name} cannot be read"):
            reading.read_table(tmp_path / name)


def test_read_table_without_pyarrow_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'dubito\[cli\]'"):
        reading.read_table("t.csv")


def test_schema_imports_no_jax():
    code = "import sys, dubito.tables.schema; print({'jax', 'polars', 'dubito.training.fit'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_huge_whole_numbers_keep_their_sign():
    values = as_float64(np.array([-(10**400), 10**400, None], object), "y")
    np.testing.assert_array_equal(values, [-np.inf, np.inf, np.nan])
