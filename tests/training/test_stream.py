"""Rows that come in pieces: the same fit as of the rows in memory, read piece by piece."""

import functools
import itertools
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dubito
from dubito._jax import prng
from dubito.tables import frames, reading, scaling, streams
from dubito.tables.schema import Schema
from dubito.training import checkpoint, chunk, runs, stream
from dubito.training.reports import history as collect_history

ROWS = 230


@pytest.fixture
def small(monkeypatch):
    """Pieces of 64 rows: the data are four."""
    monkeypatch.setattr(stream, "PIECE_ROWS", 64)


def data(rows=ROWS):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 2)).astype(np.float32)
    y = np.sin(2 * x[:, :1]) + 0.1 * rng.normal(size=(rows, 1)).astype(np.float32)
    return x, y, rng.uniform(0.5, 2.0, rows).astype(np.float32)


def in_parts(*arrays, ends=(3, 70, 71, 71, 200)):
    """A source of uneven parts, one of them empty."""
    cuts = [0, *ends, len(arrays[0])]
    return lambda: (tuple(a[i:j] for a in arrays) for i, j in itertools.pairwise(cuts))


def model():
    return dubito.Model(dubito.mlp(2, (8,)), dubito.Gaussian(precision=4.0))


def bits(posterior):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(posterior.sample(jax.random.key(3), 4))]


def same(a, b):
    return all(np.array_equal(p, q) for p, q in zip(a, b, strict=True))


METHODS = [
    dubito.MAP(epochs=6, batch_size=16),
    dubito.BayesByBackprop(epochs=6, batch_size=None),
    dubito.Ensemble(dubito.MCDropout(epochs=6), 2),
]


@pytest.mark.parametrize(
    "method",
    [pytest.param(METHODS[0], marks=pytest.mark.optimized), *METHODS[1:]],  # the bits as users compile them, of one
    ids=lambda m: type(m).__name__,
)
def test_what_fits_in_one_piece_is_as_in_memory(method):
    x, y, weight = data()
    reports, told = [], []
    whole = dubito.fit(model(), x, y, method, key=jax.random.key(1), weight=weight, progress=reports.append)
    parts = dubito.fit(model(), in_parts(x, y, weight), None, method, key=jax.random.key(1), progress=told.append)
    assert same(bits(whole), bits(parts))
    np.testing.assert_array_equal(collect_history(reports), collect_history(told))


