"""Model files of format 2, from before methods had a warm-up and a noise from held-out rows, predict as they did."""

import fuzz_files
import numpy as np
import pytest

import dubito
from dubito.estimators.files.model_file import SINCE_3

X = np.random.default_rng(0).normal(size=(24, 2))


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
    old = as_format_2(config) | {"format": 2}
    assert old["method"] != config["method"] and config["format"] == 3
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
