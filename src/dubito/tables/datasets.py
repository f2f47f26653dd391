"""Small tables of real measurements that come with the library or with scikit-learn."""

import importlib.resources

import numpy as np
from jaxtyping import Float, Int
from sklearn import datasets


def diabetes() -> tuple[Float[np.ndarray, "442 10"], Float[np.ndarray, " 442"]]:
    """Disease progression one year after ten baseline measurements of diabetes patients.

    Returns
    -------
    X : array of shape (442, 10)
        The measurements in their original units.
    y : array of shape (442,)
        A quantitative measure of the progression.

    References
    ----------
    Efron et al. (2004), "Least angle regression".
    """
    X, y = datasets.load_diabetes(return_X_y=True, scaled=False)
    return np.asarray(X), np.asarray(y)


def digits() -> tuple[Float[np.ndarray, "1797 64"], Int[np.ndarray, " 1797"]]:
    """Handwritten digits of 8 × 8 pixels.

    Returns
    -------
    X : array of shape (1797, 64)
        Gray values from 0 to 16.
    y : array of shape (1797,)
        The digits.

    References
    ----------
    Alpaydin & Kaynak (1998), "Optical recognition of handwritten digits".
    """
    X, y = datasets.load_digits(return_X_y=True)
    return np.asarray(X), np.asarray(y)


def co2() -> tuple[Float[np.ndarray, "521 2"], Float[np.ndarray, " 521"]]:
    """Monthly means of atmospheric CO2 at Mauna Loa, March 1958 to December 2001.

    Returns
    -------
    X : array of shape (521, 2)
        Year and month.
    y : array of shape (521,)
        CO2 in ppm.

    References
    ----------
    Monthly means of the weekly means of Keeling & Whorf (Scripps Institution of Oceanography, 2004;
    public domain).
    """
    text = importlib.resources.files("dubito.tables").joinpath("data/co2.csv").read_text().splitlines()[1:]
    table = np.array([[float(cell) for cell in line.split(",")] for line in text])
    return table[:, :2], table[:, 2]
