"""Short fits, for tests of what surrounds them: compilation takes long enough."""

from dataclasses import fields, replace

import dubito
from dubito.estimators import size_sweep
from dubito.methods.default import default_method
from dubito.training import optimizers
from dubito.training.method import Recipe

EPOCHS = 20


def short_default(*arguments):
    """The default method with 3 folds and ``EPOCHS`` epochs."""
    method = default_method(*arguments)
    return replace(method, folds=3, method=replace(method.method, epochs=EPOCHS))


def shorten_fits(monkeypatch):
    """No method runs more than ``EPOCHS`` epochs, whatever it asks for, and estimators that name no network get that of ``Recipe``,
    one for all methods (``test_recipes.py`` tests who takes which). The default method has 3 folds, NUTS draws little in short steps,
    and a sweep has its first and its last size."""
    original = optimizers.each_length

    def each_length(method, rows, task):
        found = original(method, rows, task)[0]
        known = any(field.name == "epochs" for field in fields(found))
        return [replace(found, epochs=min(found.epochs, EPOCHS)) if known else found]

    monkeypatch.setattr(optimizers, "each_length", each_length)
    monkeypatch.setattr("dubito.estimators.base.default_method", short_default)
    monkeypatch.setattr("dubito.estimators.base.default_recipe", lambda size, task: Recipe())
    monkeypatch.setattr("dubito.estimators.base.get_recipe", lambda method, task: Recipe())
    sweep = size_sweep.sweep
    monkeypatch.setattr(
        size_sweep,
        "sweep",
        lambda estimator, X, y, sizes, **options: sweep(estimator, X, y, sizes[:: len(sizes) - 1], **options),
    )
    nuts, few = dubito.NUTS, {"draws": 20, "warmup": 60, "acceptance": 0.95}
    monkeypatch.setattr(dubito, "NUTS", lambda **settings: nuts(**settings | few))
