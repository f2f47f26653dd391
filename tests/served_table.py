"""A table with every kind of column, as a frame, as JSON rows and as a CSV file, and small models of it."""

import functools
import math

import numpy as np
import pandas as pd

import dubito

ROWS = 24
KINDS = ("regression", "classification", "two targets", "no held-out rows", "array")


def frame(rows=ROWS):
    """Numbers with and without gaps, truth values, texts, numbers as categories, dates and times of the day."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "size": rng.normal(10, 3, rows),
            "gap": np.where(np.arange(rows) % 5 == 0, np.nan, rng.normal(size=rows)),
            "new": rng.uniform(size=rows) < 0.5,
            "city": np.array(["Oslo", "Rome", "007"])[np.arange(rows) % 3],
            "zone": pd.Categorical(np.arange(rows) % 2 + 1),
            "day": pd.date_range("2024-01-30", periods=rows, freq="37h").strftime("%Y-%m-%dT%H:%M"),
            "hour": [f"{k % 24:02}:30" for k in range(rows)],
        }
    )


def target(table):
    return table["size"] + 2.0 * table["new"] + (table["city"] == "Rome")


@functools.cache
def model(kind="regression"):
    """A fitted estimator, one of ``KINDS``."""
    table = frame()
    y = target(table).to_numpy()
    small = {"hidden": (4,), "random_state": 0, "handle_unknown": "ignore"}
    committee = dubito.Committee(dubito.MAP(epochs=3), 2)
    if kind == "classification":
        labels = np.array(["low", "mid", "top"])[np.digitize(y, [9, 12])]
        found = dubito.BayesianClassifier(committee, **small).fit(table, labels)
    elif kind == "two targets":
        found = dubito.BayesianRegressor(committee, **small).fit(table, np.stack([y, -y], axis=1))
    elif kind == "array":
        found = dubito.BayesianRegressor(committee, **small).fit(table[["size", "gap"]].to_numpy(), y)
    else:
        method = dubito.MCDropout(epochs=3) if kind == "no held-out rows" else committee
        found = dubito.BayesianRegressor(method, **small).fit(table, y)
    found.summary_ |= {} if kind == "two targets" else {"target": "price"}
    return found


def inputs(kind="regression"):
    """The table that ``model(kind)`` reads."""
    return frame()[["size", "gap"]].to_numpy() if kind == "array" else frame()


def as_json(kind="regression"):
    """The rows of the table as JSON has them."""
    table = frame() if kind != "array" else frame()[["size", "gap"]].set_axis(["x0", "x1"], axis=1)
    rows = table.astype({"zone": int} if kind != "array" else {}).to_dict("records")
    return [{name: plain(value) for name, value in row.items()} for row in rows]


def plain(value):
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and math.isnan(value) else value
