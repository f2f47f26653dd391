"""The encoding of a column, and the statistics that determine it, collected at once or piece by piece."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float

from dubito._check import DataError, list_first
from dubito.tables.columns import ColumnValues, RowNumbers, is_missing_in_column
from dubito.tables.dates import CYCLES, LEAST_PHASES, TIMES, looks_like_date, parse_time, parse_times, phases, waves
from dubito.tables.scaling import ColumnMoments, column_moments, merge_moments, standardize
from dubito.tables.texts import count_numbers, is_plain_number, means_missing, shared_unit

Encoded: TypeAlias = Float[np.ndarray, "rows width"]

FEW_CATEGORIES, MOST_CATEGORIES = 50, 200  # of a column that have an encoded column each; the others share one
COMMON = 10  # rows of a category beyond the 50 commonest that has a column: from fewer nothing is learned
UNNAMED = ("", "Unnamed: 0")  # the index of a frame, as pandas writes and reads it
FEW_TEXTS = 20  # so many different texts can be categories of any number of rows
MOST_TEXTS = 100_000  # more different texts in one column are held by no memory and learned by no network


class EncodedColumn(NamedTuple):
    """The encoded values of one column.

    Attributes
    ----------
    values : float32 array of shape (rows, width)
    missing : int
        How many missing values were filled although there were none in fit.
    unknown : int
        How many values are categories that were not in fit.
    """

    values: Encoded
    missing: int = 0
    unknown: int = 0


@dataclass(frozen=True)
class ColumnEncoding:
    """The encoding of a column.

    Numbers become (x − shift) / scale, booleans ±1, each category a 0/1 column, and times seconds
    scaled like numbers, with two columns for each cycle (see ``dates``). A missing value becomes the
    mean of numbers and times, 0 of booleans, and no category.

    Parameters
    ----------
    name : str
        The column's name.
    kind : str
        "numeric", "boolean", "time", "clock", "category" or "left out".
    shift, scale : float
        Of numbers, in the column's units, and of times, in seconds.
    categories : tuple
        Sorted by type and value.
    pooled : bool
        Whether a last 0/1 column stands for all other categories, those not seen in fit included.
    cycles : tuple of str
        Of times: "day", "week", "year"; of those of the day only "day".
    missing : bool
        Whether another 0/1 column, after all these, marks missing values: there were some in fit.
    """

    name: str
    kind: str
    shift: float = 0.0
    scale: float = 1.0
    categories: tuple[Any, ...] = ()
    pooled: bool = False
    cycles: tuple[str, ...] = ()
    missing: bool = False

    @property
    def width(self) -> int:
        """The number of encoded columns."""
        values = {"category": len(self.categories) + self.pooled, "left out": 0}
        return values.get(self.kind, 1 + 2 * len(self.cycles)) + self.missing

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the encoded columns."""
        if self.kind == "left out":
            return ()
        names = [f"{self.name}={category}" for category in self.categories] or [self.name]
        names += [f"{self.name}=others"] * self.pooled
        names += [f"{wave} of the {cycle} of {self.name}" for cycle in self.cycles for wave in ("sin", "cos")]
        return (*names, *[f"{self.name} missing"] * self.missing)

    def encode(self, column: ColumnValues, handle_unknown: str, start: int = 0) -> EncodedColumn:
        """Encode values as float32.

        Parameters
        ----------
        column : ColumnValues
            The values.
        handle_unknown : str
            "error", or "ignore" to encode categories not seen in fit as zeros.
        start : int
            The number of the first row, for messages.

        Returns
        -------
        EncodedColumn
            The encoded columns.

        Raises
        ------
        DataError
            For values of another kind, and for unseen categories.
        """
        missing = is_missing_in_column(column)
        if self.kind == "category":
            values, unknown = self._one_hot(column, missing, handle_unknown, start)
        else:
            numbers, unknown = self._numbers(column, missing, start), 0
            missing = np.isnan(numbers)  # also texts that spell it among times
            values = standardize(numbers, self.shift, self.scale)[:, None]
            cycles = [waves(numbers, cycle) for cycle in self.cycles]
            values = np.where(missing[:, None], 0, np.concatenate([values, *cycles], axis=1)).astype(np.float32)
        if not self.missing:
            return EncodedColumn(values, int(missing.sum()), unknown)
        return EncodedColumn(np.concatenate([values, missing[:, None].astype(np.float32)], axis=1), 0, unknown)

    def _numbers(self, column: ColumnValues, missing: Bool[np.ndarray, " rows"], start: int) -> np.ndarray:
        """The values as float64 of this column's kind; NaN where they are missing."""
        values, where = column.values, f"Column {self.name!r} was {self.kind} at fit; now"
        if missing.all():
            return np.full(len(values), np.nan)
        if self.kind in TIMES and column.kind == "category":
            seconds = parse_times(values, self.kind)
            if seconds is not None:
                return seconds
            row = next(row for row, value in enumerate(values) if value is not None and not _is_time(value, self.kind))
            remedy = f"Write times as {'13:45' if self.kind == 'clock' else '2024-01-31 or 2024-01-31T12:00'}."
            raise DataError(f"{where} it is text, such as {values[row]!r} in row {start + row}.", remedy)
        if column.kind == "category":
            present = [row for row, value in enumerate(values) if value is not None]
            row = next((row for row in present if not is_plain_number(str(values[row]))), present[0])
            raise DataError(f"{where} it is text, such as {values[row]!r} in row {start + row}.")
        if self.kind != column.kind and {self.kind, column.kind} & {*TIMES}:
            raise DataError(f"{where} it is {column.kind}.")
        if self.kind == "boolean" and not (good := missing | np.isin(values, (0, 1))).all():
            row = good.argmin()
            raise DataError(f"{where} row {start + row} has the value {values[row]}.")
        return values

    def _one_hot(
        self, column: ColumnValues, missing: Bool[np.ndarray, " rows"], handle_unknown: str, start: int
    ) -> tuple[Encoded, int]:
        """(the 0/1 columns, how many values are unseen categories)."""
        values = column.values if column.kind == "category" else column.values.tolist()
        places = {value: place for place, value in enumerate(self.categories)}
        other = len(places) if self.pooled else -1
        found = np.array([places.get(value, other) for value in values], dtype=np.int64)
        found[missing] = -1
        unknown = (found < 0) & ~missing
        if handle_unknown == "error" and unknown.any():
            row, known = int(unknown.argmax()), list_first([repr(value) for value in self.categories])
            what = (
                f"Column {self.name!r} has the value {values[row]!r} (row {start + row}), which it did not have at fit"
            )
            remedy = "Replace it, or set handle_unknown='ignore'."
            raise DataError(f"{what}; it had {known}.", remedy, "Replace it, or leave out --unknown error.")
        width = len(places) + self.pooled
        return (found[:, None] == np.arange(width)).astype(np.float32), int(unknown.sum())


