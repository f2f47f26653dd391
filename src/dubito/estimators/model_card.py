"""A model card: what a fitted estimator predicts, from what, how well, and where it must not be trusted, in Markdown."""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dubito._process.versions import library_versions
from dubito._values import Column, Table
from dubito.evaluation import diagnostics, metrics
from dubito.evaluation.calibrated import ConformalRule
from dubito.evaluation.conformal import CVPlus
from dubito.evaluation.interpretation import interpret_predictive, join_names, percent
from dubito.models.likelihoods.by_name import LIKELIHOODS
from dubito.models.networks import MLP
from dubito.models.noise_network import MeanAndNoiseNetwork, noise_std
from dubito.tables.dates import TIMES
from dubito.tables.encoding import ColumnEncoding

MOST_COLUMNS, MOST_CATEGORIES, MOST_CLASSES = 200, 12, 50  # that a card lists
UNKNOWN = "not recorded"
SCORES = {
    "rmse": "root mean squared error of the predicted mean, in the target's unit",
    "mae": "mean absolute error of the predicted mean, in the target's unit",
    "r2": "fraction of the target's variance that the predicted mean explains",
    "nll": "mean negative log likelihood, in nats per row; lower is better",
    "crps": "continuous ranked probability score, in the target's unit; lower is better",
    **{f"coverage_{level}": f"fraction of rows inside their {level} % interval" for level in (50, 80, 90, 95)},
    "mean_width_90": "mean width of the 90 % intervals, in the target's unit",
    "accuracy": "fraction of rows whose most probable class is right",
    "confidence": "mean probability of the most probable class; calibrated if it equals the accuracy",
    "brier": "Brier score; lower is better",
    "ece": "expected calibration error",
    "auroc": "area under the ROC curve",
    "set_coverage": "fraction of rows whose class is in the conformal set",
    "set_size": "mean number of classes in the conformal set",
    "conformal_coverage": "fraction of rows inside their conformal interval",
    "conformal_width": "mean width of the conformal intervals, in the target's unit",
}


class Subject(NamedTuple):
    """What a card is about, in the words of its reader.

    Attributes
    ----------
    target : str or None
        The name of the target.
    unit : str or None
        Its unit.
    path : str
        The model file in the instructions.
    """

    target: str | None
    unit: str | None
    path: str


def model_card(
    model: Any, X: Table = None, y: Column = None, subject: Subject = Subject(None, None, "model.dubito")
) -> str:
    """The model card of a fitted estimator; see ``FittedEstimator.card``."""
    if (X is None) != (y is None):
        raise ValueError("a card needs both X and y of held-out rows, or neither")
    stored = _of_kind(model.summary_, "target", str)
    subject = subject if subject.target is not None or stored is None else subject._replace(target=stored)
    name = "the target" if subject.target is None else _code(subject.target)
    title = "Model card" if subject.target is None else f"Model card: {name}"
    sections = {
        "What it predicts": _prediction(model, name, subject.unit),
        "Inputs": _inputs(model),
        "Fit": _fit(model),
        "Scores on held-out rows": _scores(model, X, y),
        "Calibration": _calibration(model),
        "What the uncertainties mean": _uncertainty(model),
        "Limits": _limits(model),
        "Use": _use(model, subject),
        "Versions": _versions(model),
    }
    parts = [f"# {title}", *(f"## {head}\n\n{text}" for head, text in sections.items())]
    return "\n\n".join(parts) + "\n"


def _prediction(model: Any, name: str, unit: str | None) -> str:
    likelihood = model.posterior_.model.likelihood
    entry = next((entry for entry in LIKELIHOODS.values() if type(likelihood) is entry.kind), None)
    noise = type(likelihood).__name__ if entry is None else f"{type(likelihood).__name__}, for {entry.targets}"
    if model.task == "classification":
        labels = [_code(label) for label in model._classes.tolist()]
        lines = [f"The probability of each of {len(labels)} classes of {name}: {_listed(labels, MOST_CLASSES)}."]
        lines.append(f"Likelihood: {noise}.")
        if model.class_weight is not None:
            lines.append(
                "The classes were weighted in the fit, so probabilities are those of a population with other shares."
            )
        return "\n".join(lines)
    scaler, count = model.scaler_, len(model.scaler_.shift)
    what = f"For each row a distribution of {name}" + (f" ({count} targets)" if count > 1 else "")
    in_unit = "in the unit that it had in the fit" if unit is None else f"in {_plain(unit)}"
    lines = [f"{what}, {in_unit}: mean, standard deviation, quantiles, intervals.", f"Likelihood: {noise}."]
    if model.transform_ is not None:
        lines.append(
            f"The model was fitted to a transform of the target, {_code(model.transform_)}; its answers are transformed back."
        )
    elif likelihood.standardizes_targets and likelihood.bounds[0] != 0:
        pairs = [f"{shift:.4g} ± {scale:.4g}" for shift, scale in zip(scaler.shift, scaler.scale, strict=True)]
        lines.append(
            f"Shift ± scale by which the targets of the fit were standardized: {_listed(pairs, MOST_CLASSES)}."
        )
    return "\n".join(lines)


