"""The output of a long prediction, in parts: files that survive an interruption, each with its checksum.

A finished part is an Arrow file in a hidden folder beside the output, renamed to its final name in one step. The name
contains a digest of the task (model, table, options), so that parts of different tasks never mix, and one of its bytes, so
that a damaged part is detected. No list of parts can contradict the files. A folder is used only if it contains the manifest,
and no other file is ever deleted.
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dubito._process.output_files import write_atomically

try:
    import fcntl
except ImportError:  # Windows, where two runs to one output are not told of each other
    fcntl = None

PART = 2**19  # rows at least: 24 MB of six columns
MANIFEST = "manifest.json"
LOCK = ".dubito-lock"
MARK = "parts of an output of dubito predict, which the same command continues"
OWN = re.compile(r"[0-9a-f]{16}-\d{6}-[0-9a-f]{32}\.arrow|\.dubito-[0-9a-f]{16}")  # names of the files to delete


class ResumableOutput:
    """An output that the same task can resume: finished parts in a hidden folder beside it, the rest in memory.

    As a context it leaves the folder after an interruption or a full disk, and removes it otherwise. Raises ValueError if
    another run is writing to the same output.

    Parameters
    ----------
    output : the file.
    task : plain values that determine the predictions.
    say : prints a note.
    """

    def __init__(self, output: str | Path, task: dict[str, Any], say: Callable[[str], None]):
        self.output, self.task, self.say = Path(output), task, say
        self.folder = parts_folder(self.output)
        self.digest = hashlib.sha256(json.dumps(task, sort_keys=True).encode()).hexdigest()[:16]
        self.owned, self.lock = False, None
        self.rest, self.files, self.rows, self.notes = [], [], 0, {}

    def __enter__(self):
        if self.folder.is_dir():
            self._lock()
            try:
                self._resume()
            except BaseException:
                self._unlock()
                raise
        return self

    @property
    def made_folder(self) -> Path | None:
        """The folder, None if there are no parts yet."""
        return self.folder if self.files else None

    def _resume(self):
        """Take up the finished parts of this task, up to the first that is missing or damaged; delete all others."""
        known = _manifest(self.folder) or {}
        damaged = None
        if self.task["table"] is not None and known.get("task") == self.task:
            for place in itertools.count():
                found = sorted(self.folder.glob(f"{self.digest}-{place:06}-*.arrow"))
                read = _read_part(found[0]) if found else None
                if read is None:
                    damaged = found[0] if found else None
                    break
                self.files.append(found[0])
                self.rows += read[0]
                add_counts(self.notes, read[1])
        if damaged is not None:
            self.say(f"The part {damaged} is damaged: the rows from {self.rows} on are predicted again.")
        elif not self.files:
            self.say(f"Discarded the parts of another run in {self.folder}")
        if self.files:
            self.say(f"Going on after row {self.rows}, which an earlier run reached.")
            for path in set(_own_files(self.folder)) - set(self.files):
                path.unlink(missing_ok=True)
        else:
            self._remove()

    def add(self, answer: Any, notes: dict[str, dict[str, int]]) -> None:
        """Add the next rows, a pyarrow Table; a full part is written when more rows come."""
        if sum(len(table) for table, _ in self.rest) >= PART:
            self._flush()
        self.rest.append((answer, notes))
        self.rows += len(answer)
        add_counts(self.notes, notes)

    def _flush(self):
        import pyarrow

        if not self.files:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            self._lock()
            with write_atomically(self.folder / MANIFEST) as file:
                file.write(json.dumps({"dubito": MARK, "task": self.task}, indent=1).encode())
        counts = {}
        for _, notes in self.rest:
            add_counts(counts, notes)
        schema = self.rest[0][0].schema.with_metadata({"notes": json.dumps(counts)})
        sink = pyarrow.BufferOutputStream()
        with pyarrow.ipc.new_file(sink, schema) as writer:
            for table, _ in self.rest:
                writer.write_table(table.replace_schema_metadata(schema.metadata))
        data = sink.getvalue()
        path = self.folder / f"{self.digest}-{len(self.files):06}-{hashlib.sha256(data).hexdigest()[:32]}.arrow"
        with write_atomically(path) as file:
            file.write(data)
        self.files.append(path)
        self.rest = []

    def tables(self) -> Iterator[Any]:
        """All rows in order, as pyarrow Tables."""
        import pyarrow

        for path in self.files:
            with pyarrow.OSFile(str(path)) as source, pyarrow.ipc.open_file(source) as file:
                yield file.read_all().replace_schema_metadata(None)
        if self.rest:
            yield pyarrow.concat_tables([table for table, _ in self.rest])

    def __exit__(self, kind, *_):
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt | SystemExit | OSError)
        if interrupted and self.files and self.task["table"] is not None:
            self.say(f"The first rows are kept in {self.folder}. The same command goes on from there.")
        elif self.owned:
            self._remove()
        self._unlock()

    def _remove(self):
        """Delete the files that such runs have written, and the folder if nothing else is in it."""
        for path in [*_own_files(self.folder), self.folder / MANIFEST, self.folder / LOCK]:
            with contextlib.suppress(OSError):
                path.unlink()
        self._unlock()
        with contextlib.suppress(OSError):  # it holds something else
            self.folder.rmdir()

    def _lock(self):
        """Make the folder this run's alone; ValueError where another run, which is still going on, has it."""
        while fcntl is not None and self.lock is None:
            descriptor = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                raise ValueError(
                    f"another run is writing {self.output} now (its parts are in {self.folder}): wait for its end, or name "
                    "another output"
                ) from None
            except OSError:  # a file system without locks
                os.close(descriptor)
                break
            with contextlib.suppress(OSError):  # else the run that had it removed the file meanwhile
                if os.path.samestat(os.stat(self.folder / LOCK), os.fstat(descriptor)):
                    self.lock = descriptor
            if self.lock is None:
                os.close(descriptor)
                self.folder.mkdir(mode=0o700, exist_ok=True)
        self.owned = True

    def _unlock(self):
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None


