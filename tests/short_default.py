"""The default method with 3 folds and a tenth of its epochs, for tests of what surrounds it: compilation takes long enough."""

from dataclasses import replace

from dubito.methods.default import default_method


def short_default(*arguments):
    method = default_method(*arguments)
    return replace(method, folds=3, method=replace(method.method, epochs=max(20, method.method.epochs // 10)))
