"""What a score card says, in sentences: are intervals or probabilities right, which method is best, what would more draws take.

Rows count as independent. A claim is made where chance alone would look like this in fewer than ``TAIL`` of all cases, on
either side; "far" and "strongly" also need an effect that is large beyond chance. Everything else is "within chance".
"""

import math
from typing import NamedTuple

from scipy import special, stats

from dubito.posteriors.base import Samples
from dubito.training.method import Wrapper

TAIL = 0.01  # probability of a false claim on either side
NORMAL = float(special.ndtri(1 - TAIL))  # so many standard errors
FEWEST = (
    44  # rows: 0.9**44 < TAIL, so with fewer not even 90 % intervals that hold every row can be shown to be too wide
)
SLIGHT, CLEAR, FAR = 1.1, 1.2, 1.4  # ratios of interval widths: of normal noise, 1.4 is a coverage of 76 or of 98 %
BINS = 15  # of ``metrics.ece``
MEMBERS, DRAWS = 100, 100_000  # at most, where more are advised


def interpret_scorecard(card, *, discrete=False, conformal=None):
    """One or two sentences on a ``metrics.scorecard``; "" where it holds nothing that they are about.

    ``discrete``: of a target of whole numbers, whose intervals hold more than they promise without being too wide.
    ``conformal``: the coverage of conformal intervals or sets, which are then judged in place of the predictive's own.
    """
    rows = card["n"]
    found = [_r2_sentence(card)]
    if conformal is not None and "conformal_coverage" in card:
        found.append(
            _coverage_sentence(
                f"Conformal {percent(conformal)} intervals", card["conformal_coverage"], rows, conformal, discrete
            )
        )
    elif "coverage_90" in card:
        found.append(_coverage_sentence("90 % intervals", card["coverage_90"], rows, 0.9, discrete))
    if {"accuracy", "confidence"} <= set(card):
        found.append(_confidence_sentence(card))
    if conformal is not None and "set_coverage" in card:
        found.append(
            _coverage_sentence(f"Conformal {percent(conformal)} sets", card["set_coverage"], rows, conformal, True)
        )
    return " ".join(filter(None, found))


def interpret_comparison(cards, difference=None, *, discrete=False):
    """Sentences on several methods: which is best, whether by more than chance, and whose intervals or probabilities are right.

    ``cards``: (name, ``metrics.scorecard``) pairs, the best NLL first; ``difference``: the second's NLL minus the best one's, a
    ``metrics.Score`` paired by rows.
    """
    best = "" if difference is None or len(cards) < 2 else _best_sentence(cards[0][0], cards[1][0], difference)
    groups: dict[str, list[str]] = {}
    for name, card in cards:
        if "coverage_90" in card:
            judged = judge_coverage(card["coverage_90"], card["n"], 0.9, discrete=discrete)
            groups.setdefault(judged, []).append(f"{name} ({percent(card['coverage_90'])})")
        elif {"accuracy", "confidence"} <= set(card):
            judged = judge_confidence(card["accuracy"], card["confidence"], card["n"])
            groups.setdefault(judged, []).append(name)
    if not groups:
        return best
    what = "90 % intervals" if any("coverage_90" in card for _, card in cards) else "Class probabilities"
    parts = [f"{WORDS.get(judged, judged)}: {join_names(groups[judged])}" for judged in sorted(groups, key=severity)]
    return f"{best} {what} are {'; '.join(parts)}.".strip()


WORDS = {"right": "right, within chance", "unclear": "not to be judged from so few rows"}


def severity(judged):
    """Right ones first, the worst last."""
    return ("right", "unclear").index(judged) if judged in WORDS else 2 + judged.startswith(("far", "strongly"))


