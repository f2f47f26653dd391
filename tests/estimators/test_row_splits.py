"""Groups, times, own folds and own validation rows of the estimators and comparisons."""

import datetime

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.model_selection import GroupKFold, KFold, ShuffleSplit, StratifiedKFold

import dubito
from dubito import cross_validation, size_sweep
from dubito.estimators import base, comparison_fits

pytestmark = pytest.mark.usefixtures("one_size")

RNG = np.random.default_rng(0)
X, SUBJECT = RNG.normal(size=(60, 2)), np.repeat(np.arange(12), 5)
Y = X[:, 0] + 0.1 * RNG.normal(size=60)
FAST = dubito.MAP(epochs=3, batch_size=16)
FRAME = {"a": X[:, 0], "b": X[:, 1], "subject": [f"s{number}" for number in SUBJECT], "day": np.arange(60) // 2}
FRAMES = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.table}


class Stop(Exception):
    pass


@pytest.fixture
def rows_of(monkeypatch):
    """The ``Rows`` that an estimator gives to the training loop."""

    def rows_of(estimator, *arguments, **options):
        found = []

        def fit(model, rows, *rest, **settings):
            found.append(rows)
            raise Stop

        monkeypatch.setattr(base, "fit", fit)
        with pytest.raises(Stop):
            estimator.fit(*arguments, **options)
        return found[0]

    return rows_of


def regressor(method=FAST, **params):
    return dubito.BayesianRegressor(method, hidden=4, random_state=0, **params)


def same_groups(one, other):
    return len(np.unique(one)) == len(np.unique(other)) == len(np.unique(np.stack([one, other]), axis=1).T)


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_groups_are_a_column_that_is_no_input_or_an_array(frame, rows_of):
    table = frame(FRAME)
    rows = rows_of(regressor(None), table, Y, groups="subject")
    assert rows.x.shape[1] == 3 and same_groups(rows.group, SUBJECT)
    rows = rows_of(regressor(None), X, Y, groups=SUBJECT)
    assert rows.x.shape[1] == 2 and same_groups(rows.group, SUBJECT)
    for labels in (
        SUBJECT.tolist(),
        FRAME["subject"],
        pd.Series(FRAME["subject"], dtype="category"),
        pa.array(SUBJECT),
    ):
        assert same_groups(rows_of(regressor(None), X, Y, groups=labels).group, SUBJECT)


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_column_of_groups_is_ignored_in_prediction(frame, recwarn):
    table = frame(FRAME)
    model = regressor(dubito.Committee(FAST, 3)).fit(table, Y, groups="subject")
    assert model.feature_names_in_.tolist() == ["a", "b", "subject", "day"]
    found = model.predict(table)
    others = frame({**FRAME, "subject": ["new"] * 60})
    without = frame({name: values for name, values in FRAME.items() if name != "subject"})
    assert np.array_equal(found, model.predict(others)) and np.array_equal(found, model.predict(without))
    assert not recwarn.list


def test_rows_without_weight_need_no_group_and_no_time(rows_of):
    weight = np.where(np.arange(60) < 10, 0, 1)
    labels = np.where(weight > 0, SUBJECT, np.nan)
    assert same_groups(rows_of(regressor(None), X, Y, weight, groups=labels).group, SUBJECT[10:])
    assert len(rows_of(regressor(None), X, Y, weight, times=labels).time) == 50


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_times_are_a_column_that_stays_an_input_or_an_array(frame, rows_of):
    rows = rows_of(regressor(None), frame(FRAME), Y, times="day", groups=False)
    assert rows.x.shape[1] == 2 + 12 + 1 and np.array_equal(rows.time, FRAME["day"])


MOMENTS = [datetime.datetime(2024, 1, 1) + datetime.timedelta(hours=7 * int(number)) for number in FRAME["day"]]


@pytest.mark.parametrize(
    "times",
    [
        -1.5e9 + FRAME["day"] / 7,
        MOMENTS,
        [moment.date() + datetime.timedelta(days=int(n)) for moment, n in zip(MOMENTS, FRAME["day"], strict=True)],
        [moment.isoformat() for moment in MOMENTS],
        pd.Series(MOMENTS),
        pd.Series(MOMENTS).dt.tz_localize("Europe/Berlin"),
        pl.Series(MOMENTS),
        pa.array(MOMENTS),
        np.array(MOMENTS, "datetime64[us]"),
    ],
    ids=["numbers", "datetimes", "dates", "texts", "pandas", "zone", "polars", "pyarrow", "numpy"],
)
def test_times_of_every_type_have_one_order(times, rows_of):
    assert np.array_equal(rows_of(regressor(None), X, Y, times=times).time, FRAME["day"])


