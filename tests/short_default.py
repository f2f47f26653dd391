"""The default method with 3 folds and a tenth of its epochs, for tests of what surrounds it: compilation takes long enough."""

from dataclasses import replace

import dubito
from dubito.methods.by_name import METHODS
from dubito.methods.default import default_method


def short_default(*arguments):
    method = default_method(*arguments)
    return replace(method, folds=3, method=replace(method.method, epochs=max(20, method.method.epochs // 10)))


def shorten_methods(monkeypatch):
    """Estimators and commands without a method take the short default, and commands a short MC dropout."""
    monkeypatch.setattr("dubito.estimators.base.default_method", short_default)
    monkeypatch.setitem(METHODS, "mc-dropout", dubito.MCDropout(epochs=20))
