"""Neural networks that know what they don't know. Names are loaded on first use: importing dubito imports no JAX."""

from typing import Any

import lazy_loader

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        import importlib.metadata

        return importlib.metadata.version("dubito")
    if name in __all__:
        return _load(name)
    import difflib

    close = [] if name.startswith("_") else difflib.get_close_matches(name, __all__, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise AttributeError(f"module 'dubito' has no attribute {name!r}{hint}")