def repeated(count=7):
    table, y = np.concatenate([X, X[:count]]), np.concatenate([Y, Y[:count]])
    return table, y, np.concatenate([np.arange(60), np.arange(count)])


def test_rows_that_repeat_others_are_kept_together_with_a_note(rows_of):
    table, y, truth = repeated()
    for model in (regressor(None), regressor(dubito.Committee(FAST, 3)), regressor(early_stopping=True)):
        with pytest.warns(dubito.DataWarning, match=r"7 rows repeat another row: .* kept in one fold.*groups=False"):
            rows = rows_of(model, table, y)
        assert same_groups(rows.group, truth)
    with pytest.warns(dubito.DataWarning, match=r"^1 row repeats another row: it is kept"):
        rows_of(regressor(None), *repeated(1)[:2])
    many = np.arange(120.0)[:, None] ** 2
    rows = rows_of(
        regressor(None), np.concatenate([many, many[:1]]), np.arange(121.0) % 120
    )  # less than one in a hundred
    assert same_groups(rows.group, np.r_[np.arange(120), 0])


def test_a_method_given_by_name_keeps_groups_together(rows_of):
    groups = np.arange(60) // 3
    assert same_groups(rows_of(regressor("cross-fit"), X, Y, groups=groups).group, groups)
    with pytest.warns(dubito.DataWarning, match="groups has no effect on this fit: MAP without early stopping"):
        rows_of(regressor("map"), X, Y, groups=groups)


def test_no_note_where_no_row_is_held_out_or_groups_are_given(rows_of):
    table, y, _ = repeated()
    assert rows_of(regressor(), table, y).group is None
    assert rows_of(regressor(None), table, y, groups=False).group is None
    assert rows_of(regressor(None), table, y, times=np.arange(67)).group is None
    assert rows_of(regressor(None), X, Y).group is None
    assert same_groups(rows_of(regressor(None), table, y, groups=np.arange(67)).group, np.arange(67))


@pytest.mark.slow
def test_bits_without_repeated_rows_do_not_depend_on_the_search_for_them():
    for model in (regressor(dubito.CrossFit(dubito.MaximumLikelihood(epochs=2), 3)), regressor(early_stopping=True)):
        assert np.array_equal(model.fit(X, Y).predict(X), model.fit(X, Y, groups=False).predict(X))


CV = [(np.arange(0, 40), np.arange(40, 50)), (np.arange(10, 60), np.arange(10))]


