"""The output of a long prediction in parts, which survive an interruption.

Finished parts are appended to one hidden file beside the output. Its first line is the manifest:
JSON with the task (model, table, options), so that parts of different tasks never mix. Each part is
a line with its length and checksum, a line of JSON with the number of rows and the notes up to its
end, and an Arrow file. A damaged or unfinished part is therefore detected. No other file is ever
deleted.
"""

import contextlib
import hashlib
import itertools
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeAlias

import pyarrow

from dubito.cli.terminal import Say

try:
    import fcntl
except ImportError:  # Windows, where two runs with one output do not notice each other
    fcntl = None

Counts: TypeAlias = dict[str, dict[str, int]]  # {what was done: {column: number of values}}

PART = 2**19  # smallest number of rows of a part: 24 MB of six columns
MARK = b'{"dubito": "parts of an output of dubito predict", "task": '


class ResumableOutput:
    """An output that the same task can resume: finished parts in a file beside it, the rest in
    memory.

    As a context it keeps the file after an interruption or a full disk, and removes it otherwise.

    Parameters
    ----------
    output : Path
        The output.
    task : dict
        Plain values that determine the predictions.
    say : callable
        Prints a note.

    Attributes
    ----------
    rows : int
        Number of rows so far.
    notes : dict
        Sums of the notes so far.

    Raises
    ------
    ValueError
        On entering the context, if another run is writing to the same output.
    """

    def __init__(self, output: Path, task: dict[str, Any], say: Say) -> None:
        self.output, self.say = output, say
        self.path = parts_path(output)
        self.manifest = MARK + json.dumps(task, sort_keys=True).encode() + b"}\n"
        self.resumable = task["table"] is not None
        self.file: BinaryIO | None = None
        self.rest: list[pyarrow.Table] = []
        self.rows, self.notes = 0, {}

    def __enter__(self) -> Self:
        if self.path.exists():
            self.file = self._open()
            self._resume(self.file)
        return self

    def _resume(self, file: BinaryIO) -> None:
        """Take over the finished parts of this task, up to the first damaged one; cut off all
        others.
        """
        end = len(self.manifest) if self.resumable and file.readline() == self.manifest else 0
        for head, _ in self._parts(file) if end else ():
            self.rows, self.notes, end = head["rows"], head["notes"], file.tell()
        if not end:
            self.say(f"Discarded the parts of another run in {self.path}")
        elif end < file.seek(0, os.SEEK_END):
            self.say(f"A part in {self.path} is damaged: the rows from {self.rows} on are predicted again.")
        if self.rows:
            self.say(f"Resuming after row {self.rows} of an earlier run.")
        file.truncate(end)

    def _parts(self, file: BinaryIO) -> Iterator[tuple[dict[str, Any], bytes]]:
        """The JSON and the Arrow file of each part, up to the first damaged one."""
        file.seek(len(self.manifest))
        for line in iter(file.readline, b""):
            length, _, checksum = line.strip().partition(b" ")
            data = file.read(int(length)) if length.isdigit() else b""
            if hashlib.sha256(data).hexdigest().encode() != checksum:
                return
            head, _, table = data.partition(b"\n")
            yield json.loads(head), table

    def add(self, answer: pyarrow.Table, notes: Counts) -> None:
        """Add the next rows; a full part is written when more rows come."""
        if sum(map(len, self.rest)) >= PART:
            self._flush()
        self.rest.append(answer)
        self.rows += len(answer)
        add_counts(self.notes, notes)

    def _flush(self) -> None:
        self.file = self.file or self._open()
        if self.file.seek(0, os.SEEK_END) == 0:
            self.file.write(self.manifest)
        sink = pyarrow.BufferOutputStream()
        with pyarrow.ipc.new_file(sink, self.rest[0].schema) as writer:
            for table in self.rest:
                writer.write_table(table)
        data = json.dumps({"rows": self.rows, "notes": self.notes}).encode() + b"\n" + sink.getvalue().to_pybytes()
        self.file.write(f"{len(data)} {hashlib.sha256(data).hexdigest()}\n".encode() + data)
        self.file.flush()
        os.fsync(self.file.fileno())
        self.rest = []

    def tables(self) -> Iterator[pyarrow.Table]:
        """All rows in order."""
        end = 0
        for head, data in self._parts(self.file) if self.file else ():
            end = head["rows"]
            yield pyarrow.ipc.open_file(data).read_all()
        if end + sum(map(len, self.rest)) != self.rows:
            raise OSError(f"{self.path} was changed meanwhile: run the same command again")
        if self.rest:
            yield pyarrow.concat_tables(self.rest)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.file is None:
            return
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt | SystemExit | OSError)
        if interrupted and self.resumable and self.path.stat().st_size > len(self.manifest):
            self.say(f"The finished rows are stored in {self.path}. Run the same command to resume.")
        else:
            if fcntl is None:  # Windows deletes no open file
                self.file.close()
            self.path.unlink(missing_ok=True)
        self.file.close()

    def _open(self) -> BinaryIO:
        """The file of parts, which no other run has open."""
        while True:
            file = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
            try:
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                raise ValueError(
                    f"another run is writing {self.output} now (its parts are in {self.path}). Wait until it has ended, "
                    "or choose another output."
                ) from None
            except OSError:  # a file system without locks
                return file
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(self.path), os.fstat(file.fileno())):
                    return file
            file.close()  # the run that had it locked has deleted it


def add_counts(notes: Counts, more: Mapping[str, Mapping[str, int]]) -> None:
    """Add the numbers of ``more`` to those of ``notes``, both {what: {column: number}}."""
    for what, counts in more.items():
        own = notes.setdefault(what, {})
        for column, count in counts.items():
            own[column] = own.get(column, 0) + count


def parts_path(output: Path) -> Path:
    """Where the parts of ``output`` are: the first of some names that is free or such a file."""
    name = output.name
    if len(name.encode()) > 200:  # a name has at most 255 bytes
        name = f"{name.encode()[:160].decode(errors='ignore')}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    paths = (output.with_name(f".{name}.parts{place or ''}") for place in itertools.count())
    return next(path for path in paths if not os.path.lexists(path) or _is_own(path))


def _is_own(path: Path) -> bool:
    """Whether a file was made for parts: by its first bytes, which an interruption may have cut
    off.
    """
    if not stat.S_ISREG(path.lstat().st_mode):
        return False
    with contextlib.suppress(OSError), path.open("rb") as file:
        return MARK.startswith(file.read(len(MARK)))
    return False
