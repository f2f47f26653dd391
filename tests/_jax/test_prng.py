"""The fast Threefry is the stock one, bit for bit; and the cut draws."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from dubito._jax import prng

KEYS = [0, 1, 2**31 - 1]
DRAWS = {
    "bits": lambda k: jax.random.bits(k, (7, 3)),
    "bits8": lambda k: jax.random.bits(k, (1001,), jnp.uint8),
    "bits16": lambda k: jax.random.bits(k, (1001,), jnp.uint16),
    "uniform": lambda k: jax.random.uniform(k, (1001,)),
    "normal": lambda k: jax.random.normal(k, (10, 101)),
    "scalar": lambda k: jax.random.normal(k),
    "bernoulli": lambda k: jax.random.bernoulli(k, 0.3, (1001,)),
    "permutation": lambda k: jax.random.permutation(k, 101),
    "randint": lambda k: jax.random.randint(k, (101,), 0, 17),
    "categorical": lambda k: jax.random.categorical(k, jnp.zeros((11, 5))),
    "split": lambda k: jax.random.key_data(jax.random.split(k, (3, 2))),
    "fold_in": lambda k: jax.random.key_data(jax.random.fold_in(k, 12345)),
    "vmapped": lambda k: jax.vmap(lambda one: jax.random.normal(one, (5,)))(jax.random.split(k, 4)),
    "nested": lambda k: jax.random.uniform(jax.random.fold_in(jax.random.split(k)[1], 7), (3,)),
}


def z_of_mean(samples, mean):
    return (samples.mean() - mean) / (samples.std() / np.sqrt(samples.size))


@pytest.mark.parametrize("draw", DRAWS)
def test_streams_are_the_stock_ones_to_the_bit(draw):
    for seed in KEYS:
        stock = jax.random.key(seed, impl="threefry2x32")
        np.testing.assert_array_equal(DRAWS[draw](prng.fast(stock)), DRAWS[draw](stock))


def test_streams_are_the_stock_ones_in_a_compiled_scan():
    def total(key):
        return jax.lax.scan(lambda c, k: (c, jax.random.bits(k, (3,))), 0, jax.random.split(key, 5))[1]

    stock = jax.random.key(5)
    np.testing.assert_array_equal(jax.jit(total)(prng.fast(stock)), jax.jit(total)(stock))


def test_a_chain_of_splits_compiles_one_hash_per_split():
    def last(key):
        for _ in range(3):
            key = jax.random.split(key)[1]
        return jax.random.key_data(key)

    program = jax.jit(last).lower(prng.fast(jax.random.key(0))).compile().as_text()
    assert program.count(" shift-left(") == 3 * 20  # rounds


def test_streams_are_the_stock_ones_in_64_bits():
    with jax.enable_x64(True):
        stock = jax.random.key(3)
        for draw in (
            lambda k: jax.random.bits(k, (101,), jnp.uint64),
            lambda k: jax.random.uniform(k, (101,), jnp.float64),
        ):
            np.testing.assert_array_equal(draw(prng.fast(stock)), draw(stock))


def test_known_answer_of_threefry():
    """Random123's published vector for Threefry-2x32 with 20 rounds, counter and key 0."""
    zero = jnp.zeros(2, jnp.uint32)
    found = prng._threefry(zero, zero[:1])
    assert (int(found[0][0]), int(found[1][0])) == (0x6B200159, 0x99BA4EFE)


def test_typed_and_raw_keys_give_the_same_streams():
    stock = jax.random.key(4)
    raw = jax.random.key_data(stock)
    expected = jax.random.normal(stock, (5,))
    for given in (stock, raw, np.asarray(raw), prng.fast(stock), jax.random.PRNGKey(4)):
        np.testing.assert_array_equal(jax.random.normal(prng.fast(given), (5,)), expected)
    np.testing.assert_array_equal(jax.jit(lambda k: jax.random.normal(prng.fast(k), (5,)))(stock), expected)


