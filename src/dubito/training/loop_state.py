"""What the loop holds: its state on the device, the rows of a piece, and how far a chunk goes."""

from typing import Any, NamedTuple


class LoopState(NamedTuple):
    """What the loop carries from step to step, on the device.

    Attributes
    ----------
    state : pytree
        The method's, after the last epoch that was finite.
    best : tuple of pytree
        The state with the best score on each part of the validation rows; the last one without validation.
    epoch, step : int32 scalar
        Epochs that ended, and their steps.
    score : (parts,) float32 array
        The best scores so far, in nats per example.
    best_epoch : (parts,) int32 array
        The epochs that ended with them, counted from 1.
    stale : int32 scalar
        Epochs since a score last improved.
    step_factor : float32 scalar
        Multiplies the step size: halved by each divergence.
    retries : int32 scalar
        Divergences so far.
    done : bool scalar
        Whether patience or retries have run out.
    log : (CHUNK_EPOCHS, 3) array
        Likelihood, penalty and score of this chunk's epochs.
    running : pytree
        The state within the epoch.
    number : int32 scalar
        The number of steps taken in the current epoch.
    info : (2,) float32 array
        The sums of likelihood and penalty over these steps, in nats per example.
    """

    state: Any
    best: Any
    epoch: Any
    step: Any
    score: Any
    best_epoch: Any
    stale: Any
    step_factor: Any
    retries: Any
    done: Any
    log: Any
    running: Any
    number: Any
    info: Any


class DeviceRows(NamedTuple):
    """Rows on the device, padded: x, y and the rows' weights."""

    x: Any
    y: Any
    weight: Any


class DataPiece(NamedTuple):
    """Rows of one epoch, all or some.

    Attributes
    ----------
    rows : DeviceRows
        Those of weight 0 are left out.
    first, end : int32 scalar
        The epoch's steps here: ``first`` to ``end`` − 1.
    steps : int32 scalar
        The number of steps of an epoch.
    size : float32 scalar
        The sum of the weights of all of the epoch's rows.
    """

    rows: DeviceRows
    first: Any
    end: Any
    steps: Any
    size: Any


class ChunkLimits(NamedTuple):
    """The limits of a chunk, besides the end of its piece and ``CHUNK_EPOCHS``.

    Attributes
    ----------
    steps : int32 scalar
        The largest number of steps.
    epochs : int32 scalar
        The number of epochs of the fit.
    fresh : bool scalar
        Whether it is the first chunk after a start or a resumption, so that the piece's order is not there yet.
    """

    steps: Any
    epochs: Any
    fresh: Any
