"""Moments of columns, and the standardization of numbers in float64 that they define.

Scales are learned from rows with a weight above zero and from no others.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from dubito.tables.columns import RowNumbers, warn_about_columns

CONSTANT = 1e-10  # a column is constant if its sd is at most this fraction of its largest magnitude
OUTLIER = 1e6  # sd of all other rows: a single value farther away makes them nearly equal once scaled
FARTHEST = 1e18  # standardized values are clipped here, so that squares and their sums stay finite in float32


class ColumnMoments(NamedTuple):
    """Weighted moments of one column.

    Attributes
    ----------
    weight : float
        The sum of the weights.
    mean, sd : float
        In the column's units.
    largest : float
        The largest magnitude.
    constant : bool
        Whether the column is constant up to rounding.
    outlier : int or None
        The row of a value more than a million sd from all others.
    """

    weight: float
    mean: float
    sd: float
    largest: float
    constant: bool
    outlier: int | None


def column_moments(
    values: Float[np.ndarray, " rows"], weight: Float[np.ndarray, " rows"], rows: RowNumbers | None = None
) -> ColumnMoments:
    """The moments of a column.

    Parameters
    ----------
    values : float64 array of shape (rows,)
        Finite numbers.
    weight : array of shape (rows,)
        Weights above zero.
    rows : sequence of int, optional
        The numbers of the rows; 0, 1, ... by default.

    Returns
    -------
    ColumnMoments
        Mean and sd with the rounding error of their last step only.
    """
    # In units of the power of two above the largest magnitude, which is exact and cannot overflow. A second pass
    # removes the rounding error of the first from mean and sd.
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
    # a single value beside equal ones is a rare indicator, not an outlier
    absurd = len(others) and np.ptp(others) > 0 and abs(unit[row] - others.mean()) > OUTLIER * others.std()
    outlier = None if not absurd else row if rows is None else int(rows[row])
    mean = float(np.ldexp(mean, exponent))
    return ColumnMoments(float(weight.sum()), mean, float(sd), float(largest), _is_constant(sd, largest), outlier)


def _is_constant(sd: float, largest: float) -> bool:
    return bool(sd <= CONSTANT * largest or sd < np.finfo(np.float64).tiny)


def merge_moments(one: ColumnMoments, two: ColumnMoments) -> ColumnMoments:
    """The moments of the union of two sets of rows, up to rounding. No square overflows.

    Parameters
    ----------
    one, two : ColumnMoments
        Of the two sets.

    Returns
    -------
    ColumnMoments
        Of the union.

    References
    ----------
    Chan et al. (1983), "Algorithms for computing the sample variance".
    """
    weight, largest = one.weight + two.weight, max(one.largest, two.largest)
    share, half = two.weight / weight, 0.5 * two.mean - 0.5 * one.mean
    rest = 1 - share
    sd = math.hypot(math.sqrt(rest) * one.sd, math.sqrt(share) * two.sd, 2 * math.sqrt(share * rest) * half)
    outlier = two.outlier if one.outlier is None else one.outlier
    return ColumnMoments(weight, one.mean + 2 * share * half, sd, largest, _is_constant(sd, largest), outlier)


def standardize(
    values: Float[np.ndarray, "rows *columns"], shift: float | np.ndarray, scale: float | np.ndarray
) -> Float[np.ndarray, "rows *columns"]:
    """(values − shift) / scale in float64, then float32, clipped to ±``FARTHEST``.

    Parameters
    ----------
    values : array of shape (rows,) or (rows, columns)
        Finite numbers.
    shift, scale : float, or array of shape (columns,)
        In the same units.

    Returns
    -------
    float32 array
        The same shape.
    """
    with np.errstate(over="ignore"):
        exact = (0.5 * values - 0.5 * shift) / (0.5 * scale)  # with halves, no difference overflows
    return np.clip(exact, -FARTHEST, FARTHEST).astype(np.float32)


@dataclass(frozen=True)
class TargetScaler:
    """Standardizes each target: (y − shift) / scale.

    Parameters
    ----------
    shift, scale : tuple of float
        A number per target, in its units.
    """

    shift: tuple[float, ...]
    scale: tuple[float, ...]

    @classmethod
    def fit(
        cls, y: np.ndarray, weight: Float[np.ndarray, " rows"] | None = None, numbers: RowNumbers | None = None
    ) -> "TargetScaler":
        """The scaler with the weighted mean and sd of each target.

        A constant target gets a millionth of its magnitude as scale (1e-6 for 0), so that
        predictions keep a small spread. Warns of constant targets and of absurd outliers
        (DataWarning).

        Parameters
        ----------
        y : array of shape (rows, targets)
            Finite numbers, or NaN for missing ones, which are left out.
        weight : array of shape (rows,), optional
            Checked sample weights; rows of weight zero are left out. Ones by default.
        numbers : sequence of int, optional
            The numbers of the rows in warnings; 0, 1, ... by default.

        Returns
        -------
        TargetScaler
            The scaler.
        """
        weight = np.ones(len(y)) if weight is None else weight.astype(np.float64)
        rows = np.flatnonzero(weight)
        names = rows if numbers is None else np.asarray(numbers)[rows]
        found = []
        for column in np.asarray(y, np.float64)[rows].T:
            known = ~np.isnan(column)
            found.append(column_moments(column[known], weight[rows][known], names[known]))
        return cls.of(found)

    @classmethod
    def of(cls, found: Sequence[ColumnMoments]) -> "TargetScaler":
        """The same as ``fit``, from the moments of each target.

        Parameters
        ----------
        found : sequence of ColumnMoments
            In the order of the targets.

        Returns
        -------
        TargetScaler
            The scaler.
        """
        constant = [f"target {k}" for k, m in enumerate(found) if m.constant]
        far = [f"target {k} (row {m.outlier})" for k, m in enumerate(found) if m.outlier is not None]
        warn_about_columns("Constant targets, from which nothing can be learned", constant)
        warn_about_columns(f"One value is over {OUTLIER:.0e} sd from all others, which become nearly equal", far)
        sizes = (m.largest if m.largest > 1e-300 else 1.0 for m in found)
        scales = tuple(1e-6 * size if m.constant else m.sd for m, size in zip(found, sizes, strict=True))
        return cls(tuple(m.mean for m in found), scales)

    def transform(self, y: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows columns"]:
        """Standardize targets.

        Parameters
        ----------
        y : array of shape (rows, columns)
            Columns beyond the targets, the marks of censored ones, stay as they are.

        Returns
        -------
        float32 array of shape (rows, columns)
            The standardized targets.
        """
        y, known = np.asarray(y, np.float64), len(self.shift)
        moved = standardize(y[:, :known], np.array(self.shift), np.array(self.scale))
        return np.concatenate([moved, y[:, known:].astype(np.float32)], axis=1)
