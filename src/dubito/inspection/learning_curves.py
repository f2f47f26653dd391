"""Under- and overfitting diagnosed from the learning curves of a fit, with the numbers as evidence."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import is_classifier

from dubito.estimators.base import BayesianEstimator

CLEAR = 5.0  # standard errors of a difference of medians: the lowest of many lies two below by chance
SHARE = 0.05  # of all that was learned: a smaller loss is no reason to train differently
PACE = 0.2  # of the mean pace, that is 2 % of all that was learned in the last tenth of the epochs
GENERALIZED = 0.5  # of the gain in training: where less is seen in validation, most of it was memorized
LITTLE = 0.5 * math.log(1 / (1 - 0.25))  # nats that a Gaussian gains where a quarter of the variance is explained

ADVICE = {
    "overfitting": "A smaller network, a stronger prior, dropout, an ensemble or more rows help; so does early stopping.",
    "underfitting": "A larger network, more epochs, a larger learning rate or a weaker prior or dropout help.",
    "still improving": "Train for more epochs, or with a larger learning rate.",
    "fine": "The curves ask for no change.",
    "unknown": "Hold rows out: early_stopping=True, or another method's validation.",
}


@dataclass(frozen=True)
class Diagnosis:
    """A verdict on a fit and its evidence: losses in nats per example (lower is better), medians over the members.

    Parameters
    ----------
    verdict : "overfitting", "underfitting", "still improving", "fine" or "unknown".
    epochs : number of epochs.
    train, validation : medians over the last tenth of the epochs.
    best, best_epoch : the lowest median over as many epochs, and the best of these epochs.
    rise : validation − best.
    fall : decrease of validation from the tenth before the last to the last tenth.
    noise : standard error of such a difference, from the jumps of the curve.
    learned : reference − best, where the reference is ``trivial`` or else the validation loss of the first epoch.
    generalized : (reference − validation)/(reference − train).
    trivial, goal : as for ``diagnose``.
    sentences : the evidence as text.
    """

    verdict: str
    epochs: int
    train: float
    validation: float
    best: float
    best_epoch: int
    rise: float
    fall: float
    noise: float
    learned: float
    generalized: float
    trivial: float | None
    goal: float | None
    sentences: tuple = ()

    @property
    def gap(self) -> float:
        """Validation − train, in nats per example."""
        return self.validation - self.train

    def __str__(self):
        return "\n".join([f"Verdict: {self.verdict}.", *self.sentences, ADVICE[self.verdict]])


def diagnose(fitted: Any, *, trivial: float | None = None, goal: float | None = None) -> Diagnosis:
    """Diagnose a fit from its learning curves.

    Verdicts, the first that holds:

    - unknown: no validation scores, or fewer than 2 epochs;
    - overfitting: validation has risen from its best by more than 5 % of all that was learned (and 5 standard errors), or
      less than half of training's gain is seen in validation;
    - underfitting: training is farther from ``goal`` than validation is from training; or training has gained less than
      0.14 nats (R² of 25 %) on ``trivial``;
    - still improving: validation fell in the last tenth by more than 2 % of all that was learned (and 5 standard errors);
    - fine.

    The training score is computed while weights change and with the method's noise (dropout masks, drawn weights), so
    validation may lie below it. Where rows are held out, a fit keeps the state of its best epoch, whatever came after.

    Parameters
    ----------
    fitted : fitted estimator, or its ``history_``: for each member (epochs, 3), the likelihood, the penalty and the
        validation score, in nats per example, higher being better.
    trivial : loss of predicting without inputs. That of an estimator is known: ``trivial_loss``.
    goal : loss that is known to be attainable, as by another network.
    """
    known = isinstance(fitted, BayesianEstimator)
    history = fitted.history_ if known else fitted
    if trivial is None and known:
        trivial = trivial_loss(fitted)
    members = [np.asarray(member, float) for member in history]
    if not members or any(member.ndim != 2 or member.shape[1] != 3 for member in members):
        raise ValueError("history has for each member an array (epochs, 3), as an estimator's history_")
    parts = [_read(-member[:, 0], -member[:, 2], trivial) for member in members if len(member)]
    read: Any = {name: float(np.median([part[name] for part in parts])) for name in parts[0]} if parts else {}
    if not parts or math.isnan(read["validation"]) or read["epochs"] < 2:
        nothing = dict.fromkeys(("validation", "best", "rise", "fall", "noise", "learned", "generalized"), math.nan)
        read = {"epochs": 0, "train": math.nan} | read | nothing | {"best_epoch": 0}
    read |= {"epochs": int(read["epochs"]), "best_epoch": int(read["best_epoch"]), "trivial": trivial, "goal": goal}
    verdict = _verdict(Diagnosis("unknown", **read))
    return Diagnosis(verdict, **read, sentences=tuple(_sentences(Diagnosis(verdict, **read), len(parts))))


def trivial_loss(estimator: Any) -> float | None:
    """The loss of predicting without inputs, on the scale of an estimator's history.

    Parameters
    ----------
    estimator : fitted estimator.

    Returns
    -------
    ½ log 2πe nats for each standardized target, log C for C classes with equal probabilities; None where targets keep
    their units, as counts do.
    """
    if is_classifier(estimator):
        return math.log(len(estimator.classes_))
    if not estimator.posterior_.model.likelihood.standardizes_targets:
        return None
    return 0.5 * math.log(2 * math.pi * math.e) * len(estimator.scaler_.shift)


def _read(train, valid, trivial):
    """One member's numbers, from its losses by epoch."""
    epochs, window = len(train), max(1, len(train) // 10)
    found = {"epochs": epochs, "train": np.median(train[-window:]), "validation": math.nan}
    if np.any(np.isnan(valid)):
        return found | dict.fromkeys(
            ("best", "best_epoch", "rise", "fall", "noise", "learned", "generalized"), math.nan
        )
    medians = np.median(np.lib.stride_tricks.sliding_window_view(valid, window), axis=1)
    last, place = medians[-1], int(np.argmin(medians))
    before = medians[-1 - window] if len(medians) > window else valid[0]
    jumps = np.diff(valid[epochs // 2 :])
    # a jump is the difference of two epochs' noises; a median over w epochs has the variance (π/2)/w of one
    sd = 1.4826 * np.median(np.abs(jumps - np.median(jumps))) / math.sqrt(2) if len(jumps) else 0.0
    reference = valid[0] if trivial is None else trivial
    gained = reference - found["train"]
    return found | {
        "validation": last,
        "best": medians[place],
        "best_epoch": place + 1 + int(np.argmin(valid[place : place + window])),
        "rise": last - medians[place],
        "fall": before - last,
        "noise": sd * math.sqrt(math.pi / window),
        "learned": reference - medians[place],
        "generalized": (reference - last) / gained if gained > 0 else math.nan,
    }


def _verdict(d):
    if math.isnan(d.validation):
        return "unknown"
    learned, noise = max(d.learned, 0.0), CLEAR * d.noise
    if d.rise > max(SHARE * learned, noise) or d.generalized < GENERALIZED and d.gap > max(SHARE * learned, noise):
        return "overfitting"
    far = d.goal is not None and d.train - d.goal > max(d.gap, SHARE * learned, noise)
    if far or (d.trivial is not None and d.trivial - d.train < LITTLE):
        return "underfitting"
    return "still improving" if d.fall > max(0.1 * PACE * learned, noise) else "fine"


def _sentences(d, members):
    """The evidence in words, for any verdict the same numbers."""
    yield f"{d.epochs} epochs" + (f", {members} members (medians over them)" if members > 1 else "") + "."
    if math.isnan(d.validation):
        yield f"Training ends at {d.train:.3f} nats per example; there are no validation scores, or too few epochs, to hold it against."
        return
    below = "above" if d.gap > 0 else "below"
    yield (
        f"At the end training is at {d.train:.3f} and validation at {d.validation:.3f} nats per example, "
        f"{abs(d.gap):.3f} {below} it."
    )
    if d.rise > max(SHARE * max(d.learned, 0.0), CLEAR * d.noise):
        yield f"Validation was best around epoch {d.best_epoch}, at {d.best:.3f}, and has risen by {d.rise:.3f} since."
    else:
        yield f"The best validation, {d.best:.3f} around epoch {d.best_epoch}, is no more than {d.rise:.3f} below the end's."
    moved = "fell" if d.fall > 0 else "rose"
    yield f"In the last tenth it {moved} by {abs(d.fall):.3f}; the curve's own noise is ± {d.noise:.3f}."
    since = "the first epoch" if d.trivial is None else f"predicting without inputs ({d.trivial:.3f})"
    share = (
        "" if math.isnan(d.generalized) else f"; {100 * d.generalized:.0f} % of training's gain is seen in validation"
    )
    yield f"Since {since} validation has gained {d.learned:.3f} at best{share}."
    if d.goal is not None:
        yield f"Training is {d.train - d.goal:.3f} above the goal of {d.goal:.3f}."
