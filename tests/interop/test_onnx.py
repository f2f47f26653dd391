"""Estimators as ONNX models: onnxruntime gives the columns of predict, row by row; what is not exported says so."""

import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import polars as pl
import pytest
from command_line import run

import dubito
from dubito.estimators.onnx_files import columns, export, operations
from dubito.estimators.onnx_files.graph import TYPES, OnnxGraph
from dubito.posteriors.readings import prediction_columns

onnx = pytest.importorskip("onnx", reason="exports to it")
onnxruntime = pytest.importorskip("onnxruntime", reason="runs what was exported")

pytestmark = pytest.mark.filterwarnings("ignore::dubito.DataWarning")

RNG, N = np.random.default_rng(0), 240
TABLE = pd.DataFrame(
    {
        "number": RNG.normal(3e6, 2, N),
        "gaps": np.where(RNG.random(N) < 0.1, np.nan, RNG.normal(size=N)),
        "truth": RNG.random(N) < 0.5,
        "text": RNG.choice(["x", "y", "z"], N),
        "holes": np.where(RNG.random(N) < 0.1, None, RNG.choice(["one", "two"], N)),
        "code": pd.Categorical(RNG.integers(3, 6, N)),
        "many": RNG.choice([f"c{k}" for k in range(60)], N, p=np.arange(60, 0, -1) / 1830),
    }
)
Y = 100 + 5 * (TABLE["number"] - 3e6) + 4 * (TABLE["text"] == "x") + RNG.normal(size=N)
LABELS = {
    "texts": np.select([Y > 105, Y > 98], ["high", "middle"], "low"),
    "numbers": np.select([Y > 105, Y > 98], [30, 20], 10),
    "truths": np.asarray(Y > 100),
}
ARRAY = TABLE[["number", "gaps"]].to_numpy(float)
SMALL = {"hidden": (8,), "random_state": 0}


def few(kind=dubito.MAP, **settings):
    return kind(epochs=3, **settings)


def regressor(method=None, X=TABLE, y=Y, **parameters):
    return dubito.BayesianRegressor(method or few(), **SMALL | parameters).fit(X, y)


def classifier(labels="texts", method=None, **parameters):
    return dubito.BayesianClassifier(method or few(), **SMALL | parameters).fit(TABLE, LABELS[labels])


def fed(session, X):
    if not isinstance(X, pd.DataFrame):
        return {"x": X}
    found = {}
    for one in session.get_inputs():
        values = X[one.name]
        if one.type == "tensor(string)":
            found[one.name] = np.array(["" if pd.isna(value) else value for value in values], object)[:, None]
        else:
            found[one.name] = values.astype(float).to_numpy()[:, None]
    return found


def answers(path, X):
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, fed(session, X)), strict=True))


def check(model, path, X=TABLE, **options):
    """Every column of predict, for all rows, for a few and for one."""
    written = model.to_onnx(path, **options)
    assert written.error < 1e-5 and written.size == path.stat().st_size
    for rows in (len(X), 7, 1):
        some = X[:rows]
        found, expected = answers(path, some), prediction_columns(model.predictive(some))
        unit = 1.0 if model.task == "classification" else max(np.max(expected["std"]), 1.0)
        for name, column in expected.items():
            if name in ("lower", "upper") and written.notes and "quantiles" in written.notes[0]:
                assert name not in found
            elif column.dtype.kind == "f":
                assert found[name].shape == (rows,)
                np.testing.assert_allclose(found[name], column, rtol=0, atol=1e-5 * unit, err_msg=name)
            else:
                np.testing.assert_array_equal(found[name], column, err_msg=name)
    return written


METHODS = {
    "MAP": few(),
    "MCDropout": few(dubito.MCDropout),
    "BayesByBackprop": few(dubito.BayesByBackprop),
    "Laplace": dubito.LaplaceApproximation(few()),
    "last layer": dubito.LaplaceApproximation(few(), structure="last-layer"),
    "Ensemble": dubito.Ensemble(few(), 3),
    "CrossFit": dubito.CrossFit(few(), folds=3),
    "SWAG": dubito.SWAG(epochs=5),
    "VariationalGaussian": few(dubito.VariationalGaussian),
}


