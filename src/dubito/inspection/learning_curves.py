"""Under- and overfitting read off the curves of a fit, with the numbers that say so."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

CLEAR = 5.0  # standard errors of a difference of medians: the lowest of many lies two below by chance, and these are estimates
SHARE = 0.05  # of all that was learned: a loss below this is no reason to train otherwise
PACE = 0.2  # of the mean pace, that is 2 % of all that was learned in the last tenth of the epochs
CARRIED = 0.5  # of training's gain: where less reaches unseen rows, most of it was learned by heart
LITTLE = 0.5 * math.log(1 / (1 - 0.25))  # nats: what a Gaussian gains where a quarter of the variance is explained

ADVICE = {
    "overfitting": "A smaller network, a stronger prior, dropout, an ensemble or more rows help; so does early stopping.",
    "underfitting": "A larger network, more epochs, a larger learning rate or a weaker prior or dropout help.",
    "still improving": "Train for more epochs, or with a larger learning rate.",
    "fine": "The curves ask for no change.",
    "unknown": "Hold rows out: early_stopping=True, or another method's validation.",
}


@dataclass(frozen=True)
class Diagnosis:
    """A ``verdict`` and what it rests on, in nats per example (losses: lower is better), medians over the members.

    ``train`` and ``validation``: medians over the last tenth of the epochs; ``best``: the lowest median over as many, and
    ``best_epoch`` the best of these, of ``epochs`` in all. ``gap`` = validation − train, ``rise`` = validation − best,
    ``fall``: how much validation fell from the tenth before to the last, ``noise``: the standard error of such a difference,
    from the curve's own jumps. ``learned`` = reference − best, ``carried`` = (reference − validation)/(reference − train),
    where the reference is ``trivial`` or else the first epoch's validation. ``sentences`` say all this.
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
    carried: float
    trivial: float | None
    goal: float | None
    sentences: tuple = ()

    @property
    def gap(self):
        return self.validation - self.train

    def __str__(self):
        return "\n".join([f"Verdict: {self.verdict}.", *self.sentences, ADVICE[self.verdict]])


def diagnose(fitted, *, trivial=None, goal=None):
    """A ``Diagnosis`` of a fitted estimator, or of its ``history_``: for each member (epochs, 3), the likelihood, the
    penalty and the validation score, in nats per example, higher being better.

    Verdicts, the first that holds:

    - unknown: no validation scores, or fewer than 2 epochs;
    - overfitting: validation has risen from its best by more than 5 % of all that was learned (and 5 standard errors), or
      less than half of training's gain is seen in validation;
    - underfitting: training is farther from ``goal``, a loss known to be possible (another network's, the noise's own),
      than validation is from training; or training has gained less than 0.14 nats (R² of 25 %) on ``trivial``, the loss of
      predicting without inputs. An estimator's is known: standard normal targets, classes guessed evenly;
    - still improving: validation fell in the last tenth by more than 2 % of all that was learned (and 5 standard errors);
    - fine.

    A fit's training score is taken while weights change and with the method's noise (dropout's, drawn weights), so
    validation may lie below it. Where rows are held out, a fit keeps the state of its best epoch, whatever came after.
    """
    history = getattr(fitted, "history_", fitted)
    if trivial is None and history is not fitted:
        trivial = trivial_loss(fitted)
    members = [np.asarray(member, float) for member in history]
    if not members or any(member.ndim != 2 or member.shape[1] != 3 for member in members):
        raise ValueError("history has for each member an array (epochs, 3), as an estimator's history_")
    parts = [_read(-member[:, 0], -member[:, 2], trivial) for member in members if len(member)]
    read: Any = {name: float(np.median([part[name] for part in parts])) for name in parts[0]} if parts else {}
    if not parts or math.isnan(read["validation"]) or read["epochs"] < 2:
        nothing = dict.fromkeys(("validation", "best", "rise", "fall", "noise", "learned", "carried"), math.nan)
        read = {"epochs": 0, "train": math.nan} | read | nothing | {"best_epoch": 0}
    read |= {"epochs": int(read["epochs"]), "best_epoch": int(read["best_epoch"]), "trivial": trivial, "goal": goal}
    verdict = _verdict(Diagnosis("unknown", **read))
    return Diagnosis(verdict, **read, sentences=tuple(_sentences(Diagnosis(verdict, **read), len(parts))))


def trivial_loss(estimator):
    """What predicting without inputs costs on the scale of an estimator's history, in nats: ½ log 2πe for each standardized
    target, or log C for C classes guessed evenly; None where targets keep their units, as counts do."""
    if hasattr(estimator, "classes_"):
        return math.log(len(estimator.classes_))
    if not estimator.posterior_.model.likelihood.standardizes_targets:
        return None
    return 0.5 * math.log(2 * math.pi * math.e) * len(estimator.scaler_.shift)


def _read(train, valid, trivial):
    """One member's numbers, from its losses by epoch."""
    epochs, window = len(train), max(1, len(train) // 10)
    found = {"epochs": epochs, "train": np.median(train[-window:]), "validation": math.nan}
    if np.any(np.isnan(valid)):
        return found | dict.fromkeys(("best", "best_epoch", "rise", "fall", "noise", "learned", "carried"), math.nan)
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
        "carried": (reference - last) / gained if gained > 0 else math.nan,
    }


def _verdict(d):
    if math.isnan(d.validation):
        return "unknown"
    learned, doubt = max(d.learned, 0.0), CLEAR * d.noise
    if d.rise > max(SHARE * learned, doubt) or d.carried < CARRIED and d.gap > max(SHARE * learned, doubt):
        return "overfitting"
    far = d.goal is not None and d.train - d.goal > max(d.gap, SHARE * learned, doubt)
    if far or (d.trivial is not None and d.trivial - d.train < LITTLE):
        return "underfitting"
    return "still improving" if d.fall > max(0.1 * PACE * learned, doubt) else "fine"


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
    share = "" if math.isnan(d.carried) else f"; {100 * d.carried:.0f} % of training's gain is seen in validation"
    yield f"Since {since} validation has gained {d.learned:.3f} at best{share}."
    if d.goal is not None:
        yield f"Training is {d.train - d.goal:.3f} above the goal of {d.goal:.3f}."
