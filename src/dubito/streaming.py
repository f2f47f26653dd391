"""Predictions of a table's file to a file, block by block: constant memory, whole or not at all, and to be continued.

A block's answers are kept in memory until there is a part of them. A table of more than one part has a folder beside the
output, where each finished part is an Arrow file that took its name in one step, so what has a name is whole; its name
holds a digest of the task (model, table, options), so parts of different tasks never mix. At the end the parts become
the one output, which takes its name in one step, too. There is no list of parts to fall out of step with them.
"""

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import sys
from pathlib import Path

from dubito import interrupts

PART = 2**19  # rows at least: 24 MB of six columns


def predict_file(model, table, output, coverage, say):
    """Predict the rows of ``table`` with the model in the file ``model``, to ``output`` (.csv or .parquet).

    An interrupted run is continued by the same call. ``say`` is told what the user should know. Returns the number of rows.
    Raises DataError, ModelFileError and OSError.
    """
    from dubito.estimators import load

    found = load(model)
    with interrupts.deferred(), Parts(output, task(model, table, coverage), say) as parts:
        for answer, filled in answers(found, table, coverage, skip=parts.rows):
            parts.add(answer, filled)
        tell(parts.filled, say)
        write(parts.tables(), output, parts.folder)
    return parts.rows


def predict_to_stdout(model, table, coverage, say):
    """The same as CSV to standard output as it comes; an end to whoever reads it is no error."""
    from dubito.estimators import load

    counts = {}

    def tables():
        for answer, filled in answers(load(model), table, coverage):
            add_counts(counts, filled)
            yield answer

    try:
        stream(tables(), sys.stdout.buffer, ".csv")
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    tell(counts, say)


def tell(counts, say):
    if counts:
        say(f"Filled in: {', '.join(f'{count} of {name!r}' for name, count in counts.items())}.")


def add_counts(counts, more):
    for name, count in more.items():
        counts[name] = counts.get(name, 0) + count


def task(model, table, coverage):
    """What a part depends on, plain values; the table is None where it cannot be read again."""
    path = Path(table)
    found = path.stat() if path.is_file() else None
    return {
        "model": hashlib.sha256(Path(model).read_bytes()).hexdigest(),
        "table": found and {"name": path.name, "bytes": found.st_size, "modified": found.st_mtime_ns},
        "coverage": coverage,
    }


def answers(found, table, coverage=0.9, skip=0):
    """The answers for a table's rows from row ``skip`` on: pairs of a pyarrow Table and how many values were filled in."""
    import pyarrow

    from dubito.batches import read_batches
    from dubito.tables import fill_missing

    values, counts = found.summary_.get("impute"), []
    booleans = {column.name for column in found.schema_.columns if column.kind == "boolean"}
    if values is not None:
        values = {name: float(value >= 0.5) if name in booleans else value for name, value in values.items()}

    def blocks():
        target = found.summary_.get("target")
        for block, start in read_batches(table, found.schema_, target, found.block_rows, skip):
            filled = {}
            if values is not None:
                block, _, filled = fill_missing(block, values)
            counts.append(filled)
            yield block, start

    def reading(answer):
        return pyarrow.table(classes(found, answer) if answer.task == "classification" else numbers(answer, coverage))

    for place, answer in enumerate(found.stream(blocks(), reading)):
        yield answer, counts[place]


def numbers(answer, coverage):
    """A regressor's answers by column; with several targets the columns end in _0, _1, ..."""
    answer = answer.columnwise
    names = ("mean", "std", "epistemic_std", "aleatoric_std", "lower", "upper")
    parts = (answer.mean, answer.std, answer.epistemic_std, answer.aleatoric_std, *answer.interval(coverage))
    count = answer.mean.shape[1]
    endings = [""] if count == 1 else [f"_{k}" for k in range(count)]
    return {
        f"{name}{ending}": part[:, k]
        for k, ending in enumerate(endings)
        for name, part in zip(names, parts, strict=True)
    }


def classes(found, answer):
    """A classifier's answers by column."""
    import pyarrow

    probs = answer.probs
    prediction = pyarrow.array(found.classes_).take(pyarrow.array(probs.argmax(1)))
    columns = {f"p_{label}": probs[:, place] for place, label in enumerate(found.classes_)}
    doubt = {"entropy": answer.entropy, "mutual_information": answer.mutual_information}
    sets = getattr(answer, "sets", None)
    if sets is not None:
        doubt |= {f"set_{label}": sets[:, place] for place, label in enumerate(found.classes_)}
    return {"prediction": prediction} | columns | doubt


