"""The weights of classes, given by label or by the numbers of their rows."""

from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from dubito._check import is_number, list_first

FLOAT32 = np.finfo(np.float32)


def class_weights(
    choice: Any, classes: Shaped[np.ndarray, " classes"], counts: Float[np.ndarray, " classes"]
) -> Float[np.ndarray, " classes"]:
    """The weight of each class, as in scikit-learn.

    Parameters
    ----------
    choice : dict or str
        The parameter ``class_weight`` of the classifier: "balanced", or {label: weight}.
    classes : array of shape (classes,)
        The labels.
    counts : array of shape (classes,)
        The number of rows of each class, or the sum of their weights.

    Returns
    -------
    array of shape (classes,)
        The weights.

    Raises
    ------
    ValueError
        For anything else, for weights that are not positive, and for labels that are no classes while
        a class has no weight. Other such labels are ignored: a fold may lack a rare class.
    """
    if isinstance(choice, str) and choice == "balanced":
        return counts.sum() / (len(classes) * counts)
    if not isinstance(choice, dict):
        raise ValueError(f"class_weight must be None, 'balanced' or a dict {{label: weight}}, got {choice!r}")
    labels = classes.tolist()
    known = set(labels)
    for label, weight in choice.items():
        if not (is_number(weight) and FLOAT32.tiny <= weight <= FLOAT32.max):
            raise ValueError(f"class_weight must hold positive finite numbers, got {weight!r} for the label {label!r}")
    unknown = [repr(label) for label in choice if label not in known]
    if unknown and not all(label in choice for label in labels):
        names = list_first([repr(label) for label in labels])
        raise ValueError(f"class_weight has {list_first(unknown)}, but the classes of y are {names}.")
    return np.array([choice.get(label, 1.0) for label in labels], np.float64)
