"""Dataclasses as pytrees: which fields of a method, a model or a posterior are traced numbers, and
which shape the program.
"""

from dataclasses import field, fields
from functools import partial
from typing import Any, TypeVar

import jax

Class = TypeVar("Class", bound=type)

static: Any = partial(field, metadata={"static": True})


def register_dataclass(cls: Class) -> Class:
    """Make a frozen dataclass a pytree of its fields; ``static`` fields are part of its structure.

    This is JAX's decorator of the same name, except that the class is part of the structure, too.
    There (JAX 0.10) the structures of two classes with equal fields are equal, though their hashes
    are not. When these meet in a table of programs, a compiled program that was traced for one of
    them is used for the other: maximum likelihood would train with the program of MAP.

    JAX rebuilds an object from whatever its transformations put into the fields, so a rebuilt
    object is not initialized: ``__post_init__`` only checks objects that users make.

    Parameters
    ----------
    cls : type
        A frozen dataclass without slots.

    Returns
    -------
    type
        The same class.
    """
    statics = [item.name for item in fields(cls) if item.metadata.get("static")]
    leaves = [item.name for item in fields(cls) if not item.metadata.get("static")]
    keys = [jax.tree_util.GetAttrKey(name) for name in leaves]

    def flatten(value: Any) -> tuple[list[Any], tuple[Any, ...]]:
        own = vars(value)
        return [own[name] for name in leaves], (cls, *(own[name] for name in statics))

    def flatten_with_keys(value: Any) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        children, structure = flatten(value)
        return list(zip(keys, children, strict=True)), structure

    def unflatten(structure: tuple[Any, ...], children: Any) -> Any:
        value = object.__new__(cls)
        vars(value).update(zip(statics, structure[1:], strict=True))
        vars(value).update(zip(leaves, children, strict=True))
        return value

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls
