"""The meaning of a scorecard, in sentences: are intervals calibrated, which method is best, what would give more draws.

Rows count as independent. A claim is made if chance alone would give such scores in fewer than
``TAIL`` of all cases, on either side; "far" and "strongly" also need an effect that is large beyond
sampling error.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from scipy import special, stats

from dubito.evaluation.conformal import ConformalPredictive
from dubito.evaluation.diagnostics import MOST_DRAWS, MonteCarloError
from dubito.evaluation.metrics import Score
from dubito.posteriors.base import Samples
from dubito.training.method import Method, Wrapper

TAIL = 0.01  # probability of a false claim on either side
NORMAL = float(special.ndtri(1 - TAIL))  # so many standard errors
# Rows: 0.9**44 < TAIL, so with fewer not even 90 % intervals that contain every row can be shown to be too wide.
FEWEST = 44
SLIGHT, CLEAR, FAR = 1.1, 1.2, 1.4  # ratios of interval widths: for normal noise, 1.4 is a coverage of 76 or of 98 %
BINS = 15  # of ``metrics.ece``
MEMBERS = 100  # at most, where more are advised

Card: TypeAlias = dict[str, float]


def interpret_scorecard(card: Card, *, discrete: bool = False, conformal: float | None = None) -> str:
    """One or two sentences on a scorecard.

    Parameters
    ----------
    card : dict
        As of ``metrics.scorecard``.
    discrete : bool
        Whether the target is whole numbers, whose intervals contain more rows than their nominal
        coverage without being too wide.
    conformal : float, optional
        The coverage of conformal intervals or sets, which are then judged in place of the
        predictive's own.

    Returns
    -------
    str
        Empty if the card has nothing that the sentences are about.
    """
    rows, found = int(card["n"]), [_r2_sentence(card)]
    if conformal is not None and "conformal_coverage" in card:
        own = card["conformal_coverage"], rows, conformal, discrete
        found.append(_coverage_sentence(f"Conformal {percent(conformal)} intervals", *own))
    elif "coverage_90" in card:
        found.append(_coverage_sentence("90 % intervals", card["coverage_90"], rows, 0.9, discrete))
    if {"accuracy", "confidence"} <= set(card):
        found.append(_confidence_sentence(card))
    if conformal is not None and "set_coverage" in card:
        own = card["set_coverage"], rows, conformal, True
        found.append(_coverage_sentence(f"Conformal {percent(conformal)} sets", *own))
    return " ".join(filter(None, found))


def interpret_predictive(predictive: Any, card: Card) -> str:
    """One or two sentences on the scorecard of a predictive distribution; see ``interpret_scorecard``.

    Parameters
    ----------
    predictive : PredictiveDistribution
        The predictive distribution. Of a conformal one its own intervals or sets are judged.
    card : dict
        Its ``metrics.scorecard``.

    Returns
    -------
    str
        The sentences.
    """
    coverage = predictive.conformal.coverage if isinstance(predictive, ConformalPredictive) else None
    return interpret_scorecard(card, discrete=predictive.discrete, conformal=coverage)


def interpret_comparison(
    cards: Sequence[tuple[str, Card]], difference: Score | None = None, *, discrete: bool = False
) -> str:
    """Sentences on several methods: which is best, whether significantly, and whose intervals or probabilities are calibrated.

    Parameters
    ----------
    cards : list of (str, dict)
        Pairs of a name and its ``metrics.scorecard``, the best NLL first.
    difference : Score, optional
        The second's NLL minus the best one's, paired by rows.
    discrete : bool
        As for ``interpret_scorecard``.

    Returns
    -------
    str
        Empty if the cards have nothing that the sentences are about.
    """
    best = "" if difference is None or len(cards) < 2 else _best_sentence(cards[0][0], cards[1][0], difference)
    groups: dict[str, list[str]] = {}
    for name, card in cards:
        if "coverage_90" in card:
            judged = judge_coverage(card["coverage_90"], int(card["n"]), 0.9, discrete=discrete)
            groups.setdefault(judged, []).append(f"{name} ({percent(card['coverage_90'])})")
        elif {"accuracy", "confidence"} <= set(card):
            judged = judge_confidence(card["accuracy"], card["confidence"], int(card["n"]))
            groups.setdefault(judged, []).append(name)
    if not groups:
        return best
    what = "90 % intervals" if any("coverage_90" in card for _, card in cards) else "Class probabilities"
    parts = [f"{WORDS.get(judged, judged)}: {join_names(groups[judged])}" for judged in sorted(groups, key=_severity)]
    return f"{best} {what} are {'; '.join(parts)}.".strip()


WORDS = {"right": "calibrated within sampling error", "unclear": "not judged (too few rows)"}


def _severity(judged: str) -> int:
    """Calibrated ones first, the worst last."""
    return [*WORDS].index(judged) if judged in WORDS else 2 + judged.startswith(("far", "strongly"))


def judge_coverage(share: float, rows: int, level: float, *, discrete: bool = False) -> str:
    """Whether intervals are too narrow or too wide, by an exact binomial test.

    The size of the error is the ratio of widths of normal intervals that would contain ``level``
    and ``share``; it is "far" beyond ``FAR``, if it is also beyond ``CLEAR`` at the confidence limit.

    Parameters
    ----------
    share : float
        The fraction of rows inside the intervals.
    rows : int
        The number of rows.
    level : float
        The nominal coverage.
    discrete : bool
        As for ``interpret_scorecard``.

    Returns
    -------
    str
        ``"right"`` (within sampling error), ``"unclear"`` (too few rows), or ``"slightly too
        narrow"``, ``"too wide"``, ``"far too wide"`` etc.
    """
    below, above, limit = _tails(share, rows, level)
    narrow = below < TAIL
    if not (narrow or above < TAIL) or discrete and not narrow:
        return "right" if narrow or rows >= FEWEST or discrete else "unclear"
    ratio, least = (abs(math.log(_reach(level) / max(_reach(one), 1e-9))) for one in (share, limit))
    far = ratio > math.log(FAR) and least > math.log(CLEAR)
    size = "far " if far else "slightly " if ratio < math.log(SLIGHT) else ""
    return f"{size}too {'narrow' if narrow else 'wide'}"


def judge_confidence(accuracy: float, confidence: float, rows: int) -> str:
    """Whether a classifier is overconfident or underconfident, by a binomial test.

    If each row is correct with its own probability, the number of correct rows varies less than a
    binomial's, so the test is conservative. The error is "strong" if there are at least twice or at
    most half as many wrong rows as expected, or 5 % of the rows more or fewer, at the confidence
    limit.

    Parameters
    ----------
    accuracy : float
        The fraction of rows that are classified correctly.
    confidence : float
        The mean probability of the predicted class.
    rows : int
        The number of rows.

    Returns
    -------
    str
        ``"right"`` (within sampling error), ``"unclear"`` (too few rows), ``"overconfident"``,
        ``"strongly underconfident"`` etc.
    """
    below, above, limit = _tails(accuracy, rows, confidence)
    if below >= TAIL and above >= TAIL:
        return "right" if rows >= FEWEST else "unclear"
    wrong, promised = 1 - limit, 1 - confidence
    strongly = abs(limit - confidence) > 0.05 or not 0.5 <= wrong / max(promised, 1e-12) <= 2
    return f"{'strongly ' if strongly else ''}{'over' if below < TAIL else 'under'}confident"


def _tails(share: float, rows: int, level: float) -> tuple[float, float, float]:
    """P(as few or fewer), P(as many or more) of a binomial of probability ``level``, and the limit of ``share`` next to it.

    A share that is not a whole number of rows (several targets) is rounded towards no claim.
    """
    low, high = math.floor(share * rows + 1e-6), math.ceil(share * rows - 1e-6)
    level = min(max(level, 0.0), 1.0)
    below, above = stats.binom.cdf(high, rows, level), stats.binom.sf(low - 1, rows, level)
    if share < level:
        limit = stats.beta.ppf(1 - TAIL, high + 1, rows - high) if high < rows else 1.0
    else:
        limit = stats.beta.ppf(TAIL, low, rows - low + 1) if low > 0 else 0.0
    return float(below), float(above), float(limit)


def _reach(share: float) -> float:
    """Standard deviations on either side of the mean that contain ``share`` of a normal distribution."""
    return float(special.ndtri(0.5 + 0.5 * min(share, 1 - 1e-12)))


def _r2_sentence(card: Card) -> str:
    """The error relative to the target's own spread."""
    value, se = card.get("r2", math.nan), card.get("r2_se", math.nan)
    if not (math.isfinite(value) and math.isfinite(se)):
        return ""
    if value + NORMAL * se < 0:
        return f"The predictions are worse than the mean of these rows (R² {value:.2g})."
    if value - NORMAL * se <= 0:
        return f"The predictions are not significantly better than the mean of these rows (R² {value:.2g} ± {se:.1g})."
    ratio = percent(math.sqrt(max(1 - value, 0.0)))
    return f"The root mean squared error is {ratio} of the target's standard deviation (R² {significant(value)})."