def test_cv_sets_the_folds(rows_of):
    rows = rows_of(regressor(dubito.Committee(FAST, 3)), X, Y, cv=CV)
    assert [np.flatnonzero(fold > 0).tolist() for fold in rows.folds] == [train.tolist() for train, _ in CV]
    assert [np.flatnonzero(fold < 0).tolist() for fold in rows.folds] == [test.tolist() for _, test in CV]
    weight = np.where(np.arange(60) % 7 == 0, 0, 1)
    found = rows_of(regressor(None), X, Y, weight, cv=KFold(4)).folds
    assert found.shape == (4, weight.sum())
    assert np.array_equal(found[1] < 0, (np.arange(60) // 15 == 1)[weight > 0])
    assert rows_of(regressor(None), X, Y, cv=GroupKFold(3), groups=SUBJECT).folds.shape == (3, 60)
    classes = dubito.BayesianClassifier(dubito.CrossFit(FAST))
    folds = rows_of(classes, X, np.where(np.arange(60) < 6, "rare", "usual"), cv=StratifiedKFold(3)).folds
    assert ((folds < 0)[:, :6].sum(1) == 2).all()


def test_members_of_cv_are_trained_on_their_rows():
    """A change of targets in rows that a member of the committee held out, or that are in neither part, leaves its bits."""
    model = regressor(dubito.Committee(dubito.MAP(epochs=3, batch_size=None), 2))

    def members(y):
        parts = model.fit(X, y, cv=CV).posterior_.parts
        return [np.concatenate([np.ravel(leaf) for leaf in _leaves(part)]) for part in parts]

    before = members(Y)
    swapped = Y.copy()
    swapped[[40, 41, 52, 53]] = Y[[41, 40, 53, 52]]  # the scale of the target stays the same but for rounding
    first, second = (np.abs(a - b).max() for a, b in zip(before, members(swapped), strict=True))
    assert first < 1e-6 < second


def _leaves(part):
    import jax

    return jax.tree.leaves(part.params)


def test_conformal_intervals_of_own_folds_use_the_held_out_rows():
    model = regressor(dubito.Committee(FAST, 2)).fit(X, Y, cv=CV)
    assert [len(own[0]) for own in model.calibration_.errors] == [10, 10]
    means = model.uncalibrated(X).columnwise.means(2)[:, :, 0]
    for errors, mean, (_, test) in zip(model.calibration_.errors, means, CV, strict=True):
        np.testing.assert_allclose(errors[0], np.sort(np.abs(Y - mean)[test]), rtol=1e-5)


@pytest.mark.slow
def test_own_validation_rows_stop_early_and_set_no_scale():
    x, y = X[:40] * 100 + 5, Y[:40] * 10
    validation = {"X_val": x[:15] * 1.3, "y_val": y[:15] + 3}
    method = dubito.MAP(epochs=40, batch_size=16)
    model = regressor(method, early_stopping=True, n_iter_no_change=5).fit(x, y, **validation)
    plain = regressor(FAST).fit(x, y)
    assert model.schema_ == plain.schema_ and model.scaler_ == plain.scaler_ and model.summary_["rows"] == 40
    (scores,) = (member[:, 2] for member in model.history_)
    answer = model.predictive(validation["X_val"])
    score = np.mean(answer.log_prob(validation["y_val"])) + np.log(model.scaler_.scale[0])
    assert score == pytest.approx(np.max(scores), abs=1e-4)
    labels = np.where(Y > 0, "up", "down")
    classifier = dubito.BayesianClassifier(method, hidden=4, early_stopping=True, random_state=0)
    classifier.fit(X[:40], labels[:40], X_val=X[40:], y_val=labels[40:])
    probs = classifier.predict_proba(X[40:])[np.arange(20), (labels[40:] == "up").astype(int)]
    assert np.mean(np.log(probs)) == pytest.approx(np.max(classifier.history_[0][:, 2]), abs=1e-4)


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_own_validation_rows_may_be_a_frame(frame, rows_of):
    table, other = frame(FRAME), frame({name: values[:9] for name, values in FRAME.items()})
    rows = rows_of(regressor(early_stopping=True), table, Y, X_val=other, y_val=Y[:9])
    assert np.array_equal(rows.x[60:], rows.x[:9]) and np.array_equal(rows.y[60:], rows.y[:9])
    assert np.array_equal(rows.train, np.arange(69) < 60) and np.array_equal(rows.valid, np.arange(69) >= 60)


NOT_HOLDING = regressor()
CROSS, COMMITTEE = regressor(dubito.CrossFit(FAST, 3)), regressor(dubito.Committee(FAST, 3))
STOPPING = regressor(early_stopping=True)
REFUSED = [
    (CROSS, {"groups": SUBJECT, "times": SUBJECT}, "groups and times cannot be combined"),
    (CROSS, {"groups": True}, r"groups must be None, False, .*got True"),
    (CROSS, {"groups": "subject"}, r"groups='subject' is the name of a column, but X is an array"),
    (CROSS, {"groups": SUBJECT[:50]}, r"groups must have a value for each of the 60 rows of X; got the shape \(50,\)"),
    (CROSS, {"groups": X}, r"groups must have a value.* \(60, 2\)"),
    (CROSS, {"groups": np.where(SUBJECT == 1, np.nan, SUBJECT)}, "groups has no value first in rows 5, 6, 7"),
    (CROSS, {"groups": [[1]] * 60}, "groups must be numbers or texts: unhashable"),
    (CROSS, {"groups": np.zeros(60)}, r"needs at least 2, got 1: choose other groups"),
    (STOPPING, {"groups": np.zeros(60)}, r"early stopping holds whole groups out, so it needs at least 2, got 1"),
    (CROSS, {"times": np.zeros(60)}, "times must have at least 2 different values"),
    (CROSS, {"times": ["soon"] * 60}, "times has 'soon' in row 0, which is neither a number nor a date"),
    (CROSS, {"times": [None, *range(59)]}, "times has no value in row 0"),
    (CROSS, {"times": SUBJECT, "cv": 3}, "cv and times both choose the folds"),
    (CROSS, {"cv": 3}, r"cv must be a scikit-learn splitter .*got 3"),
    (CROSS, {"cv": []}, "cv has no folds"),
    (CROSS, {"cv": [np.arange(3)]}, r"fold 0 of cv must be \(train, test\), got ndarray"),
    (CROSS, {"cv": [([0, 1], [60])]}, "fold 0 of cv must contain different row numbers from 0 to 59"),
    (CROSS, {"cv": [([0, 1], [1, 2])]}, "fold 0 of cv has 2 training and 2 held-out rows, 1 of them in both"),
    (CROSS, {"cv": [([0.5], [1])]}, "fold 0 of cv must contain row numbers, got an array of float64"),
    (CROSS, {"cv": [([0, 1], [2]), ([0], [2])]}, "holds rows out more than once, in row 2"),
    (CROSS, {"cv": ShuffleSplit(5, test_size=0.5, random_state=0)}, "out more than once.*such as KFold"),
    (CROSS, {"cv": KFold(7), "groups": SUBJECT}, r"fold 0 of cv separates the rows of 1 group\."),
    (NOT_HOLDING, {"cv": KFold(3)}, "cv sets the folds of CrossFit and Committee; MAP has none"),
    (
        regressor(dubito.Committee(FAST, 3), early_stopping=True),
        {"times": SUBJECT},
        "Committee with times has no rows for",
    ),
    (STOPPING, {"X_val": X}, "X_val and y_val go together; y_val is missing"),
    (NOT_HOLDING, {"X_val": X, "y_val": Y}, "set early_stopping=True"),
    (CROSS, {"X_val": X, "y_val": Y}, "CrossFit holds its folds out and takes no X_val"),
    (COMMITTEE, {"X_val": X, "y_val": Y}, "Committee holds its folds out and takes no X_val"),
    (regressor(None), {"X_val": X, "y_val": Y}, "the default method holds its folds out"),
    (STOPPING, {"X_val": X, "y_val": Y, "groups": SUBJECT}, "with X_val and y_val no training row is held out"),
    (STOPPING, {"X_val": X, "y_val": Y[:50]}, r"inconsistent numbers of samples: \[60, 50\]"),
    (STOPPING, {"X_val": X[:0], "y_val": Y[:0]}, "X_val has 0 rows"),
    (STOPPING, {"X_val": X[:, :1], "y_val": Y}, "X has 1 features, but BayesianRegressor is expecting 2"),
    (STOPPING, {"X_val": X, "y_val": np.stack([Y, Y], 1)}, r"y_val has the shape \(n, 2\), and y has \(n, 1\)"),
    (STOPPING, {"X_val": X, "y_val": np.full(60, np.nan)}, "missing"),
]


@pytest.mark.parametrize(("model", "options", "message"), REFUSED, ids=[words[:40] for *_, words in REFUSED])
def test_options_that_cannot_be_used_are_refused_in_words(model, options, message):
    with pytest.raises(ValueError, match=message):
        model.fit(X, Y, **options)


def test_checkpoint_of_a_fit_with_other_groups_is_refused(tmp_path):
    model, path = regressor(dubito.MAP(epochs=2), early_stopping=True), tmp_path / "progress"
    found = model.fit(X, Y, groups=SUBJECT, checkpoint=path).predict(X)
    assert np.array_equal(found, model.fit(X, Y, groups=SUBJECT, checkpoint=path).predict(X))
    with pytest.raises(dubito.CheckpointError, match="belongs to another fit"):
        model.fit(X, Y, groups=SUBJECT // 2, checkpoint=path)


def test_wrong_names_and_classes_are_refused_in_words():
    with pytest.raises(dubito.DataError, match=r"groups: there is no column 'subjekt'; did you mean 'subject'"):
        CROSS.fit(pd.DataFrame(FRAME), Y, groups="subjekt")
    with pytest.raises(dubito.DataError, match=r"times: there is no column 'when'"):
        CROSS.fit(pd.DataFrame(FRAME), Y, times="when")
    model = dubito.BayesianClassifier(FAST, early_stopping=True)
    with pytest.raises(dubito.DataError, match=r"y has 'c' in row 0, which is not one of the classes a, b"):
        model.fit(X, np.where(Y > 0, "a", "b"), X_val=X[:1], y_val=["c"])


@pytest.mark.parametrize("options", [{"groups": SUBJECT}, {"times": SUBJECT}], ids=lambda options: next(iter(options)))
def test_options_without_effect_are_noted(options):
    with pytest.warns(dubito.DataWarning, match=f"{next(iter(options))} has no effect on this fit: MAP without early"):
        NOT_HOLDING.fit(X, Y, **options)


@pytest.fixture
def splits_of(monkeypatch):
    """The (training rows, held-out rows, arguments of ``fit``) of the folds of a comparison, and its table."""

    def splits_of(function, *arguments, **options):
        found = []

        def start_jobs(job, jobs):
            found.extend(jobs)
            raise Stop

        for module in (comparison_fits, size_sweep):
            monkeypatch.setattr(module, "start_jobs", start_jobs)
        with pytest.raises(Stop):
            function(*arguments, **options)
        return [(*split, given, table) for _, table, _, split, given in found]

    return splits_of


def test_compare_and_sweep_keep_groups_together(splits_of):
    table = pd.DataFrame(FRAME)
    for model in (CROSS, NOT_HOLDING):
        found = splits_of(cross_validation.compare, {"one": model}, table, Y, groups="subject")
        found += splits_of(size_sweep.sweep, model, table, Y, [(2,), (3,)], groups="subject")
        assert len(found) == 5 + 6
        for train, test, given, inputs in found:
            assert not np.intersect1d(SUBJECT[train], SUBJECT[test]).size and "subject" not in inputs.columns
            assert len(train) + len(test) == 60
            held = given["groups"]
            assert held is False if model is NOT_HOLDING else same_groups(held, SUBJECT[train])
    assert sorted(np.concatenate([test for _, test, *_ in found[:5]])) == list(range(60))
    assert len(splits_of(cross_validation.compare, {"one": CROSS}, X, Y, groups=SUBJECT // 4)) == 3  # fewer folds
    with pytest.raises(dubito.DataError, match="need at least 2, got 1"):
        cross_validation.compare({"one": CROSS}, X, Y, groups=np.zeros(60))


def test_compare_keeps_repeated_rows_together_and_counts_them_once(splits_of):
    table, y, truth = repeated()
    with pytest.warns(dubito.DataWarning, match="7 rows repeat") as noted:
        found = splits_of(cross_validation.compare, {"one": CROSS, "two": NOT_HOLDING}, table, y)
    assert len(noted) == 1
    for train, test, given, _ in found:
        assert not np.intersect1d(truth[train], truth[test]).size
        assert given["groups"] is False or same_groups(given["groups"], truth[train])
    found = splits_of(cross_validation.compare, {"one": CROSS}, table, y, groups=False)
    for (train, test, *_), (train_0, test_0) in zip(
        found, KFold(5, shuffle=True, random_state=0).split(table), strict=True
    ):
        assert np.array_equal(train, train_0) and np.array_equal(test, test_0)


def test_compare_validates_on_later_rows_and_on_own_folds(splits_of):
    times = np.random.default_rng(0).permutation(60) // 2
    found = splits_of(cross_validation.compare, {"one": CROSS}, X, Y, times=times)
    assert len(found) == 5
    for train, test, given, _ in found:
        assert times[train].max() < times[test].min() and np.array_equal(given["times"], times[train])
    found = splits_of(cross_validation.compare, {"one": CROSS}, X, Y, cv=CV)
    assert [(train.tolist(), test.tolist()) for train, test, *_ in found] == [(a.tolist(), b.tolist()) for a, b in CV]
    with pytest.raises(dubito.DataError, match="out more than once"):
        cross_validation.compare({"one": CROSS}, X, Y, cv=CV + CV)


@pytest.mark.slow
def test_compare_scores_the_rows_of_its_folds():
    cross = regressor(dubito.CrossFit(FAST, 3, "constant"))
    table = pd.DataFrame({name: FRAME[name] for name in ("a", "b", "subject")})
    (result,) = cross_validation.compare({"one": cross}, table, Y, folds=3, groups="subject")
    assert result.to_dict()["n"] == 60
    (result,) = cross_validation.compare({"one": cross}, X, Y, folds=3, times=SUBJECT)
    assert result.to_dict()["n"] == 30
