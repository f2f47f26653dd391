"""The report as a browser would read it: one well-formed page, nothing fetched, no text taken for markup."""

import base64
import datetime
import html.parser
import importlib
import importlib.metadata
import importlib.resources
import io
import os
import platform
import re
import sys

import matplotlib
import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

import dubito
from dubito import cross_validation, diagnostics, metrics, plots, report
from dubito.evaluation.interpretation import Setting, interpret_scorecard
from dubito.posteriors.predictive import Predictive

VOID = {"meta", "img", "br", "link", "input", "hr"}
EVIL = '<script>alert("1")</script> & \'"'


class Page(html.parser.HTMLParser):
    """Elements as (tag, attributes, text below it), and an AssertionError for a tag that is closed out of turn."""

    def __init__(self, text):
        html.parser.HTMLParser.__init__(self)
        self.elements, self.open = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs)
        self.elements.append([tag, dict(attrs), ""])
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for element in self.open:
            element[2] += data

    def all(self, tag, **attributes):
        """The elements of a tag, whose attributes hold at least these."""
        return [one for one in self.elements if one[0] == tag and attributes.items() <= one[1].items()]

    def texts(self, tag, **attributes):
        return [one[2] for one in self.all(tag, **attributes)]


def picture(width=4.0):
    ax = plots.network_diagram([2, 3, 1], ax=Figure(figsize=(width, 3.0)).add_subplot())
    return ax.figure


def written(path, title="A title", sections=(), settings=None, seed=7):
    target = path / "report.html"
    report.write_report(target, title, sections, settings={"folds": 5} if settings is None else settings, seed=seed)
    return target.read_text("utf-8")


def regression(n=40, targets=1):
    rng = np.random.default_rng(0)
    z = {"mean": rng.normal(size=(3, n, targets)), "scale": rng.uniform(0.5, 1, (3, n, targets))}
    z = {name: leaf.astype(np.float32) for name, leaf in z.items()}
    return Predictive(dubito.Gaussian(targets=targets), z, np.zeros(targets), np.ones(targets)), rng.normal(
        size=(n, targets)
    )


def classification(n=40):
    rng = np.random.default_rng(1)
    z = {"logits": rng.normal(size=(3, n, 3)).astype(np.float32)}
    return Predictive(dubito.Categorical(classes=3), z, np.zeros(1), np.ones(1)), rng.integers(0, 3, n)


def test_report_page_contains_its_sections(tmp_path):
    table = report.Table("a caption", ("Method", "Score\nunit"), (("one", "1.0"), ("two", "2.0")), frozenset({(1, 1)}))
    sections = [
        report.Section("First", "one paragraph\n\nanother", [table], [("seen", "described", picture())]),
        report.Section("Second"),
    ]
    before = dict(matplotlib.rcParams)
    page = Page(written(tmp_path, sections=sections, settings={"folds": 5, "hidden": (50, 50)}))
    assert dict(matplotlib.rcParams) == before
    assert page.texts("title") == page.texts("h1") == ["A title"]
    assert page.texts("h2") == ["First", "Second", "Settings", "Versions"]
    today = datetime.date.today()
    assert page.texts("p", **{"class": "date"})[0] in {str(today), str(today - datetime.timedelta(1))}
    assert page.texts("p")[1:] == ["one paragraph", "another"]
    assert page.texts("caption") == ["a caption"]
    assert page.texts("th", scope="col") == ["Method", "Score\nunit"]
    assert page.texts("td", **{"class": "best"}) == ["2.0"]
    assert page.texts("figcaption") == ["seen"]
    assert [image[1]["alt"] for image in page.all("img")] == ["described"]
    rows = dict(zip(page.texts("th", scope="row"), page.texts("td"), strict=True))
    assert rows["one"] == "1.0" and rows["folds"] == "5" and rows["hidden"] == "(50, 50)" and rows["seed"] == "7"


def test_report_versions_are_those_installed_without_paths_or_hosts(tmp_path):
    page = Page(written(tmp_path, settings={}))
    rows = dict(zip(page.texts("th", scope="row"), page.texts("td"), strict=True))
    names = ("dubito", "jax", "jaxlib", "numpy", "optax", "scikit-learn")
    assert rows == {
        "seed": "7",
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{name: importlib.metadata.version(name) for name in names},
    }
    text = page.all("body")[0][2]
    for secret in filter(None, (platform.node(), os.getcwd(), str(tmp_path), sys.prefix)):
        assert not re.search(rf"(?<!\w){re.escape(secret)}(?!\w)", text)