@pytest.mark.parametrize(
    ("block", "wrong"),
    [(16, {}), (24, {}), (100, {}), pytest.param(16, {"scale": 4.0}, marks=pytest.mark.slow), (16, {"size": 80.0})],
)
def test_an_epochs_gradients_average_to_the_full_batch(small, block, wrong, retrace_loops, monkeypatch):
    """Uneven pieces with weights: with steps of rate ~0 an epoch moves by its mean gradient; a piece's numbers are caught."""
    if wrong:
        retrace_loops()
        plain = chunk.Batch
        monkeypatch.setattr(chunk, "Batch", lambda *parts: plain(*parts)._replace(**wrong))
    x, y, weight = data()
    plain_model = dubito.Model(dubito.mlp(2, (8,)), dubito.Gaussian(precision=1.0), None)
    rate = 3e-4
    method = dubito.MaximumLikelihood(
        epochs=1, batch_size=block, learning_rate=rate, optimizer="sgd", schedule="constant"
    )
    fitted = dubito.fit(plain_model, in_parts(x, y, weight), None, method, key=jax.random.key(1))
    end = jax.tree.map(lambda leaf: leaf[0], fitted.params["network"])
    member = jax.random.split(prng.fast(jax.random.key(1)), 3)[1]
    start = plain_model.init(jax.random.split(member)[0])["network"]

    def loss(params):
        return 0.5 * jnp.sum(weight * (plain_model.network.apply(params, x) - y)[:, 0] ** 2) / weight.sum()

    target = jax.grad(loss)(start)
    moved = jax.tree.map(lambda a, b: (b - a) / (-(-ROWS // block) * rate), end, start)
    error = sum(float(jnp.sum((m - t) ** 2)) for m, t in zip(*map(jax.tree.leaves, (moved, target)), strict=True))
    size = sum(float(jnp.sum(t**2)) for t in jax.tree.leaves(target))
    assert (np.sqrt(error / size) < 0.02) == (not wrong)


def stops(after):
    """A progress that interrupts the fit at its ``after``-th report, and the reports."""
    told = []

    def progress(report):
        told.append(report)
        if len(told) == after:
            raise KeyboardInterrupt

    return progress, told


@pytest.mark.parametrize(
    "method", [METHODS[0], dubito.Ensemble(dubito.MCDropout(epochs=3, batch_size=16), 2)], ids=["MAP", "Ensemble"]
)
def test_resumed_between_and_within_pieces(small, method, tmp_path, monkeypatch):
    """Interrupted again and again, in the middle of epochs and of pieces: the bits and the history of one run."""
    monkeypatch.setattr(checkpoint, "WRITE_INTERVAL", 0.0)
    monkeypatch.setattr(runs, "CHUNK_SECONDS", 0.0)
    monkeypatch.setattr(runs, "FIRST_CHUNK_STEPS", 3)
    x, y, weight = data()
    reports = []
    source = in_parts(x, y, weight)
    whole = dubito.fit(model(), source, None, method, key=jax.random.key(1), progress=reports.append)
    assert len({report.part for report in reports}) > 4
    interrupted = 0
    while True:
        progress, told = stops(5 + 5 * interrupted)
        try:
            again = dubito.fit(
                model(), source, None, method, key=jax.random.key(1), progress=progress, checkpoint=tmp_path / "c"
            )
            break
        except KeyboardInterrupt:
            interrupted += 1
    assert interrupted > 1
    assert same(bits(whole), bits(again))
    np.testing.assert_array_equal(collect_history(reports), collect_history(told))


def test_other_rows_are_another_fit(small, tmp_path):
    x, y, weight = data()
    method = dubito.MAP(epochs=2)
    dubito.fit(model(), in_parts(x, y), None, method, key=jax.random.key(1), checkpoint=tmp_path / "c")
    cut_otherwise = in_parts(x, y, ends=(100,))
    dubito.fit(model(), cut_otherwise, None, method, key=jax.random.key(1), checkpoint=tmp_path / "c")
    with pytest.raises(dubito.CheckpointError, match="different data"):
        dubito.fit(model(), in_parts(x, y, weight), None, method, key=jax.random.key(1), checkpoint=tmp_path / "c")


def test_rows_of_no_weight_are_left_out(small):
    x, y, weight = data()
    weight[::3] = 0
    kept = weight > 0
    method = dubito.MAP(epochs=4, batch_size=16)
    a = dubito.fit(model(), in_parts(x, y, weight), None, method, key=jax.random.key(1))
    b = dubito.fit(model(), in_parts(x[kept], y[kept], weight[kept], ends=()), None, method, key=jax.random.key(1))
    assert same(bits(a), bits(b))


@pytest.mark.slow
def test_it_learns_as_in_memory(small):
    """Pieces change the order of the rows, not what is learned."""
    x, y, _ = data()
    method = dubito.MAP(epochs=300, batch_size=16)
    whole = dubito.fit(model(), x, y, method, key=jax.random.key(1))
    parts = dubito.fit(model(), in_parts(x, y), None, method, key=jax.random.key(1))
    a, b = (dubito.predict(found, x, key=jax.random.key(2)).mean for found in (whole, parts))
    assert np.sqrt(np.mean((a - b) ** 2)) < 0.1 * np.std(y)


@pytest.mark.slow
def test_after_a_divergence_the_epoch_begins_with_its_first_piece(small, retrace_loops, monkeypatch):
    """NaN in the third piece, once: the fit is that of half the rate from the start."""
    x, y, _ = data()
    source = in_parts(x, y)
    half = dubito.fit(
        model(), source, None, dubito.MAP(epochs=3, batch_size=16, learning_rate=0.005), key=jax.random.key(1)
    )
    plain = dubito.MAP.step

    def step(self, model, state, batch, clock, key):
        state, info = plain(self, model, state, batch, clock, key)
        return state, info | {
            "likelihood": jnp.where((clock.step_factor == 1) & (clock.step == 9), jnp.nan, info["likelihood"])
        }

    monkeypatch.setattr(dubito.MAP, "step", step)
    retrace_loops()
    braked = dubito.fit(
        model(), source, None, dubito.MAP(epochs=3, batch_size=16, learning_rate=0.01), key=jax.random.key(1)
    )
    assert same(bits(half), bits(braked))


def test_the_next_piece_is_read_ahead_and_readers_end():
    """One item is made while another is used, and no thread is left."""
    made, threads = [], threading.active_count()

    def items():
        for number in itertools.count():
            made.append(number)
            yield number

    found = stream.prefetch(items())
    assert [next(found), next(found)] == [0, 1]
    found.close()
    assert made == [0, 1, 2]
    assert threading.active_count() == threads


def spoiled(place, value=np.nan):
    x, y, _ = data()
    x[place] = value
    return in_parts(x, y)


def twice(first, then):
    """A source that gives something else from its second call on."""
    calls = iter([first])
    return lambda: next(calls, then)()


PLAIN = in_parts(*data()[:2])
SHORT = in_parts(*(a[:150] for a in data()[:2]))
LONG = in_parts(*(np.concatenate([a, a]) for a in data()[:2]))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (spoiled(75), r"piece 4 \(counted from 0\): x contains 2 value\(s\) that are NaN, .*, in row 4"),
        (lambda: [(np.zeros((9, 2)), np.zeros(9)), (np.zeros((5, 3)), np.zeros(5))], r"piece 1 .*\(3,\).*\(2,\)"),
        (lambda: [(np.zeros((9, 2)), np.zeros(8))], r"piece 0 .*same number of rows; got shapes \(9, 2\) and \(8,\)"),
        (lambda: [(np.zeros((9, 2)), np.zeros(9), -np.ones(9))], "piece 0 .*at least 0"),
        (lambda: [np.zeros((9, 2))], r"piece 0 must be a tuple \(x, y\)"),
        (lambda: iter(()), "contain no row"),
        (lambda: [(np.zeros((9, 2)), np.zeros(9), np.zeros(9))], "contain no row"),
        (lambda: None, "must return an iterator of .*, got NoneType"),
        (PLAIN(), "must be a callable that returns an iterator.*got generator"),
        ([data()[:2]], "must be a callable that returns an iterator.*got list"),
        (twice(PLAIN, SHORT), "contained 230 rows .* now contain 150: .* a new iterator"),
        (twice(PLAIN, LONG), "now contain more than 230"),
        (lambda found=PLAIN(): found, "contained 230 rows .* now contain 0: .* a new iterator"),
    ],
)
def test_bad_pieces_are_refused(small, source, message):
    with pytest.raises(ValueError, match=message):
        dubito.fit(model(), source, None, dubito.MAP(epochs=2, batch_size=16), key=jax.random.key(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"early_stopping": True}, "early_stopping needs all rows in memory"),
        ({"mesh": object()}, "mesh needs all rows in memory"),
        ({"method": dubito.Ensemble(dubito.CrossFit(dubito.MAP(), 3), 2)}, "CrossFit needs all rows in memory"),
        ({"method": dubito.MAP(batch_size=None)}, "batch_size=None is a batch of all 230 rows"),
        ({"weight": np.ones(230)}, "y and weight must be None"),
    ],
)
def test_what_needs_all_rows_is_refused(small, options, message):
    options = {"method": dubito.MAP(), "key": jax.random.key(1)} | options
    with pytest.raises(ValueError, match=message):
        dubito.fit(model(), PLAIN, None, **options)


