"""Neural networks that know what they don't know. Names are loaded on first use: importing dubito imports no JAX."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
