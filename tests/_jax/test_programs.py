"""Compiled programs are bounded: the last used ones stay, and only this library's are dropped."""

import threading
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dubito
from dubito._jax import programs
from dubito.posteriors import function_samples
from dubito.training import chunk


def doubled(x, power):
    return 2 * x**power


@pytest.fixture
def small():
    return programs.jit(doubled, kept=2, static_argnums=1)


def compiled_names(compiled, function, *calls):
    with compiled() as names:
        found = [function(jnp.ones(size), power) for size, power in calls]
    assert all((answer == 2).all() for answer in found)
    return names.count("jit(doubled)")


def test_jit_keeps_the_programs_used_last(compiled, small):
    one, two, three = (1, 1), (2, 1), (1, 3)  # of other shapes and other static arguments
    assert compiled_names(compiled, small, one, two, one, two) == 2
    assert compiled_names(compiled, small, three) == 1  # drops ``one``, the one not used for longest
    assert compiled_names(compiled, small, two, three) == 0
    assert compiled_names(compiled, small, one) == 1


def test_jit_leaves_programs_of_others_alone(compiled, small):
    @jax.jit
    def users(x):
        return x + 1

    x = jnp.ones(3)
    users(x)
    for size in range(1, 9):
        small(jnp.ones(size), 1)
    with compiled() as names:
        users(x)
    assert names == []


def test_dropped_programs_are_freed(small):
    def live():
        found = jax.devices()[0].client.live_executables()
        return sum(one.hlo_modules()[0].name == "jit_doubled" for one in found)

    before = live()
    for size in range(1, 12):
        small(jnp.ones(size), 1)
    assert live() - before <= 2


def test_jit_is_safe_with_threads(small):
    """More programs than are kept, asked for by several threads at once."""
    wrong = []

    def work(seed):
        for size in np.random.default_rng(seed).integers(1, 8, 40):
            if not (small(jnp.full(int(size), 3.0), 2) == 18).all():
                wrong.append(size)

    pool = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    assert wrong == [] and len(small.programs) == 2


@pytest.mark.slow
def test_fits_of_many_widths_keep_a_bounded_number_of_programs(retraced, monkeypatch):
    functions = {"jit_chunk": chunk.chunk, "jit_evaluate_draws": function_samples.evaluate_draws}
    for function in functions.values():
        monkeypatch.setattr(function, "programs", OrderedDict())
        monkeypatch.setattr(function, "kept", 2)

    def live():
        names = [one.hlo_modules()[0].name for one in jax.devices()[0].client.live_executables()]
        return np.array([names.count(name) for name in functions])

    before, x = live(), np.random.default_rng(0).normal(size=(40, 2))
    for width in (3, 4, 5):
        dubito.BayesianRegressor(dubito.MAP(epochs=1), hidden=(width,), random_state=0).fit(x, x[:, 0]).predict(x)
    np.testing.assert_array_equal(live() - before, 2)
