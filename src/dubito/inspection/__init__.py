"""What a model computes, how its training went, and plots of both.

- ``graph``: backpropagation and automatic differentiation by hand, computation graphs.
- ``gradient_health``: sizes of values and gradients, layer by layer.
- ``learning_curves``: under- and overfitting, diagnosed from the curves of a fit.
- ``network_view``: what plots read from a trained network.
- ``recorded_descent``: the path of an optimizer.
- ``landscape``: the loss around a trained network.
- ``summary``: a description of a fitted model.
- ``plots``: plots on Matplotlib axes.
- ``report``: scores, plots and settings in one HTML file.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, ["landscape", "learning_curves", "network_view", "plots", "report"]
)