@pytest.mark.parametrize(
    "bad",
    [
        None,
        0,
        "0",
        [0, 1],
        np.float64(0),
        np.zeros(2),
        np.zeros(2, np.int32),
        np.zeros(3, np.uint32),
        jax.random.split(jax.random.key(0)),
        jax.random.key(0, impl="rbg"),
    ],
    ids=lambda bad: f"{type(bad).__name__}{getattr(bad, 'shape', '')}{getattr(bad, 'dtype', '')}",
)
def test_fast_refuses_anything_but_threefry_keys(bad):
    with pytest.raises(TypeError, match="key"):
        prng.fast(bad)


SHAPES = [(), (3,), (0,), (2, 5), (40, 500), (20_000,)]


@pytest.mark.parametrize("draw", [prng.normals, prng.uniforms, prng.coarse])
def test_pieces_are_cut_from_one_draw(draw, key):
    fast = prng.fast(key)
    pieces = jax.jit(lambda k: draw(k, SHAPES))(fast)
    assert [piece.shape for piece in pieces] == SHAPES and all(piece.dtype == jnp.float32 for piece in pieces)
    together = np.concatenate([np.ravel(piece) for piece in pieces])
    np.testing.assert_array_equal(together, jax.jit(lambda k: draw(k, [(together.size,)]))(fast)[0])


def centered(first, second):
    """Numbers of each pair, (·, n), whose means are 0 if the halves are independent and N(0, 1)."""
    rows = []
    for z in (first, second):
        square = z * z
        rows += [z, square - 1, square * z, square * square - 3, square * square * square - 15]
    radius = (first**2 + second**2) / 2
    unit = (first + 1j * second) / np.sqrt(2 * radius)
    double, fourfold = unit**2, (unit**2) ** 2
    rows += [first * second, (first**2 - 1) * (second**2 - 1), np.sign(first) * np.sign(second)]
    rows += [fourfold.real * (radius - 1), double.imag * (radius - 1)]
    rows += [np.roll(first, 1) * second, np.roll(first, 1) * first]  # neighbors
    for wave in (unit, double, unit * double, fourfold, fourfold**2):
        rows += [wave.real, wave.imag]
    return np.stack(rows)


def check_pairs(first, second):
    """Each half of the pairs is N(0, 1) by its moments, cdf and tails, and they are independent in what these see."""
    n, sums, squares = len(first), 0.0, 0.0
    for start in range(0, n, 2**14):
        block = centered(first[start : start + 2**14], second[start : start + 2**14])
        sums, squares = sums + block.sum(1), squares + np.einsum("kn,kn->k", block, block)
    assert np.all(np.abs(sums) < 4.6 * np.sqrt(squares - sums**2 / n))
    for z in map(np.sort, (first, second)):
        distance = np.max(np.abs(special.ndtr(z) - (np.arange(n) + 0.5) / n))
        assert distance * np.sqrt(n) < 2.6, distance  # Kolmogorov: 2 exp(−2 · 2.6²) = 3e-6, as of 4.6 standard errors
        for limit in (2, 3, 4, 4.5, 5):
            expected = n * special.ndtr(-limit)
            for count in (n - np.searchsorted(z, limit, "right"), np.searchsorted(z, -limit)):
                assert abs(count - expected) < 4.6 * np.sqrt(expected) + 1, limit
        assert np.abs(z[[0, -1]]).max() < 6.8 and np.diff(np.searchsorted(z, [-1e-3, 1e-3]))[0] < 1e-3 * n


def pairs(seed, n):
    (z,) = prng.normals(prng.fast(jax.random.key(seed)), [(2, n)])
    return np.asarray(z, float)


@pytest.mark.slow
def test_both_normals_of_a_pair_are_standard_normal():
    check_pairs(*pairs(17, 10_000_000))


def narrow(right, a, b):
    """The angle goes through a little less than half a circle."""
    return right(a, b - (b >> np.uint32(8)))


def unsigned(right, a, b):
    """The radius has no sign, so half of the circle is missing."""
    return right(a & np.uint32(0xFFFFFFFE), b)


