"""Plots on Matplotlib axes. Names are loaded on first use.

- ``style``: axes, legends and colors of all plots.
- ``predictions``: bands, calibration, loss curves, comparisons.
- ``activation_curves``: the activation functions and their derivatives.
- ``diagram``: a network as circles and lines.
- ``training``: loss landscapes, paths of optimizers, network sizes, weights.
"""

import importlib.util

import lazy_loader

if importlib.util.find_spec("matplotlib") is None:
    raise ImportError("dubito.plots needs matplotlib: pip install 'dubito[plot]'")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