def judge_coverage(share, rows, level, *, discrete=False):
    """ "right" (within chance), "unclear" (too few rows to tell), or "slightly too narrow", "too wide", "far too wide", ...

    ``share`` of ``rows`` are inside intervals of probability ``level``: an exact binomial test. How far off it is, is the ratio of widths of
    normal intervals that would hold ``level`` and ``share``; "far" is FAR, and CLEAR at the confidence limit as well.
    """
    below, above, limit = _tails(share, rows, level)
    narrow = below < TAIL
    if not (narrow or above < TAIL) or discrete and not narrow:
        return "right" if narrow or rows >= FEWEST or discrete else "unclear"
    ratio, least = (abs(math.log(_reach(level) / max(_reach(one), 1e-9))) for one in (share, limit))
    size = (
        "far " if ratio > math.log(FAR) and least > math.log(CLEAR) else "slightly " if ratio < math.log(SLIGHT) else ""
    )
    return f"{size}too {'narrow' if narrow else 'wide'}"


def judge_confidence(accuracy, confidence, rows):
    """ "right" (within chance), "unclear" (too few rows to tell), "overconfident", "strongly underconfident", ...

    ``confidence`` is the mean probability of the predicted class. If each row is right with its own probability, the number of right
    rows varies less than a binomial's, so the binomial test is on the safe side. "Strongly": errors at least twice as
    many as promised or half as many, or 5 % of the rows apart, at the confidence limit.
    """
    below, above, limit = _tails(accuracy, rows, confidence)
    if below >= TAIL and above >= TAIL:
        return "right" if rows >= FEWEST else "unclear"
    wrong, promised = 1 - limit, 1 - confidence
    strongly = abs(limit - confidence) > 0.05 or not 0.5 <= wrong / max(promised, 1e-12) <= 2
    return f"{'strongly ' if strongly else ''}{'over' if below < TAIL else 'under'}confident"


def _tails(share, rows, level):
    """P(as few or fewer), P(as many or more) of a binomial of probability ``level``, and the confidence limit of ``share`` on the
    side of ``level``. A share of no whole number of rows (several targets) is rounded towards no claim."""
    low, high = math.floor(share * rows + 1e-6), math.ceil(share * rows - 1e-6)
    level = min(max(level, 0.0), 1.0)
    below, above = stats.binom.cdf(high, rows, level), stats.binom.sf(low - 1, rows, level)
    if share < level:
        limit = stats.beta.ppf(1 - TAIL, high + 1, rows - high) if high < rows else 1.0
    else:
        limit = stats.beta.ppf(TAIL, low, rows - low + 1) if low > 0 else 0.0
    return float(below), float(above), float(limit)


def _reach(share):
    """Standard deviations on either side of the mean that hold ``share`` of a normal distribution."""
    return float(special.ndtri(0.5 + 0.5 * min(share, 1 - 1e-12)))


def _r2_sentence(card):
    """The error beside the target's own spread."""
    value, se = card.get("r2", math.nan), card.get("r2_se", math.nan)
    if not (math.isfinite(value) and math.isfinite(se)):
        return ""
    if value + NORMAL * se < 0:
        return f"The predictions are worse than the mean of these rows (R² {value:.2g})."
    if value - NORMAL * se <= 0:
        return f"Within chance the predictions are no better than the mean of these rows (R² {value:.2g} ± {se:.1g})."
    ratio = math.sqrt(max(1 - value, 0.0))
    return (
        f"The root mean squared error is {percent(ratio)} of the target's standard deviation (R² {significant(value)})."
    )


def _coverage_sentence(what, share, rows, level, discrete):
    judged, found = judge_coverage(share, rows, level, discrete=discrete), count_and_percent(share, rows)
    if judged == "unclear":
        return f"{what} hold {found}: too few rows to judge their width."
    if judged == "right":
        enough = share > level and discrete  # which of whole numbers is no fault, and by how much is not tested
        return f"{what} hold {found}, {'no fewer than they should' if enough else 'as they should, within chance'}."
    return f"{what} hold {found}: {judged}."


