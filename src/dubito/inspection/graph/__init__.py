"""Backpropagation and automatic differentiation by hand, and computation graphs of JAX functions.

- ``backprop``: backpropagation by hand, in matrices.
- ``autodiff``: forward and reverse mode by hand, on a graph of operations.
- ``layout``: boxes and links in layers, as SVG.
- ``drawing``: graphs as text, in Graphviz's language, and as SVG.
- ``graph``: the graph of any JAX function.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, ["backprop"])
