"""Random numbers: the Threefry of ``jax.random`` bit for bit, in a form that XLA compiles and runs
several times faster.

Stock Threefry runs its rounds in a rolled loop; here they are plain arithmetic (Salmon et al. 2011,
20 rounds on two words). Keys of this kind work with all of ``jax.random``; ``fast`` turns a user's
key into one.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl
from jaxtyping import Array, Float

from dubito._jax.types import Key, Params
from dubito._process.threads import check_process

Shapes: TypeAlias = Sequence[tuple[int, ...]]

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
FEW = 4  # keys are split into so many at least: splits into fewer share one hash, which is compiled once
EVEN = 64  # hashes at a time: XLA's loop on several threads takes 8 times as long when these do not divide its length


@jax.jit
def _threefry(key: Array, low: Array) -> tuple[Array, Array]:
    """Two words of bits for each counter (0, low)."""
    words = (key[0], key[1], key[0] ^ key[1] ^ np.uint32(0x1BD11BDA))
    a, b = jnp.broadcast_to(words[0], low.shape), low + words[1]
    for five in range(5):
        for turn in ROTATIONS[five % 2]:
            a = a + b
            b = a ^ ((b << np.uint32(turn)) | (b >> np.uint32(32 - turn)))
        a, b = a + words[(five + 1) % 3], b + words[(five + 2) % 3] + np.uint32(five + 1)
    return a, b


def _counter(shape: tuple[int, ...]) -> Array:
    count = math.prod(shape)
    if count >= 2**32:
        raise ValueError(f"a draw has at most 2³² random numbers, got shape {shape}")
    return jax.lax.iota(jnp.uint32, count).reshape(shape)


def _bits(key: Array, width: int, shape: tuple[int, ...]) -> Array:
    a, b = _threefry(key, _counter(shape))
    if width == 64:
        return (a.astype(jnp.uint64) << np.uint64(32)) | b.astype(jnp.uint64)
    return (a ^ b).astype(f"uint{width}")


def _seed(seed: Any) -> Array:
    return jax.random.key_data(jax.random.key(seed, impl="threefry2x32"))


@jax.jit
def _keys(key: Array, low: Array) -> Array:
    """A key of two words for each counter, behind a barrier: without it, XLA would fuse the hash with each consumer of a key, and
    compile and compute it for each anew.
    """
    return jax.lax.optimization_barrier(jnp.stack(_threefry(key, low), axis=-1))


def _split(key: Array, shape: tuple[int, ...]) -> Array:
    count = math.prod(shape)
    return _keys(key, _counter((max(count, FEW),)))[:count].reshape(*shape, 2)


def _fold_in(key: Array, data: Any) -> Array:
    return _keys(key, jnp.asarray(data).astype(jnp.uint32))


_FUNCTIONS = {"seed": _seed, "split": _split, "random_bits": _bits, "fold_in": _fold_in}
_IMPLEMENTATION = define_prng_impl(key_shape=(2,), name="unrolled_threefry2x32", tag="utf", **_FUNCTIONS)


def key_from_seed(seed: int) -> Key:
    """The key of a whole number below 2³²."""
    return fast(np.array([0, seed], np.uint32))


def fast(key: Any) -> Key:
    """Turn a user's key into one of this kind on CPU, of JAX's own elsewhere: the same random
    streams.

    Parameters
    ----------
    key : Key
        A typed Threefry key, such as ``jax.random.key(0)``, or a raw one of two words.

    Returns
    -------
    Key
        The key.

    Raises
    ------
    TypeError
        For anything else: there is no default key.
    RuntimeError
        In a child that was forked from a process that has used JAX, since JAX would hang there.
    """
    check_process()
    try:
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        data = jax.random.key_data(key) if typed else key
        if data.shape == (2,) and data.dtype == jnp.uint32:
            return jax.random.wrap_key_data(data, impl=_IMPLEMENTATION if on_cpu() else "threefry2x32")
    except AttributeError:
        pass
    raise TypeError(f"key must be one Threefry key, such as jax.random.key(0); got {key!r}")


def keys(key: Key, count: int) -> list[Key]:
    """``count`` keys from one: the first of a split into a power of two, so that few splits are
    compiled.
    """
    return list(jax.random.split(key, max(16, 1 << (count - 1).bit_length())))[:count]


def on_cpu() -> bool:
    """Whether computations run on CPU by default."""
    return jax.default_backend() == "cpu"


def _fenced(draw: Callable[[Key], Any], key: Key) -> Any:
    """draw(key) behind a fence that keeps XLA from fusing it with its consumers.

    The cond is the fence. Without it, cheap noise would be computed again in each of its consumers
    and once more in the backward pass. A ``fast`` key equals the
    sentinel with a probability of at most 2⁻⁶⁴.
    """
    shape = jax.eval_shape(draw, key)
    data = jax.random.key_data(key)
    never = jnp.all(data == np.uint32(0xFFFFFFFF))
    return jax.lax.cond(never, lambda: jnp.zeros(shape.shape, shape.dtype), lambda: draw(key))


def _pairs(draw: Callable[[Array, Array], Sequence[Array]], key: Key, count: int) -> Array:
    """``draw`` of the two words of each of at least ``count`` counters: all first numbers, then all
    second, float32.

    They leave a separate fence as one complex array: for two arrays XLA would make two loops, each
    with all rounds of the hash, and take twice as long. Consumers get them sorted: if each picked
    from complex numbers, that would be 3 times slower.
    """
    count = -(-count // EVEN) * EVEN

    def pairs(key: Key) -> Array:
        return jax.lax.complex(*draw(*_threefry(jax.random.key_data(key), _counter((count,)))))

    def sorted_pairs(key: Key) -> Array:
        both = _fenced(pairs, key)
        return jnp.concatenate([both.real, both.imag])

    return _fenced(sorted_pairs, key)


def _cut(flat: Array, shapes: Shapes) -> list[Array]:
    """The arrays of these shapes that are concatenated in ``flat``."""
    ends = np.cumsum([0, *map(math.prod, shapes)])
    return [flat[a:b].reshape(shape) for a, b, shape in zip(ends, ends[1:], shapes, strict=False)]


def _count(shapes: Shapes, each: int) -> int:
    """How many draws of ``each`` numbers suffice for arrays of these shapes."""
    return -(-sum(map(math.prod, shapes)) // each)


def sine(turns: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """sin(2π·turns) for turns of at most a quarter, to 2e-7: the series to the 11th power.

    XLA's own takes several times as long on a CPU.
    """
    u = 2 * math.pi * turns
    s = u * u
    return u * (1 + s * (-1 / 6 + s * (1 / 120 + s * (-1 / 5040 + s * (1 / 362880 - s / 39916800)))))


def _float(word: Array) -> Array:
    """A signed word of bits as float32: one instruction, while an unsigned word would take several."""
    return jax.lax.bitcast_convert_type(word, jnp.int32).astype(jnp.float32)


def _box_muller(a: Array, b: Array) -> tuple[Array, Array]:
    """Two independent standard normals from two words, up to 6.7 standard deviations: r·(cos, sin).

    The radius takes 31 bits of the first word. Its last bit is a sign, so that the angle need only
    go through half a circle.
    """
    radius = jnp.sqrt(-2 * jnp.log((_float(a >> np.uint32(1)) + 0.5) * np.float32(2**-31)))
    radius = jnp.where(a & np.uint32(1) == 0, radius, -radius)
    turns = _float(b) * np.float32(2**-33)
    return radius * sine(0.25 - jnp.abs(turns)), radius * sine(turns)


def normals(key: Key, shapes: Shapes) -> list[Array]:
    """Standard normals of several shapes in one draw, float32: two from each two words, half the
    cost of JAX's own.
    """
    return _cut(_pairs(_box_muller, key, _count(shapes, 2)), shapes)


def uniforms(key: Key, shapes: Shapes) -> list[Array]:
    """Uniforms in [0, 1) of several shapes in one draw, float32: multiples of 2⁻²⁴, two from each
    two words.
    """
    numbers = _pairs(lambda *words: [_float(word >> np.uint32(8)) for word in words], key, _count(shapes, 2))
    return _cut(numbers * np.float32(2**-24), shapes)


def coarse(key: Key, shapes: Shapes) -> list[Array]:
    """Uniforms in [0, 1) that are multiples of 2⁻¹⁶, for masks and signs: four from each two words,
    a third of the cost.
    """
    as_floats = partial(jax.lax.bitcast_convert_type, new_dtype=jnp.float32)
    floats = _pairs(lambda *words: [as_floats(word) for word in words], key, _count(shapes, 4))
    words = jax.lax.bitcast_convert_type(floats, jnp.uint32)
    halves = (words[None] >> np.array([[0], [16]], np.uint32)) & np.uint32(0xFFFF)
    return _cut((_float(halves) * np.float32(2**-16)).reshape(-1), shapes)


def normal_like(key: Key, tree: Params) -> Params:
    """A tree like ``tree`` of standard normals."""
    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten(normals(key, [leaf.shape for leaf in leaves]))
