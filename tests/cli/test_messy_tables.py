"""Tables as people have them, through every command: exit codes, all notes, and numbers that agree with a table cleaned by hand.

Each table is a function that writes a file and returns the same rows as a person would clean them with pandas. All but a few
have 60 rows with a target and three encoded columns, so that they share compiled programs.
"""

import csv
import importlib
import io
import json
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command_line import run
from scipy.stats import lognorm, norm, poisson
from sklearn.model_selection import KFold

import dubito
from dubito.estimators import comparison_fits, cross_validation
from dubito.methods.by_name import METHODS

pytestmark = pytest.mark.usefixtures("one_size")

ROWS, FOLDS, COVERAGE = 60, 2, 0.8
METHOD = dubito.MAP(epochs=3)
TOWNS = np.array(["Bern", "Rome"])


def plain(rows=ROWS, seed=0):
    """Three numbers and a target that depends on them."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"x": rng.normal(size=rows), "z": rng.uniform(1, 9, rows), "w": rng.uniform(size=rows)}).round(
        3
    )
    return frame.assign(y=(2 * frame.x + 0.3 * frame.z - frame.w + 0.2 * rng.normal(size=rows)).round(3))


def write(path, frame, **options):
    frame.to_csv(path, **{"index": False} | options)


def numbers(path):
    frame = plain()
    write(path, frame)
    return frame


def text_ids(path):
    frame = plain()
    write(path, frame.assign(id=[f"C-{k:04d}" if k % 9 else "" for k in range(ROWS)]))
    return frame


def number_ids(path):
    frame = plain().drop(columns="w")
    frame.insert(0, "id", range(1001, 1001 + ROWS))
    write(path, frame)
    return frame


def frame_index(path):
    frame = plain()
    write(path, frame.sample(frac=1, random_state=0), index=True)
    return frame.sample(frac=1, random_state=0)


def dates(path, notation="%Y-%m-%d"):
    when = pd.date_range("2024-01-01", periods=ROWS)
    frame = plain()[["y"]].assign(when=when)
    write(path, frame.assign(when=when.strftime(notation)))
    return frame


def dotted_dates(path):
    return dates(path, "%d.%m.%Y")


def clock_times(path):
    """Excel and loggers write the date and the time of the day in columns of their own."""
    clock = pd.Series(pd.date_range("2024-01-01", periods=ROWS, freq="37min")).dt.time
    frame = plain()[["y"]].assign(time=clock)
    write(path, frame.assign(time=[f"{each:%H:%M}" for each in clock]))
    return frame


def american_dates(path):
    write(path, plain().assign(when=pd.date_range("2024-01-01", periods=ROWS).strftime("%m/%d/%Y")))
    return plain()


def semicolons(path):
    frame = plain()
    write(path, frame, sep=";", decimal=",")
    return frame


def excel_line(path):
    frame = plain()
    write(path, frame, sep=";")
    path.write_text("sep=;\n" + path.read_text())
    return frame


def latin_1(path):
    frame = plain().drop(columns=["z", "w"]).assign(größe=np.where(np.arange(ROWS) % 3, "groß", "klein"))
    write(path, frame, encoding="latin-1")
    return frame


def question_mark(path):
    frame = plain().drop(columns="w")
    write(path, frame.assign(z=[f"{value}" if row != 7 else "?" for row, value in enumerate(frame.z)]))
    frame.loc[7, "z"] = np.nan
    return frame


def trailing_commas(path):
    frame = plain()
    write(path, frame.assign(**{"": ""}))
    return frame


def rare_category(path):
    frame = plain().drop(columns=["z", "w"]).assign(town=np.where(np.arange(ROWS) == 11, "Oslo", "Bern"))
    write(path, frame)
    return frame


def many_categories(path):
    rng = np.random.default_rng(1)
    codes = np.concatenate([np.arange(55), rng.integers(0, 30, 185)])
    frame = plain(240).drop(columns="w").assign(code=[f"c{code:02d}" for code in codes])
    write(path, frame)
    return frame


def repeated_rows(path):
    frame = pd.concat([plain(52), plain(52)[:8]], ignore_index=True)
    write(path, frame)
    return frame


def subjects(path):
    frame = plain()
    write(path, frame.assign(subject=[f"s{row // 5}" for row in range(ROWS)]))
    return frame


def trend(path):
    """Months in a random order, and a target that rises with them."""
    months = pd.Series(pd.date_range("2019-01-01", periods=ROWS, freq="MS"))
    frame = plain().drop(columns=["z", "w"]).assign(y=lambda f: (f.y + np.arange(ROWS) / 10).round(3), month=months)
    frame = frame.sample(frac=1, random_state=0)
    write(path, frame.assign(month=frame.month.dt.strftime("%Y-%m")))
    return frame


def target_with_holes(path):
    frame = plain(80)
    frame["y"] = frame.y.where(np.arange(80) % 4 > 0)
    write(path, frame)
    return frame


def skewed(path):
    frame = plain().assign(y=lambda f: np.exp(f.y).round(3))
    write(path, frame)
    return frame


def counts(path):
    rng = np.random.default_rng(2)
    frame = plain().assign(y=np.where(rng.random(ROWS) < 0.5, 0, 1 + rng.poisson(3, ROWS)))
    write(path, frame)
    return frame


def texts(column, text):
    """A table whose column has formatted numbers."""

    def formatted(path):
        frame = plain()
        write(path, frame.assign(**{column: [text.format(1000 * value) for value in frame[column]]}))
        return frame

    return formatted


@dataclass(frozen=True)
class Case:
    """A table and what is expected of it.

    Attributes
    ----------
    write : callable
        Writes the table to a path, and returns it as cleaned by hand.
    options : str
        Options of fit and compare.
    params : dict
        The same, as parameters of the estimator that is fitted to the clean table.
    notes : dict
        {commands: the notes that they print}. No other note may be printed.
    errors : dict
        {commands: the message of their error}. If fit has one, the other commands get the model of the clean table.
    width : int
        The number of encoded columns, counted by hand.
    time : str
        The column that orders the folds.
    density : callable
        The density of y from the columns of predict's output, which tell all parameters of the distribution.
    """

    write: Callable[..., pd.DataFrame]
    options: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    width: int = 3
    time: str = ""
    density: Callable[..., np.ndarray] = lambda y, t: norm.logpdf(y, t["mean"], t["std"])


def lognormal_density(y, table):
    low, high = np.log(table["lower"]), np.log(table["upper"])
    return lognorm.logpdf(y, (high - low) / 2 / norm.ppf(0.95), scale=np.exp((low + high) / 2))


def zero_inflated_density(y, table):
    excess = table["std"] ** 2 / table["mean"] - 1  # π λ
    rate = table["mean"] + excess
    share = excess / rate
    return np.log(share * (y == 0) + (1 - share) * poisson.pmf(y, rate))


FITS, READS, LABELED = "fit compare", "predict evaluate calibrate inspect card", "evaluate calibrate inspect card"
EVERY = f"{FITS} {READS}"
SAW_TEXT = "Correct the cell, or leave it empty."

CASES = [
    Case(numbers),
    Case(text_ids, notes={FITS: ["Left out of the inputs: 'id' (nearly every row has another text)."]}),
    Case(
        number_ids, notes={FITS: ["increase from row to row like row numbers, which say nothing about new rows: 'id'."]}
    ),
    Case(frame_index, notes={FITS: ["Left out of the inputs: '' (an index of rows, without a name)."]}),
    Case(dates),
    Case(dotted_dates),
    Case(clock_times),
    Case(
        american_dates,
        notes={
            FITS: [
                "Left out of the inputs: 'when' (nearly every row has another text).",
                "Dates in a notation that is not read are texts; write them as 2024-01-31: 'when' (such as '01/01/2024').",
            ]
        },
    ),
    Case(
        semicolons,
        notes={FITS: ["with the separator ';' and with decimal commas in 'x', 'z', 'w', 'y'; --separator and"]},
    ),
    Case(excel_line, notes={FITS: ["with the separator ';'; --separator would change that."]}),
    Case(latin_1, notes={FITS: ["byte 0xf6 at position 6 is not UTF-8: read the file as windows-1252"]}),
    Case(
        question_mark,
        notes={
            FITS: ["Missing inputs, marked by a column of their own: 1 of 'z'."],
            "compare": [
                "columns that have none in the training rows of a fold are encoded as means or no category: 1 of 'z'"
            ],
        },
    ),
    Case(trailing_commas, notes={FITS: ["Left out of the inputs: '' (no value at all)."]}),
    Case(
        rare_category,
        notes={
            "compare": ["categories that the training rows of a fold do not have are encoded as zeros: 1 of 'town'"]
        },
    ),
    Case(
        many_categories,
        notes={
            FITS: ["The commonest categories have a column each, all rarer ones share one: 'code'."],
            "compare": ["categories that the training rows of a fold do not have are encoded as zeros: "],
        },
        width=53,
    ),
    Case(
        repeated_rows, notes={"compare": ["8 rows repeat another row: they are kept in one fold with it; groups=False"]}
    ),
    Case(subjects, "--groups subject", notes={"fit": ["groups has no effect on this fit: MAP without early stopping"]}),
    Case(
        trend,
        "--time month",
        time="month",
        notes={"fit": ["times has no effect on this fit: MAP without early"]},
        width=6,
    ),
    Case(
        target_with_holes,
        notes={f"{FITS} {LABELED}": ["Left out 20 of 80 rows, which have no value of the target 'y'."]},
    ),
    Case(skewed, "--target-transform log", {"target_transform": "log"}, density=lognormal_density),
    Case(skewed, "--likelihood lognormal", {"likelihood": "lognormal"}, density=lognormal_density),
    Case(
        counts,
        "--likelihood zero-inflated-poisson",
        {"likelihood": "zero-inflated-poisson"},
        density=zero_inflated_density,
    ),
    Case(
        texts("z", "${:,.2f}"),
        errors={
            FITS: "Column 'z' is text, but 60 of its 60 values are numbers; '$4,236.00' in row 0 is not a plain number.",
            READS: f"Column 'z' was numeric at fit; now row 0 has '$4,236.00'. {SAW_TEXT}",
        },
    ),
    Case(
        texts("z", "{:.1f}%"),
        errors={
            FITS: "'4236.0%' in row 0 is not a plain number. Correct the cells that are not numbers, or name the column with",
            READS: f"Column 'z' was numeric at fit; now row 0 has '4236.0%'. {SAW_TEXT}",
        },
    ),
    Case(
        texts("z", "{:,.0f}"),
        errors={
            FITS: "column 'z' has only numbers, but '4,236' in row 0 may have thousands or decimals. If ',' separates decimals,",
            READS: f"now row 0 has '4,236'. {SAW_TEXT} If ',' separates decimals, use --decimal ,.",
        },
    ),
    Case(
        texts("y", "{:,.2f}"),
        errors={
            FITS: "The target 'y' is text, but 60 of its 60 values are numbers; '",
            LABELED: "Column 'y' was numeric at fit; now row 0 has '",
        },
    ),
]


def name_of(case):
    return f"{case.write.__name__} {case.options}".strip()


def expected_of(case, command, kind):
    found = [value for commands, value in vars(case)[kind].items() if command in commands.split()]
    return [text for each in found for text in ([each] if isinstance(each, str) else each)]


def check_notes(case, command, said, ends):
    """The lines on standard error, but for the progress of a slow machine, are the expected notes, then those that begin with
    ``ends``."""
    lines = [line for line in said.splitlines() if not re.match(r"\d+ s: ", line)]
    notes = lines[: len(lines) - len(ends)]
    for line, end in zip(lines[len(notes) :], ends, strict=True):
        assert line.startswith(end)
    texts = expected_of(case, command, "notes")
    assert len(notes) == len(texts), said
    for text in texts:
        assert sum(text in note for note in notes) == 1, said


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setitem(METHODS, "map", METHOD)


@pytest.fixture
def splits(monkeypatch):
    """The row numbers of the training and the held-out rows of each fit of a comparison."""
    found, fit_fold = [], comparison_fits.fit_fold

    def record(stop, estimator, X, y, split, options):
        found.append(split)
        return fit_fold(stop, estimator, X, y, split, options)

    monkeypatch.setattr(comparison_fits, "fit_fold", record)
    return found


def fit_clean(frame, params):
    """The estimator of the command line, fitted to the rows of a clean table that have a target."""
    known = frame[frame.y.notna()]
    model = dubito.BayesianRegressor(METHOD, hidden=(4,), random_state=0, handle_unknown="ignore", **params)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dubito.DataWarning)
        return model.fit(known.drop(columns="y"), known.y)


def prediction_table(text):
    """The columns of the CSV that predict prints."""
    header, *cells = csv.reader(io.StringIO(text))
    return dict(zip(header, np.array(cells, float).T, strict=True))


def predicted(model, frame):
    """The same columns of an estimator."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dubito.DataWarning)
        answer = model.predictive(frame.drop(columns="y"))
    low, high = answer.interval(0.9)
    return {"mean": answer.mean, "std": answer.std, "lower": low, "upper": high}


