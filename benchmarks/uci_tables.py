"""The UCI tables of the PBP protocol and four more, with their splits. NumPy alone, for the environments of other libraries, too."""

import numpy as np

UCI = ("concrete", "energy", "power-plant", "wine-quality-red", "yacht")
EXTRA = ("autompg", "elevators", "skillcraft", "stock")


def load(data, name, split):
    """(inputs, target) of the training rows, and of the test rows."""
    if name in EXTRA:
        table = np.loadtxt(data / "extra" / name / "data.csv.gz", delimiter=",")
        test = np.loadtxt(data / "extra" / name / "test_mask.csv.gz", delimiter=",")[:, split] == 1
        return [(table[chosen, :-1], table[chosen, -1]) for chosen in (~test, test)]
    folder = data / "uci" / name
    table = np.loadtxt(folder / "data.txt")
    features, target = (np.loadtxt(folder / f"index_{part}.txt", dtype=int) for part in ("features", "target"))
    rows = [np.loadtxt(folder / f"index_{part}_{split}.txt", dtype=int) for part in ("train", "test")]
    return [(table[chosen][:, features], table[chosen, target]) for chosen in rows]


def splits_of(name, first, last):
    """The splits of a table from ``first`` to ``last``, as far as they exist."""
    return range(first, min(last, 9 if name in EXTRA else 19) + 1)
