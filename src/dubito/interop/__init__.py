"""Networks that people already have, in dubito's predictive distributions, and its posteriors for other programs.

- ``input_layout``: its inputs, of several dtypes, as one array.
- ``trained``: a trained network: its weights, its function, and its dropout sites.
- ``aten``: PyTorch's operations in JAX.
- ``aten_shapes``: those on shapes.
- ``aten_tensors``: those that make or choose tensors.
- ``aten_layers``: its layers: convolutions, pooling, norms, attention.
- ``pytorch``: networks of PyTorch, from their exported graph.
- ``keras_models``: models of Keras 3.
- ``flax_modules``: modules of Flax, Linen and NNX.
- ``equinox_modules``: modules of Equinox.
- ``scikit``: perceptrons of scikit-learn.
- ``wrapping``: a posterior around a trained network, without training.
- ``arviz_trees``: a posterior as a DataTree of ArviZ.

These packages are imported on use; nothing else of the library imports one.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, ["trained"])