def scores(case, table, y):
    """Scores by their formulas, from the columns of predict's output."""
    known = ~np.isnan(y)
    table, y = {name: values[known] for name, values in table.items()}, y[known]
    inside = (table["lower"] <= y) & (y <= table["upper"])
    error = y - table["mean"]
    return {
        "rmse": np.sqrt(np.mean(error**2)),
        "mae": np.mean(np.abs(error)),
        "nll": -np.mean(case.density(y, table)),
        "coverage_90": np.mean(inside),
        "mean_width_90": np.mean(table["upper"] - table["lower"]),
        "n": len(y),
    }


def agree(found, expected):
    return all(np.isclose(found[name], value, rtol=1e-4 if name == "nll" else 1e-6) for name, value in expected.items())


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=map(name_of, CASES))
def test_every_command_takes_or_refuses_the_table_with_the_notes_and_numbers_of_a_clean_one(
    case, short, splits, tmp_path, monkeypatch
):
    if case.write is not numbers:  # operations are counted once, since that takes a quarter of the time
        monkeypatch.setattr(importlib.import_module("dubito.inspection.graph.graph"), "count_flops", lambda *_: 1.0)
    path, model, calibrated = tmp_path / "t.csv", tmp_path / "m.dubito", tmp_path / "c.dubito"
    clean = case.write(path)
    truth, y = fit_clean(clean, case.params), clean.y.to_numpy(float)
    known = np.flatnonzero(~np.isnan(y))
    assert truth.schema_.width == case.width

    def call(command, *arguments, ends=()):
        """The output; None after the expected error."""
        errors = expected_of(case, command, "errors")
        out, said = run(command, *arguments, code=len(errors))
        if not errors:
            check_notes(case, command, said, ends)
            return out
        assert errors[0] in said and said.splitlines()[-1].startswith("dubito: ")
        return None

    fits = (path, "-t", "y", "--hidden", "4", *case.options.split())
    ends = (f"Regression on {len(known)} rows in ", f"Wrote {model}")
    if call("fit", *fits, "--method", "map", "-o", model, ends=ends) is None:
        assert not model.exists()
        truth.summary_["target"] = "y"
        truth.save(model)
    if (out := call("predict", model, path)) is not None:
        table = prediction_table(out)
        for name, values in predicted(truth, clean).items():
            np.testing.assert_array_equal(table[name], values)  # to the last bit, for each row of the file
    if (out := call("evaluate", model, path, "--json")) is not None:
        assert agree(json.loads(out), scores(case, table, y))
    if (out := call("card", model, path)) is not None:
        assert f"Measured on {len(known)} rows" in out and "# Model card: `y`" in out
    if (out := call("inspect", model, path)) is not None:
        outputs = 2 if case.write is counts else 1  # a rate, and a share of zeros
        assert f"per example on {len(known)} rows" in out and f" {4 * (case.width + 1) + outputs * 5}\n" in out
    conformal = ("--method", "conformal", "--coverage", COVERAGE)
    ends = (f"Calibrated on {len(known)} rows: Conformal", f"Wrote {calibrated}")
    if call("calibrate", model, path, *conformal, "-o", calibrated, ends=ends) is not None:
        assert dubito.load(calibrated).handle_unknown == "ignore"  # as fit saved it
        table = prediction_table(run("predict", calibrated, path, "--coverage", COVERAGE)[0])
        check_coverage(table["lower"][known], table["upper"][known], y[known], case.write in (counts, repeated_rows))
    if (out := call("compare", *fits, "--methods", "map", "--folds", FOLDS, "--json")) is None:
        assert not splits
        return
    check_splits(case, clean, path, known, splits)
    own = [predicted(fit_clean(clean.iloc[train], case.params), clean.iloc[test]) for train, test in splits]
    joined = {name: np.concatenate([each[name] for each in own]) for name in own[0]}
    held_out = np.concatenate([test for _, test in splits])
    assert agree(json.loads(out)["map"], scores(case, joined, y[held_out]))


