"""--groups, --no-groups and --time of ``dubito fit`` and ``dubito compare``."""

import numpy as np
import pyarrow as pa
import pytest
from command_line import SMALL, run
from pyarrow import csv, parquet

import dubito
from dubito.estimators.base import BayesianEstimator


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    rng = np.random.default_rng(0)
    a, subject = rng.normal(size=60), np.repeat(np.arange(12), 5)
    columns = {
        "a": a,
        "subject": [f"s{each}" for each in subject],
        "day": np.arange(60) // 2,
        "y": a + rng.normal(size=60),
    }
    path = tmp_path_factory.mktemp("splits") / "t.csv"
    csv.write_csv(pa.table(columns), path)
    return path


@pytest.fixture
def options_of(monkeypatch):
    """The arguments that the command line gives to ``fit`` of an estimator."""
    found = []
    fit = BayesianEstimator.fit

    def spy(self, X, y, *rest, **options):
        found.append({name: options.get(name) for name in ("groups", "times")})
        return fit(self, X, y, *rest, **options)

    for kind in (dubito.BayesianRegressor, dubito.BayesianClassifier):
        monkeypatch.setattr(kind, "fit", spy)
    return found


@pytest.mark.slow
def test_fit_keeps_groups_together_and_leaves_their_column_out(table, tmp_path):
    model = tmp_path / "m.dubito"
    _, text = run("fit", table, "-t", "y", *SMALL, "--groups", "subject", "-o", model)
    assert "groups has no effect on this fit: MAP without early stopping" in text
    found = dubito.load(model)
    assert [column.kind for column in found.schema_.columns] == ["numeric", "left out", "numeric"]
    out, text = run("predict", model, table)
    assert out.count("\n") == 61 and "subject" not in text


@pytest.mark.slow
def test_fit_passes_the_options_to_the_estimator(table, options_of, tmp_path):
    arguments = (table, "-t", "y", "--method", "map", "--set", "epochs=2", "--hidden", "4")
    for given, expected in (
        (("--groups", "subject"), {"groups": "subject", "times": None}),
        (("--no-groups",), {"groups": False, "times": None}),
        (("--time", "day"), {"groups": None, "times": "day"}),
        ((), {"groups": None, "times": None}),
    ):
        run("fit", *arguments, *given, "-o", tmp_path / "m.dubito")
        assert options_of.pop() == expected


@pytest.mark.slow
def test_compare_does_not_note_repeated_rows_that_no_groups_lets_separate(table, tmp_path):
    both = csv.read_csv(table)
    csv.write_csv(pa.concat_tables([both, both.slice(0, 4)]), tmp_path / "t.csv")
    arguments = (
        "compare",
        tmp_path / "t.csv",
        "-t",
        "y",
        "--methods",
        "map",
        "--hidden",
        "4",
        "--folds",
        "2",
        "--json",
    )
    _, text = run(*arguments, "--no-groups")
    assert "repeat" not in text


def test_options_that_exclude_one_another_are_refused_in_words(table, tmp_path):
    parquet.write_table(csv.read_csv(table), tmp_path / "t.parquet")
    fit = ("fit", table, "-t", "y", *SMALL, "-o", tmp_path / "m.dubito")
    streamed = ("fit", tmp_path / "t.parquet", "-t", "y", *SMALL, "-o", tmp_path / "m.dubito", "--stream")
    for arguments, words in (
        ((*fit, "--groups", "subject", "--no-groups"), "--groups and --no-groups exclude one another"),
        ((*fit, "--groups", "subject", "--time", "day"), "--groups and --time exclude one another"),
        ((*fit, "--groups", "subjekt"), "groups: there is no column 'subjekt'; did you mean 'subject'?"),
        ((*fit, "--time", "when"), "times: there is no column 'when'"),
        ((*fit, "--time", "subject"), "times has 's0' in row 0, which is neither a number nor a date"),
        (
            (*streamed, "--groups", "subject"),
            "--stream does not support --groups, since rows of a stream are never held out",
        ),
        ((*streamed, "--time", "day"), "--stream does not support --time"),
        (("compare", table, "-t", "y", "--groups", "y"), "groups: there is no column 'y'"),
    ):
        _, text = run(*arguments, code=1)
        assert words in text
    assert not (tmp_path / "m.dubito").exists()