def parquet_file(path, **columns):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), path, row_group_size=50)
    return path


def test_a_parquet_file_is_its_columns(small, tmp_path):
    """Inputs in the order that is asked for, of all kinds of numbers; the same bits as the arrays."""
    x, y, weight = data()
    flag = x[:, 0] > 0.3
    count = np.arange(ROWS, dtype=np.int64) % 7
    path = parquet_file(tmp_path / "t.parquet", w=weight, b=x[:, 1].astype(float), y=y[:, 0], flag=flag, n=count)
    source = dubito.parquet_pieces(path, ["n", "b", "flag"], "y", "w")
    (inputs, target, weights) = (np.concatenate(parts) for parts in zip(*source(), strict=True))
    assert np.array_equal(inputs, np.c_[count, x[:, 1], flag]) and inputs.dtype == np.float32
    assert np.array_equal(target, y[:, 0]) and np.array_equal(weights, weight)
    wide = dubito.Model(dubito.mlp(3, (8,)), dubito.Gaussian())
    method = dubito.MAP(epochs=2, batch_size=16)
    file = dubito.fit(wide, source, None, method, key=jax.random.key(1))
    arrays = dubito.fit(wide, in_parts(inputs, target, weights), None, method, key=jax.random.key(1))
    assert same(bits(file), bits(arrays))
    several = dubito.parquet_pieces(path, ["b"], ["y", "n"])
    assert np.array_equal(np.concatenate([part[1] for part in several()]), np.c_[y[:, 0], count])
    assert all(part[1].dtype == np.int64 for part in dubito.parquet_pieces(path, ["b"], "n")())