def test_report_page_loads_nothing(tmp_path):
    text = written(tmp_path, sections=[report.Section("One", "", (), [("c", "a", picture())] * 2)])
    page = Page(text)
    allowed = {"html", "head", "meta", "title", "style", "body", "header", "main", "section", "h1", "h2", "p", "div"}
    allowed |= {
        "table",
        "caption",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "figure",
        "figcaption",
        "img",
        "ul",
        "li",
        "span",
    }
    assert {tag for tag, _, _ in page.elements} <= allowed
    loads = [(name, value) for _, attrs, _ in page.elements for name, value in attrs.items() if name in FETCHING]
    assert len(loads) == 2 and all(
        name == "src" and value.startswith("data:image/png;base64,") for name, value in loads
    )
    assert not re.search(r"://|url\(|@import", text)
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy[1]["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


FETCHING = {"src", "href", "srcset", "action", "data", "poster", "background", "onload", "onerror"}


def test_report_pictures_are_png_at_twice_their_width(tmp_path):
    figures = [("c", "a", picture(4.0)), ("c", "a", picture(2.5))]
    page = Page(written(tmp_path, sections=[report.Section("One", pictures=figures)]))
    for image, width in zip(page.all("img"), (400, 250), strict=True):
        data = base64.b64decode(image[1]["src"].removeprefix("data:image/png;base64,"), validate=True)
        pixels = matplotlib.image.imread(io.BytesIO(data), format="png")
        assert pixels.shape[:2] == (600, 2 * width)
        assert int(image[1]["width"]) == width
        assert np.all(pixels[0, 0, :3] == 1) and pixels.min() < 0.5  # white paper, and something on it


def test_report_escapes_all_texts(tmp_path):
    table = report.Table(EVIL, (EVIL, EVIL), ((EVIL, EVIL),), frozenset({(0, 1)}))
    sections = [report.Section(EVIL, EVIL, (table,), [(EVIL, EVIL, picture())])]
    text = written(tmp_path, EVIL, sections, {EVIL: EVIL}, EVIL)
    page = Page(text)
    assert page.all("script") == [] and "<script" not in text
    assert page.texts("h1") == [EVIL]
    assert page.texts("th", scope="col") == [EVIL, EVIL]
    assert page.texts("th", scope="row")[:2] == [EVIL, EVIL]
    (image,) = page.all("img")
    assert image[1]["alt"] == EVIL and set(image[1]) == {"src", "alt", "width"}


def test_write_report_is_atomic(tmp_path, monkeypatch):
    first = written(tmp_path, "first")
    assert os.stat(tmp_path / "report.html").st_mode & 0o777 == 0o666 & ~umask()
    assert "second" in written(tmp_path, "second") and "second" not in first

    def fails(source, target):
        raise OSError(28, "no space left")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="no space left"):
        written(tmp_path, "third")
    assert "second" in (tmp_path / "report.html").read_text("utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_write_report_without_its_folder_raises(tmp_path):
    with pytest.raises(FileNotFoundError):
        written(tmp_path / "absent")


def test_report_template_is_packaged():
    assert importlib.resources.files("dubito.inspection").joinpath("report.html.jinja").is_file()


def test_report_without_jinja_raises_an_error_with_the_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.delitem(sys.modules, "dubito.inspection.report")
    with pytest.raises(ImportError, match=r"pip install 'dubito\[plot\]'"):
        importlib.import_module("dubito.inspection.report")


@pytest.mark.parametrize(
    ("value", "se", "expected"),
    [
        (0.91234, 0.0123, "0.912 ± 0.012"),
        (0.91234, 0.0345, "0.91 ± 0.03"),
        (5.4321, 0.002, "5.432 ± 0.002"),
        (0.5, 0.00996, "0.500 ± 0.010"),
        (12345.6, 789.0, "12,300 ± 800"),
        (12345.6, 123.0, "12,350 ± 120"),
        (-0.3, 0.2, "-0.3 ± 0.2"),
        (-0.0001, 0.03, "0.00 ± 0.03"),
        (0.0, 0.03, "0.00 ± 0.03"),
        (1.23456e-7, 2e-9, "(1.23 ± 0.02)·10⁻⁷"),
        (4.5e8, 1.2e7, "(4.50 ± 0.12)·10⁸"),
        (121.3349, 1e-9, "121.33 ± 0.00"),
        (0.97, 0.0, "0.970 ± 0.000"),
        (1.0, float("nan"), "1.00"),
        (0.0, float("nan"), "0.00"),
        (float("inf"), float("nan"), "∞"),
        (float("-inf"), float("nan"), "−∞"),
        (float("nan"), float("nan"), "–"),
    ],
)
def test_round_to_error_examples(value, se, expected):
    assert report.round_to_error(value, se).replace("\u00a0", " ") == expected


@pytest.mark.parametrize("seed", range(5))
def test_round_to_error_loses_less_than_half_of_the_last_digit(seed):
    rng = np.random.default_rng(seed)
    for _ in range(200):
        value = rng.normal() * 10 ** rng.uniform(-3, 5)
        se = abs(value) * 10 ** rng.uniform(-3, 1)
        text = report.round_to_error(value, se).replace("\u00a0", " ").replace(",", "")
        scale = 1.0
        if text.startswith("("):
            text, power = text[1:].split(")·10")
            scale = 10.0 ** int(power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")))
        shown, error = (scale * float(part) for part in text.split(" ± "))
        # one digit of an error of at least 2 is off by at most ½ of it in 2, two digits of 1.0 by 0.05 in 1.0
        assert abs(shown - value) <= 0.25 * se * (1 + 1e-9)
        assert abs(error - se) <= 0.25 * se * (1 + 1e-9)


def test_scorecard_table_of_three_methods():
    rows = [
        ("<b>", {"rmse": 2.04, "rmse_se": 0.3, "coverage_90": 0.80, "mean_width_90": 1.0, "r2": 0.5, "n": 1234}),
        ("two", {"rmse": 1.96, "rmse_se": 0.3, "coverage_90": 0.95, "mean_width_90": 2.0, "n": 1234}),
        ("three", {"rmse": 9.0, "rmse_se": 0.3, "coverage_90": 0.97, "mean_width_90": 3.0, "r2": 0.7, "n": 1234}),
    ]
    table = report.scorecard_table(rows)
    names = ("Method", "RMSE\ntarget's unit", "R²\nup to 1", "In 90 %\nfraction of rows", "Width\ntarget's unit")
    assert table.header == names
    assert [row[0] for row in table.rows] == ["<b>", "two", "three"]
    assert table.rows[1] == ("two", "2.0 ±\u00a00.3", "–", "0.950", "2.00")
    # both round to 2.0; the higher R²; the coverage nearest to 0.9; no width is best
    assert table.best == {(0, 1), (1, 1), (2, 2), (1, 3)}
    assert table.caption.startswith(
        "1,234 rows. Scores ± one standard error over rows, the best in bold. RMSE: root mean"
    )


def test_scorecard_table_of_one_method_has_no_best():
    table = report.scorecard_table([("one", {"nll": 1.0, "nll_se": 0.1})])
    assert table.best == frozenset() and "bold" not in table.caption and table.caption.startswith("Scores ±")


def test_scorecard_table_infinite_score_is_not_best():
    rows = [("one", {"nll": np.inf}), ("two", {"nll": 3.0})]
    assert report.scorecard_table(rows).best == {(1, 1)}
    assert report.scorecard_table(rows[:1] * 2).best == frozenset()


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (regression(), ["± one standard", "Both curves", "nominal coverage", "Held-out rows", "inner band"]),
        (regression(targets=2), ["± one standard", "Both curves", "nominal coverage"]),
        (classification(), ["± one standard", "Both curves", "accuracy equals the confidence"]),
    ],
)
def test_data_section_contains_scores_and_plots(tmp_path, case, expected):
    predictive, y = case
    card = metrics.scorecard(predictive, y)
    x = np.arange(len(y)) if len(expected) == 5 else None
    section = report.data_section(
        "Data", [("one", card), ("<i>", card)], "one", predictive, y, x=x, history=[np.ones((4, 3))], posterior=MIXED
    )
    assert (
        section.text
        == f"one: {interpret_scorecard(card)}\n\none: {diagnostics.monte_carlo(predictive, MIXED, y).sentence}"
    )
    page = Page(written(tmp_path, sections=[section]))
    captions = page.texts("figcaption")
    assert len(captions) == len(expected)
    assert all(part in caption for part, caption in zip(expected, captions, strict=True))
    assert page.all("i") == [] and page.texts("th", scope="row")[:2] == ["one", "<i>"]
    value, se = report.round_to_error(card["nll"], card["nll_se"]).split(BETWEEN)
    assert f"{value}{BETWEEN}{se}" in page.texts("td")