def check_coverage(lower, upper, y, ties=False):
    """Conformal intervals contain ⌈(n + 1) coverage⌉ of the n rows they were calibrated on, or more with ties."""
    inside, rank = np.sum((lower <= y + 1e-9) & (y <= upper + 1e-9)), int(np.ceil((len(y) + 1) * COVERAGE))
    assert inside >= rank if ties else inside == rank


def check_splits(case, clean, path, known, splits):
    """Each row with a target is held out once, or with times each of the later half; no fold separates what belongs together."""
    assert len(splits) == FOLDS
    held_out = np.concatenate([test for _, test in splits])
    expected = known
    if case.time:
        order = known[np.argsort(clean[case.time].to_numpy()[known], kind="stable")]
        expected = order[len(order) // 2 :]
        for train, test in splits:
            assert clean[case.time].iloc[train].max() < clean[case.time].iloc[test].min()
    assert sorted(held_out) == sorted(expected)
    own = pd.read_csv(path)["subject"] if "--groups" in case.options else clean.map(str).agg("|".join, axis=1)
    for train, test in splits:
        assert not {*train} & {*test} and not {*own.iloc[train]} & {*own.iloc[test]}
    if not case.options.startswith("--groups") and not case.time and case.write is not repeated_rows:
        folds = KFold(FOLDS, shuffle=True, random_state=0).split(known)
        for (train, test), (expected_train, expected_test) in zip(splits, folds, strict=True):
            assert (train == known[expected_train]).all() and (test == known[expected_test]).all()


@pytest.mark.slow
def test_estimators_take_several_targets_with_holes(splits):
    frame = plain()
    holes = np.random.default_rng(3).random((ROWS, 2)) < [0.1, 0.4]
    holes[:, 0] &= ~holes[:, 1]
    y = np.where(holes, np.nan, np.column_stack([frame.y, 100 - 10 * frame.x * frame.z]))
    inputs, complete = frame.drop(columns="y"), ~holes.any(axis=1)
    model = dubito.BayesianRegressor(METHOD, hidden=(4,), random_state=0)
    found = model.fit(inputs, y)
    np.testing.assert_allclose(
        [found.scaler_.shift, found.scaler_.scale], [np.nanmean(y, 0), np.nanstd(y, 0)], rtol=1e-6
    )
    answer = found.predictive(inputs)
    assert found.predict(inputs).shape == y.shape and (found.predict(inputs) == answer.mean).all()
    density = np.where(holes, 0, norm.logpdf(y, answer.mean, answer.std)).sum(axis=1)
    card = dubito.metrics.scorecard(answer, y)
    assert card["missing"] == holes.sum() and np.isclose(card["nll"], -density.mean(), rtol=1e-4)
    assert np.isclose(card["rmse"], np.sqrt(np.nanmean((y - answer.mean) ** 2, axis=0)).mean(), rtol=1e-6)
    with pytest.raises(dubito.DataError, match=f"y is missing in {(~complete).sum()} of 60 rows"):
        found.calibrate(inputs, y, "conformal", coverage=COVERAGE)
    found.calibrate(inputs[complete], y[complete], "conformal", coverage=COVERAGE)
    for lower, upper, values in zip(
        *(each.T for each in (*found.predict_interval(inputs[complete], COVERAGE), y[complete])), strict=True
    ):
        check_coverage(lower, upper, values)
    (row,) = cross_validation.compare({"map": model}, inputs, y, folds=FOLDS)
    error = np.full_like(y, np.nan)
    for train, test in splits:
        error[test] = y[test] - dubito.BayesianRegressor(METHOD, hidden=(4,), random_state=0).fit(
            inputs.iloc[train], y[train]
        ).predict(inputs.iloc[test])
    assert np.isclose(row.scores["rmse"].value, np.sqrt(np.nanmean(error**2, axis=0)).mean(), rtol=1e-6)


def said_by(path, command, *options):
    """What a command says that fails with a table."""
    rest = ("-t", "y", "--hidden", "4") if command in FITS.split() else ()
    return " ".join(run(command, path, *rest, *options, code=1)[1].split())


@pytest.mark.parametrize("command", FITS.split())
def test_messages_name_the_rows_of_the_file_where_rows_have_no_target(short, tmp_path, command):
    path, frame = tmp_path / "t.csv", plain()
    frame["y"] = np.exp(frame.y).where(np.arange(ROWS) % 4 > 0)
    method = {"fit": ("--method", "map", "-o", tmp_path / "m.dubito"), "compare": ("--methods", "map", "--no-groups")}[
        command
    ]
    write(path, frame.assign(z=frame.z.astype(object).where(np.arange(ROWS) != 31, "$5")))
    assert "'$5' in row 31 is not a plain number" in said_by(path, command, *method)
    assert "There is no column 'Y'; did you mean 'y'?" in run(command, path, "-t", "Y", *method, code=1)[1]
    write(path, frame.assign(y=frame.y.where(np.arange(ROWS) != 31, -1)))
    assert "other values, in row 31: the first has -1" in said_by(path, command, *method, "--likelihood", "lognormal")
    write(path, frame.assign(z=frame.z.where(np.arange(ROWS) != 31)))
    said = said_by(path, command, *method, "--missing", "error")
    assert "column 'z': 1 missing, 0 infinite, in row 31" in said and "Missing inputs" not in said
    write(path, frame.assign(day=np.where(np.arange(ROWS) == 31, "soon", "2024-01-31")))
    if command == "fit":
        assert "times has 'soon' in row 31" in said_by(path, command, *method, "--time", "day")


def test_evaluate_names_the_rows_of_the_file_where_rows_have_no_target(tmp_path):
    path, model = tmp_path / "t.csv", tmp_path / "m.dubito"
    truth = fit_clean(rare_category(path), {})
    truth.summary_["target"] = "y"
    truth.save(model)
    frame = pd.read_csv(path).assign(town=np.where(np.arange(ROWS) == 31, "Lima", "Bern"))
    write(path, frame.assign(y=frame.y.where(np.arange(ROWS) % 4 > 0)))
    assert "'town' has the value 'Lima' (row 31)" in run("evaluate", model, path, "--unknown", "error", code=1)[1]
    frame[["y"]].rename(columns={"y": "other"}).to_csv(path, index=False)
    assert "yet now missing: - town - x" in " ".join(run("predict", model, path, code=1)[1].split())


def test_compare_names_a_class_that_the_training_rows_of_a_fold_lack(tmp_path):
    path, frame = tmp_path / "t.csv", plain()
    write(path, frame.assign(y=np.where(np.arange(ROWS) == 59, "odd", np.where(frame.y > 1, "high", "low"))))
    said = said_by(path, "compare", "--folds", "2")
    assert "holds out row 59 of the class 'odd', which none of its training rows has: 1 of 60 rows have it" in said
    assert "least populated" not in said and "note:" not in said
    assert "folds=70 is more than the number of rows, 60." in said_by(path, "compare", "--folds", "70")


def test_compare_notes_a_column_that_only_a_fold_leaves_out(short, tmp_path):
    path = tmp_path / "t.csv"
    write(path, plain().assign(code=[f"c{row % 30}" for row in range(ROWS)]))
    _, said = run("compare", path, "-t", "y", "--hidden", "4", "--methods", "map", "--folds", "2")
    assert (
        said.count(
            "Left out in a fold, of which nearly every training row has another text, or none has a value: 'code'."
        )
        == 1
    )