def _coverage_sentence(what: str, share: float, rows: int, level: float, discrete: bool) -> str:
    judged, found = judge_coverage(share, rows, level, discrete=discrete), count_and_percent(share, rows)
    if judged == "unclear":
        return f"{what} contain {found}: too few rows to judge their width."
    if judged != "right":
        return f"{what} contain {found}: {judged}."
    # a higher coverage of whole numbers is no fault, and its size is not tested
    enough = share > level and discrete
    return f"{what} contain {found}, {'at least' if enough else 'within sampling error of'} the nominal coverage."


def _confidence_sentence(card: Card) -> str:
    accuracy, confidence, rows = card["accuracy"], card["confidence"], int(card["n"])
    judged = judge_confidence(accuracy, confidence, rows)
    found = f"{count_and_percent(accuracy, rows)} {'is' if rows == 1 else 'are'} classified correctly"
    promised = f"the mean probability of the predicted class is {percent(confidence)}"
    if judged == "unclear":
        return f"{found}; {promised}: too few rows to judge the probabilities."
    if judged != "right":
        return f"{found}, but {promised}: the classifier is {judged}."
    found = f"{found}; {promised}, equal within sampling error."
    spread = confidence * (1 - confidence) / rows
    # an upper bound: Jensen and Cauchy-Schwarz over the bins
    chance, error = math.sqrt(BINS * spread) + NORMAL * math.sqrt(spread), card.get("ece", 0.0)
    if error <= chance:
        return found
    found += f" But it is too high in some rows and too low in others: ECE {error:.2g}; sampling error"
    return f"{found} explains at most {chance:.1g}."


