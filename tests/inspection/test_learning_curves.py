"""Verdicts on curves made for them, and on real fits of networks that are too small, too large and stopped in time."""

import math

import numpy as np
import pytest

import dubito
from dubito.inspection.learning_curves import diagnose, trivial_loss

EPOCH = np.arange(1, 201)
FALL = 1.4 * np.exp(-EPOCH / 15)


def history(train, valid, noise=0.0, members=1, seed=0):
    """As an estimator's, from losses by epoch."""
    rng = np.random.default_rng(seed)
    return [
        -np.column_stack([train, np.zeros(len(train)), valid + noise * rng.normal(size=len(train))])
        for _ in range(members)
    ]


CURVES = {
    # of 1.4 learned, 5 % are 0.07
    "fine": (FALL, FALL + 0.06, {}),
    "overfitting": (FALL - 0.001 * EPOCH, 0.1 + FALL + 0.001 * EPOCH, {}),
    "still improving": (1.4 - 0.004 * EPOCH, 1.45 - 0.004 * EPOCH, {}),
    "underfitting": (1.4 - 0.1 * (1 - FALL), 1.42 - 0.1 * (1 - FALL), {"trivial": 1.42}),
}


@pytest.mark.parametrize("noise", [0.0, 0.01])
@pytest.mark.parametrize("verdict", CURVES)
def test_diagnose_returns_the_verdict_that_curves_were_made_for(verdict, noise):
    train, valid, reference = CURVES[verdict]
    found = diagnose(history(train, valid, noise, members=3), **reference)
    assert found.verdict == verdict
    assert str(found).startswith(f"Verdict: {verdict}.\n200 epochs, 3 members (medians over them).\n")


def test_diagnosis_numbers_equal_numpy():
    train, valid = 1.0 - 0.002 * EPOCH, 1.1 - 0.002 * EPOCH + 0.00002 * EPOCH**2
    found = diagnose(history(train, valid), trivial=1.5, goal=0.55)
    late = slice(180, 200)
    assert found.train == pytest.approx(np.median(train[late]), abs=1e-12)
    assert found.validation == pytest.approx(np.median(valid[late]), abs=1e-12)
    best = min(np.median(valid[k : k + 20]) for k in range(181))
    assert found.best == pytest.approx(best, abs=1e-12) and abs(found.best_epoch - 50) <= 1
    assert found.rise == pytest.approx(np.median(valid[late]) - best, abs=1e-12)
    assert found.fall == pytest.approx(np.median(valid[160:180]) - np.median(valid[late]), abs=1e-12)
    assert found.learned == pytest.approx(1.5 - best, abs=1e-12)
    assert found.generalized == pytest.approx((1.5 - found.validation) / (1.5 - found.train), abs=1e-12)
    assert found.gap == pytest.approx(found.validation - found.train)
    text = str(found)
    for number in (found.train, found.validation, found.gap, found.best, found.rise, found.learned, found.train - 0.55):
        assert f"{number:.3f}" in text


def test_diagnosis_noise_is_the_standard_error_of_a_difference_of_medians():
    rng = np.random.default_rng(1)
    reads = [diagnose(history(FALL, 0 * FALL, 0.1, seed=seed)) for seed in range(200)]
    wanted = np.std([np.subtract(*np.median(rng.normal(0, 0.1, (2, 20)), axis=1)) for _ in range(20000)])
    assert np.mean([read.noise for read in reads]) == pytest.approx(wanted, rel=0.05)
    assert np.std([read.fall for read in reads]) == pytest.approx(wanted, rel=0.15)  # its own se is 5 %
    assert {read.verdict for read in reads} == {"fine"}  # noise alone is no rise and no fall


def test_diagnose_low_generalization_is_overfitting_without_a_rise():
    train, valid = 1.4 - 1.3 * (1 - FALL / 1.4), 1.4 - 0.4 * (1 - FALL / 1.4)
    assert diagnose(history(train, valid), trivial=1.4).verdict == "overfitting"
    assert diagnose(history(train, train + 0.1), trivial=1.4).verdict == "fine"


def test_diagnose_goal_distinguishes_underfitting_from_fine():
    train = 0.8 + FALL
    assert diagnose(history(train, train + 0.05)).verdict == "fine"
    assert diagnose(history(train, train + 0.05), goal=0.5).verdict == "underfitting"
    assert diagnose(history(train, train + 0.05), goal=0.78).verdict == "fine"


def test_diagnose_without_validation_or_epochs_is_unknown():
    found = diagnose(history(FALL, np.full(200, np.nan)))
    assert found.verdict == "unknown" and f"{np.median(FALL[180:]):.3f}" in str(found)
    assert diagnose(history(FALL[:1], FALL[:1])).verdict == "unknown"
    assert diagnose([np.empty((0, 3))]).verdict == "unknown"
    with pytest.raises(ValueError, match=r"\(epochs, 3\)"):
        diagnose([np.zeros((5, 2))])


def data(n, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-3, 3, (n, 4))
    return x, np.sin(2 * x[:, 0]) + 0.5 * x[:, 1] * (x[:, 2] > 0) + 0.2 * rng.normal(size=n)


def fitted(hidden, epochs, n, patience=10**6, **settings):
    method = dubito.MaximumLikelihood(epochs=epochs, schedule="constant", **settings)
    model = dubito.BayesianRegressor(
        method, hidden=hidden, early_stopping=True, validation_fraction=0.3, n_iter_no_change=patience, random_state=0
    )
    return model.fit(*data(n))


@pytest.mark.slow
def test_diagnose_real_fits():
    small = fitted((1,), 5, 400)
    large = diagnose(fitted((100, 100), 200, 100))
    assert large.verdict == "overfitting" and large.best_epoch < 100 and large.train < large.best < large.validation
    stopped = diagnose(fitted((20,), 2000, 2000, patience=20))
    assert stopped.verdict == "fine" and stopped.epochs < 2000
    assert stopped.trivial == pytest.approx(0.5 * math.log(2 * math.pi * math.e))
    small = diagnose(small, goal=stopped.best)  # known from the larger network
    assert small.verdict == "underfitting" and small.gap < 0.1 < small.train - stopped.best
    short = diagnose(fitted((20,), 30, 2000, learning_rate=3e-3))
    assert short.verdict == "still improving" and short.validation > stopped.best + 0.1


@pytest.mark.slow
def test_trivial_loss_is_the_loss_without_inputs():
    x, y = data(300)
    model = dubito.BayesianRegressor(dubito.MAP(epochs=1), hidden=(), random_state=0).fit(x, np.column_stack([y, -y]))
    z = (y - y.mean()) / y.std()
    assert trivial_loss(model) == pytest.approx(-2 * np.mean(-0.5 * z**2 - 0.5 * math.log(2 * math.pi)), abs=1e-6)
    classes = dubito.BayesianClassifier(dubito.MAP(epochs=1), hidden=(), random_state=0).fit(x, np.arange(300) % 3)
    assert trivial_loss(classes) == pytest.approx(math.log(3))
    counts = dubito.BayesianRegressor(dubito.MAP(epochs=1), hidden=(), likelihood="poisson", random_state=0)
    assert trivial_loss(counts.fit(x, np.arange(300) % 3)) is None
