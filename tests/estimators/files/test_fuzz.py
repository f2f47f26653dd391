"""Hostile files: mutants with a right hash, of models and checkpoints. ``fuzz_files.py`` runs longer by hand."""

import json
import pathlib
import sys

import numpy as np
import pytest

import dubito
from dubito._process import archive
from dubito.estimators import checks
from dubito.estimators.files import model_file
from dubito.posteriors import function_samples
from dubito.training import checkpoint

import fuzz_files  # isort: skip

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def often():
    """Fits report and write checkpoints after each few blocks, as ``fuzz_files.checkpoints`` wants it, in this file only."""
    engine = fuzz_files.runs
    before = engine.CHUNK_SECONDS, engine.FIRST_CHUNK_STEPS, checkpoint.WRITE_INTERVAL
    yield
    engine.CHUNK_SECONDS, engine.FIRST_CHUNK_STEPS, checkpoint.WRITE_INTERVAL = before


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is measured by /proc")
def test_mutated_files_end_in_errors_of_dubito_or_in_finite_answers(often, tmp_path):
    with np.errstate(all="ignore"):
        counts, findings = fuzz_files.fuzz(range(1, 300), 0, tmp_path)
    assert findings == []
    assert counts["refused"] > 150 and counts["answered"] > 30, counts


@pytest.fixture(scope="module")
def model():
    x, y = fuzz_files.table()
    return dubito.BayesianRegressor(dubito.BayesByBackprop(epochs=3), hidden=(4,), draws=5, random_state=0).fit(x, y)


def mutant(model, folder, change):
    """The file of a model whose (configuration, arrays) have been changed, with a right hash."""
    model.save(folder / "model")
    config, arrays = fuzz_files.parts(folder / "model")
    change(config, arrays)
    (folder / "mutant").write_bytes(fuzz_files.pack(config, arrays))
    return folder / "mutant"


@pytest.mark.parametrize("value", [0, -1, 1_000_001, 2**31 - 1, 2**31, 1.5, True, "9"])
def test_load_refuses_draws_that_no_fit_takes(model, tmp_path, value):
    path = mutant(model, tmp_path, lambda config, arrays: config["params"].update(draws=value))
    with pytest.raises(dubito.ModelFileError, match="draws must be a whole number from 1 to 1,000,000"):
        dubito.load(path)


@pytest.mark.parametrize("value", [0, -1, 1_000_001, 1.5, True, "9"])
def test_fit_and_predict_refuse_draws(model, value):
    with pytest.raises(ValueError, match=r"draws must be a whole number .*, got"):
        dubito.BayesianRegressor(dubito.MAP(epochs=1), draws=value).fit(*fuzz_files.table())
    with pytest.raises(ValueError, match=r"draws must be a whole number .*, got"):
        function_samples.draw_functions(model.posterior_, fuzz_files.jax.random.key(0), value)


@pytest.mark.parametrize("field", ["scale", "shift"])
def test_predict_names_the_first_row_whose_answer_is_not_finite(model, tmp_path, field):
    """Weights that overflow for rows on one side only."""

    def change(config, arrays):
        for name, array in arrays.items():
            if name.endswith("mean/network/layer_0/w"):
                arrays[name] = np.full_like(array, 3e38)
        config["scaler"][field] = [1e308]

    found = dubito.load(mutant(model, tmp_path, change))
    x = fuzz_files.table()[0]
    for ask in (found.predict, found.predictive, found.predict_interval, found.sample_y):
        with pytest.raises(dubito.PredictionError, match=r"the prediction of row \d+ is not finite") as caught:
            ask(x)
        assert 0 <= caught.value.row < len(x)


def test_stream_counts_the_row_of_an_error_in_the_whole_table(model):
    def reading(answer):
        raise checks.PredictionError(2)

    x = fuzz_files.table()[0]
    with pytest.raises(dubito.PredictionError, match="of row 12 is") as caught:
        list(model.stream([(x[10:], 10)], reading))
    assert caught.value.row == 12


