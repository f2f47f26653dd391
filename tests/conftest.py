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

gc.set_threshold(100_000, 50, 50)  # traced programs are many small objects that live long: by default a tenth of a run

# Most of a run is compilation. These flags leave out LLVM's optimization and the MLIR pipeline of every fusion, and more than
# halve it.
QUICK_COMPILER = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)


def pytest_addoption(parser):
    parser.addoption(
        "--compiler",
        choices=["quick", "optimizing"],
        help="quick: XLA compiles quickly, and tests marked optimized are left out; optimizing: as users run it, only these. "
        "By default all tests run as users run it.",
    )


def pytest_configure(config):
    if config.getoption("compiler") == "quick":  # XLA reads the flags when the first program is compiled
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = flags if QUICK_COMPILER in flags else f"{flags} {QUICK_COMPILER}".strip()


def pytest_collection_modifyitems(config, items):
    compiler = config.getoption("compiler")
    if compiler is not None:
        optimized = {True: [], False: []}
        for item in items:
            optimized[item.get_closest_marker("optimized") is not None].append(item)
        items[:] = optimized[compiler == "optimizing"]
        config.hook.pytest_deselected(items=optimized[compiler == "quick"])


@pytest.fixture(scope="module", autouse=True)
def forgetful(request):
    """Frees compiled programs after a module whose tests patch something, which programs may have been traced with, and where
    they hold many memory mappings, of which a process may have 65,530."""
    yield
    own = [item for item in request.session.items if item.module is request.module]
    maps = pathlib.Path("/proc/self/maps")
    many = not maps.exists() or maps.read_bytes().count(b"\n") > 20_000
    if many or any("monkeypatch" in item.fixturenames for item in own):
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