def _is_time(value: Any, kind: str) -> bool:
    return isinstance(value, str) and parse_times([value], kind) is not None


class ColumnStatistics:
    """The statistics of a column that determine its encoding, collected piece by piece.

    Parameters
    ----------
    name : str
        The column's name.

    Attributes
    ----------
    kind : str or None
        As of ``ColumnValues``, "time" or "clock" for texts that are all times; None without any value.
    moments : ColumnMoments or None
        Of numbers, truth values and times.
    left_out : str
        Why the column is left out; empty if it is not.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.kind: str | None = None
        self.moments: ColumnMoments | None = None
        self.declared: tuple[Any, ...] | None = None
        self.counts: Counter[Any] = Counter()  # number of rows of each category
        self.weights: Counter[Any] = Counter()  # sum of their weights
        self.first: dict[Any, int] = {}  # first row of each category
        self.missing: int = 0
        self.ranges: list[tuple[float, float]] = []  # of seconds, and of the phases of each cycle
        self.counter: tuple[float, float] | None = (np.inf, -np.inf)  # its ends, if it may count rows
        self.index: np.ndarray | None = np.zeros(0) if name in UNNAMED else None  # its values, if it may be an index
        self.left_out: str = ""

    def add(self, column: ColumnValues, weight: Float[np.ndarray, " rows"], rows: RowNumbers) -> None:
        """Add some rows.

        Parameters
        ----------
        column : ColumnValues
            Their values.
        weight : array of shape (rows,)
            Their weights, all above zero.
        rows : sequence of int
            Their numbers.

        Raises
        ------
        DataError
            For texts after rows of numbers or dates.
        """
        absent = is_missing_in_column(column)
        self.missing += int(absent.sum())
        if absent.all() or self.left_out:
            return
        if absent.any():
            used, some = np.flatnonzero(~absent), np.asarray(rows)
            values = [column.values[row] for row in used] if column.kind == "category" else column.values[used]
            column, weight, rows = column._replace(values=values), weight[used], some[used]
        if column.kind == "category" and column.declared is None and self.kind in (None, *TIMES):
            times = [(kind, parse_times(column.values, kind)) for kind in TIMES if self.kind in (None, kind)]
            kind, seconds = next((each for each in times if each[1] is not None), ("", None))
            if seconds is not None and not np.isnan(seconds).all():
                good = ~np.isnan(seconds)
                self.missing += int((~good).sum())
                column, weight, rows = ColumnValues(kind, seconds[good]), weight[good], np.asarray(rows)[good]
        if self.kind not in (None, column.kind) and {self.kind, column.kind} != {"numeric", "boolean"}:
            what = f"Column {self.name!r} is {self.kind} before row {rows[0]}, and {column.kind} from there on."
            raise DataError(what, "Convert it to one type.")
        self.kind = column.kind
        if column.kind == "category":
            self._add_categories(column, weight, rows)
            return
        if self.index is not None:
            self.index = np.concatenate([self.index, column.values])
        found = column_moments(column.values, weight, rows)
        self.moments = found if self.moments is None else merge_moments(self.moments, found)
        self._add_order(column.values)
        if column.kind in TIMES:
            parts = [column.values, *(phases(column.values, cycle) for cycle in CYCLES)]
            new = [(float(part.min()), float(part.max())) for part in parts]
            old = self.ranges or new
            self.ranges = [(min(a, c), max(b, d)) for (a, b), (c, d) in zip(old, new, strict=True)]

    def _add_categories(self, column: ColumnValues, weight: np.ndarray, rows: RowNumbers) -> None:
        self.declared = column.declared
        self.counts.update(column.values)
        for value, one in zip(column.values, weight.tolist(), strict=True):
            self.weights[value] += one
        self.first = dict(zip(reversed(column.values), reversed(rows), strict=True)) | self.first
        if len(self.counts) > MOST_TEXTS and self.declared is None:
            self._check_not_numbers()
            self.left_out = f"more than {MOST_TEXTS:,} different texts"
            self.counts, self.weights, self.first = Counter(), Counter(), {}

    def _add_order(self, values: Float[np.ndarray, " rows"]) -> None:
        """Follow whether the column counts rows."""
        if self.counter is not None:
            first, last = self.counter
            ordered = values[0] > last and np.all(values[1:] > values[:-1]) and np.all(values == np.rint(values))
            self.counter = (min(first, float(values[0])), float(values[-1])) if ordered else None

    @property
    def is_index(self) -> bool:
        """Whether this is the index of a frame: without a name, whole numbers that all differ, in any order."""
        if self.index is None or self.kind != "numeric" or self.missing:
            return False
        return bool(np.all(self.index == np.rint(self.index))) and len(np.unique(self.index)) == len(self.index)

    def counts_rows(self, most: float) -> bool:
        """Whether the column counts the rows.

        Parameters
        ----------
        most : float
            The largest difference between its values.

        Returns
        -------
        bool
            True for whole numbers that increase from row to row, none missing.
        """
        if self.kind != "numeric" or self.counter is None or self.missing:
            return False
        return 0 < self.counter[1] - self.counter[0] < most

    @property
    def unread(self) -> tuple[str, str]:
        """("date" or "number" if all texts are dates in a notation that is not read, or numbers with a unit, the first)."""
        texts = [text for text in self.counts if isinstance(text, str) and not means_missing(text)]
        if self.declared is not None or not texts:
            return "", ""
        if all(map(looks_like_date, texts)):
            return "date", next((text for text in texts if parse_time(text) is None), texts[0])
        return ("number", texts[0]) if shared_unit(texts) else ("", "")

    def _check_not_numbers(self) -> None:
        """Raise DataError for a column of numbers that a few texts have made a column of texts."""
        found = count_numbers(self.counts, self.first)
        if self.declared is not None or found.other is None or not found.mostly_numbers:
            return
        what = "stands for a missing value" if means_missing(found.other) else "is not a plain number"
        raise DataError(
            f"Column {self.name!r} is text, but {found.numbers} of its {found.total} values are numbers; "
            f"{found.other!r} in row {found.row} {what}.",
            f"Convert the column to numbers, or make it categorical: X[{self.name!r}].astype('category').",
            f"Correct the cells that are not numbers, or name the column with --categorical {self.name}.",
        )

    def encoding(self) -> ColumnEncoding:
        """Determine the column's encoding.

        Its categories are the declared ones, otherwise those seen. Beyond the 50 with the most
        weight only those with a weight of 10 rows get a column of their own, 200 at most. A column without any value, and a column of texts of
        which most occur only once, are left out.

        Returns
        -------
        ColumnEncoding
            The encoding of all rows that were added.

        Raises
        ------
        DataError
            For categories of other types, and numbers that are written as text.
        """
        if self.kind is None:
            self.left_out = self.left_out or "no value at all"
        if self.kind == "category" and not self.left_out:
            self._check_not_numbers()
            count, rows = len(self.counts), self.counts.total()
            if self.declared is None and count > FEW_TEXTS and 2 * count > rows:
                self.left_out = "nearly every row has another text"
        if self.left_out:
            return ColumnEncoding(self.name, "left out")
        if self.moments is None:
            categories, pooled = self._categories()
            return ColumnEncoding(self.name, "category", categories=categories, pooled=pooled, missing=self.missing > 0)
        if self.kind == "boolean":
            return ColumnEncoding(self.name, self.kind, 0.5, 0.5, missing=self.missing > 0)
        least = 1.0 if self.moments.constant else 0.0  # huge values may differ by rounding
        shift, scale = self.moments.mean, max(least, self.moments.sd)
        return ColumnEncoding(self.name, str(self.kind), shift, scale, cycles=self._cycles(), missing=self.missing > 0)

    def _cycles(self) -> tuple[str, ...]:
        """The cycles that the times cover at least once, in more than one phase."""
        if not self.ranges:
            return ()
        (first, last), *spreads = self.ranges
        if self.kind == "clock":
            low, high = spreads[0]  # of the day
            return ("day",) if high - low > LEAST_PHASES else ()
        covered = zip(CYCLES.items(), spreads, strict=True)
        return tuple(
            name for (name, length), (low, high) in covered if last - first >= length and high - low > LEAST_PHASES
        )

    def _categories(self) -> tuple[tuple[Any, ...], bool]:
        """(those with a column of their own, whether there are others)."""
        values = set(self.declared or self.counts)
        others = sorted({type(value).__name__ for value in values if not isinstance(value, str | bool | int)})
        if others:
            what = f"has categories of type {list_first(others)}"
            raise DataError(f"Column {self.name!r} {what}: convert them to text or integers.")
        ordered = _sorted(values)
        commonest = sorted(ordered, key=lambda value: -self.weights[value])[:MOST_CATEGORIES]
        rarer = [value for value in commonest[FEW_CATEGORIES:] if self.weights[value] >= COMMON]
        chosen = commonest[:FEW_CATEGORIES] + rarer
        return tuple(_sorted(chosen)), len(values) > len(chosen)


def _sorted(values: Sequence[Any] | set[Any]) -> list[Any]:
    return sorted(values, key=lambda value: (type(value).__name__, value))
