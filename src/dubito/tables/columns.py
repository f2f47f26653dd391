"""Tables in, float32 out: what a column's values are, their moments, and scaling in float64.

No JAX here. JAX alone turns an id of 2⁴⁰ into 0 and 1e300 into ∞, so numbers are centered and scaled in float64 before
it sees them. Scales are learned from rows with a weight above zero and from no others.
"""

import math
import numbers
import warnings
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

import narwhals as nw
import numpy as np
from narwhals.exceptions import DuplicateError
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, column_or_1d

from dubito._check import SHOWN as SHOWN
from dubito._check import DataError as DataError
from dubito._check import DataWarning as DataWarning
from dubito._check import check_weight_sum, in_rows
from dubito._check import list_first as list_first
from dubito._values import as_array, is_missing
from dubito.tables.texts import is_number, means_missing

CONSTANT = 1e-10  # a column whose sd is below this part of its largest magnitude says nothing
OUTLIER = 1e6  # sd of all other rows: a single value farther away makes them nearly equal once scaled
FARTHEST = 1e18  # standardized values end here: far beyond any data, yet squares and their sums stay finite in float32
CATEGORIES = 10_000  # more in one column is an id, not a category; one-hot encoding would fill the memory


class Part(NamedTuple):
    """One column as read: ``values`` float64 (n,) with NaN for missing, or for a category a list with None for missing.

    ``declared``: the categories of a categorical type, empty where the type does not list them; None for a column of texts.
    """

    kind: str
    values: Any
    declared: tuple | None = None


def warn_of(what, names):
    """One warning for all columns that have the same fault."""
    if names:
        warnings.warn(f"{what}: {list_first(names)}.", DataWarning, stacklevel=3)


def _mixed(name, values, rows):
    """A column of Python objects without the texts that stand for a missing value. Raises DataError for other texts beside
    values that are none."""
    texts = np.array([isinstance(value, str) for value in values], bool)
    for place in np.flatnonzero(texts):
        if not means_missing(values[place]):
            raise DataError(
                f"Column {name!r} has the text {values[place]!r} in row {place if rows is None else rows[place]} among "
                "values of other types.",
                f"Correct it, or make the column categorical: X[{name!r}].astype(str).astype('category').",
            )
    return np.where(texts, None, values) if texts.any() else values


def _text_error(values, where, rows):
    """The DataError for ``values`` with texts: it names the first that is no plain number."""
    texts = [(place[0], value) for place, value in np.ndenumerate(values) if isinstance(value, str | bytes)]
    others = [(row, value) for row, value in texts if not is_number(str(value))]
    row, value = (others or texts)[0]
    what = "which is no number" if others else "a number that is written as text"
    texts_allowed = " Only columns of a data frame may be texts, which become categories." if where == "Input X" else ""
    return DataError(
        f"{where} has the text {value!r} in row {row if rows is None else rows[row]}, {what}.",
        f"Convert it to numbers.{texts_allowed}",
        "Correct the cell.",
    )


def _real(values, where, rows=None):
    """Real numbers of any type as float64; None and NA become NaN. Raises DataError for text, dates and everything else."""
    if values.dtype.kind != "O":
        if values.dtype.kind not in "buif":
            if values.dtype.kind == "U":
                raise _text_error(values.astype(object), where, rows)
            raise DataError(f"{where} has the dtype {values.dtype}: convert it to numbers.")
        with np.errstate(over="ignore"):
            return values.astype(np.float64, copy=False)
    out = np.empty(values.shape)
    for place, value in np.ndenumerate(values):
        if isinstance(value, str | bytes):
            raise _text_error(values, where, rows)
        if not (is_missing(value) or isinstance(value, numbers.Real | Decimal | np.bool_)):
            row = place[0] if rows is None else rows[place[0]]
            found = f"not {type(value).__name__!r} as in row {row}"
            raise TypeError(f"{where}: argument must be a string (in a table) or a real number, {found}.")
        try:
            out[place] = np.nan if is_missing(value) else float(value)
        except OverflowError:
            out[place] = np.inf
    return out


