"""Neural networks that know what they don't know.

- ``models``: a network, a likelihood and a prior; log p(D, θ) with the scale N/n.
- ``tables``: from a table to float32 arrays, and back to the target's units.
- ``posteriors``: draws of functions, and the predictive distribution they make.
- ``training``: the one loop that drives every method.
- ``methods``: how to infer: one file, one method, one paper.
- ``evaluation``: metrics, calibration, conformal intervals, diagnostics, decisions.
- ``estimators``: scikit-learn estimators and their model files.
- ``inspection``: graphs, landscapes, learning curves, reports, plots.
- ``interop``: networks of other frameworks, and posteriors for them.
- ``cli``: the command line.

Names are loaded on first use: importing dubito imports no JAX.
"""

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
