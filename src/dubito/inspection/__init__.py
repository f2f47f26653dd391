"""Look inside: what the model computes, how training went, pictures of both.

- ``graph``: backpropagation and automatic differentiation by hand, computation graphs.
- ``gradient_health``: sizes of values and gradients, layer by layer.
- ``learning_curves``: under- and overfitting, read off the curves of a fit.
- ``network_view``: what pictures read out of a trained network.
- ``landscape``: the loss around a trained network.
- ``summary``: what a fitted model is.
- ``plots``: pictures on Matplotlib axes.
- ``report``: scores, pictures and settings in one HTML file.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, ["landscape", "learning_curves", "network_view", "plots", "report"]
)
