"""Tables of predictions, in notebooks too: the columns of dubito predict, for any number of targets, classes and labels."""

import html
import re

import jax.numpy as jnp
import numpy as np
import pytest

import dubito
from dubito.posteriors import readings

X = np.random.default_rng(0).normal(size=(40, 2))


@pytest.mark.parametrize("targets", [1, 2])
def test_to_pandas_has_the_answers_of_a_regression_as_columns(targets):
    y = X[:, 0] if targets == 1 else X
    answer = dubito.BayesianRegressor(dubito.MAP(epochs=2), hidden=(4,), random_state=0).fit(X, y).predictive(X[:5])
    table, (lower, upper) = answer.to_pandas(coverage=0.5), answer.columnwise.interval(0.5)
    endings = [""] if targets == 1 else ["_0", "_1"]
    assert list(table) == [
        f"{n}{e}" for e in endings for n in "mean std epistemic_std aleatoric_std lower upper".split()
    ]
    for k, ending in enumerate(endings):
        assert table[f"mean{ending}"].tolist() == answer.columnwise.mean[:, k].tolist()
        assert table[f"lower{ending}"].tolist() == lower[:, k].tolist()
        assert table[f"upper{ending}"].tolist() == upper[:, k].tolist()


@pytest.mark.parametrize("labels", [["down", "up"], [3, 7], [False, True]])
def test_to_pandas_has_the_answers_of_a_classification_as_columns(labels):
    y = np.array(labels)[(X[:, 0] > 0).astype(int)]
    model = dubito.BayesianClassifier(dubito.MAP(epochs=2), hidden=(4,), random_state=0).fit(X, y)
    table = model.predictive(X[:5]).to_pandas()
    assert list(table) == ["prediction", *[f"p_{label}" for label in labels], "entropy", "mutual_information"]
    assert table["prediction"].tolist() == model.predict(X[:5]).tolist()
    assert table[f"p_{labels[1]}"].tolist() == model.predict_proba(X[:5])[:, 1].tolist()
    np.testing.assert_array_equal(model.predict_log_proba(X[:5]), np.log(model.predict_proba(X[:5])))


def cells(page):
    """The rows of the table of a page, as texts."""
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", page)]


def regressor(**parameters):
    return dubito.BayesianRegressor(dubito.MAP(epochs=2), hidden=(4,), random_state=0, **parameters)


@pytest.mark.parametrize("targets", [1, 2])
def test_html_has_the_lines_of_the_repr_and_the_first_rows_of_a_regression(targets):
    model = regressor().fit(X, X[:, 0] if targets == 1 else X)
    answer = model.predictive(X)
    page, table = answer._repr_html_(), answer.to_pandas()
    (lines,) = re.findall("<pre>(.*)</pre>", page, re.DOTALL)
    assert html.unescape(lines).split("\n") == repr(answer).split("\n  ")
    head, *body = cells(page)
    assert head == ["", *table]
    assert body == [[str(k), *(f"{value:.4g}" for value in table.iloc[k])] for k in range(5)]
    assert page.endswith("<p>lower, upper: 90 % interval · … 35 more rows</p></div>")
    assert (
        "more" not in model.predictive(X[:5])._repr_html_() and "… 1 more row<" in model.predictive(X[:6])._repr_html_()
    )


@pytest.mark.slow
def test_html_escapes_and_shortens_the_labels_of_classes():
    labels = np.array(["<script>", "a & b", "long" * 20])
    model = dubito.BayesianClassifier(dubito.MAP(epochs=2), hidden=(4,), random_state=0)
    page = model.fit(X, labels[np.arange(40) % 3]).predictive(X)._repr_html_()
    head, *body = cells(page)
    long = ("p_" + "long" * 20)[:39] + "…"
    assert head[1:] == ["prediction", "p_&lt;script&gt;", "p_a &amp; b", long, "entropy", "mutual_information"]
    assert len(body) == 5 and "<script" not in page and "interval" not in page
    many = model.fit(X, np.arange(40) % 20).predictive(X)._repr_html_()
    assert "<p>… 35 more rows · … 11 more columns</p>" in many and len(cells(many)[0]) == 13


@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_html_and_to_pandas_have_the_coverage_of_a_conformal_calibration(coverage):
    model = regressor().fit(X, X[:, 0]).calibrate(X, X[:, 0], method="conformal", coverage=coverage)
    answer = model.predictive(X)
    page, (lower, _) = answer._repr_html_(), answer.interval(coverage)
    assert f"lower, upper: {100 * coverage:g} % interval" in page
    assert [row[5] for row in cells(page)[1:]] == [f"{value:.4g}" for value in lower[:5]]
    assert answer.to_pandas()["lower"].tolist() == lower.tolist()


def test_tables_of_a_criterion_have_a_mean_and_its_uncertainty_only():
    huber = dubito.Criterion(lambda f, y: jnp.sqrt(1 + jnp.sum((y - f) ** 2, axis=1)) - 1)
    answer = regressor(likelihood=huber).fit(X, X[:, 0]).predictive(X)
    assert list(answer.to_pandas()) == ["mean", "epistemic_std"]
    assert cells(answer._repr_html_())[0] == ["", "mean", "epistemic_std"] and "interval" not in answer._repr_html_()


def test_html_is_made_from_the_first_rows_only(monkeypatch):
    """However many rows there are, 1,024 are evaluated, and they have the numbers that they have among all."""
    model = regressor().fit(X, X[:, 0]).calibrate(X, X[:, 0], method="quantiles")
    sizes = []

    def counted(part, coverage):
        sizes.append(len(part))
        return prediction_columns(part, coverage)

    prediction_columns = readings.prediction_columns
    monkeypatch.setattr(readings, "prediction_columns", counted)
    page = model.predictive(np.tile(X, (100, 1)))._repr_html_()
    assert sizes == [1024] and "3,995 more rows" in page
    assert cells(page) == cells(model.predictive(X)._repr_html_())


def test_estimator_in_a_notebook_marks_only_parameters_that_were_set():
    pytest.importorskip("sklearn.utils._repr_html", reason="scikit-learn shows no table of parameters")
    page = regressor()._repr_html_()
    found = re.findall(r'<tr class="(user-set|default)">.*?<td class="param">(\w+)</td>', page, re.DOTALL)
    assert [name for kind, name in found if kind == "user-set"] == ["method", "hidden", "random_state"]
    assert len(found) == len(regressor().get_params(deep=False))
