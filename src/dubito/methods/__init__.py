"""How is it inferred: one file, one method, one paper.

- ``weight_noise``: noise on the parameters of any network, where it costs the least variance.
- ``variational``: Gaussians over weights.
- ``dropout``: fixed and learned dropout.
- ``map``: maximum likelihood and maximum a posteriori.
- ``laplace``: a Gaussian around a point.
- ``swag``: a Gaussian through the points that descent passes.
- ``sampling``: Markov chain Monte Carlo.
- ``ensembles``: several fits.
- ``conjugate_noise``: the noise precision of a Gaussian integrated out.
- ``by_name``: all methods by name, and the estimators' default.

A method is a frozen dataclass of numbers with ``init``, ``step``, ``score``, ``members`` and ``finish``, which the training
loop calls.
"""