def _array(values, name, **limits):
    """Any array of numbers as float64, or scikit-learn's errors for what is none. Missing values are still in it."""
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise DataError(f"Input {name} is an array with masked values: fill them, or leave out their rows.")
    try:
        array = check_array(values, dtype=None, ensure_all_finite=False, input_name=name, **limits)  # pyright: ignore[reportArgumentType]
    except ValueError as error:
        raise DataError(str(error)) from error
    return _real(array, f"Input {name}")


def _complete(name, parts, labels, rows, option=""):
    """Raise DataError unless all values are there and finite. The message has columns, counts and the numbers, ``rows``, of
    the first rows; ``option`` is what to do about missing ones on the command line."""
    found, missing = [], 0
    for part, label in zip(parts, labels, strict=True):
        texts = part.kind == "category"
        bad = np.array([value is None for value in part.values], bool) if texts else ~np.isfinite(part.values)
        if bad.any():
            infinite = 0 if texts else int(np.isinf(part.values).sum())
            missing += int(bad.sum()) - infinite
            found.append(f"{label}: {bad.sum() - infinite} missing, {infinite} infinite, {in_rows(bad, rows)}")
    if found:
        what = "NaN" if missing else "infinity or a value too large for dtype('float64')"
        more = [f"and {len(found) - SHOWN} more columns"] if len(found) > SHOWN else []
        lines = "\n".join([f"Input {name} contains {what}.", *found[:SHOWN], *more])
        raise DataError(
            f"{lines}.", "Fill the values in, or leave out these rows or columns.", option if missing else ""
        )


def as_part(series, rows=None):
    """A frame's column (narwhals) as a Part. ``rows``: the rows' numbers for messages, 0, 1, ... by default.

    Raises DataError for types that are neither numbers, truth values nor categories.
    """
    missing, dtype, native = series.is_null().to_numpy(), series.dtype, series.to_native()
    if missing.all():  # a column without any value, or any row, may have any type
        return Part("numeric", np.full(len(missing), np.nan))
    if dtype == nw.Boolean or dtype == nw.Object or dtype.is_numeric():
        plain = series.cast(nw.Float64) if dtype in (nw.Int128, nw.UInt128) else series  # NumPy has no such integers
        values = plain.to_numpy()
        if dtype == nw.Object:
            values = _mixed(series.name, values, rows)
        return Part("boolean" if dtype == nw.Boolean else "numeric", _real(values, f"Column {series.name!r}", rows))
    if dtype in (nw.String, nw.Categorical, nw.Enum):
        pandas = dtype == nw.Categorical and series.implementation.is_pandas_like()
        declared = native.cat.categories.tolist() if pandas else getattr(dtype, "categories", ())
        values = [None if gone else value for value, gone in zip(series.to_list(), missing, strict=True)]
        return Part("category", values, None if dtype == nw.String else tuple(declared))
    kind = getattr(native, "dtype", None) or native.type
    raise DataError(f"Column {series.name!r} has the dtype {kind}: convert it to numbers or text, or leave it out.")


def opened(X, least) -> tuple[Any, Any]:
    """(names, narwhals frame), or (None, float64 (n, D)) where there are no names. E in scikit-learn's words."""
    limits = {"ensure_min_samples": least, "ensure_min_features": least}
    try:
        frame = nw.from_native(X, eager_only=True, pass_through=True)
    except DuplicateError as error:
        raise DataError(f"Two columns have the same name. {error}") from error
    if isinstance(frame, nw.DataFrame):
        kinds = sorted({"str" if isinstance(name, str) else type(name).__name__ for name in frame.columns})
        if kinds in ([], ["str"]):
            if 0 in frame.shape:
                _array(np.empty(frame.shape), "X", **limits)
            return tuple(frame.columns), frame
        if "str" in kinds:
            raise TypeError(
                "Feature names are only supported if all input features have string names, but your input has "
                f"{kinds} as feature name / column name types. Convert them with X.columns = X.columns.astype(str)."
            )
    if hasattr(X, "collect"):
        raise DataError(f"X is a {type(X).__name__}, which holds no rows yet: give X.collect().")
    return None, _array(X, "X", **limits)


def as_parts(names, table, rows, option=""):
    """Every column as a Part without missing or infinite values; ``rows``: the rows' numbers for messages, ``option``: what
    to do about missing values on the command line."""
    if names is None:
        parts, labels = [Part("numeric", column) for column in table.T], [f"column {i}" for i in range(table.shape[1])]
    else:
        parts, labels = [as_part(table[name], rows) for name in names], [f"column {name!r}" for name in names]
    _complete("X", parts, labels, rows, option)
    return parts


