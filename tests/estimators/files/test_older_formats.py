"""Model files of formats 2 and 3 predict as they did: from before methods had a warm-up and a noise from held-out rows, and
from before models knew the uncertainty of held-out rows.
"""

import fuzz_files
import numpy as np
import pytest

import dubito
from dubito.estimators.files.model_file import SINCE_3, SINCE_4

X = np.random.default_rng(0).normal(size=(24, 2))


def as_format_3(config):
    """The configuration as format 3 had it."""
    return {name: value for name, value in config.items() if name not in SINCE_4} | {"format": 3}


def as_format_2(value):
    """The configuration as format 2 had it."""
    if isinstance(value, list):
        return [as_format_2(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {k: as_format_2(v) for k, v in value.items() if k not in SINCE_3.get(value.get("class"), {})}


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        dubito.Ensemble(dubito.MCDropout(epochs=5), 2),
        dubito.BayesByBackprop(epochs=5),
        dubito.NaturalGradientVI(epochs=5),
        dubito.CrossFit(dubito.MAP(epochs=5), 3),
    ],
    ids=["dropout", "backprop", "natural gradients", "cross-fitted"],
)
def test_load_reads_format_2(method, tmp_path):
    model = dubito.BayesianRegressor(method, hidden=(4,), random_state=0).fit(X, X[:, 0])
    model.save(tmp_path / "new")
    config, arrays = fuzz_files.parts(tmp_path / "new")
    old = as_format_2(as_format_3(config)) | {"format": 2}
    assert old["method"] != config["method"] and config["format"] == 4
    (tmp_path / "old").write_bytes(fuzz_files.pack(old, arrays))
    loaded = dubito.load(tmp_path / "old")
    assert np.array_equal(loaded.predict(X), model.predict(X))
    for found in (loaded.method_, getattr(loaded.method_, "method", loaded.method_)):
        added = SINCE_3.get(type(found).__name__, {})
        assert {name: getattr(found, name) for name in added} == added
    assert not hasattr(loaded, "noise_std_")
    (tmp_path / "mixed").write_bytes(fuzz_files.pack(old | {"format": 3}, arrays))
    with pytest.raises(dubito.ModelFileError, match="unexpected fields"):
        dubito.load(tmp_path / "mixed")


@pytest.mark.parametrize(
    ("estimator", "y"),
    [
        (dubito.BayesianRegressor(dubito.Committee(dubito.MAP(epochs=5), 2), hidden=(4,), random_state=0), X[:, 0]),
        (dubito.BayesianClassifier(dubito.CrossFit(dubito.MAP(epochs=5), 2), hidden=(4,), random_state=0), X[:, 0] > 0),
    ],
    ids=["regression", "classes"],
)
def test_load_reads_format_3(estimator, y, tmp_path):
    model = estimator.fit(X, y)
    model.save(tmp_path / "new")
    config, arrays = fuzz_files.parts(tmp_path / "new")
    (tmp_path / "old").write_bytes(fuzz_files.pack(as_format_3(config), arrays))
    loaded, same = dubito.load(tmp_path / "old"), dubito.load(tmp_path / "new")
    assert np.array_equal(loaded.predict(X), model.predict(X))
    assert loaded.held_out_uncertainty_ is None
    assert model.held_out_uncertainty_.shape == (1,)
    assert np.array_equal(same.held_out_uncertainty_, model.held_out_uncertainty_)
    loaded.save(tmp_path / "again")
    assert dubito.load(tmp_path / "again").held_out_uncertainty_ is None
    for version, keys in ((3, config), (4, as_format_3(config)), (2, config)):
        (tmp_path / "mixed").write_bytes(fuzz_files.pack({**keys, "format": version}, arrays))
        with pytest.raises(dubito.ModelFileError, match="unexpected keys"):
            dubito.load(tmp_path / "mixed")


@pytest.mark.parametrize("value", [[], [1.0, 2.0], [-1.0], [1], ["1"], 1.0, {}, [None], [True]])
def test_load_refuses_an_uncertainty_that_no_fit_has(value, tmp_path):
    model = dubito.BayesianRegressor(dubito.Committee(dubito.MAP(epochs=5), 2), hidden=(4,), random_state=0)
    model.fit(X, X[:, 0]).save(tmp_path / "model")
    config, arrays = fuzz_files.parts(tmp_path / "model")
    (tmp_path / "mutant").write_bytes(fuzz_files.pack(config | {"held_out_uncertainty": value}, arrays))
    with pytest.raises(dubito.ModelFileError, match="invalid uncertainty of held-out rows"):
        dubito.load(tmp_path / "mutant")
