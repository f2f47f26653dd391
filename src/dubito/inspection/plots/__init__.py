"""Pictures on Matplotlib axes. Names are loaded on first use.

- ``predictions``: bands, calibration, comparisons.
- ``activation_curves``: the activation functions and their derivatives.
- ``diagram``: a network as circles and lines.
- ``training``: loss landscapes, sizes, sparsity.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
