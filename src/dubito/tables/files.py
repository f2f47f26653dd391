"""A table's file some rows at a time, in constant memory: for a fitted model, and to fit one.

For a fitted model they are the same values for any number of rows: the model says what the columns of a CSV are, so no part of the file is read otherwise than the whole: what was a number at
fit must be one, what was text stays text, also where it looks like a number. (Reading to fit must guess: ``read_table``.)
"""

import contextlib
import csv
import io
import sys

import numpy as np

from dubito._check import DataError, in_rows, list_first
from dubito._values import is_missing_in
from dubito.tables.columns import Part, TargetScaler, as_parts, check_target, opened
from dubito.tables.csv_quotes import CheckedFile
from dubito.tables.encoding import Column, Learned
from dubito.tables.schema import Schema, check_names, ending_of, split_target, target_kind, with_target
from dubito.tables.texts import MISSING

ROWS = 2**16  # read at a time to fit


def read_batches(source, schema, target=None, rows=16384, skip=0, categorical=()):
    """Pairs of a pyarrow Table of ``rows`` rows (the last may have fewer) and its first row's number; at least one.

    ``schema`` is the model's; the column ``target`` is left out, and so are the first ``skip`` rows. The columns
    ``categorical`` of a Parquet file become categories. Raises DataError as ``read_table`` does, and for texts among numbers.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError("Reading tables needs pyarrow: pip install 'dubito[cli]'") from error
    parquet = ending_of(source) == ".parquet"
    start, waiting, count = skip, [], 0

    def block(table):
        if target in table.column_names:
            table = table.drop_columns(target)
        for name in categorical:
            column = table[name].combine_chunks().dictionary_encode()
            table = table.set_column(table.column_names.index(name), name, column)
        return table if parquet else _typed(source, table, schema, start)

    try:
        for table in _parquet(source, rows) if parquet else _csv(source):
            kept = table.slice(min(skip, len(table)))
            skip -= len(table) - len(kept)
            waiting, count = [*waiting, kept], count + len(kept)
            while count >= rows:
                whole = pyarrow.concat_tables(waiting)
                yield block(whole.slice(0, rows)), start
                start, waiting, count = start + rows, [whole.slice(rows)], count - rows
        if count or not start:
            yield block(pyarrow.concat_tables(waiting)), start
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{source} cannot be read: {error}") from error


def learn_table(path, target, task, categorical=(), drop_missing=False):
    """(``Schema``, ``TargetScaler`` or for classes their sorted labels, number of rows used) of a Parquet table, read once.

    What ``Schema.fit`` and ``TargetScaler.fit`` find of the whole, to rounding; an absurd outlier is seen among the 65,536
    rows around it. ``drop_missing``: leave rows out that have no value of ``target``. Raises DataError as these do, for such
    rows otherwise, and for any other file.
    """
    _only_parquet(path)
    learned, labels, count, missing = {}, [], 0, []
    for table, start in read_batches(path, None, rows=ROWS, categorical=categorical):
        inputs, y = split_target(table, target)
        gone = is_missing_in(y)
        missing += (start + np.flatnonzero(gone)).tolist()
        rows = start + np.flatnonzero(~gone)
        names, frame = opened(inputs, least=0)
        for name, part in zip(names, as_parts(names, frame[rows - start], rows), strict=True):
            learned.setdefault(name, Learned(name)).add(part, np.ones(len(rows)), rows)
        if task == "classification":
            labels = np.unique(np.concatenate([labels, y[~gone]]) if len(labels) else y[~gone])
        elif len(rows):
            values, _ = check_target(y, len(y), task, rows - start)
            learned.setdefault(None, Learned(target)).add(Part("numeric", values[:, 0]), np.ones(len(rows)), rows)
        count += len(rows)
    if missing and not drop_missing:
        where = in_rows(np.ones(len(missing), bool), missing)
        raise DataError(
            f"{len(missing)} values of the target {target!r} are missing, {where}.", "Leave these rows out."
        )
    if count < 2:
        raise DataError(f"{path} has {count} rows with a target; at least two are needed to fit.")
    if task == "classification":
        classes, _ = check_target(np.repeat(labels, 3), 3 * len(labels), task)  # else they might be too many for so few
        return Schema.of([*learned.values()]), classes, count
    values = learned.pop(None)
    return Schema.of([*learned.values()]), TargetScaler.of([values.moments]), count


def kind_in_file(path, target):
    """``target_kind`` of a Parquet table's column, of which no more is held than is needed. Raises DataError."""
    import pyarrow

    _only_parquet(path)
    codes, count = set(), 0
    for table, _ in read_batches(path, None, rows=ROWS):
        split_target(table, target)
        column = table.column(target)
        if not pyarrow.types.is_integer(column.type):
            return target_kind(table, target)
        codes.update(column.drop_null().unique().to_pylist())
        count += len(column) - column.null_count
        if len(codes) > 10:
            return "regression"
    few = pyarrow.table({target: sorted(codes) * 2})
    return target_kind(few, target) if count >= 2 * len(codes) else "regression"