def short(right, a, b):
    """The radius is of few bits: the tails end at 4.4."""
    return right(a | np.uint32(1 << 18), b)


def shared(right, a, b):
    """The angle knows of the radius."""
    return right(a, (b & np.uint32(0xFFFFFFF)) | (a & np.uint32(0xF0000000)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "n"), [(narrow, 2_000_000), (unsigned, 10_000), (short, 10_000_000), (shared, 10_000)]
)
def test_the_tests_detect_faulty_normals(fault, n, retraced, monkeypatch):
    """The coarse faults already in fewer pairs than are tested above."""
    monkeypatch.setattr(prng, "_box_muller", partial(fault, prng._box_muller))
    with pytest.raises(AssertionError):
        check_pairs(*pairs(17, n))


def test_moments_and_independence_of_pieces(key):
    n = 200_000
    k_normal, k_uniform = jax.random.split(prng.fast(key))
    a, b = (np.asarray(piece, float) for piece in prng.normals(k_normal, [(n,), (n // 2, 2)]))
    u, v = (np.asarray(piece, float) for piece in prng.uniforms(k_uniform, [(n,), (n,)]))
    for piece in (a, b.ravel()):
        for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3)):
            assert abs(z_of_mean(piece**power, moment)) < 4.6
    for piece in (u, v):
        assert piece.min() >= 0 and piece.max() < 1
        for power in (1, 2, 3):
            assert abs(z_of_mean(piece**power, 1 / (power + 1))) < 4.6
    for first, second in ((a, b.ravel()), (u - 0.5, v - 0.5), (a, u - 0.5), (a[1:], a[:-1])):
        assert abs(z_of_mean(first * second, 0)) < 4.6
    assert abs(z_of_mean((a**2 - 1) * (b.ravel() ** 2 - 1), 0)) < 4.6


def test_normal_like_has_the_tree_and_independent_leaves(key):
    tree = {"a": jnp.zeros((100, 100)), "b": [jnp.zeros(10_000), jnp.zeros(())]}
    drawn = prng.normal_like(prng.fast(key), tree)
    assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(jnp.shape, tree)
    a, b = np.asarray(drawn["a"], float).ravel(), np.asarray(drawn["b"][0], float)
    for samples, mean in ((a, 0), (a**2, 1), (b, 0), (b**2, 1), (a * b, 0)):
        assert abs(z_of_mean(samples, mean)) < 4.6


def test_coarse_uniforms_are_even_on_their_grid(key):
    """χ² over the 2¹⁶ values, and the four numbers of two words are independent."""
    n = 4 * 2**20
    pieces = prng.coarse(prng.fast(key), [(3, 5), (n - 15,)])
    assert pieces[0].shape == (3, 5) and pieces[1].dtype == jnp.float32
    u = np.concatenate([np.ravel(piece) for piece in pieces]).astype(float)
    cells = u * 2**16
    assert np.all(cells == np.round(cells)) and cells.min() >= 0 and cells.max() < 2**16
    counts = np.bincount(cells.astype(int), minlength=2**16)
    chi2 = np.sum((counts - n / 2**16) ** 2) / (n / 2**16)
    assert abs(chi2 - (2**16 - 1)) / np.sqrt(2 * (2**16 - 1)) < 4.6
    quarters = u.reshape(4, -1) - (0.5 - 2**-17)
    for i in range(4):
        for j in range(i):
            assert abs(z_of_mean(quarters[i] * quarters[j], 0)) < 4.6


def test_fast_gives_keys_of_jax_outside_cpu(key, retraced, monkeypatch):
    """The same numbers from both kinds."""
    here = prng.fast(key)
    monkeypatch.setattr(prng, "on_cpu", lambda: False)
    there = prng.fast(key)
    assert [str(jax.random.key_impl(k)) for k in (here, there)] == ["utf", "threefry2x32"]
    for draw in (prng.normals, prng.uniforms, prng.coarse):
        for a, b in zip(draw(here, [(7,), (3, 2)]), draw(there, [(7,), (3, 2)]), strict=True):
            np.testing.assert_array_equal(a, b)
