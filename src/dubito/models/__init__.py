"""A model is a network, a likelihood and a prior.

- ``activations``: activation functions by name.
- ``periodic``: periodic features of numeric columns.
- ``inputs``: what a network reads, as one array.
- ``networks``: ``init`` and ``apply``: perceptrons, convolutional networks.
- ``partial_network``: one of which only some parameters are inferred.
- ``linearized``: a network's first-order expansion in its parameters.
- ``likelihoods``: p(y given z): the criterion of training and the noise of prediction.
- ``target_transforms``: increasing transforms of a target, such as its logarithm.
- ``noise_network``: networks of the mean and of the noise side by side.
- ``priors``: p(params): the regularizer.
- ``grouped_prior``: one whose scale is shared by the weights out of a unit.
- ``model``: log p(D, θ) and its parts; the scale N/n.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, ["activations"])
