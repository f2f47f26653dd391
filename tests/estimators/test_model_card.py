"""Model cards: every number is the estimator's own or measured, the instructions run, and names do not break the page."""

import re

import jax
import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError

import dubito
from dubito.evaluation import metrics

RNG = np.random.default_rng(0)
N = 60
FRAME = pd.DataFrame(
    {
        "area": np.where(np.arange(N) % 9 == 0, np.nan, RNG.normal(80, 20, N)),
        "district": RNG.choice(["north", "south"], N),
        "built": pd.to_datetime("2001-03-04") + pd.to_timedelta(RNG.integers(0, 4000, N), "D"),
        "lift": RNG.choice([True, False], N),
        "remark": [f"text {number}" for number in range(N)],
    }
)
RENT = 3 * FRAME["area"].fillna(80).to_numpy() + RNG.normal(size=N)
SHORT = dict(hidden=(4,), random_state=0)

pytestmark = pytest.mark.filterwarnings("ignore::dubito.DataWarning")


@pytest.fixture(scope="module")
def rents():
    """A regressor of the first 40 rows."""
    method = dubito.Ensemble(dubito.MAP(epochs=2), 2)
    return dubito.BayesianRegressor(method, handle_unknown="ignore", **SHORT).fit(FRAME[:40], RENT[:40])


@pytest.fixture(scope="module")
def kinds():
    X = RNG.normal(size=(40, 2))
    model = dubito.BayesianClassifier(dubito.MAP(epochs=2), **SHORT)
    return model.fit(X, np.where(X[:, 0] > 0, "yes", "no")), X


def section(card, title):
    return card.split(f"## {title}\n")[1].split("\n## ")[0]


def cells(text):
    """The rows of a table, without its head."""
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_sections_are_in_order(rents):
    heads = re.findall(r"^#+ (.*)$", rents.card(), re.MULTILINE)
    usual = ("What it predicts", "Inputs", "Fit", "Scores on held-out rows", "Calibration")
    assert heads == ["Model card", *usual, "What the uncertainties mean", "Limits", "Use", "Versions"]


def test_inputs_are_those_of_the_schema(rents):
    rows = {row[0]: row[1:] for row in cells(section(rents.card(), "Inputs"))}
    area = rents.schema_.columns[0]
    assert rows["`area`"] == ["numeric", f"(x − {area.shift:.6g}) / {area.scale:.6g}", "the mean, and marked"]
    assert rows["`district`"] == [
        "category",
        "0 or 1 for each of `north`, `south`",
        "no category, but there were none in the fit",
    ]
    assert rows["`built`"][1].startswith("(time − 200") and rows["`built`"][1].endswith("phase of the week and year")
    assert rows["`lift`"][1] == "−1 and 1" and rows["`remark`"] == ["left out", "not used", ""]


def test_the_card_names_target_unit_and_fit(rents):
    card = rents.card(target="rent", unit="€ a month")
    assert card.startswith("# Model card: `rent`\n") and "distribution of `rent`, in € a month" in card
    shift, scale = rents.scaler_.shift[0], rents.scaler_.scale[0]
    assert shift == pytest.approx(RENT[:40].mean()) and f"{shift:.4g} ± {scale:.4g}" in card
    facts = dict(cells(section(card, "Fit")))
    assert facts["rows"] == "40" and facts["finished (UTC)"] == rents.summary_["finished"]
    assert facts["method"] == f"`{rents.method_!r}`" and facts["posterior"] == "Samples"
    assert rents.summary_["versions"]["jax"] == jax.__version__


@pytest.mark.slow
def test_scores_are_measured_or_absent(rents):
    assert "None were measured" in section(rents.card(), "Scores on held-out rows") and "`rmse`" not in rents.card()
    text = section(rents.card(FRAME[40:], RENT[40:]), "Scores on held-out rows")
    scores = metrics.scorecard(rents.predictive(FRAME[40:]), RENT[40:])
    expected = {name: f"{value:.4g}" for name, value in scores.items() if not name.endswith("_se") and name != "n"}
    assert {row[0].strip("`"): row[1] for row in cells(text)} == expected
    assert all(row[3] for row in cells(text)) and "Measured on 20 rows" in text
    assert cells(text)[0][2] == f"{scores['rmse_se']:.2g}"


