"""Batches of an engine: the answers of ``dubito predict``, in any cut, of one schema, by one model."""

import itertools
import pickle
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from command_line import run
from pyarrow import parquet

import dubito
from dubito._process.archive import ModelFileError
from dubito.estimators import batches

ROWS = 1500
INPUTS = ["a", "b", "c", "city"]


def frame(rows=ROWS, seed=0):
    """Numbers, integers, truth values and texts, some of which look like numbers, and two columns that are no inputs."""
    rng = np.random.default_rng(seed)
    columns = {"id": np.arange(rows), "a": rng.normal(size=rows), "b": rng.integers(-9, 9, rows)}
    columns |= {
        "c": rng.uniform(size=rows) < 0.5,
        "city": np.array(["Oslo", "Rome", "007"])[rng.integers(3, size=rows)],
    }
    return pd.DataFrame(columns | {"text": [f"row {i}" for i in range(rows)]})


def table(rows=ROWS, seed=0):
    return pa.Table.from_pandas(frame(rows, seed), preserve_index=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, quick_fits):
    """Models by name: of numbers, of classes with conformal sets, of two targets, and of counts."""
    folder = tmp_path_factory.mktemp("batches")
    few = frame(200, seed=1)
    x, y = few[INPUTS], few["a"] + np.sin(few["b"])
    options = {"hidden": (8,), "draws": 5, "random_state": 0, "handle_unknown": "ignore"}
    method = dubito.BayesByBackprop(epochs=3)
    with quick_fits():
        numbers = dubito.BayesianRegressor(method, **options).fit(x, y)
        classes = dubito.BayesianClassifier(method, **options).fit(x, np.digitize(y, [0, 1]))
        two = dubito.BayesianRegressor(method, **options).fit(x, np.stack([y, -y], 1))
        counts = dubito.BayesianRegressor(method, likelihood="poisson", **options).fit(x, np.floor(np.exp(y)))
    classes.calibrate(x, np.digitize(y, [0, 1]), "conformal")
    for name, model in {"numbers": numbers, "classes": classes, "two": two, "counts": counts}.items():
        model.save(folder / f"{name}.dubito")
    return folder


@pytest.fixture(autouse=True)
def nothing_loaded():
    batches._loaded.clear()
    yield
    batches._loaded.clear()


@pytest.mark.parametrize("name", ["numbers", "classes", "two", "counts"])
def test_answers_are_those_of_dubito_predict_in_any_cut(folder, tmp_path, name):
    rows, model = table(), folder / f"{name}.dubito"
    parquet.write_table(rows, tmp_path / "rows.parquet")
    run("predict", model, tmp_path / "rows.parquet", "--keep", "id,text", "-o", tmp_path / "out.parquet")
    expected = parquet.read_table(tmp_path / "out.parquet")
    predictor = dubito.BatchPredictor(model, keep=["id", "text"])
    assert predictor(rows).equals(expected)
    cuts = [0, 1, 1, 8, 136, 1161, ROWS]
    pieces = [rows.slice(a, b - a) for a, b in itertools.pairwise(cuts)]
    found = [predictor(piece) for piece in pieces]
    assert [len(piece) for piece in found] == [len(piece) for piece in pieces]
    assert all(piece.schema.equals(expected.schema) for piece in found)
    assert pa.concat_tables(found).equals(expected)
    assert pa.concat_tables(predictor.map(iter(pieces))).equals(expected)


def test_batches_longer_than_a_block_are_cut_into_blocks(folder, monkeypatch):
    monkeypatch.setattr(dubito.BayesianRegressor, "block_rows", 137)
    predictor = dubito.BatchPredictor(folder / "numbers.dubito")
    whole = dubito.load(folder / "numbers.dubito").predictive(frame()[INPUTS])
    found = list(predictor.map([table().slice(0, 500), table().slice(500, 0), table().slice(500)]))
    assert [len(piece) for piece in found] == [500, 0, ROWS - 500]
    np.testing.assert_array_equal(pa.concat_tables(found)["mean"], whole.mean)
    np.testing.assert_array_equal(pa.concat_tables(found)["upper"], whole.interval(0.9)[1])


@pytest.mark.parametrize("name", ["numbers", "classes", "two", "counts"])
def test_schema_is_that_of_every_answer_also_without_rows(folder, name):
    predictor = dubito.BatchPredictor(folder / f"{name}.dubito")
    schema = predictor.schema()
    for rows in (table(0), table(1), table(300)):
        assert predictor(rows).schema == predictor.schema(rows) == predictor.schema(rows.schema) == schema
    kept = dubito.BatchPredictor(folder / f"{name}.dubito", keep="all")
    assert kept.schema(frame(5)) == kept(table(5)).schema
    assert kept.schema(frame(5)).names == [*frame(0).columns, *schema.names]
    with pytest.raises(ValueError, match=r"keep='all': .* Pass a batch, or its pyarrow.Schema"):
        kept.schema()