def check_weight(weight, n):
    """Weights as float32 (n,), ones for None; zero is a row left out. Otherwise E in scikit-learn's words."""
    if weight is None:
        return np.ones(n, np.float32)
    weight = np.full(n, weight) if isinstance(weight, numbers.Real) else as_array(weight)
    if isinstance(weight, str | dict | set):
        raise DataError(f"Sample weights must be 1D array or scalar, got {type(weight).__name__} {weight!r:.50}.")
    exact = _array(weight, "sample_weight", ensure_2d=False, ensure_min_samples=0)
    if exact.ndim != 1:
        raise DataError(f"Sample weights must be 1D array or scalar, got {exact.ndim}D array.")
    if exact.shape != (n,):
        raise DataError(f"sample_weight.shape == {exact.shape}, expected {(n,)}!")
    with np.errstate(over="ignore"):
        out = exact.astype(np.float32)
    _complete("sample_weight", [Part("numeric", out)], ["sample_weight"], range(n))
    if (out < 0).any():
        raise DataError(f"Negative values in data passed to `sample_weight`, the first in row {(out < 0).argmax()}.")
    if not exact.any():
        raise DataError("Sample weights must contain at least one non-zero number.")
    check_weight_sum(exact, "sample_weight")
    return np.where(out < np.finfo(np.float32).tiny, np.float32(0), out)


def check_target(y, n, task, rows=None):
    """Regression: (float64 (n, K), whether y was 1-D). Classification: (sorted classes, their indices int32 (n,)).

    ``rows`` are the numbers of the rows to use and to name in messages, all by default; others may hold anything.
    """
    if task not in ("regression", "classification"):
        raise ValueError(f"task is 'regression' or 'classification', not {task!r}")
    if y is None:
        raise DataError("This estimator requires y to be passed, but the target y is None.")
    y = as_array(y)
    if not isinstance(y, np.ndarray):
        try:
            y = np.array(y, dtype=object) if task == "classification" else np.asarray(y)
        except ValueError as error:  # rows of different lengths
            raise DataError(str(error)) from error
    if y.ndim and len(y) != n:
        raise DataError(f"Found input variables with inconsistent numbers of samples: [{n}, {len(y)}]")
    rows, y = (range(n), y) if rows is None or y.ndim == 0 else (rows, y[rows])
    if task == "classification":
        classes, places = np.unique(_labels(y, rows), return_inverse=True)
        return classes, places.astype(np.int32)
    values = _array(y, "y", ensure_2d=False, ensure_min_samples=0)
    table: Any = values[:, None] if values.ndim == 1 else values
    names = [f"target {k}" for k in range(table.shape[1])]
    _complete("y", [Part("numeric", column) for column in table.T], names, rows)
    return table, values.ndim == 1


def _labels(y, rows):
    """Class labels (n,) of one plain type; warns for a column as scikit-learn does. Raises DataError "Unknown label type"."""
    try:
        labels = column_or_1d(y, warn=True)
        if labels.dtype == object:
            _complete("y", [Part("category", [None if is_missing(label) else label for label in labels])], ["y"], rows)
            kinds, texts = sorted({type(label).__name__ for label in labels}), all(isinstance(v, str) for v in labels)
            labels = labels if texts else np.array(labels.tolist())
            if len(kinds) > 1 or labels.ndim > 1 or not texts and labels.dtype.kind not in "biuf":
                raise DataError(f"Unknown label type: {list_first(kinds)}. Labels are of one type: text or integers.")
        if labels.dtype.kind == "f":
            _complete("y", [Part("numeric", labels)], ["y"], rows)
        if labels.dtype.kind not in "biufcUO":
            raise DataError(f"Unknown label type: {labels.dtype}. Convert the labels to text or integers.")
        check_classification_targets(labels)
    except DataError:
        raise
    except ValueError as error:
        raise DataError(str(error)) from error
    return labels


class Moments(NamedTuple):
    """Sum of weights, mean and sd, largest magnitude, whether as good as constant, the row of an absurd outlier or None."""

    weight: float
    mean: float
    sd: float
    largest: float
    constant: bool
    outlier: int | None