MIXED = dubito.Mixture(None, ())  # of which nothing but its kind is asked for
BETWEEN = " ±\u00a0"


def test_report_points_are_a_list(tmp_path):
    page = Page(written(tmp_path, sections=[report.Section("Conclusions", points=("one", EVIL))]))
    assert page.texts("li") == ["one", EVIL] and page.all("script") == []


def test_describe_settings_lists_what_is_not_the_default():
    rng = np.random.default_rng(0)
    model = dubito.BayesianRegressor(dubito.MAP(epochs=2), random_state=0).fit(
        rng.normal(size=(30, 55)), rng.normal(size=30)
    )
    text = report.describe_settings(model)
    assert text.startswith(
        "MAP(epochs=2); MLP(inputs=55, hidden=(50,), outputs=1, numeric=55 columns, input_limit=10.0); Gaussian("
    )
    assert report.describe_settings(dubito.Ensemble(dubito.MAP(), 7)) == "Ensemble(method=MAP(), size=7)"


def test_draws_text_names_the_argument_that_would_help():
    error = diagnostics.monte_carlo(regression()[0], MIXED)
    text = report.draws_text(
        [("a", error), ("b", error, None), ("c", error, Setting("Ensemble(size=9)", "--set size=9"))]
    )
    assert text.split("\n\n")[2] == f"c: {error.sentence} To have enough, use Ensemble(size=9)."
    assert text.split("\n\n")[:2] == [f"a: {error.sentence}", f"b: {error.sentence}"]


