"""A served model: its answers are those of `dubito predict`, and what it says of itself."""

import copy
from dataclasses import replace

import numpy as np
import pyarrow
import pytest

import dubito
from dubito.cli.predict_file import predict_blocks
from dubito.serving.rows import BadRequestError, PredictRequest
from dubito.serving.served_model import IGNORED, ServedModel
from dubito.tables.changes import FILLED, UNKNOWN

import served_table  # isort: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """``served(kind)``: a model that was saved and loaded."""
    folder, known = tmp_path_factory.mktemp("served"), {}

    def get(kind="regression"):
        if kind not in known:
            path = folder / f"{kind}.dubito"
            served_table.model(kind).save(path)
            known[kind] = ServedModel.load(path, dubito.load, 0.9)
        return known[kind]

    return get


def request(rows, *, as_rows=False, coverage=0.9, keep=()):
    return PredictRequest({name: [row[name] for row in rows] for name in rows[0]}, len(rows), as_rows, coverage, keep)


def predicted(model, path, coverage=0.9):
    """The columns that `dubito predict` writes for a file."""
    table = pyarrow.concat_tables([block for block, _ in predict_blocks(model, str(path), coverage)])
    return table.to_pydict()


@pytest.mark.parametrize("kind", ["regression", "classification", "no held-out rows"])
def test_each_row_alone_has_the_answer_of_the_command_line(served, kind, tmp_path):
    rows = served_table.as_json()
    text = served_table.frame().astype({"zone": int}).to_csv(index=False)
    (tmp_path / "rows.csv").write_text(text)
    expected = predicted(served(kind).estimator, tmp_path / "rows.csv", 0.8)
    together = served(kind).predict(request(rows, coverage=0.8)).document
    assert together["columns"] == expected and together["notes"] == {}
    for number, row in enumerate(rows):
        (found,) = served(kind).predict(request([row], as_rows=True, coverage=0.8, keep=["size"])).document["rows"]
        assert found.pop("size") == row["size"]
        assert found == {name: values[number] for name, values in expected.items()}


@pytest.mark.parametrize("kind", ["two targets", "array"])
def test_models_that_python_fits_are_served(served, kind):
    found = served(kind).predict(request(served_table.as_json(kind))).document["columns"]
    expected = served_table.model(kind).predictive(served_table.inputs(kind))
    ending = "_0" if kind == "two targets" else ""
    assert np.array_equal(found[f"mean{ending}"], expected.columnwise.mean[:, 0])
    assert served(kind).targets == (["target_0", "target_1"] if kind == "two targets" else ["price"])


def test_more_rows_than_a_block_have_the_same_answers(served):
    rows = served_table.as_json()
    once = served().predict(request(rows)).document["columns"]["mean"]
    size = served().estimator.block_rows
    count = size // len(rows) + 2
    many = served().predict(request(rows * count)).document["columns"]["mean"]
    np.testing.assert_allclose(many, once * count, rtol=1e-6)


def test_values_that_fit_did_not_have_are_encoded_and_counted(served):
    rows = served_table.as_json()[:3]
    rows[0]["city"], rows[1]["size"], rows[2]["extra"] = "Bonn", None, 1
    rows[0]["extra"] = rows[1]["extra"] = rows[0]["price"] = rows[1]["price"] = rows[2]["price"] = 1
    answer = served().predict(request(rows))
    assert answer.document["notes"] == {UNKNOWN: {"city": 1}, FILLED: {"size": 1}, IGNORED: ["extra"]}
    assert answer.changes == {UNKNOWN: {"city": 1}, FILLED: {"size": 1}}
    assert IGNORED not in served().predict(request(rows, keep=["extra"])).document["notes"]


def test_bad_rows_are_refused_with_the_message_of_the_library(served):
    rows = served_table.as_json()[:2]
    for row in rows:
        row.pop("city")
    with pytest.raises(BadRequestError, match="seen at fit time, yet now missing:\n- city") as error:
        served().predict(request(rows))
    assert error.value.status == 422
    served().estimator.set_params(handle_unknown="error", missing="error")
    try:
        bad = [row | {"city": "Bonn"} for row in served_table.as_json()[1:3]]
        with pytest.raises(BadRequestError, match=r"has the value 'Bonn' \(row 0\).*leave out --unknown error"):
            served().predict(request(bad))
        with pytest.raises(BadRequestError, match=r"Input X contains NaN(?s:.*)leave out --missing error") as error:
            served().predict(request([row | {"size": None} for row in bad]))
        assert error.value.status == 422
    finally:
        served().estimator.set_params(handle_unknown="ignore", missing="fill")


def test_uncertain_rows_are_those_above_the_quantile(served):
    rows = served_table.as_json()
    spread = np.array(served().predict(request(rows)).document["columns"]["epistemic_std"])
    limit = served().quantiles["price"]
    assert served().predict(request(rows)).uncertain == {"price": int(np.sum(spread > limit))}
    estimator = copy.copy(served().estimator)
    estimator._held_out_uncertainty = np.array([np.median(spread)])
    assert replace(served(), estimator=estimator).predict(request(rows)).uncertain == {"price": len(rows) // 2}
    classes = served("classification").predict(request(rows))
    information = np.array(classes.document["columns"]["mutual_information"])
    assert classes.uncertain == {"price": int(np.sum(information > served("classification").quantiles["price"]))}
    assert served("no held-out rows").predict(request(rows)).uncertain == {}
    assert set(served("two targets").predict(request(rows)).uncertain) == {"target_0", "target_1"}


def test_schema_says_what_to_send_and_what_comes_back(served):
    found = served().schema
    assert found["task"] == "regression" and found["targets"] == ["price"] and found["classes"] is None
    kinds = {column["name"]: column["kind"] for column in found["columns"]}
    assert kinds["size"] == "numeric" and kinds["city"] == "category" and kinds["day"] == "time"
    columns = {column["name"]: column for column in found["columns"]}
    assert columns["city"]["categories"] == ["007", "Oslo", "Rome"] and columns["zone"]["categories"] == [1, 2]
    assert columns["gap"]["missing_in_fit"] and not columns["size"]["missing_in_fit"]
    assert found["predictions"]["mean"] == "the unit of price"
    assert list(found["predictions"]) == ["mean", "std", "epistemic_std", "aleatoric_std", "lower", "upper"]
    held = {"column": "epistemic_std", "quantile": 0.99, "values": served().quantiles}
    assert found["held_out_uncertainty"] == held
    two = served("two targets").schema
    assert two["predictions"]["epistemic_std_1"] == "the unit of target_1" and two["targets"] == [
        "target_0",
        "target_1",
    ]
    classes = served("classification").schema
    assert classes["classes"] == ["low", "mid", "top"]
    assert classes["predictions"]["entropy"] == "nats" and classes["predictions"]["set_mid"] == "true or false"
    assert served("no held-out rows").schema["held_out_uncertainty"]["values"] is None


def test_the_coverage_of_a_conformal_calibration_is_the_only_one(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(24, 2)), np.arange(24.0)
    model = dubito.BayesianRegressor(dubito.MCDropout(epochs=3), hidden=(4,), draws=5, random_state=0).fit(x, y)
    model.calibrate(x, y, "conformal", coverage=0.8).save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"0\.8"):
        ServedModel.load(tmp_path / "model", dubito.load, 0.9)
    found = ServedModel.load(tmp_path / "model", dubito.load, 0.8)
    with pytest.raises(BadRequestError, match=r"0\.8") as error:
        found.predict(request([{"x0": 1.0, "x1": 2.0}], coverage=0.9))
    assert error.value.status == 422
    assert found.quantiles  # of the rows of the calibration
