"""JSON that is not trusted: no repeated keys, no NaN, no infinity."""

import json
import math
from typing import Any, NoReturn


def parse_json(text: str) -> Any:
    """Read a JSON text.

    Parameters
    ----------
    text : str
        The text.

    Returns
    -------
    object
        Its values.

    Raises
    ------
    ValueError
        Also for repeated keys, NaN, infinity, numbers beyond float64, and nesting deeper than Python's
        recursion limit.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError as error:
        raise ValueError(str(error)) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("its JSON contains a key twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"its JSON holds {name}")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_constant(text)
