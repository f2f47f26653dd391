"""Networks that people already have, in dubito's predictive distributions.

- ``trained``: a trained network: its weights, its function, and its dropout sites.
- ``aten``: PyTorch's operations in JAX.
- ``pytorch``: networks of PyTorch, from their exported graph.
- ``keras``: models of Keras 3.
- ``flax``: modules of Flax, Linen and NNX.
- ``equinox``: modules of Equinox.
- ``scikit``: perceptrons of scikit-learn.
- ``wrapping``: a posterior around a trained network, without training.

Frameworks are imported on use; nothing else of the library imports one.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, ["trained"])
