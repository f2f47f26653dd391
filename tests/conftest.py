"""Strict settings of JAX, set before any test imports dubito, and shared fixtures."""

import atexit
import contextlib
import gc
import os
import pathlib
import shutil
import signal
import tempfile

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Programs are compiled once for all workers, test files and processes of a run; .ci/run has a folder for the documentation, too.
    folder = tempfile.mkdtemp(prefix="dubito-tests-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"  # programs without the lines they come from: less to write

import jax
import pytest

os.environ.setdefault("DUBITO_CACHE", "0")  # no test depends on programs that an earlier one compiled
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

gc.set_threshold(100_000, 50, 50)  # traced programs are many small objects that live long: by default a tenth of a run


def pytest_addoption(parser):
    text = "the tests marked optimized alone (only) or all others (without); scripts/test runs these with a quicker compiler"
    parser.addoption("--optimized", choices=["without", "only"], help=text)


def pytest_ignore_collect(collection_path, config):
    """With ``--optimized only``, files without such tests are not imported."""
    if config.getoption("optimized") == "only" and collection_path.suffix == ".py":
        return True if "optimized" not in collection_path.read_text() else None
    return None


def pytest_collection_modifyitems(config, items):
    which = config.getoption("optimized")
    if which is not None:
        split = {"without": [], "only": []}
        for item in items:
            split["only" if item.get_closest_marker("optimized") else "without"].append(item)
        items[:] = split.pop(which)
        config.hook.pytest_deselected(items=next(iter(split.values())))


@pytest.fixture(scope="module", autouse=True)
def forgetful():
    """Clears compiled programs whenever the process has more than 20,000 memory mappings, of which it may have 65,530."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if not maps.exists() or maps.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def retraced():
    """Clears compiled programs before and after a test that patches what programs are traced from."""
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.fixture
def retrace_loops():
    """``retrace_loops()`` forgets the compiled training loops, after a patch of what they are traced from; so does the test's end."""
    from dubito.training.chunk import begin, chunk

    def forget():
        begin.programs.clear()
        chunk.programs.clear()

    yield forget
    forget()


@pytest.fixture(scope="module")
def one_size():
    """Tables of up to 256 rows are padded to 256, so that the many small ones of a file share programs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dubito.training.data.LEAST_ROWS", 256)
        yield


@pytest.fixture(scope="session")
def quick_fits():
    """``with quick_fits():`` fits are compiled as by ``scripts/quick_compiler``, for optimized tests of predictions."""

    @contextlib.contextmanager
    def quick():
        from dubito.training.chunk import begin, chunk

        programs = () if "xla_backend_optimization_level=0" in os.environ.get("XLA_FLAGS", "") else (begin, chunk)
        for program in programs:
            program.programs.clear()
            program.options["compiler_options"] = {
                "xla_backend_optimization_level": 0,
                "xla_cpu_use_fusion_emitters": False,
                "xla_disable_hlo_passes": "while-loop-invariant-code-motion,simplify-while-loops,tree_reduction_rewriter",
            }
        try:
            yield
        finally:
            for program in programs:
                program.programs.clear()
                del program.options["compiler_options"]

    return quick


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
