"""The model of a file, replaced whole when the file is: a file that cannot be loaded leaves the model in place."""

import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from dubito._process.archive import ModelFileError
from dubito.serving.metrics import Metrics
from dubito.serving.served_model import ServedModel

Signature: TypeAlias = tuple[int, ...] | None  # what changes with a file; None if there is none

SECONDS = 1.0  # between two looks at the file
ATTEMPTS = 10  # to read a file that does not change meanwhile, at the start


class WatchedModel:
    """The model of a file, and a thread that loads it anew when the file changes.

    Parameters
    ----------
    path : Path
        The model file.
    load : callable
        Loads the estimator.
    coverage : float
        Of intervals, if a request names none.
    metrics : Metrics
        Counts the loads.
    say : callable
        Prints a note.

    Attributes
    ----------
    current : ServedModel
        The model; a request reads it once.
    problem : str or None
        Why the file that is there now is not the current model.
    """

    def __init__(
        self, path: Path, load: Callable[[Path], Any], coverage: float, metrics: Metrics, say: Callable[[str], Any]
    ) -> None:
        self.path, self.metrics, self.say = path, metrics, say
        self._load = partial(ServedModel.load, path, load, coverage)
        self.problem: str | None = None
        self._seen: Signature = None  # of the file that was last tried
        self._loaded: Signature = None  # of the current model's
        self._stop = threading.Event()
        for _ in range(ATTEMPTS):
            before, found = signature(path), self._load()
            if before == signature(path):
                break
            time.sleep(SECONDS)
        else:
            raise ModelFileError(f"{path} keeps changing while it is read. Start again when it is complete.")
        self._start(found, before)

    def _start(self, model: ServedModel, seen: Signature) -> None:
        self.current, self.problem, self._seen, self._loaded = model, None, seen, seen
        self.metrics.start_model(model.quantiles, model.loaded)

    def check(self) -> None:
        """Load the file if it has changed since it was last tried."""
        now = signature(self.path)
        if now == self._seen:
            return
        if now == self._loaded:
            self.problem, self._seen = None, now
            self.metrics.solve_problem()
            return
        try:
            found = self._load()
        except Exception as error:  # whatever is wrong with the file, the current model goes on answering
            if now == signature(self.path):  # otherwise it was still being written: the next look tries again
                self.problem, self._seen = str(error) or type(error).__name__, now
                self.metrics.fail_model()
                problem = self.problem.rstrip(".")
                self.say(f"{self.path} has changed, but cannot be loaded: {problem}. The previous model still answers.")
            return
        if now == signature(self.path):
            self._start(found, now)
            self.say(f"Loaded {self.path}, which has changed (model {found.digest[:12]}).")

    def watch(self) -> None:
        """Check the file every second, in a thread, until ``close``."""

        def run() -> None:
            while not self._stop.wait(SECONDS):
                self.check()

        threading.Thread(target=run, name="dubito-model", daemon=True).start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()


def signature(path: Path) -> Signature:
    """What changes when a file is replaced or written to.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    tuple or None
        Numbers; None if there is no such file.
    """
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