def _best_sentence(best: str, second: str, difference: Score) -> str:
    """Which of two methods has the lower NLL, and whether significantly."""
    start = f"Best by negative log likelihood: {best}"
    if math.isinf(difference.value):
        return f"{start}; that of {second} is infinite."
    gap = f"{second} is worse by {difference.value:.2g} nats per row"
    if not math.isfinite(difference.se):
        return f"{start}; {gap}."
    gap = f"{gap} (standard error {difference.se:.1g})"
    if difference.value > NORMAL * difference.se:
        return f"{start}; {gap}, a significant difference."
    return f"{start}, but the difference is not significant: {gap}."


class Setting(NamedTuple):
    """What to change for more draws.

    Attributes
    ----------
    python : str
        An argument of a constructor, as ``Ensemble(size=20)``.
    shell : str
        An option of ``dubito fit``.
    """

    python: str
    shell: str


def draws_setting(unsure: MonteCarloError, estimator: Any) -> Setting | None:
    """The setting of a fitted estimator that would give enough draws.

    Parameters
    ----------
    unsure : MonteCarloError
        The errors of its draws.
    estimator : BayesianRegressor or BayesianClassifier
        The estimator.

    Returns
    -------
    Setting or None
        None if there are enough draws, or if no reasonable value of any field would help.
    """
    if unsure.enough or unsure.needed is None:
        return None
    method, methods, path = estimator.method_, [], ""
    while method is not None:
        methods.append((method, path))
        method, path = method.method if isinstance(method, Wrapper) else None, f"{path}method."
    if unsure.kind == "chains":
        return _chain_setting(unsure, unsure.needed, *methods[-1])
    if unsure.kind == "independent":  # a finite posterior has no others
        useless = unsure.needed > MOST_DRAWS or isinstance(estimator.posterior_, Samples)
        owner, value = type(estimator).__name__, unsure.needed
        return None if useless else Setting(f"{owner}(draws={value})", f"--draws {value}")
    if estimator._resolved_method() is None or unsure.needed > min(MEMBERS, estimator.summary_["rows"] // 2):
        return None  # the default's folds go with its own network
    found = ((method, path, method.runs_field) for method, path in methods[:-1] if method.runs_field is not None)
    return next((_setting(*one, unsure.needed) for one in found), None)


def _chain_setting(unsure: MonteCarloError, needed: int, method: Any, path: str) -> Setting | None:
    """Longer chains if they do not agree, else more draws of each."""
    if not unsure.agree:
        return None if method.thin is None else _setting(method, path, "thin", 4 * method.thin)
    value = -(-needed // int(method.cycles)) * int(method.cycles)  # draws are a multiple of the cycles
    return _setting(method, path, "draws", value) if value <= MOST_DRAWS else None


def _setting(method: Method, path: str, name: str, value: int) -> Setting:
    return Setting(f"{type(method).__name__}({name}={value})", f"--set {path}{name}={value}")


def count_and_percent(share: float, rows: int) -> str:
    """A fraction of rows, in words.

    Parameters
    ----------
    share : float
        The fraction.
    rows : int
        The number of rows.

    Returns
    -------
    str
        "97 of 111 rows (87 %)", or "87 % of 111 rows" if the share is not a whole number of them.
    """
    count, unit = share * rows, "row" if rows == 1 else "rows"
    if abs(count - round(count)) > 1e-6 * max(rows, 1):
        return f"{percent(share)} of {rows:,} {unit}"
    return f"{round(count):,} of {rows:,} {unit} ({percent(share)})"


def percent(share: float) -> str:
    """A fraction in percent.

    Parameters
    ----------
    share : float
        The fraction.

    Returns
    -------
    str
        In whole percent, with more decimals if it would falsely read 0 or 100 %.
    """
    texts = [f"{100 * share:.{places}f}" for places in range(6)]
    return f"{next((text for text in texts if float(text) not in (0, 100) or share in (0, 1)), texts[-1])} %"


def significant(value: float) -> str:
    """A score of at most 1, such as R².

    Parameters
    ----------
    value : float
        The score.

    Returns
    -------
    str
        With two decimals, or so many that it does not read 1 unless it is.
    """
    return next(text for places in range(2, 9) if float(text := f"{value:.{places}f}") < 1 or places == 8 or value >= 1)


def join_names(names: Sequence[str]) -> str:
    """Names as a list in words.

    Parameters
    ----------
    names : list of str
        The names, at least one.

    Returns
    -------
    str
        "a, b and c".
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