def test_scores_of_classes_have_a_meaning(kinds):
    model, X = kinds
    text = section(model.card(X, model.predict(X)), "Scores on held-out rows")
    assert [row[0] for row in cells(text)][:2] == ["`accuracy`", "`confidence`"] and all(row[3] for row in cells(text))
    assert "2 classes of the target: `no`, `yes`" in model.card()


@pytest.mark.slow
def test_uncertainty_is_that_of_the_kind_of_posterior(rents, kinds):
    assert "the disagreement of 2 networks." in section(rents.card(), "What the uncertainties mean")
    assert "0 everywhere" in section(kinds[0].card(), "What the uncertainties mean")
    dropout = dubito.BayesianRegressor(dubito.MCDropout(epochs=2), draws=30, **SHORT).fit(FRAME[:40], RENT[:40])
    assert "30 networks drawn" in section(dropout.card(), "What the uncertainties mean")


@pytest.mark.parametrize(("policy", "words"), [("error", "raise an error"), ("ignore", "count as no category")])
def test_limits_follow_the_policies(rents, policy, words):
    try:
        rents.set_params(handle_unknown=policy)
        assert f"Categories that the fit has not seen {words}" in section(rents.card(), "Limits")
    finally:
        rents.set_params(handle_unknown="ignore")


def test_calibration_is_named(rents):
    assert "None after the fit" in section(rents.card(), "Calibration")
    try:
        rents.calibrate(FRAME[40:], RENT[40:], "conformal", coverage=0.8)
        assert (
            "`Conformal`: intervals are conformal, from held-out rows, with a coverage of 80 % for rows like these"
            in section(rents.card(), "Calibration")
        )
        assert "`conformal_coverage`" in rents.card(FRAME[40:], RENT[40:])
    finally:
        rents.calibration_ = None


@pytest.mark.parametrize("of", ["rents", "kinds"])
def test_a_saved_model_has_the_same_card_whose_instructions_run(of, request, tmp_path, monkeypatch):
    found = request.getfixturevalue(of)
    model, X = found if isinstance(found, tuple) else (found, FRAME[40:])
    monkeypatch.chdir(tmp_path)
    model.save("own model.dubito")
    card = dubito.load("own model.dubito").card(path="own model.dubito")

    def undated(text):
        return re.sub(r"card made.*", "", text)

    assert undated(card) == undated(model.card(path="own model.dubito"))
    names = {"X": X}
    exec(re.search(r"```python\n(.*?)```", card, re.DOTALL)[1], names)
    expected = model.predict(X)
    np.testing.assert_array_equal(names["labels" if of == "kinds" else "mean"], expected)


@pytest.mark.slow
def test_names_and_summaries_of_a_file_break_neither_page_nor_terminal():
    evil = "a|b`\n# head\x1b[31m\u202e"
    frame = pd.DataFrame({evil: [evil, "x"] * 10, "b": np.arange(20.0) % 7})
    model = dubito.BayesianRegressor(dubito.MAP(epochs=2), **SHORT).fit(frame, np.arange(20.0))
    model.summary_ = {"rows": "many", "finished": 3, "versions": [], "target": evil, "dropped": [evil], "seconds": True}
    card = model.card(unit=f"<b>{evil}")
    assert (
        "\x1b" not in card
        and "\u202e" not in card
        and "\n# head" not in card
        and "<b>" not in card.replace("\\<b\\>", "")
    )
    assert {len(row) for row in cells(section(card, "Inputs"))} == {4}
    assert dict(cells(section(card, "Fit")))["rows"] == "not recorded"
    assert {row[1] for row in cells(section(card, "Versions"))} == {"not recorded", ""}


def test_what_cannot_be_described_is_refused(rents):
    with pytest.raises(ValueError, match="both X and y"):
        rents.card(FRAME)
    with pytest.raises(NotFittedError):
        dubito.BayesianRegressor().card()