def test_an_answer_is_of_the_kind_of_its_batch(folder):
    predictor = dubito.BatchPredictor(folder / "classes.dubito", keep="id")
    rows = frame(50).sample(frac=1, random_state=0)
    rows.index = rows.index // 2  # with repetitions
    answer = predictor(rows)
    assert isinstance(answer, pd.DataFrame)
    pd.testing.assert_index_equal(answer.index, rows.index)
    pd.testing.assert_series_equal(answer["id"], rows["id"])
    pd.testing.assert_series_equal(predictor(rows.head(0)).dtypes, answer.dtypes)
    expected = predictor(pa.Table.from_pandas(rows, preserve_index=False))
    assert isinstance(expected, pa.Table)
    pd.testing.assert_frame_equal(answer.reset_index(drop=True), expected.to_pandas())
    (batch,) = pa.Table.from_pandas(rows, preserve_index=False).combine_chunks().to_batches()
    for some in (batch, batch.slice(0, 0)):
        found = predictor(some)
        assert isinstance(found, pa.RecordBatch)
        assert pa.Table.from_batches([found]).equals(expected.slice(0, len(some)))


def test_settings_are_those_of_dubito_predict(folder):
    rows = table(20)
    narrow = dubito.BatchPredictor(folder / "numbers.dubito", 0.5)(rows)
    model = dubito.load(folder / "numbers.dubito")
    np.testing.assert_array_equal(narrow["lower"], model.predictive(frame(20)[INPUTS]).interval(0.5)[0])
    rows = rows.set_column(4, "city", pa.array(["Paris"] * 20)).set_column(1, "a", pa.nulls(20, pa.float64()))
    with pytest.warns(dubito.DataWarning) as found:
        lenient = dubito.BatchPredictor(folder / "numbers.dubito")(rows)
    assert sorted(str(each.message) for each in found) == [
        "Categories not seen in fit, encoded as zeros: 'city'.",
        "Missing values of columns that had none in fit, encoded as their means or as no category: 'a'.",
    ]
    other = frame(20)[INPUTS].assign(a=np.nan, city="Paris")
    with warnings.catch_warnings(action="ignore"):
        np.testing.assert_array_equal(lenient["mean"], model.predictive(other).mean)
    for options, message in (
        ({"handle_unknown": "error"}, "Column 'city' has the value 'Paris' (row 0)"),
        ({"missing": "error"}, "column 'a': 20 missing"),
    ):
        with pytest.raises(dubito.DataError) as error:
            dubito.BatchPredictor(folder / "numbers.dubito", **options)(rows)
        assert message in str(error.value)
        where = f"(Rows are counted from 0 in each batch; the model is {folder / 'numbers.dubito'}.)"
        assert str(error.value).endswith(where)


def test_pickle_is_small_and_a_new_process_gives_the_same_bits(folder, tmp_path):
    predictor = dubito.BatchPredictor(folder / "numbers.dubito", keep=["id"])
    data = pickle.dumps(predictor)
    assert len(data) < 500 + len(predictor.path) and not batches._loaded
    (tmp_path / "p.pickle").write_bytes(data)
    parquet.write_table(table(300), tmp_path / "rows.parquet")
    code = (
        "import pickle; from pyarrow import parquet\n"
        "predictor = pickle.load(open('p.pickle', 'rb'))\n"
        "parquet.write_table(predictor(parquet.read_table('rows.parquet')), 'out.parquet')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert parquet.read_table(tmp_path / "out.parquet").equals(predictor(table(300)))


def test_a_process_loads_a_model_once_and_drops_the_one_used_least_recently(folder, monkeypatch):
    loads = []
    monkeypatch.setattr(batches, "load", lambda path: loads.append(path) or dubito.load(path))
    monkeypatch.setattr(batches, "MOST_LOADED", 2)
    one, two, three = (dubito.BatchPredictor(folder / f"{name}.dubito") for name in ("numbers", "classes", "two"))
    for predictor in (one, pickle.loads(pickle.dumps(one)), two, one, three, one):
        predictor(table(3))
    assert loads == [one.path, two.path, three.path]
    two(table(3))
    assert loads[3:] == [two.path]


def test_another_model_at_the_path_is_an_error_and_a_loaded_one_answers_on(folder, tmp_path):
    path = shutil.copy(folder / "numbers.dubito", tmp_path / "m.dubito")
    loaded, late = dubito.BatchPredictor(path), dubito.BatchPredictor(path, handle_unknown="error")
    before = loaded(table(5))
    shutil.copy(folder / "two.dubito", path)
    assert loaded(table(5)).equals(before)
    with pytest.raises(dubito.ModelFileError, match=r"m.dubito is not the model that this BatchPredictor was made for"):
        late(table(5))
    (tmp_path / "m.dubito").unlink()
    with pytest.raises(dubito.ModelFileError, match=r"cannot read .*m.dubito.* All machines must see the model"):
        late(table(5))
    with pytest.raises(dubito.ModelFileError, match="cannot read"):
        dubito.BatchPredictor(path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"a": [1.0]}, "got dict. Ask the engine for batches of pyarrow, in Ray with batch_format='pyarrow'"),
        (table(3).drop_columns("b"), "yet now missing:\n- b"),
        (
            table(3).set_column(4, "city", pa.array([7, 8, None])),
            "were text at fit; now its type is int64. Read 'city'",
        ),
        (table(3).set_column(1, "a", pa.array(["1", "2", "x"])), "now it is text, such as 'x' in row 2"),
        (frame(3).assign(a=[1.0, "two", 3.0]), "A batch of pandas has a column that Arrow cannot hold"),
        (pa.table([[1], [2]], names=["a", "a"]), "The batch: several columns are named a"),
        (table(3).set_column(1, "a", pa.array([1.0, 2.0, np.inf])), "column 'a': 0 missing, 1 infinite, in row 2"),
    ],
)
def test_message_about_a_batch_says_what_is_wrong_and_where(folder, rows, message):
    with pytest.raises(dubito.DataError) as error:
        dubito.BatchPredictor(folder / "numbers.dubito")(rows)
    assert message in str(error.value) and "numbers.dubito" in str(error.value)


