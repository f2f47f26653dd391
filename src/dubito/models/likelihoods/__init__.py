"""Likelihoods p(y given z): the criterion of training and the noise of prediction, in one object.

- ``base``: the contract, and what several likelihoods share.
- ``noise_parameters``: what likelihoods with a fixed or learned noise parameter share.
- ``gaussian``: constant, heteroscedastic and censored Gaussian noise.
- ``robust``: noise with heavier tails: Student's t and Laplace.
- ``classes``: Bernoulli, categorical and ordinal.
- ``count_functions``: densities and distribution functions of counts, accurate in float32.
- ``gamma_functions``: densities and distribution functions of gamma and beta distributions.
- ``integer_quantiles``: quantiles of distributions of whole numbers.
- ``positive``: lognormal and gamma.
- ``shares``: beta.
- ``counts``: Poisson and negative binomial, with and without excess zeros.
- ``custom``: a criterion of your own.
- ``by_name``: all likelihoods by name.
"""
