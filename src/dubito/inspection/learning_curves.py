"""Under- and overfitting diagnosed from the learning curves of a fit, with the numbers as evidence."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.base import is_classifier

from dubito.estimators.base import BayesianEstimator

CLEAR = 5.0  # standard errors of a difference of medians: the lowest of many lies two below by chance
SMALL_LOSS = 0.05  # fraction of all that was learned: a smaller loss is no reason to train differently
PACE = 0.2  # of the mean pace, that is 2 % of all that was learned in the last tenth of the epochs
GENERALIZED = 0.5  # fraction of the gain in training: if validation gains less, most of it was memorized
LEAST_GAIN = 0.5 * math.log(1 / (1 - 0.25))  # nats that a Gaussian gains if a quarter of the variance is explained

ADVICE = {
    "overfitting": "A smaller network, a stronger prior, dropout, an ensemble or more rows help; so does early stopping.",
    "underfitting": "A larger network, more epochs, a larger learning rate or a weaker prior or dropout help.",
    "still improving": "Train for more epochs, or with a larger learning rate.",
    "fine": "The curves suggest no change.",
    "unknown": "Hold rows out: early_stopping=True.",
}


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """A verdict on a fit and its evidence.

    Losses are in nats per example (lower is better), medians over the members.

    Attributes
    ----------
    verdict : str
        "overfitting", "underfitting", "still improving", "fine" or "unknown".
    epochs : int
        Number of epochs.
    train, validation : float
        Medians over the last tenth of the epochs.
    best, best_epoch : float, int
        The lowest median over as many epochs, and the best of these epochs.
    rise : float
        validation − best.
    fall : float
        Decrease of validation from the last tenth but one to the last tenth.
    noise : float
        Standard error of such a difference, from the jumps of the curve.
    learned : float
        reference − best, where the reference is ``trivial`` or else the validation loss of the first
        epoch.
    generalized : float
        (reference − validation)/(reference − train).
    trivial, goal : float, optional
        As for ``diagnose``.
    sentences : tuple of str
        The evidence as text.
    """

    verdict: str = "unknown"
    epochs: int = 0
    train: float = math.nan
    validation: float = math.nan
    best: float = math.nan
    best_epoch: int = 0
    rise: float = math.nan
    fall: float = math.nan
    noise: float = math.nan
    learned: float = math.nan
    generalized: float = math.nan
    trivial: float | None = None
    goal: float | None = None
    sentences: tuple[str, ...] = ()

    @property
    def gap(self) -> float:
        """Validation − train.

        Returns
        -------
        float
            In nats per example.
        """
        return self.validation - self.train

    def __str__(self) -> str:
        return "\n".join([f"Verdict: {self.verdict}.", *self.sentences, ADVICE[self.verdict]])


def diagnose(fitted: Any, *, trivial: float | None = None, goal: float | None = None) -> Diagnosis:
    """Diagnose a fit from its learning curves.

    The verdict is the first that holds:

    - unknown: no validation scores, or fewer than 2 epochs;
    - overfitting: validation has risen from its best by more than 5 % of all that was learned (and 5
      standard errors), or validation has less than half of the gain in training;
    - underfitting: training is farther from ``goal`` than validation is from training; or training has
      gained less than 0.14 nats (R² of 25 %) on ``trivial``;
    - still improving: validation decreased in the last tenth by more than 2 % of all that was learned
      (and 5 standard errors);
    - fine.

    The training score is computed while weights change and with the method's noise (dropout masks,
    drawn weights), so validation may be lower. If rows are held out, a fit keeps the state of its
    best epoch, whatever came after.

    Parameters
    ----------
    fitted : estimator or sequence of array
        A fitted estimator, or its ``history_``: for each member (epochs, 3), the likelihood, the penalty
        and the validation score, in nats per example, higher being better.
    trivial : float, optional
        Loss of predicting without inputs; for an estimator ``trivial_loss`` by default.
    goal : float, optional
        A loss that is known to be attainable, such as that of another network.

    Returns
    -------
    Diagnosis
        The verdict, and the numbers behind it.

    Raises
    ------
    ValueError
        If the history does not have an array (epochs, 3) for each member.
    """
    is_estimator = isinstance(fitted, BayesianEstimator)
    if trivial is None and is_estimator:
        trivial = trivial_loss(fitted)
    members = [np.asarray(member, float) for member in (fitted.history_ if is_estimator else fitted)]
    if not members or any(member.ndim != 2 or member.shape[1] != 3 for member in members):
        raise ValueError("history must have an array (epochs, 3) for each member, as an estimator's history_")
    read = [_read(-member[:, 0], -member[:, 2], trivial) for member in members if len(member)]
    medians: dict[str, Any] = {name: float(np.median([one[name] for one in read])) for name in read[0]} if read else {}
    found = Diagnosis(**medians, trivial=trivial, goal=goal)
    found = replace(found, epochs=int(found.epochs), best_epoch=int(found.best_epoch))
    if math.isnan(found.validation) or found.epochs < 2:
        found = Diagnosis(epochs=found.epochs, train=found.train, trivial=trivial, goal=goal)
    found = replace(found, verdict=_verdict(found))
    return replace(found, sentences=tuple(_sentences(found, len(read))))


def trivial_loss(estimator: Any) -> float | None:
    """Compute the loss of predicting without inputs, on the scale of an estimator's history.

    Parameters
    ----------
    estimator : BayesianEstimator
        A fitted estimator.

    Returns
    -------
    float or None
        ½ log 2πe nats for each standardized target, log C for C classes with equal probabilities; None
        if targets are not standardized, such as counts and positive ones.
    """
    if is_classifier(estimator):
        return math.log(len(estimator.classes_))
    likelihood = estimator.posterior_.model.likelihood
    if not likelihood.standardizes_targets or likelihood.bounds[0] == 0:
        return None
    return 0.5 * math.log(2 * math.pi * math.e) * len(estimator.scaler_.shift)


def _read(train: Float[np.ndarray, "n"], valid: Float[np.ndarray, "n"], trivial: float | None) -> dict[str, Any]:
    """One member's numbers, from its losses by epoch."""
    epochs, window = len(train), max(1, len(train) // 10)
    end = np.median(train[-window:])
    if np.any(np.isnan(valid)):
        return {"epochs": epochs, "train": end, "validation": math.nan}
    medians = np.median(np.lib.stride_tricks.sliding_window_view(valid, window), axis=1)
    last, place = medians[-1], int(np.argmin(medians))
    before = medians[-1 - window] if len(medians) > window else valid[0]
    jumps = np.diff(valid[epochs // 2 :])
    # A jump is the difference of two epochs' noises; a median over w epochs has the variance (π/2)/w of one.
    sd = 1.4826 * np.median(np.abs(jumps - np.median(jumps))) / math.sqrt(2) if len(jumps) else 0.0
    reference = valid[0] if trivial is None else trivial
    return {
        "epochs": epochs,
        "train": end,
        "validation": last,
        "best": medians[place],
        "best_epoch": place + 1 + int(np.argmin(valid[place : place + window])),
        "rise": last - medians[place],
        "fall": before - last,
        "noise": sd * math.sqrt(math.pi / window),
        "learned": reference - medians[place],
        "generalized": (reference - last) / (reference - end) if reference > end else math.nan,
    }


def _verdict(d: Diagnosis) -> str:
    if math.isnan(d.validation):
        return "unknown"
    learned, noise = max(d.learned, 0.0), CLEAR * d.noise
    clear = max(SMALL_LOSS * learned, noise)
    if d.rise > clear or d.generalized < GENERALIZED and d.gap > clear:
        return "overfitting"
    far = d.goal is not None and d.train - d.goal > max(d.gap, clear)
    if far or (d.trivial is not None and d.trivial - d.train < LEAST_GAIN):
        return "underfitting"
    return "still improving" if d.fall > max(0.1 * PACE * learned, noise) else "fine"


def _sentences(d: Diagnosis, members: int) -> Iterator[str]:
    """The evidence in words, the same numbers for any verdict."""
    yield f"{d.epochs} epochs" + (f", {members} members (medians over them)" if members > 1 else "") + "."
    if math.isnan(d.validation):
        missing = "there are no validation scores to compare with, or too few epochs"
        yield f"Training ends at {d.train:.3f} nats per example; {missing}."
        return
    ends = f"training is at {d.train:.3f} and validation at {d.validation:.3f} nats per example"
    yield f"At the end {ends}, {abs(d.gap):.3f} {'above' if d.gap > 0 else 'below'} it."
    if d.rise > max(SMALL_LOSS * max(d.learned, 0.0), CLEAR * d.noise):
        yield f"Validation was best around epoch {d.best_epoch}, at {d.best:.3f}, and has risen by {d.rise:.3f} since."
    else:
        best = f"The best validation, {d.best:.3f} around epoch {d.best_epoch}"
        yield f"{best}, is at most {d.rise:.3f} below the final value."
    change = f"{'decreased' if d.fall > 0 else 'increased'} by {abs(d.fall):.3f}"
    yield f"In the last tenth of the epochs it {change}; the standard error is {d.noise:.3f}."
    since = "the first epoch" if d.trivial is None else f"predicting without inputs ({d.trivial:.3f})"
    end = (
        "" if math.isnan(d.generalized) else f"; at the end its gain is {100 * d.generalized:.0f} % of that in training"
    )
    yield f"Compared with {since} validation has gained {d.learned:.3f} at best{end}."
    if d.goal is not None:
        yield f"Training is {d.train - d.goal:.3f} above the goal of {d.goal:.3f}."
