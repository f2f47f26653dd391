"""Strict settings of JAX, set before any test imports dubito, and shared fixtures."""

import atexit
import contextlib
import gc
import os
import pathlib
import shutil
import signal
import tempfile

if (
    "PYTEST_XDIST_WORKER" not in os.environ
):  # programs are compiled once for all workers, test files and processes of a run
    folder = tempfile.mkdtemp(prefix="dubito-tests-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
import pytest

os.environ.setdefault("DUBITO_CACHE", "0")  # no test depends on programs that an earlier one compiled
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(scope="module", autouse=True)
def forgetful():
    """Compiled programs hold memory mappings, of which a process may have 65,530: free them after each module."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session", autouse=True)
def default_sigint():
    """Python's default handler of Ctrl-C for the tests and their child processes; background jobs of scripts ignore the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


PROGRAMS = []  # names of the programs compiled so far


def _listen(event, duration_secs, **rest):
    del duration_secs
    if event == "/jax/core/compile/backend_compile_duration":
        PROGRAMS.append(rest.get("fun_name"))


jax.monitoring.register_event_duration_secs_listener(_listen)


@pytest.fixture(scope="session")
def compiled():
    """``with compiled() as names``: at the end, ``names`` lists the programs compiled in the block."""

    @contextlib.contextmanager
    def watch():
        names, before = [], len(PROGRAMS)
        yield names
        names += PROGRAMS[before:]

    return watch


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture(scope="session")
def data():
    """The folder of published data sets. The test fails if DUBITO_DATA is wrong, and is skipped if it is not set."""
    if "DUBITO_DATA" not in os.environ:
        pytest.skip("DUBITO_DATA is not set: it names the folder of the published data sets")
    folder = pathlib.Path(os.environ["DUBITO_DATA"])
    if not folder.is_dir():
        pytest.fail(f"DUBITO_DATA is not a folder: {folder}")
    return folder