def test_a_column_of_numbers_that_an_engine_read_as_text_among_categories_is_an_error(folder, tmp_path):
    x = pd.DataFrame({"a": np.sin(np.arange(40)), "code": pd.Categorical(np.arange(40) % 3)})
    model = dubito.BayesianRegressor(dubito.MAP(epochs=1), hidden=(8,), handle_unknown="ignore").fit(x, x["a"])
    model.save(tmp_path / "m.dubito")
    predictor = dubito.BatchPredictor(tmp_path / "m.dubito")
    assert len(predictor(pa.table({"a": [1.0], "code": [2]}))) == 1
    with pytest.raises(dubito.DataError, match=r"categories of column 'code' were numbers .* now its type is string"):
        predictor(pa.table({"a": [1.0], "code": ["2"]}))
    with pytest.warns(dubito.DataWarning, match="'code'"):  # a column without any value may have any type
        assert predictor(pa.table({"a": [1.0], "code": pa.nulls(1, pa.string())})).num_rows == 1


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (["idd"], "keep: the batch has no column 'idd'; did you mean 'id'?"),
        (["mean"], "keep 'mean': the predictions have a column of the same name."),
    ],
)
def test_message_about_a_column_to_keep_names_it(folder, keep, message):
    rows = table(3).append_column("mean", pa.array([0.0] * 3))
    with pytest.raises(dubito.DataError) as error:
        dubito.BatchPredictor(folder / "numbers.dubito", keep=keep)(rows)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coverage": 1.0}, "coverage must be strictly between 0 and 1, got 1.0"),
        ({"missing": "ignore"}, "missing='ignore' is unknown"),
        ({"handle_unknown": "fill"}, "handle_unknown='fill' is unknown"),
    ],
)
def test_settings_are_checked_before_anything_is_read(options, message):
    with pytest.raises(ValueError) as error:
        dubito.BatchPredictor("no/such/model", **options)
    assert message in str(error.value)


def test_prediction_error_names_the_row_of_the_batch_and_survives_a_pickle(folder, monkeypatch):
    def fail(answer, coverage):
        raise dubito.PredictionError(4)

    monkeypatch.setattr(batches, "prediction_table", fail)
    with pytest.raises(
        dubito.PredictionError, match=r"prediction of row 4 of the batch, by .*numbers.dubito,"
    ) as error:
        dubito.BatchPredictor(folder / "numbers.dubito")(table(9))
    again = pickle.loads(pickle.dumps(error.value))
    assert type(again) is dubito.PredictionError and again.row == 4 and str(again) == str(error.value)


def test_missing_pyarrow_is_an_error_with_the_line_that_installs_it(folder, monkeypatch):
    predictor = dubito.BatchPredictor(folder / "numbers.dubito")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for call in (predictor.schema, lambda: predictor(frame(3))):
        with pytest.raises(ImportError, match=r"BatchPredictor needs pyarrow: pip install 'dubito\[cli\]'"):
            call()


def test_columns_of_pandas_may_have_numbers_for_names(tmp_path):
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(30, 2)))
    dubito.BayesianRegressor(dubito.MAP(epochs=2), random_state=0).fit(X.rename(columns=str), X[0]).save(
        tmp_path / "m.dubito"
    )
    found = dubito.BatchPredictor(tmp_path / "m.dubito", keep="all")(X)
    assert list(found.columns)[:3] == [0, 1, "mean"] and found[0].equals(X[0])


def test_a_model_that_is_replaced_while_it_is_read_is_an_error(folder, tmp_path, monkeypatch):
    path = tmp_path / "model.dubito"
    shutil.copy(folder / "numbers.dubito", path)
    predictor, load = dubito.BatchPredictor(path), batches.load

    def replaced(file):
        shutil.copy(folder / "two.dubito", file)
        return load(file)

    monkeypatch.setattr(batches, "load", replaced)
    with pytest.raises(ModelFileError, match="is not the model that this BatchPredictor was made for"):
        predictor.schema()
