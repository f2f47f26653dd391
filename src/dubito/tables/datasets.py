"""Small tables of real measurements that come with the library or with scikit-learn."""

import importlib.resources

import numpy as np
from sklearn import datasets


def diabetes():
    """(X (442, 10), y (442,)): disease progression a year after ten baseline measurements (Efron et al. 2004)."""
    return datasets.load_diabetes(return_X_y=True, scaled=False)


def digits():
    """(X (1797, 64), y (1797,)): handwritten digits of 8 × 8 pixels (Alpaydin & Kaynak 1998)."""
    return datasets.load_digits(return_X_y=True)


def co2():
    """(X (521, 2), y (521,)): year and month, and the mean CO2 at Mauna Loa in ppm, March 1958 to December 2001.

    Monthly means of the weekly means of Keeling & Whorf (Scripps Institution of Oceanography, 2004; public domain).
    """
    text = importlib.resources.files("dubito.tables").joinpath("data/co2.csv").read_text().splitlines()[1:]
    table = np.array([[float(cell) for cell in line.split(",")] for line in text])
    return table[:, :2], table[:, 2]
