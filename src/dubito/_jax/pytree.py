"""Dataclasses as pytrees: which fields of a method, a model or a posterior are traced numbers, and which shape the program."""

from dataclasses import field, fields
from functools import partial

import jax

static = partial(field, metadata={"static": True})


def register_dataclass(cls):
    """A class decorator: a frozen dataclass becomes a pytree of its fields; those that are ``static`` are part of its structure.

    As JAX's own decorator of that name, but the class is part of the structure too. There (JAX 0.10) the structures of two
    classes with equal fields are equal, though their hashes are not; where these meet in a table of programs, a compiled program
    that was traced for one of them is used for the other: maximum likelihood would train by the program of MAP.
    """
    statics = [item.name for item in fields(cls) if item.metadata.get("static")]
    leaves = [item.name for item in fields(cls) if not item.metadata.get("static")]
    keys = [jax.tree_util.GetAttrKey(name) for name in leaves]

    def flatten(value):
        return [getattr(value, name) for name in leaves], (cls, *(getattr(value, name) for name in statics))

    def flatten_with_keys(value):
        children, structure = flatten(value)
        return list(zip(keys, children, strict=True)), structure

    def unflatten(structure, children):
        return cls(**dict(zip(statics, structure[1:], strict=True)), **dict(zip(leaves, children, strict=True)))

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls
