"""Dataclasses as pytrees."""

import pathlib
from dataclasses import dataclass
from itertools import combinations

import jax

import dubito
from dubito._jax.pytree import register_dataclass, static
from dubito.methods.by_name import METHODS


def example():
    @register_dataclass
    @dataclass(frozen=True)
    class Example:
        rate: float
        size: int = static(default=3)

    return Example


def test_register_dataclass_equals_jax_apart_from_the_class():
    ours = example()

    @dataclass(frozen=True)
    class Theirs:
        rate: float
        size: int = static(default=3)

    jax.tree_util.register_dataclass(Theirs)
    assert jax.tree.leaves(ours(0.5)) == [0.5]
    assert jax.tree.map(lambda leaf: 2 * leaf, ours(0.5, 7)) == ours(1.0, 7)
    assert jax.tree.structure(ours(0.5, 7)) != jax.tree.structure(ours(0.5, 8))
    paths = [jax.tree_util.tree_flatten_with_path(kind(0.5))[0] for kind in (ours, Theirs)]
    assert paths[0] == paths[1]


def test_classes_with_equal_fields_have_different_structures():
    """With JAX's own decorator they have one, and compiled programs of the one are used for the other, now and then."""
    assert jax.tree.structure(example()(0.5)) != jax.tree.structure(example()(0.5))
    found = [(dubito.MaximumLikelihood(), dubito.MAP()), (dubito.MCDropout(), dubito.ConcreteDropout())]
    found += combinations([method for method in METHODS.values() if method is not None], 2)
    for a, b in found:
        assert type(a) is type(b) or jax.tree.structure(a) != jax.tree.structure(b)


def test_package_registers_dataclasses_only_with_it():
    files = [*pathlib.Path(dubito.__file__).parent.rglob("*.py"), *pathlib.Path(__file__).parents[1].rglob("*.py")]
    assert len(files) > 100
    assert {path.name for path in files if "tree_util.register_dataclass" in path.read_text()} == {"test_pytree.py"}
