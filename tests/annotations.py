"""The checker of annotations for jaxtyping's import hook: beartype, where an int is a float, too, but for functions that return
Self, which beartype checks in classes only."""

from beartype import BeartypeConf, beartype

WITH_INTEGERS = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function):
    mentions = "Self" in " ".join(str(each) for each in getattr(function, "__annotations__", {}).values())
    return function if mentions else WITH_INTEGERS(function)