def _only_parquet(path):
    if ending_of(path) != ".parquet":
        raise DataError(f"{path}: only a .parquet table can be read piece by piece to fit; convert it.")


def table_pieces(path, target, schema, known, categorical=()):
    """A Parquet table as what ``fit`` takes for ``x``: encoded by its ``schema``, the target by ``known``, of ``learn_table``.

    Rows without a value of ``target`` are left out."""

    def pieces():
        for table, start in read_batches(path, schema, rows=ROWS, categorical=categorical):
            inputs, values = split_target(with_target(table, target)[0], target)
            scaled = isinstance(known, TargetScaler)
            y = known.transform(values[:, None]) if scaled else np.searchsorted(known, values).astype(np.int32)
            yield schema.encode(inputs, start=start), y

    return pieces


def parquet_pieces(path, inputs, target, weight=None):
    """A Parquet file as what ``fit`` takes for ``x``, to train without loading it whole: a callable that reads it anew.

    ``inputs``: names of columns of numbers or truth values, in the order of the network's inputs; ``target``: the name of
    such a column, or a list of names, (N, K); ``weight``: that of the sample weights. The numbers are given as they are:
    nothing is scaled. ``fit`` shuffles rows within pieces of 65,536 only, so the file should not be sorted.

    Raises DataError where the file cannot be read, a column is not there or not of numbers; the callable also for missing
    values.
    """
    import pyarrow
    from pyarrow import parquet, types

    several = not isinstance(target, str)
    columns = [*inputs, *(target if several else [target]), *([] if weight is None else [weight])]
    try:
        with pyarrow.OSFile(str(path)) as file:  # a name might be taken for an address
            schema = parquet.read_schema(file)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    for name in columns:
        if name not in schema.names:
            raise DataError(f"{path} has no column {name!r}. The columns are {list_first([*map(repr, schema.names)])}.")
        kind = schema.field(name).type
        if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
            raise DataError(f"{path}: column {name!r} is of {kind}, not of numbers.")

    def pieces():
        start, end = 0, len(columns) - (weight is not None)
        try:
            for table in _parquet(path, ROWS, list(dict.fromkeys(columns))):
                arrays = [_complete(path, table, name, start) for name in columns]
                y = _side_by_side(arrays[len(inputs) : end]) if several else arrays[len(inputs)]
                yield (_side_by_side(arrays[: len(inputs)]), y, *arrays[end:])
                start += len(table)
        except (OSError, pyarrow.ArrowException) as error:
            raise DataError(f"{path} cannot be read: {error}") from error

    return pieces


def _complete(path, table, name, start):
    """A column's values (n,); DataError where some are missing. ``start``: the number of the first row."""
    column = table.column(name)
    if column.null_count:
        row = start + int(np.argmax(column.is_null().to_numpy()))
        raise DataError(f"{path}: column {name!r} has no value in row {row}. Fill it in, or leave the row out.")
    return column.to_numpy()


def _side_by_side(columns):
    """Columns (n,) as one array of float32 (n, K); what is beyond it becomes infinite, which a fit refuses."""
    out = np.empty((len(columns[0]), len(columns)), np.float32)
    with np.errstate(over="ignore"):
        for place, column in enumerate(columns):
            out[:, place] = column
    return out


def _parquet(source, rows, columns=None):
    """Tables of the file's rows, of all columns or some; the first is empty, so that there is one."""
    import pyarrow
    from pyarrow import parquet

    # not buffered ahead: a group of rows may be as large as the file
    with pyarrow.OSFile(str(source)) as local, parquet.ParquetFile(local, pre_buffer=False, buffer_size=2**20) as file:
        check_names(source, file.schema_arrow.names)
        yield file.schema_arrow.empty_table()
        for batch in file.iter_batches(rows, columns=columns):
            yield pyarrow.Table.from_batches([batch])


