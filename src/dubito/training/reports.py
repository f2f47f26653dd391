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
    of_members : bool
        Whether the members are those of ``Method.members``; False where a method trains again, as for a noise.
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
    of_members: bool
    likelihood: np.ndarray
    penalty: np.ndarray
    score: np.ndarray


def report_chunk(
    whose: tuple[Any, int, int, bool],
    total: int,
    loop_state: LoopState,
    piece: DataPiece,
    log: np.ndarray,
    new: np.ndarray,
) -> None:
    """Call a user's ``progress`` with the ``Report`` of a chunk. ``whose``: progress, member, members, ``of_members``."""
    progress, number, members, own = whose
    part = int(loop_state.number) / int(np.max(piece.steps))
    if progress is not None and (len(new) or part):
        progress(Report(number, members, len(log), total, part, own, *new.T))


def history(reports: Iterable[Report]) -> list[np.ndarray]:
    """Collect the reports of a fit.

    Parameters
    ----------
    reports : iterable of Report
        Only those of ``of_members`` count. Of several lengths of training, the history is that of the
        last that was begun, even if Ctrl-C cut it off and the posterior is that of the one before.

    Returns
    -------
    list of array of shape (epochs, 3)
        For each member the likelihood, penalty and validation score of each epoch, in nats per
        example.
    """
    members: dict[int, list[Any]] = {}
    for report in reports:
        if report.of_members and len(report.likelihood):
            rows = np.stack([report.likelihood, report.penalty, report.score], axis=1)
            before = members[report.member] if report.epoch > len(rows) else []
            members[report.member] = [*before, rows]
    return [np.concatenate(members[number]) for number in sorted(members)]