def _inputs(model: Any) -> str:
    schema = model.schema_
    rows = [
        (_code(column.name), column.kind, _encoding(column), _missing(column, model.missing))
        for column in schema.columns
    ]
    if not schema.named:
        rows = [(f"column {number}", *row[1:]) for number, row in enumerate(rows)]
    if len(rows) > MOST_COLUMNS:
        more = f"{len(rows) - MOST_COLUMNS:,} more columns"
        rows = [*rows[:MOST_COLUMNS], (more, "", "", "")]
    order = "Columns are found by their names" if schema.named else "The columns of an array, in this order"
    text = f"{order}; the network sees {schema.width} encoded columns. Numbers are those of the fit's own rows.\n\n"
    dropped = [_code(each) for each in _of_kind(model.summary_, "dropped", list) or ()]
    more = f"\n\nLeft out by request: {_listed(dropped, MOST_COLUMNS)}." if dropped else ""
    return text + _table(("column", "kind", "encoded as", "missing values"), rows) + more


def _encoding(column: ColumnEncoding) -> str:
    """How a column is encoded, in words."""
    match column.kind:
        case "left out":
            return "not used"
        case "boolean":
            return "−1 and 1"
        case "category":
            listed = _listed([_code(each) for each in column.categories], MOST_CATEGORIES)
            return f"0 or 1 for each of {listed}" + ("; one more for all others" if column.pooled else "")
        case "time":
            center = np.datetime64(round(column.shift), "s") if abs(column.shift) < 1e11 else f"{column.shift:.6g} s"
            text = f"(time − {center}) / {column.scale / 86400:.4g} days"
        case "clock":
            text = f"(seconds since midnight − {column.shift:.6g}) / {column.scale:.6g}"
        case _:
            text = f"(x − {column.shift:.6g}) / {column.scale:.6g}"
    return text + (f"; phase of the {join_names(column.cycles)}" if column.cycles else "")


def _missing(column: ColumnEncoding, policy: str) -> str:
    """What happens to the missing values of a column."""
    if column.kind == "left out":
        return ""
    if policy == "error":
        return "refused"
    center = {"category": "no category", "boolean": "0"}.get(column.kind, "the mean")
    return f"{center}, and marked" if column.missing else f"{center}, but there were none in the fit"


def _fit(model: Any) -> str:
    summary, posterior = model.summary_, model.posterior_
    rows, seconds = _of_kind(summary, "rows", float), _of_kind(summary, "seconds", float)
    facts = [("rows", UNKNOWN if rows is None else f"{rows:,}")]
    facts.append(("finished (UTC)", _plain(_of_kind(summary, "finished", str) or UNKNOWN)))
    facts.append(("seconds", UNKNOWN if seconds is None else f"{seconds:.3g}"))
    facts.append(("method", _code(repr(model.method_))))
    facts += [("network", _code(repr(posterior.model.network))), ("prior", _code(repr(posterior.model.prior)))]
    facts.append(("posterior", type(posterior).__name__))
    if model.early_stopping:
        facts.append(("early stopping", f"yes, on {percent(model.validation_fraction)} of the rows"))
    known = noise_std(posterior.model)
    if known is not None and model.transform_ is None:
        stds = [f"{one * scale:.4g}" for one, scale in zip(known, model.scaler_.scale, strict=True)]
        facts.append(("standard deviation of the noise, from held-out residuals", _listed(stds, MOST_CLASSES)))
    facts.append(("random_state", _code(repr(model.random_state))))
    return _table(("", ""), facts)


def _scores(model: Any, X: Table, y: Column) -> str:
    if X is None or y is None:
        shell = (
            "" if _of_kind(model.summary_, "target", str) is None else ", `dubito card MODEL TABLE` on the command line"
        )
        when = "Measure them on rows that were used neither in the fit nor in a calibration"
        return f"None were measured for this card. {when}: `model.card(X, y)` in Python{shell}."
    answer = model.predictive(X)
    card = metrics.scorecard(answer, y)
    unsure = diagnostics.monte_carlo(
        answer if model.calibration_ is None else model.uncalibrated(X), model.posterior_, y
    )
    rows = [
        (f"`{name}`", f"{value:.4g}", f"{card[f'{name}_se']:.2g}" if f"{name}_se" in card else "", SCORES.get(name, ""))
        for name, value in card.items()
        if not name.endswith("_se") and name not in ("n", "missing")
    ]
    count, sentence = int(card["n"]), interpret_predictive(answer, card)
    lines = [
        f"Measured on {count:,} rows when this card was made. Whether they were used in the fit is not known to the model."
    ]
    if "missing" in card:
        lines[0] += f" {int(card['missing']):,} entries of the targets were missing."
    lines.append(_table(("score", "value", "standard error", "meaning"), rows))
    return "\n\n".join([*lines, *[one for one in (sentence, unsure.sentence) if one]])