@pytest.mark.parametrize("name", METHODS)
def test_regressions_of_every_kind_of_posterior(name, tmp_path):
    """Missing values, categories unknown to the fit, truth values and numbers far from 0 are in the table."""
    model = regressor(METHODS[name], draws=None if name in ("MAP", "Ensemble", "CrossFit") else 12)
    written = check(model, tmp_path / "model.onnx")
    assert written.draws == len(model.predictive(TABLE[:1]).draws)


def test_the_default(tmp_path):
    model = dubito.BayesianRegressor(random_state=0).fit(TABLE, Y)
    check(model, tmp_path / "model.onnx")


@pytest.mark.parametrize("activation", sorted({*dubito.activations.ACTIVATIONS} - {"threshold", "softmax"}))
def test_activations(activation, tmp_path):
    check(regressor(X=ARRAY, activation=activation), tmp_path / "model.onnx", ARRAY)


@pytest.mark.parametrize(
    "likelihood", ["gaussian", "heteroscedastic", "student-t", "laplace", "poisson", "gamma", "lognormal"]
)
def test_likelihoods(likelihood, tmp_path):
    written = check(regressor(X=ARRAY, y=np.round(np.abs(Y)), likelihood=likelihood), tmp_path / "model.onnx", ARRAY)
    with_quantiles = likelihood in ("gaussian", "heteroscedastic", "student-t")
    assert with_quantiles == (not any("quantiles" in note for note in written.notes))


def test_several_targets_and_columns_named_like_answers(tmp_path):
    X = TABLE[["number", "gaps"]].rename(columns={"number": "mean_0"})
    model = regressor(X=X, y=np.stack([Y, -2 * Y], axis=1))
    model.to_onnx(tmp_path / "model.onnx")
    found, expected = answers(tmp_path / "model.onnx", X), prediction_columns(model.predictive(X))
    for name, column in expected.items():
        np.testing.assert_allclose(found["predicted_mean_0" if name == "mean_0" else name], column, atol=1e-3)


@pytest.mark.parametrize("labels", LABELS)
def test_classes(labels, tmp_path):
    check(classifier(labels, few(dubito.MCDropout), draws=5), tmp_path / "model.onnx")


@pytest.mark.parametrize("score", ["quantiles", "normalized", "residual"])
def test_conformal_intervals(score, tmp_path):
    check(
        regressor(few(dubito.MCDropout), draws=5).calibrate(TABLE, Y, "conformal", score=score), tmp_path / "model.onnx"
    )


@pytest.mark.parametrize("score", ["adaptive", "plain"])
def test_conformal_sets(score, tmp_path):
    model = classifier(method=dubito.MAP(epochs=60)).calibrate(
        TABLE, LABELS["texts"], "conformal", score=score, coverage=0.8
    )
    check(model, tmp_path / "model.onnx")
    found = answers(tmp_path / "model.onnx", TABLE)
    sets = np.stack([found[f"set_{label}"] for label in model.classes_], axis=1)
    answer = model.predictive(TABLE)
    near = (
        np.abs(model.calibration_.class_scores(answer) - model.calibration_.margins[0]) < 1e-5
    )  # where rounding decides
    np.testing.assert_array_equal(sets, answer.sets | near)
    assert near.mean() < 0.1


def test_temperature(tmp_path):
    check(classifier().calibrate(TABLE, LABELS["texts"], "temperature"), tmp_path / "model.onnx")