def moments(values, weight):
    """Moments of finite float64 ``values`` (n,), all with weights above zero.

    Computed in units of the power of two above the largest magnitude, which is exact and cannot overflow; the second
    pass takes the rounding of the first out of mean and sd.
    """
    largest = np.abs(values).max()
    exponent = np.frexp(largest)[1]
    unit, part = np.ldexp(values, -exponent), weight / weight.sum()
    mean = np.sum(part * unit)
    mean = np.clip(mean + np.sum(part * (unit - mean)), unit.min(), unit.max())
    gap = unit - mean
    sd = np.sqrt(max(np.sum(part * gap**2) - np.sum(part * gap) ** 2, 0.0))
    sd = np.ldexp(sd, exponent)
    row = int(np.abs(gap).argmax())
    others = np.delete(unit, row)
    # equal others are no reason to doubt the one: a rare indicator is made that way
    absurd = len(others) and np.ptp(others) > 0 and abs(unit[row] - others.mean()) > OUTLIER * others.std()
    mean, outlier = np.ldexp(mean, exponent), row if absurd else None
    return Moments(float(weight.sum()), float(mean), float(sd), float(largest), _constant(sd, largest), outlier)


def _constant(sd, largest):
    return bool(sd <= CONSTANT * largest or sd < np.finfo(np.float64).tiny)


def merged(one, two):
    """The moments of two sets of rows as those of all, equal up to rounding (Chan et al. 1983). No square overflows."""
    weight, largest = one.weight + two.weight, max(one.largest, two.largest)
    share, half = two.weight / weight, 0.5 * two.mean - 0.5 * one.mean
    rest = 1 - share
    sd = math.hypot(math.sqrt(rest) * one.sd, math.sqrt(share) * two.sd, 2 * math.sqrt(share * rest) * half)
    outlier = two.outlier if one.outlier is None else one.outlier
    return Moments(weight, one.mean + 2 * share * half, sd, largest, _constant(sd, largest), outlier)


def standardized(values, shift, scale):
    """(values − shift) / scale in float64, then float32, never beyond ±FARTHEST. Halves, so no difference overflows."""
    with np.errstate(over="ignore"):
        exact = (0.5 * values - 0.5 * shift) / (0.5 * scale)
    return np.clip(exact, -FARTHEST, FARTHEST).astype(np.float32)


@dataclass(frozen=True)
class TargetScaler:
    """Targets become (y − shift) / scale, per target."""

    shift: tuple[float, ...]
    scale: tuple[float, ...]

    @classmethod
    def fit(cls, y, weight=None, numbers=None):
        """Weighted mean and sd of y (n, K) over the rows whose ``weight`` (n,) is above zero; ``numbers`` are those of the rows
        in messages, 0, 1, ... by default.

        A constant target gets a millionth of its size as scale (1e-6 for 0), so that predictions keep a small spread;
        DataWarning for it, and for absurd outliers.
        """
        weight = check_weight(weight, len(y)).astype(np.float64)
        rows = np.flatnonzero(weight)
        found = [moments(column, weight[rows]) for column in np.asarray(y, np.float64)[rows].T]
        rows = rows if numbers is None else np.asarray(numbers)[rows]
        return cls.of([m if m.outlier is None else m._replace(outlier=int(rows[m.outlier])) for m in found])

    @classmethod
    def of(cls, found):
        """The same from the ``Moments`` of each target."""
        far = [f"target {k} (row {m.outlier})" for k, m in enumerate(found) if m.outlier is not None]
        warn_of(
            "Constant targets, from which nothing can be learned",
            [f"target {k}" for k, m in enumerate(found) if m.constant],
        )
        warn_of(f"One value is over {OUTLIER:.0e} sd from all others, which become nearly equal", far)
        sizes = (m.largest if m.largest > 1e-300 else 1.0 for m in found)
        scales = tuple(1e-6 * size if m.constant else m.sd for m, size in zip(found, sizes, strict=True))
        return cls(tuple(m.mean for m in found), scales)

    def transform(self, y):
        """y (n, K) as float32; columns beyond the K targets, marks of censored ones, stay as they are."""
        y, known = np.asarray(y, np.float64), len(self.shift)
        moved = standardized(y[:, :known], np.array(self.shift), np.array(self.scale))
        return np.concatenate([moved, y[:, known:].astype(np.float32)], axis=1)
