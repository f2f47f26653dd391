"""Neural networks that know what they don't know. Names are loaded on first use: importing dubito imports no JAX."""

import lazy_loader

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name):
    if name == "__version__":
        import importlib.metadata

        return importlib.metadata.version("dubito")
    try:
        return _load(name)
    except AttributeError:
        import difflib

        close = [] if name.startswith("_") else difflib.get_close_matches(name, __all__, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise AttributeError(f"module 'dubito' has no attribute {name!r}{hint}") from None