def test_coverage_and_draws_are_chosen(tmp_path):
    model = regressor(few(dubito.BayesByBackprop))
    written = model.to_onnx(tmp_path / "model.onnx", coverage=0.5, draws=4)
    found = answers(tmp_path / "model.onnx", TABLE)
    expected = prediction_columns(dubito.BayesianRegressor.predictive(model.set_params(draws=4), TABLE), 0.5)
    assert written.draws == 4
    np.testing.assert_allclose(found["upper"], expected["upper"], atol=1e-5 * Y.std())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: regressor(X=TABLE.assign(day=pd.date_range("2024-01-01", periods=N))),
            "no dates and times: column 'day'",
        ),
        (
            lambda: regressor(X=TABLE[["number"]].assign(c=pd.Categorical(RNG.choice(["", "a"], N)))),
            "empty text is a category",
        ),
        (lambda: regressor(X=TABLE[["number"]].assign(**{"dubito.3": 1.0 * (Y > 100)})), "rename column 'dubito.3'"),
        (lambda: regressor(y=np.exp(Y / 50), target_transform="log"), "transformed target is not exported"),
        (lambda: regressor().calibrate(TABLE, Y, "quantiles"), "calibration by Quantiles is not exported"),
        (lambda: classifier().calibrate(TABLE, LABELS["texts"], "isotonic"), "calibration by Isotonic is not exported"),
    ],
)
def test_what_is_not_exported_says_so(make, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make().to_onnx(tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_graph_that_differs_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setitem(operations.SAME, "tanh", "Sin")
    with pytest.raises(ValueError, match=r"differs from predict by .*: nothing was written"):
        regressor(X=ARRAY, activation="tanh").to_onnx(tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_graph_that_gives_nan_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setitem(operations.SAME, "tanh", "Log")
    with pytest.raises(ValueError, match=r"differs from predict by nan.*: nothing was written"):
        regressor(X=ARRAY, activation="tanh").to_onnx(tmp_path / "model.onnx")


@pytest.mark.parametrize("which", ["prediction", "set_low"])
def test_a_graph_that_chooses_otherwise_is_not_written(which, tmp_path, monkeypatch):
    """Another most probable class, or another conformal set, with the same probabilities."""
    model = classifier(method=dubito.MAP(epochs=60)).calibrate(TABLE, LABELS["texts"], "conformal", coverage=0.8)
    original = export.add_program

    def changed(graph, function, x, width):
        found = original(graph, function, x, width)
        if which == "prediction":
            found["code"] = graph.node("Sub", np.int32(2), found["code"])
        else:
            found["set"] = graph.node("Not", found["set"])
        return found

    monkeypatch.setattr(export, "add_program", changed)
    with pytest.raises(ValueError, match="differs from predict by inf"):
        model.to_onnx(tmp_path / "model.onnx")


@pytest.mark.parametrize("X", [TABLE, pl.from_pandas(TABLE.astype({"code": "int64"}))], ids=["pandas", "polars"])
def test_rows_of_a_user_are_compared_too(X, tmp_path, monkeypatch):
    """A thousand of many rows; a graph that is wrong at them alone is not written."""
    model = regressor(X=X)
    assert model.to_onnx(tmp_path / "model.onnx", X).rows == 64 + N
    monkeypatch.setattr(columns, "GIVEN_ROWS", 100)
    assert model.to_onnx(tmp_path / "model.onnx", X).rows == 164
    with pytest.raises(ValueError, match="feature names should match"):
        model.to_onnx(tmp_path / "model.onnx", X[["number"]])
    fed = columns._fed

    def shifted(column, values):
        found = fed(column, values)
        return found + 1.0 if column.name == "number" and len(found) == 100 else found

    monkeypatch.setattr(columns, "_fed", shifted)
    with pytest.raises(ValueError, match="differs from predict"):
        model.to_onnx(tmp_path / "other.onnx", X)
    assert not (tmp_path / "other.onnx").exists()


def test_arrays_of_a_user_are_compared_too(tmp_path):
    assert regressor(X=ARRAY).to_onnx(tmp_path / "model.onnx", ARRAY[:50]).rows == 114


def test_a_coverage_of_classes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="coverage is that of intervals"):
        classifier().to_onnx(tmp_path / "model.onnx", coverage=0.8)


def test_columns_may_have_any_name_of_the_graph(tmp_path):
    X = TABLE[["number", "gaps"]].set_axis(["row_count", "rows"], axis=1)
    check(regressor(X=X), tmp_path / "model.onnx", X)


def test_on_the_command_line(tmp_path):
    model = regressor()
    model.save(tmp_path / "model.dubito")
    _, notes = run("export", tmp_path / "model.dubito", "-o", tmp_path / "model.onnx")
    assert (
        "categories not seen in fit are encoded as none" in notes
        and "largest difference from predict at 64 rows" in notes
    )
    np.testing.assert_allclose(answers(tmp_path / "model.onnx", TABLE)["mean"], model.predict(TABLE), atol=1e-3)
    TABLE.to_csv(tmp_path / "t.csv", index=False)
    out, _ = run("export", tmp_path / "model.dubito", tmp_path / "t.csv", "-o", tmp_path / "other.onnx", "--json")
    assert json.loads(out)["draws"] == 1 and json.loads(out)["rows"] == 64 + N
    _, error = run("export", tmp_path / "model.dubito", tmp_path / "none.csv", "-o", tmp_path / "x.onnx", code=1)
    assert "none.csv" in error and "Traceback" not in error
    _, error = run("export", tmp_path / "model.dubito", "-o", tmp_path / "model.pb", code=1)
    assert "must be an .onnx file" in error


FUNCTIONS = {
    "elementwise": lambda x: jnp.sin(x) + jnp.cos(x) * jnp.exp(-jnp.abs(x)) - jnp.sign(x) + jnp.floor(x) + jnp.ceil(x),
    "near one": lambda x: jnp.log1p(x**2) + jnp.expm1(0.1 * x) + jax.scipy.special.erfc(x) + jax.lax.rsqrt(1 + x**2),
    "choices": lambda x: jnp.where((x > 0) & ~(x >= 1) | (x != x), x, -x) + jnp.clip(x, -0.5, 0.5) + jnp.round(3 * x),
    "reductions": lambda x: (
        x - x.max(1, keepdims=True) + x.min(1)[:, None] + jnp.all(x > -9, 1)[:, None] + x.argmax(1)[:, None]
    ),
    "indices": lambda x: x[:, np.array([2, 0])] @ np.ones((2, 3), "f4") + x[:, :3] * x[:, 1:2],
    "products": lambda x: jnp.einsum("ni,ijk,nj->nk", x, np.arange(27, dtype="f4").reshape(3, 3, 3), x),
    "shapes": lambda x: jnp.concatenate(
        [x.T[:2].T, x.reshape(-1, 3, 1)[:, :, 0], x[:, None, :].swapaxes(1, 2)[:, :, 0]], 1
    ),
    "softmax": lambda x: jax.nn.softmax(x) + jax.nn.log_softmax(x) + jax.nn.softplus(x) + jax.scipy.special.ndtr(x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operations_of_jax(name):
    function = FUNCTIONS[name]
    graph = OnnxGraph(onnx, "row_count")
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        found = operations.add_program(graph, lambda x: {"f": function(x)}, "x", 3)
    sizes = graph.node("Shape", "x")
    graph.node("Slice", sizes, np.array([0]), np.array([1]), result="row_count")
    graph.node("Identity", found["f"], result="f")
    order = sorted(graph.nodes, key=lambda node: node.output[0] != "row_count" and node.op_type != "Shape")
    helper = onnx.helper
    given = helper.make_tensor_value_info("x", TYPES["float32"], ["rows", 3])
    made = helper.make_graph(
        order, "test", [given], [helper.make_tensor_value_info("f", TYPES["float32"], None)], graph.constants
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    x = np.float32(np.random.default_rng(1).normal(size=(11, 3)))
    (result,) = onnxruntime.InferenceSession(model.SerializeToString()).run(["f"], {"x": x})
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        np.testing.assert_allclose(result, function(x), rtol=2e-6, atol=2e-6)


def test_an_operation_without_a_translation_is_named():
    graph = OnnxGraph(onnx, "row_count")
    with pytest.raises(ValueError, match="JAX's operation sort has no translation to ONNX"):
        operations.add_program(graph, lambda x: {"f": jnp.sort(x, axis=1)}, "x", 3)


def test_the_code_of_the_guide(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (pathlib.Path(__file__).parents[2] / "docs" / "guides" / "onnx.md").read_text()
    space = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(code, space)
    assert "20 draws" in capsys.readouterr().out
    expected = space["model"].predictive(pd.DataFrame({"area": [80.0, np.nan], "town": ["Bern", None]}))
    np.testing.assert_allclose(space["answers"]["mean"], expected.mean, atol=1e-3)