def test_bad_parquet_files_are_refused(tmp_path):
    path = parquet_file(tmp_path / "t.parquet", a=[1.0, 2.0, None], y=[1, 2, 3], text=["a", "b", "c"])
    for names, message in (
        ((["a", "z"], "y"), r"has no column 'z'. The columns are 'a', 'y', 'text'"),
        ((["a"], "text"), "column 'text' has the type string and is not numeric"),
    ):
        with pytest.raises(dubito.DataError, match=message):
            dubito.parquet_pieces(path, *names)
    with pytest.raises(dubito.DataError, match="column 'a' has no value in row 2"):
        list(dubito.parquet_pieces(path, ["a"], "y")())
    with pytest.raises(dubito.DataError, match="cannot be read"):
        dubito.parquet_pieces(tmp_path / "no.parquet", ["a"], "y")
    (tmp_path / "ill.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(dubito.DataError, match="cannot be read"):
        dubito.parquet_pieces(tmp_path / "ill.parquet", ["a"], "y")


GROWTH = """
import resource, sys
import numpy as np, pyarrow
from pyarrow import parquet
import jax, dubito

names = [*"abcdefghijy"]
schema = pyarrow.schema([(name, pyarrow.float32()) for name in names])
model = dubito.Model(dubito.mlp(10, (8,)), dubito.Gaussian())
block = np.random.default_rng(0).normal(size=(2**17, 11)).astype(np.float32)
peak = []
for blocks in (1, 24):
    with parquet.ParquetWriter(sys.argv[1], schema, use_dictionary=False) as writer:
        for _ in range(blocks):
            writer.write_table(pyarrow.table([*block.T], schema=schema))
    source = dubito.parquet_pieces(sys.argv[1], names[:-1], "y")
    dubito.fit(model, source, None, dubito.MAP(epochs=1, batch_size=4096), key=jax.random.key(0))
    peak.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
print(peak[1] - peak[0])
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path):
    """3·10⁶ rows of 11 columns, 138 MB as numbers and much more in passing, after a table of two pieces."""
    pytest.importorskip("pyarrow")
    done = subprocess.run([sys.executable, "-c", GROWTH, tmp_path / "t.parquet"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100


def table_file(path, rows=300):
    rng = np.random.default_rng(3)
    x = rng.normal(1e6, [1.0, 1e-3], (rows, 2))
    text = np.array(["red", "green", "blue"])[rng.integers(0, 3, rows)]
    target = 5 + x[:, 0] - 1e6 + (text == "red") + 0.1 * rng.normal(size=rows)
    columns = {"a": x[:, 0], "color": text, "old": x[:, 1] > 1e6, "b": x[:, 1], "n": np.arange(rows) % 5}
    return parquet_file(path, **columns, y=target, kind=np.where(target > 5, "high", "low"))


@pytest.fixture
def few(monkeypatch):
    """Tables of 64 rows at a time."""
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(streams, "PIECE_ROWS", 64)


def test_a_table_is_learned_by_pieces_as_whole(few, tmp_path):
    path = table_file(tmp_path / "t.parquet")
    inputs, y = frames.split_target(reading.read_table(path), "y")
    whole, scale = Schema.fit(inputs), scaling.TargetScaler.fit(y[:, None])
    schema, scaler, count, _ = streams.learn_table(path, "y", "regression")
    assert count == 300 and schema.names == whole.names
    for found, truth in zip(schema.columns, whole.columns, strict=True):
        assert (found.kind, found.categories) == (truth.kind, truth.categories)
        assert np.isclose(found.shift, truth.shift, rtol=1e-14, atol=0) and np.isclose(
            found.scale, truth.scale, rtol=1e-9
        )
    assert np.allclose([scaler.shift, scaler.scale], [scale.shift, scale.scale], rtol=1e-12)
    parts = list(streams.table_pieces(path, "y", schema, scaler)())
    assert [len(part[0]) for part in parts] == [64, 64, 64, 64, 44]
    np.testing.assert_allclose(np.concatenate([part[0] for part in parts]), whole.encode(inputs), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.concatenate([part[1] for part in parts]), scale.transform(y[:, None]), atol=1e-6)
    assert list(streams.learn_table(path, "kind", "classification")[1]) == ["high", "low"]
    assert [streams.target_kind_of_file(path, name) for name in ("y", "n", "kind")] == ["regression"] + [
        "classification"
    ] * 2


@pytest.mark.parametrize("target", ["y", "kind"])
def test_an_estimator_fits_a_file(target, tmp_path):
    """In one piece the file gives the model of the table, to the bit."""
    path = table_file(tmp_path / "t.parquet")
    kind = dubito.BayesianRegressor if target == "y" else dubito.BayesianClassifier
    inputs, y = frames.split_target(reading.read_table(path), target)
    whole = kind(dubito.MAP(epochs=5), hidden=(8,), random_state=0).fit(inputs, y)
    file = kind(dubito.MAP(epochs=5), hidden=(8,), random_state=0).fit_file(path, target)
    assert same(*[[np.asarray(leaf) for leaf in jax.tree.leaves(m.posterior_)] for m in (whole, file)])
    assert np.array_equal(whole.predict(inputs), file.predict(inputs)) and file.summary_["rows"] == 300
    with pytest.raises(ValueError, match="the default method is cross-fitted"):
        kind().fit_file(path, target)


def test_bad_files_are_refused(few, tmp_path):
    path = parquet_file(
        tmp_path / "t.parquet", a=[1.0] * 70 + [None], y=[1.0, 2.0] * 35 + [1.0], t=["u", "v"] * 35 + ["w"]
    )
    for names, target, task, message in (
        (["a", "y"], "y", "regression", r"column 'a': 1 missing, 0 infinite, in row 70"),
        (["t", "y"], "t", "regression", "Input y has the text .u. in row 0, which is not a number"),
        (["t", "y"], "z", "regression", "There is no column 'z'"),
        (["t", "y"], "y", "classification", None),
    ):
        kept = reading.read_table(path).select(names)
        found = parquet_file(tmp_path / "found.parquet", **{name: kept.column(name) for name in names})
        if message is None:
            assert streams.learn_table(found, target, task)[1].tolist() == [1.0, 2.0]
            continue
        with pytest.raises(dubito.DataError, match=message):
            streams.learn_table(found, target, task, missing="error")
    with pytest.raises(dubito.DataError, match=r"only \.parquet tables can be streamed"):
        streams.learn_table(tmp_path / "t.csv", "y", "regression")


@pytest.mark.parametrize("shift", [0.0, 1e9, 1e300])
def test_moments_of_parts_are_those_of_the_whole(shift):
    rng = np.random.default_rng(0)
    values, weight = shift + max(1.0, shift * 1e-6) * rng.normal(size=1000), rng.uniform(0.5, 2, 1000)
    parts = [scaling.column_moments(values[i:j], weight[i:j]) for i, j in ((0, 1), (1, 400), (400, 1000))]
    merged, whole = functools.reduce(scaling.merge_moments, parts), scaling.column_moments(values, weight)
    assert np.allclose(merged[:4], whole[:4], rtol=1e-9) and merged.constant == whole.constant is False