def _calibration(model: Any) -> str:
    calibration = model.calibration_
    if calibration is None:
        return "None after the fit: predictions are those of the posterior. `model.calibrate` or `dubito calibrate` calibrate them on held-out rows."
    kind = _code(type(calibration).__name__)
    if isinstance(calibration, ConformalRule):
        what = "intervals" if model.task == "regression" else "sets of classes"
        source = (
            "the errors of members at rows that they held out" if isinstance(calibration, CVPlus) else "held-out rows"
        )
        rule = f"{what} are conformal, from {source}, with a coverage of {percent(calibration.coverage)} for rows like these"
        return f"{kind}: {rule}. All other answers are those of the posterior."
    return f"{kind}: all predictions are mapped by a function that was learned from held-out rows."


def _uncertainty(model: Any) -> str:
    count = len(model._functions())
    kind, runs = diagnostics.draw_structure(model.posterior_, count)
    noise = "the noise of the target that remains when the inputs are known, as the likelihood describes it. More rows do not reduce it."
    members = {
        "point": "0 everywhere: the model is one set of weights. Its predictions contain noise only, even where it has seen no rows.",
        "members": f"the disagreement of {runs:,} networks",
        "chains": f"the disagreement of {count:,} draws of {runs:,} Markov chains from the posterior",
        "independent": f"the disagreement of {count:,} networks drawn from the approximate posterior",
    }[kind]
    more = (
        ""
        if kind == "point"
        else ". More rows reduce it; it should be larger where the fit had few rows, which is not guaranteed."
    )
    both = "The variance of a prediction is the sum of both."
    if model.task == "classification":
        both = (
            "The entropy of a prediction is the sum of the mean entropy of the networks and their mutual information."
        )
    return f"- *Aleatoric uncertainty* is {noise}\n- *Epistemic uncertainty* is {members}{more}\n\n{both}"


def _limits(model: Any) -> str:
    network = model.posterior_.model.network
    network = network.mean if isinstance(network, MeanAndNoiseNetwork) else network
    limit = network.input_limit if isinstance(network, MLP) else None
    far = "Rows unlike those of the fit are extrapolated: their intervals may be too narrow, however they score elsewhere."
    if limit is not None:
        far += f" Inputs are clipped at {limit:g} standard deviations from their mean in the fit."
    lines = [
        far,
        "Scores and coverages hold for rows from the same source as the held-out ones, not after it has changed.",
    ]
    if any(column.kind == "category" for column in model.schema_.columns):
        unseen = {
            "error": "raise an error",
            "ignore": "count as no category (or as the others, where these are pooled)",
        }
        lines.append(f"Categories that the fit has not seen {unseen[model.handle_unknown]}.")
    fills = "are filled as the table of inputs says, which does not in general increase the uncertainty"
    lines.append(f"Missing inputs {'raise an error' if model.missing == 'error' else fills}.")
    if any(column.kind in TIMES for column in model.schema_.columns):
        lines.append("Times after those of the fit are extrapolated.")
    lines.append("The inputs predict the target; that does not make them its causes.")
    return "\n".join(f"- {line}" for line in lines)


def _use(model: Any, subject: Subject) -> str:
    if model.task == "classification":
        answers = "labels = model.predict(X)\nprobabilities = model.predict_proba(X)"
    else:
        answers = (
            "mean, std = model.predict(X, return_std=True)\nlower, upper = model.predict_interval(X, coverage=0.9)"
        )
    frame = (
        "a frame with the columns above" if model.schema_.named else f"an array (rows, {len(model.schema_.columns)})"
    )
    python = f"import dubito\n\nmodel = dubito.load({subject.path!r})\n{answers}"
    text = f"In Python, for `X`, {frame}:\n\n```python\n{python}\n```"
    if model.schema_.named and all(letter.isalnum() or letter in "._-/" for letter in subject.path):
        text += f"\n\nOn the command line:\n\n```sh\ndubito predict {subject.path} new.csv -o predictions.csv\n```"
    return text


def _versions(model: Any) -> str:
    fitted = _of_kind(model.summary_, "versions", dict) or {}
    rows = [(name, _plain(fitted.get(name, UNKNOWN)), version) for name, version in library_versions().items()]
    made = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return _table(("", "at the fit", "when this card was made"), [*rows, ("card made (UTC)", "", made)])


def _of_kind(summary: Mapping[str, Any], name: str, kind: type) -> Any:
    """A value of a summary, which a file may hold in any form; None if it is not of this kind."""
    value = summary.get(name)
    number = kind is float and isinstance(value, int | float) and not isinstance(value, bool)
    return value if number or isinstance(value, kind) else None


def _plain(value: Any) -> str:
    """A text that does not control a terminal, and no Markdown."""
    text = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(value))
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in text)


def _code(value: Any) -> str:
    """A text as code, also in a table."""
    text = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(value))
    escaped = text.replace("`", "'").replace("|", "\\|")
    return f"`{escaped}`" if escaped.strip() else "(empty)"


def _listed(texts: Sequence[str], most: int) -> str:
    """Texts with commas between them, some at most."""
    more = [f"{len(texts) - most:,} more"] if len(texts) > most else []
    return ", ".join([*texts[:most], *more])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)