class Parts:
    """The answers so far: finished parts in a hidden folder beside ``output``, the rest in memory.

    As a context it leaves the folder after an interruption or a full disk, so that the same task can be continued, and
    removes it otherwise.
    """

    def __init__(self, output, task, say):
        self.folder = output.with_name(f".{output.name[:200]}.parts")
        self.task, self.say = task, say
        self.digest = hashlib.sha256(json.dumps(task, sort_keys=True).encode()).hexdigest()[:16]
        self.rest, self.files, self.rows, self.filled = [], [], 0, {}

    def __enter__(self):
        manifest = self.folder / "manifest.json"
        if self.folder.is_dir():
            with contextlib.suppress(OSError, ValueError):
                if self.task["table"] is not None and json.loads(manifest.read_text()) == self.task:
                    self._resume()
            if self.files:
                self.say(f"Going on after row {self.rows}, which an earlier run reached.")
            else:
                self.say(f"Discarded the parts of another or damaged run in {self.folder}")
                shutil.rmtree(self.folder)
        return self

    def _resume(self):
        """Take up the finished parts, up to the first that is not there or not whole."""
        import pyarrow

        for place in itertools.count():
            try:
                with pyarrow.ipc.open_file(str(self._part(place))) as file:
                    counts = json.loads(file.schema.metadata[b"filled"])
                    self.rows += sum(file.get_batch(k).num_rows for k in range(file.num_record_batches))
            except (OSError, pyarrow.ArrowException):
                return
            self.files.append(self._part(place))
            add_counts(self.filled, counts)

    def _part(self, place):
        return self.folder / f"{self.digest}-{place:06}.arrow"

    def add(self, answer, filled):
        """Take the next answers, a pyarrow Table; a part that is full goes to the disk when more rows come."""
        if sum(len(table) for table, _ in self.rest) >= PART:
            self._flush()
        self.rest.append((answer, filled))
        self.rows += len(answer)
        add_counts(self.filled, filled)

    def _flush(self):
        import pyarrow

        if not self.files:
            self.folder.mkdir(exist_ok=True)
            (self.folder / "manifest.json").write_text(json.dumps(self.task, indent=1))
        counts = {}
        for _, filled in self.rest:
            add_counts(counts, filled)
        schema = self.rest[0][0].schema.with_metadata({"filled": json.dumps(counts)})
        temporary = self.folder / f"{os.getpid()}.part"
        with open(temporary, "wb") as file:
            with pyarrow.ipc.new_file(file, schema) as writer:
                for table, _ in self.rest:
                    writer.write_table(table.replace_schema_metadata(schema.metadata))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._part(len(self.files)))
        self.files.append(self._part(len(self.files)))
        self.rest = []

    def tables(self):
        """All answers in order, each a pyarrow Table."""
        import pyarrow

        for path in self.files:
            with pyarrow.ipc.open_file(str(path)) as file:
                yield file.read_all().replace_schema_metadata(None)
        if self.rest:
            yield pyarrow.concat_tables([table for table, _ in self.rest])

    def __exit__(self, kind, *_):
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt | SystemExit | OSError)
        if interrupted and self.files and self.task["table"] is not None:
            self.say(f"The first rows are kept in {self.folder}. The same command goes on from there.")
        elif self.files:
            shutil.rmtree(self.folder, ignore_errors=True)


def write(tables, output, folder=None):
    """pyarrow Tables of one schema to a .csv or .parquet file, whole or not at all."""
    name = f".{output.name[:200]}.{os.getpid()}"
    temporary = folder / name if folder is not None and folder.is_dir() else output.with_name(name)
    interrupts.temporaries.add(str(temporary))
    try:
        with open(temporary, "wb") as file:
            stream(tables, file, output.suffix)
        os.replace(temporary, output)
    finally:
        temporary.unlink(missing_ok=True)
        interrupts.temporaries.discard(str(temporary))


def stream(tables, file, suffix):
    """pyarrow Tables of one schema to an open file, as they come; it stays open."""
    import pyarrow
    from pyarrow import csv, parquet

    first = next(tables)
    if suffix == ".csv":
        writer = csv.CSVWriter(file, first.schema)
    else:  # a dictionary of different numbers costs time and saves nothing
        texts = [field.name for field in first.schema if pyarrow.types.is_string(field.type)]
        writer = parquet.ParquetWriter(file, first.schema, use_dictionary=texts or False)  # type: ignore[arg-type]
    with writer:
        for table in itertools.chain([first], tables):
            writer.write_table(table)
