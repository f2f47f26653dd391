"""Compiled programs are bounded: the last used ones stay, and only this library's are dropped."""

import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dubito._jax import programs


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


MANY_WIDTHS = """
import jax, numpy as np
import dubito
from dubito.posteriors import function_samples
from dubito.training import chunk
x = np.random.default_rng(0).normal(size=(40, 2))
chunk.chunk.kept = function_samples.evaluate_draws.kept = 2
for width in (3, 4, 5):
    dubito.BayesianRegressor(dubito.MAP(epochs=1), hidden=(width,), random_state=0).fit(x, x[:, 0]).predict(x)
live = [one.hlo_modules()[0].name for one in jax.devices()[0].client.live_executables()]
assert live.count("jit_chunk") <= 2 and live.count("jit_evaluate_draws") <= 2, live
"""


@pytest.mark.slow
def test_fits_of_many_widths_keep_a_bounded_number_of_programs():
    """In a process of its own, where no other test has compiled programs."""
    done = subprocess.run([sys.executable, "-c", MANY_WIDTHS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
