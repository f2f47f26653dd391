"""Inputs of several arrays and dtypes: they pass through one array of float32 exactly, and what does not fit is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dubito.interop.input_layout import input_layout

RNG = np.random.default_rng(0)
EXTREMES = np.array([[-(2**31), 2**31 - 1], [2**24 + 1, -1], [-(2**24) - 1, 0]], np.int32)
UNSIGNED = np.array([[2**32 - 1], [2**31], [0]], np.uint32)
FLOATS = np.float32(RNG.normal(size=(3, 2, 4)))
CASES = {
    "one array of floats": FLOATS,
    "one image of bytes": RNG.integers(256, size=(3, 5, 5)).astype(np.uint8),
    "tokens": EXTREMES,
    "unsigned tokens": UNSIGNED,
    "a tuple": (EXTREMES, FLOATS),
    "a dict": {"mask": RNG.random((3, 4)) > 0.5, "ids": EXTREMES, "values": FLOATS, "row": np.float32([1, 2, 3])},
    "nested": {"a": (EXTREMES, UNSIGNED), "b": FLOATS},
}


@pytest.mark.parametrize("name", CASES)
def test_inputs_come_back_with_their_bits(name):
    x = CASES[name]
    layout = input_layout(x)
    joined = layout.join(x)
    assert joined.dtype == np.float32 and len(joined) == 3 and np.isfinite(joined).all()
    for found in (layout.restore(joined), layout.restore(x)):
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(x), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


def test_arrays_of_float32_are_not_copied_and_keep_their_shape():
    assert input_layout(FLOATS).join(FLOATS).shape == FLOATS.shape
    assert input_layout(FLOATS.astype(np.float64)).restore(FLOATS).dtype == jnp.float32


@pytest.mark.parametrize(
    ("example", "x", "message"),
    [
        (FLOATS, FLOATS[:, :1], r"takes x of shape \(rows, 2, 4\), as its example; got \(3, 1, 4\)"),
        (EXTREMES, EXTREMES + 0.5, r"x must contain integers of int32, as its example; row 0 has -2147483647.5"),
        (EXTREMES, EXTREMES.astype(np.int64) + 2**33, "x must contain integers of int32"),
        (EXTREMES, EXTREMES.astype(str), "x must contain numbers"),
        ((FLOATS, EXTREMES), (FLOATS,), r"structure of the example, with x\[0\], x\[1\]; got a tuple of 1"),
        ((FLOATS, EXTREMES), (FLOATS, EXTREMES[:2]), r"the same number of rows; got \[3, 2\]"),
        (
            {"a": FLOATS, "b": EXTREMES},
            {"a": FLOATS, "c": EXTREMES},
            r"with x\['a'\], x\['b'\]; got a dict with \['a', 'c'\]",
        ),
        ({"a": FLOATS, "b": EXTREMES}, FLOATS, "got a ndarray"),
    ],
)
def test_inputs_that_do_not_fit_are_named(example, x, message):
    with pytest.raises(ValueError, match=message):
        input_layout(example).join(x)
