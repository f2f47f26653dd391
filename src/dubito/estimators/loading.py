"""Estimators read from model files, and the columns of a table that they read."""

from pathlib import Path
from typing import Any

from dubito._process.threads import check_process
from dubito.estimators.classifier import BayesianClassifier
from dubito.estimators.files import model_file
from dubito.estimators.regressor import BayesianRegressor
from dubito.tables.files import FileColumns


def load(path: str | Path) -> Any:
    """Read a fitted estimator, with the same predictions bit for bit. Nothing is imported, run or
    fetched.

    Parameters
    ----------
    path : str or Path
        File that ``save`` has written.

    Returns
    -------
    BayesianRegressor or BayesianClassifier
        The estimator.

    Raises
    ------
    ModelFileError
        For anything that ``save`` has not written.
    """
    check_process()
    return model_file.read_estimator(path, {kind.__name__: kind for kind in (BayesianRegressor, BayesianClassifier)})


def file_columns(model: Any) -> FileColumns:
    """The columns of a file, or of a batch, that a model reads.

    Parameters
    ----------
    model : BayesianRegressor or BayesianClassifier
        A fitted estimator.

    Returns
    -------
    FileColumns
        Those of the fit, without the target and what was left out.
    """
    target, dropped = model.summary_.get("target"), model.summary_.get("dropped")
    return FileColumns(model.schema_, target, dropped if isinstance(dropped, list) else ())