def _csv(source):
    """Tables of the file's cells as bytes, null where they are missing; the first is empty, so that there is one."""
    import pyarrow

    delimiter = "\t" if ending_of(source) == ".tsv" else ","
    stdin = contextlib.nullcontext(sys.stdin.buffer)
    with stdin if str(source) == "-" else open(source, "rb") as opened_file:
        checked = CheckedFile(opened_file, source, delimiter)
        file = io.BufferedReader(checked, 2**20)
        try:
            yield from _csv_tables(source, file, delimiter)
        except (DataError, pyarrow.ArrowException):
            if checked.error is None:
                raise
        if checked.error is not None:  # which is why there are too few cells in the last row, or names in the header
            raise checked.error


def _csv_tables(source, file, delimiter):
    """The tables of ``_csv`` from an open file."""
    import pyarrow
    from pyarrow import csv as arrow

    names = _header(source, file, delimiter)
    check_names(source, names)
    cells = pyarrow.schema([(name, pyarrow.binary()) for name in names])
    yield cells.empty_table()
    if file.peek(1):  # pyarrow has an error for no bytes at all
        reader = arrow.open_csv(
            file,
            read_options=arrow.ReadOptions(column_names=names, block_size=2**22),
            parse_options=arrow.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=arrow.ConvertOptions(column_types=cells, strings_can_be_null=True),
        )
        for batch in reader:
            yield pyarrow.Table.from_batches([batch])


def _header(source, file, delimiter):
    """The names of a CSV's columns; ``file`` then stands where the rows begin."""
    lines = (line.decode("utf-8-sig" if place == 0 else "utf-8") for place, line in enumerate(file))
    try:
        for names in csv.reader(lines, delimiter=delimiter):
            if names:
                return names
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{source} cannot be read: its first line is no header in UTF-8 ({error})") from error
    raise DataError(f"{source} cannot be read: it is empty")


def read_labeled(source, schema, target, classes=None):
    """(inputs, y) of a whole table, read as a model's columns were at fit. y, of the column ``target``, is a NumPy array of
    texts, numbers or truth values as ``classes`` are (None: of numbers), with None or NaN where it is missing; without that
    column it is None.

    Raises DataError as ``read_batches`` does, and for a target that is text among numbers.
    """
    import pyarrow

    table = pyarrow.concat_tables([block for block, _ in read_batches(source, schema)])
    if target not in table.column_names:
        return table, None
    if ending_of(source) == ".parquet":
        return split_target(table, target)
    kind = "f" if classes is None else np.asarray(classes).dtype.kind
    if kind not in "UO":
        column = Column(target, "boolean" if kind == "b" else "numeric")
        place = table.column_names.index(target)
        table = table.set_column(place, target, _values(table[target], column, 0))
    return split_target(table, target)


def _typed(source, table, schema, start):
    """Cells as what their columns were at fit. Columns that the model does not know stay texts: the model refuses them."""
    import pyarrow

    names = table.column_names
    known = dict(zip(schema.names or names, schema.columns, strict=False))
    arrays = []
    for name, cells in zip(names, table.columns, strict=True):
        try:
            texts = cells.cast(pyarrow.string())
        except pyarrow.ArrowInvalid:
            raise DataError(f"{source}: column {name!r} is not UTF-8 text.") from None
        arrays.append(_values(texts, known[name], start) if name in known else texts)
    return pyarrow.table(arrays, names)


def _values(texts, column, start):
    """Texts of one column as numbers or truth values, unless it is of texts."""
    import pyarrow
    from pyarrow import compute

    if any(isinstance(value, str) for value in column.categories):
        return texts
    trimmed = compute.utf8_trim_whitespace(texts)  # type: ignore[attr-defined]
    spelled = compute.is_in(compute.utf8_lower(trimmed), pyarrow.array(sorted(MISSING)))  # type: ignore[attr-defined]
    trimmed = compute.if_else(spelled, None, trimmed)  # type: ignore[attr-defined]
    kinds = [pyarrow.float64()] if column.kind == "numeric" else [pyarrow.bool_(), pyarrow.float64()]
    for kind in kinds:
        with contextlib.suppress(pyarrow.ArrowInvalid):
            return trimmed.cast(kind)
    for row, text in enumerate(trimmed):
        if not any(_casts(text, kind) for kind in kinds):
            was = "of numbers" if column.kind == "category" else column.kind
            raise DataError(
                f"Column {column.name!r} was {was} at fit; now row {start + row} has {text.as_py()!r}. Correct the cell, or "
                "leave it empty and fit with --impute."
            )
    raise DataError(f"Column {column.name!r} was {column.kind} at fit; now it has both truth values and numbers.")


def _casts(text, kind):
    import pyarrow

    try:
        text.cast(kind)
    except pyarrow.ArrowInvalid:
        return False
    return True