def add_counts(notes: dict[str, dict[str, int]], more: Mapping[str, Mapping[str, int]]) -> None:
    """Add the numbers of ``more`` to those of ``notes``, both {what: {column: number}}."""
    for what, counts in more.items():
        own = notes.setdefault(what, {})
        for column, count in counts.items():
            own[column] = own.get(column, 0) + count


def parts_folder(output):
    """Where the parts of ``output`` are: the first of some names that stands for nothing yet or for such a folder."""
    name = output.name
    if len(name.encode()) > 200:  # a name has 255 bytes at most
        name = f"{name.encode()[:160].decode(errors='ignore')}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    folders = (output.with_name(f".{name}.parts{place or ''}") for place in itertools.count())
    return next(folder for folder in folders if not os.path.lexists(folder) or _is_own(folder))


def _is_own(folder):
    """Whether a folder was made for parts: by its manifest, or because an interruption came before that was written."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    return _manifest(folder) is not None or {LOCK} <= {path.name for path in folder.iterdir()} <= {
        LOCK,
        *(path.name for path in _own_files(folder)),
    }


def _manifest(folder):
    """What the manifest of a folder of parts says; None for any other folder."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((folder / MANIFEST).read_text())
        if isinstance(found, dict) and found.get("dubito") == MARK:
            return found
    return None


def _own_files(folder):
    return [path for path in folder.iterdir() if OWN.fullmatch(path.name)]


def _read_part(path):
    """(number of rows, notes on values) of a part, None if it is not as it was written."""
    import pyarrow

    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest()[:32] != path.stem.rsplit("-", 1)[-1]:
            return None
        with pyarrow.ipc.open_file(pyarrow.BufferReader(data)) as file:
            counts = json.loads(file.schema.metadata[b"notes"])
            return sum(file.get_batch(k).num_rows for k in range(file.num_record_batches)), counts
    except (OSError, ValueError, KeyError, pyarrow.ArrowException):
        return None