def test_data_section_accepts_an_infinite_loss():
    predictive, y = regression()
    cards = [("one", {"nll": np.inf}), ("two", {"nll": np.inf})]
    assert len(report.data_section("Data", cards, "one", predictive, y).pictures) == 2


@pytest.mark.slow
def test_comparison_report_contains_scores_and_differences(tmp_path):
    x = np.linspace(-1, 1, 40)[:, None]
    models = {
        f"{epochs} epochs": dubito.BayesianRegressor(dubito.MAP(epochs=epochs), hidden=(4,), random_state=0)
        for epochs in (1, 20)
    }
    models["three"] = dubito.BayesianRegressor(dubito.Ensemble(dubito.MAP(epochs=1), 3), hidden=(4,), random_state=0)
    rows = cross_validation.compare(models, x, np.sin(3 * x[:, 0]), folds=2)
    report.comparison_report(tmp_path / "r.html", "Two", rows, settings={"folds": 2}, seed=3)
    page = Page((tmp_path / "r.html").read_text("utf-8"))
    names = [text.split("\n")[0] for text in page.texts("th", scope="col")]
    assert names == ["Method", "RMSE", "MAE", "NLL", "CRPS", "In 90 %", "Width", "Δ NLL", "Time"]
    assert page.texts("th", scope="row")[:3] == [row.name for row in rows]
    assert [text.split(" ")[:4] for text in page.texts("p") if "three:" in text] == [["three:", "3", "members", "are"]]
    assert page.texts("h2")[0] == "Conclusions" and page.texts("p")[1] == cross_validation.interpretation(rows)
    assert page.texts("h2").index("Are the draws enough?") == len(page.texts("h2")) - 3  # settings and versions follow
    assert [image[1]["alt"].split(":")[0] for image in page.all("img")] == ["A dot and an error bar per method"] * 2
    cells = page.texts("td")
    assert cells[2] == report.round_to_error(rows[0].scores["nll"].value, rows[0].scores["nll"].se)
    assert cells[6] == "–" and cells[14] == report.round_to_error(rows[1].difference.value, rows[1].difference.se)
    assert len(page.all("img")) == 2