def _confidence_sentence(card):
    accuracy, confidence, rows = card["accuracy"], card["confidence"], card["n"]
    judged = judge_confidence(accuracy, confidence, rows)
    found = f"{count_and_percent(accuracy, rows)} {'is' if rows == 1 else 'are'} classified correctly"
    promised = f"the mean probability of the predicted class is {percent(confidence)}"
    if judged == "unclear":
        return f"{found}; {promised}: too few rows to judge the probabilities."
    if judged != "right":
        return f"{found}, but {promised}: the classifier is {judged}."
    found = f"{found}; {promised}, which agrees within chance."
    spread = confidence * (1 - confidence) / rows
    chance = math.sqrt(BINS * spread) + NORMAL * math.sqrt(
        spread
    )  # an upper bound: Jensen and Cauchy-Schwarz over the bins
    if card.get("ece", 0.0) > chance:
        found += f" But it is too high in some rows and too low in others: ECE {card['ece']:.2g}, of which chance explains at most {chance:.1g}."
    return found


def _best_sentence(best, second, difference):
    """Which of two methods has the lower NLL, and whether by more than chance."""
    if math.isinf(difference.value):
        return f"Best by negative log likelihood: {best}; that of {second} is infinite."
    gap = f"{second} is worse by {difference.value:.2g} nats per row"
    if not math.isfinite(difference.se):
        return f"Best by negative log likelihood: {best}; {gap}."
    gap = f"{gap} (standard error {difference.se:.1g})"
    if difference.value > NORMAL * difference.se:
        return f"Best by negative log likelihood: {best}; {gap}, which is more than chance."
    return f"Best by negative log likelihood: {best}, but within chance: {gap}."


class Setting(NamedTuple):
    """What to change: ``python``, an argument of a constructor, as ``Ensemble(size=20)``; ``shell``, an option of ``dubito fit``."""

    python: str
    shell: str


def draws_setting(unsure, estimator):
    """The ``Setting`` of a fitted estimator that would make its draws enough, for a ``diagnostics.MonteCarloError``; None where they
    are enough, or where no reasonable value of any field would help."""
    if unsure.enough or unsure.needed is None:
        return None
    method, methods, path = estimator.method_, [], ""
    while method is not None:
        methods.append((method, path))
        method, path = method.method if isinstance(method, Wrapper) else None, f"{path}method."
    if unsure.kind == "chains":
        return _chain_setting(unsure, *methods[-1])
    if unsure.kind == "independent":  # of a finite posterior there are no others
        useless = unsure.needed > DRAWS or isinstance(estimator.posterior_, Samples)
        owner, value = type(estimator).__name__, unsure.needed
        return None if useless else Setting(f"{owner}(draws={value})", f"--draws {value}")
    if estimator.method is None or unsure.needed > min(MEMBERS, estimator.summary_["rows"] // 2):
        return None  # the default's folds go with a network of its own
    found = ((method, path, method.runs_field) for method, path in methods[:-1] if method.runs_field is not None)
    return next((_setting(*one, unsure.needed) for one in found), None)


def _chain_setting(unsure, method, path):
    """Longer chains where they do not agree, else more draws of each."""
    if not unsure.agree:
        return _setting(method, path, "thin", 4 * method.thin) if method.thin is not None else None
    cycles = int(method.cycles)  # of which draws are a multiple
    value = -(-unsure.needed // cycles) * cycles
    return _setting(method, path, "draws", value) if value <= DRAWS else None


def _setting(method, path, name, value):
    return Setting(f"{type(method).__name__}({name}={value})", f"--set {path}{name}={value}")


def count_and_percent(share, rows):
    """ "97 of 111 rows (87 %)"; "87 % of 111 rows" where the share is no whole number of them."""
    count = share * rows
    unit = "row" if rows == 1 else "rows"
    if abs(count - round(count)) > 1e-6 * max(rows, 1):
        return f"{percent(share)} of {rows:,} {unit}"
    return f"{round(count):,} of {rows:,} {unit} ({percent(share)})"


def percent(share):
    """A share in whole percent, or with as many decimals as it takes not to read 0 or 100 % unless it is that."""
    for places in range(6):
        text = f"{100 * share:.{places}f}"
        if float(text) not in (0.0, 100.0) or share in (0.0, 1.0):
            break
    return f"{text} %"


def significant(value):
    """R² with two decimals, or so many that it does not read 1."""
    return next(text for places in range(2, 9) if float(text := f"{value:.{places}f}") < 1 or places == 8 or value >= 1)


def join_names(names):
    """ "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
