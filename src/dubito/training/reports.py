"""Reports of a fit's progress."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from dubito.training.loop_state import DataPiece, LoopState


class Report(NamedTuple):
    """The progress of one member after a chunk.

    Attributes
    ----------
    member, members : int
        The index of the member, and the number of members.
    epoch, epochs : int
        The number of completed epochs, and of all epochs.
    part : float
        The completed fraction of the current epoch.
    likelihood, penalty, score : array of shape (n,)
        For each of the n epochs that ended in the chunk: the log likelihood, the penalty (KL or
        −log prior) and the validation score, in nats per example. The objective is likelihood −
        penalty.
    """

    member: int
    members: int
    epoch: int
    epochs: int
    part: float
    likelihood: np.ndarray
    penalty: np.ndarray
    score: np.ndarray


def report_chunk(
    whose: tuple[Any, int, int], total: int, loop_state: LoopState, piece: DataPiece, log: np.ndarray, new: np.ndarray
) -> None:
    """Call a user's ``progress`` with the ``Report`` of a chunk. ``whose``: progress, member, members."""
    progress, number, members = whose
    part = int(loop_state.number) / int(np.max(piece.steps))
    if progress is not None and (len(new) or part):
        progress(Report(number, members, len(log), total, part, *new.T))


def history(reports: Iterable[Report]) -> list[np.ndarray]:
    """Collect the reports of a fit.

    Parameters
    ----------
    reports : iterable of Report
        If a method trains twice (first means, then noise), those of the second run are left out.

    Returns
    -------
    list of array of shape (epochs, 3)
        For each member the likelihood, penalty and validation score of each epoch, in nats per
        example.
    """
    members: dict[int, list[Any]] = {}
    ended: set[int] = set()
    count = None  # of the first run's members
    for report in reports:
        count = count or report.members
        if len(report.likelihood) == 0 or report.members != count:  # within an epoch, or of another run
            continue
        again = report.epoch == len(report.likelihood) and report.member in members
        ended |= {report.member} if again else set()
        if report.member not in ended and (report.member in members or not ended):
            rows = np.stack([report.likelihood, report.penalty, report.score], axis=1)
            members.setdefault(report.member, []).append(rows)
    return [np.concatenate(members[number]) for number in sorted(members)]