def test_check_predictions_finds_the_row():
    values = np.zeros((4, 2, 3))
    values[2, 1, 0] = np.inf
    assert checks.check_predictions(values) is values
    with pytest.raises(dubito.PredictionError, match="row 2 "):
        checks.check_predictions(values, finite=True)


# --- checkpoints


@pytest.fixture(scope="module")
def interrupted(often, tmp_path_factory):
    """{name: (configuration, arrays)} of the checkpoints of interrupted fits."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return {name: fuzz_files.parts(path) for name, path in fuzz_files.checkpoints(folder)}


def longer(config, arrays):
    arrays["1.0.log"] = np.resize(arrays["1.0.log"], (len(arrays["1.0.log"]) + 3, 3))


def shorter(config, arrays):
    arrays["1.0.log"] = arrays["1.0.log"][:-1]


def flat(config, arrays):
    arrays["1.0.log"] = arrays["1.0.log"].reshape(-1)


def lost(config, arrays):
    del arrays["1.0.log"]


def not_finite(config, arrays):
    arrays["1.0.log"][0, 0] = np.float32(np.nan).view(np.uint32)


def broken_state(config, arrays):
    arrays["1.0.state"][0] = np.float32(np.nan).view(np.uint32)


def other_version(config, arrays):
    config["checkpoint"] = True


def other_key(config, arrays):
    config["more"] = 1


def foreign(config, arrays):
    arrays["x"] = np.zeros(1, np.uint32)


CHANGES = [longer, shorter, flat, lost, not_finite, broken_state, other_version, other_key, foreign]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_fit_refuses_an_impossible_checkpoint(interrupted, tmp_path, change):
    config, arrays = interrupted["checkpoint"]
    config, arrays = json.loads(json.dumps(config)), {name: np.array(array) for name, array in arrays.items()}
    change(config, arrays)
    config["shapes"] = {name: list(array.shape) for name, array in arrays.items()}
    path = pathlib.Path(tmp_path / "c")
    path.write_bytes(fuzz_files.pack(config, arrays))
    with pytest.raises(dubito.CheckpointError, match="Delete the file, or choose another"):
        fuzz_files.fitted_on(path, fuzz_files.METHODS["checkpoint"])
    assert path.exists()


# --- what a model file can hold


def test_fit_refuses_texts_that_no_model_file_holds(tmp_path, monkeypatch):
    """Before the first step; up to the limit the model can be saved."""
    pd = pytest.importorskip("pandas")
    monkeypatch.setattr(archive, "HEADER", 40_000)
    monkeypatch.setattr(model_file, "TEXTS", 20_000)
    steps = []
    for count in (30, 120):
        texts = [f"{'x' * 500}{k}" for k in range(count)]
        table = pd.DataFrame({"a": np.arange(count) ** 2.0, "long": pd.Categorical(texts)})
        estimator = dubito.BayesianRegressor(dubito.MAP(epochs=1), hidden=(2,))
        if count == 30:
            estimator.fit(table, table["a"]).save(tmp_path / "m")
            continue
        with pytest.raises(dubito.DataError, match=r"Most of them belong to column 'long': 2\d,\d+ bytes"):
            estimator.fit(table, table["a"], progress=steps.append)
        with pytest.raises(dubito.DataError, match="Most of them belong to the target's classes"):
            dubito.BayesianClassifier(dubito.MAP(epochs=1)).fit(table[["a"]].loc[[*range(count)] * 3], texts * 3)
    assert not steps


def test_fit_warns_of_columns_that_no_model_file_holds(monkeypatch):
    monkeypatch.setattr(archive, "HEADER", 5_000)
    monkeypatch.setattr(model_file, "TEXTS", 5_000)
    x = np.random.default_rng(0).normal(size=(30, 60))
    with pytest.warns(dubito.DataWarning, match="60 columns need .* saving this model may fail"):
        dubito.BayesianRegressor(dubito.MAP(epochs=1), hidden=(2,)).fit(x, x[:, 0])
