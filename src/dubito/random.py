"""Random numbers: the Threefry of ``jax.random`` bit for bit, written so that XLA compiles and runs it several times faster.

Stock Threefry runs its rounds in a rolled loop; here they are plain arithmetic (Salmon et al. 2011, 20 rounds on two words).
Keys of this kind work with all of ``jax.random``; ``fast`` turns a user's key into one at the door.
"""

import math
import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


@partial(jax.jit, inline=True)
def _threefry(key, low):
    """Two words of bits for each counter (0, low)."""
    words = (key[0], key[1], key[0] ^ key[1] ^ np.uint32(0x1BD11BDA))
    a, b = jnp.broadcast_to(words[0], low.shape), low + words[1]
    for five in range(5):
        for turn in ROTATIONS[five % 2]:
            a = a + b
            b = a ^ ((b << np.uint32(turn)) | (b >> np.uint32(32 - turn)))
        a, b = a + words[(five + 1) % 3], b + words[(five + 2) % 3] + np.uint32(five + 1)
    return a, b


def _counter(shape):
    count = math.prod(shape)
    if count >= 2**32:
        raise ValueError(f"at most 2³² random numbers a draw, got shape {shape}")
    return jax.lax.iota(jnp.uint32, count).reshape(shape)


def _bits(key, width, shape):
    a, b = _threefry(key, _counter(shape))
    if width == 64:
        return (a.astype(jnp.uint64) << np.uint64(32)) | b.astype(jnp.uint64)
    return (a ^ b).astype(f"uint{width}")


def _seed(seed):
    return jax.random.key_data(jax.random.key(seed, impl="threefry2x32"))


def _split(key, shape):
    return jnp.stack(_threefry(key, _counter(shape)), axis=-1)


def _fold_in(key, data):
    return jnp.stack(_threefry(key, jnp.asarray(data).astype(jnp.uint32)))


_IMPLEMENTATION = define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_split,
    random_bits=_bits,
    fold_in=_fold_in,
    name="unrolled_threefry2x32",
    tag="utf",
)


_process: list[int] = []  # the one that first used a key


def same_process():
    """RuntimeError in a child forked from a process that has used JAX, which would hang there."""
    if not _process:
        _process.append(os.getpid())
    if os.getpid() != _process[0]:
        raise RuntimeError(
            "this process was forked from one that has used dubito, and JAX would hang in it; "
            "use multiprocessing's 'spawn' start method, or joblib's default, loky"
        )


def seeded(seed):
    """The key of a whole number."""
    same_process()
    return fast(jax.random.key(seed))


def fast(key):
    """A user's key (typed, or raw of two words) as one of this kind, elsewhere than on CPU of JAX's own: the same streams.

    Raises TypeError for anything else: there is no default key; RuntimeError in a child forked from a process that has
    used JAX, which would hang there.
    """
    same_process()
    try:
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        data = jax.random.key_data(key) if typed else key
        if data.shape == (2,) and data.dtype == jnp.uint32:
            return jax.random.wrap_key_data(data, impl=_IMPLEMENTATION if _on_cpu() else "threefry2x32")
    except AttributeError:
        pass
    raise TypeError(f"key must be one Threefry key, as of jax.random.key(0); got {key!r}")


def keys(key, count):
    """``count`` keys from one, a list: the first of a split into a power of two, so that few splits are compiled."""
    return list(jax.random.split(key, max(16, 1 << (count - 1).bit_length())))[:count]


def _on_cpu():
    return jax.default_backend() == "cpu"


def _fenced(draw, key):
    """draw(key) behind a fence.

    The cond is the fence: XLA does not fuse across it, so that cheap noise is not computed again in each of its consumers
    and once more in the backward pass. The key is never the sentinel, a counter that ``fast`` keys cannot become by chance
    more often than 2⁻⁶⁴.
    """
    shape = jax.eval_shape(draw, key)
    data = jax.random.key_data(key)
    never = jnp.all(data == np.uint32(0xFFFFFFFF))
    return jax.lax.cond(never, lambda: jnp.zeros(shape.shape, shape.dtype), lambda: draw(key))


def _cut(flat, shapes):
    """The pieces of ``shapes`` that stand in ``flat`` one after another."""
    ends = np.cumsum([0, *map(math.prod, shapes)])
    return [flat[a:b].reshape(shape) for a, b, shape in zip(ends, ends[1:], shapes, strict=False)]


def _size(shapes):
    return sum(map(math.prod, shapes))


def normals(key, shapes):
    """Standard normals of several shapes in one draw, float32."""
    return _cut(_fenced(lambda k: jax.random.normal(k, (_size(shapes),), jnp.float32), key), shapes)


def uniforms(key, shapes):
    """Uniforms in [0, 1) of several shapes in one draw, float32."""
    return _cut(_fenced(lambda k: jax.random.uniform(k, (_size(shapes),), jnp.float32), key), shapes)


def coarse(key, shapes):
    """Uniforms in [0, 1) that are multiples of 2⁻¹⁶, for masks and signs: four of each two words, at a third of the cost."""
    count = -(-_size(shapes) // 4)
    words = _fenced(lambda k: jnp.concatenate(_threefry(jax.random.key_data(k), _counter((count,)))), key)
    halves = jnp.concatenate([words & np.uint32(0xFFFF), words >> np.uint32(16)])
    return _cut(halves.astype(jnp.float32) * np.float32(2**-16), shapes)


def normal_like(key, tree):
    """A tree like ``tree`` of standard normals."""
    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten(normals(key, [leaf.shape for leaf in leaves]))
