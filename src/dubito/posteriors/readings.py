"""What is read from a predictive distribution: equal-tailed intervals, columns for a table, a summary for people."""

import html
import textwrap
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from dubito._check import check_number

FIRST_ROWS, FIRST_COLUMNS, CELL = 5, 12, 40  # what HTML shows: rows, columns, characters of a text


def equal_tailed(
    predictive: Any, coverage: float
) -> tuple[Float[np.ndarray, "rows *targets"], Float[np.ndarray, "rows *targets"]]:
    """The equal-tailed interval (lower, upper). Raises ValueError unless 0 < coverage < 1."""
    check_number("coverage", coverage, "(0, 1)")
    lower, upper = predictive.quantile([(1 - coverage) / 2, (1 + coverage) / 2])
    return lower, upper


def prediction_columns(predictive: Any, coverage: float = 0.9) -> dict[str, Shaped[np.ndarray, " rows"]]:
    """The predictions of all rows, by the names that they have in a table.

    Parameters
    ----------
    predictive : PredictiveDistribution
        Of a regression or a classification.
    coverage : float
        The coverage of the interval of a regression.

    Returns
    -------
    dict
        For a regression mean, std, epistemic_std, aleatoric_std, lower and upper, whose names end in
        _0, _1, ... for several targets; a ``Criterion`` has only mean and epistemic_std. For classes
        prediction, p_LABEL of each class, entropy and mutual_information.
    """
    if predictive.task == "regression":
        each = predictive.columnwise
        noise, found = each.supports("variance"), {"mean": each.mean}
        found |= {"std": each.std} if noise else {}
        found |= {"epistemic_std": each.epistemic_std}
        found |= {"aleatoric_std": each.aleatoric_std} if noise else {}
        found |= dict(zip(("lower", "upper"), each.interval(coverage), strict=True)) if each.supports("cdf") else {}
        endings = [""] if each.columns == 1 else [f"_{k}" for k in range(each.columns)]
        return {f"{name}{ending}": value[:, k] for k, ending in enumerate(endings) for name, value in found.items()}
    probs = predictive.probs
    labels = np.arange(probs.shape[1]) if predictive.classes is None else np.asarray(predictive.classes)
    columns = {"prediction": labels[probs.argmax(1)]}
    columns |= {f"p_{label}": probs[:, place] for place, label in enumerate(labels.tolist())}
    return columns | {"entropy": predictive.entropy, "mutual_information": predictive.mutual_information}


def head_lines(predictive: Any) -> list[str]:
    """What a predictive distribution is, in a few short lines.

    Parameters
    ----------
    predictive : PredictiveDistribution
        Of a regression or a classification.

    Returns
    -------
    list of str
        Its class, numbers of rows, columns and draws, classes, likelihood and method.
    """
    columns = ("target", "targets") if predictive.task == "regression" else ("class", "classes")
    numbers = len(predictive), predictive.columns, len(predictive.draws)
    counts = zip(numbers, (("row", "rows"), columns, ("draw", "draws")), strict=True)
    lines = [f"{predictive.task}: {', '.join(f'{count:,} {unit[count != 1]}' for count, unit in counts)}"]
    classes = [] if predictive.classes is None else predictive.classes.tolist()
    lines += [f"classes: {', '.join(map(str, classes))}"] if classes else []
    lines += [f"likelihood: {predictive.likelihood!r}"]
    lines += [f"method: {predictive.description}"] if predictive.description else []
    return [type(predictive).__name__, *(textwrap.shorten(line, 100, placeholder=" ...") for line in lines)]


def html_table(predictive: Any) -> str:
    """What a notebook shows: ``head_lines``, and the predictions of the first rows.

    At most 1,024 rows are evaluated, however many there are.

    Parameters
    ----------
    predictive : PredictiveDistribution
        Of a regression or a classification.

    Returns
    -------
    str
        HTML, in which all texts are escaped.
    """
    text = f"<pre>{html.escape(chr(10).join(head_lines(predictive)))}</pre>"
    part = next(iter(predictive.by_rows()), None)
    if part is None or len(part) == 0:
        return f"<div>{text}</div>"
    found = prediction_columns(part, predictive.coverage)
    names = [*found][:FIRST_COLUMNS]
    head = "".join(f"<th>{_cell(name)}</th>" for name in ("", *names))
    first = [found[name][:FIRST_ROWS].tolist() for name in names]
    body = "".join(
        f"<tr><th>{row}</th>{''.join(f'<td>{_cell(value)}</td>' for value in cells)}</tr>"
        for row, cells in enumerate(zip(*first, strict=True))
    )
    intervals = any(name.startswith("lower") for name in found) and predictive.task == "regression"
    notes = [f"lower, upper: {100 * predictive.coverage:g} % interval"] if intervals else []
    rows, columns = len(predictive) - FIRST_ROWS, len(found) - FIRST_COLUMNS
    for count, unit in ((rows, "row"), (columns, "column")):
        notes += [f"… {count:,} more {unit}{'s' * (count != 1)}"] if count > 0 else []
    below = f"<p>{' · '.join(notes)}</p>" if notes else ""
    return f"<div>{text}<table><tr>{head}</tr>{body}</table>{below}</div>"


def _cell(value: Any) -> str:
    """A number with four digits, or a text, shortened and escaped."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return html.escape(text if len(text) <= CELL else f"{text[: CELL - 1]}…")


def square(sd: np.ndarray) -> np.ndarray:
    """sd², ∞ where it overflows without a warning; 0 stays 0."""
    with np.errstate(over="ignore", under="ignore"):
        return sd**2
