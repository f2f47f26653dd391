"""Likelihoods p(y given z): the criterion of training and the noise of prediction, in one object.

- ``base``: the contract, and what several likelihoods share.
- ``gaussian``: Gaussian noise of one size, of a size from the network, and of censored values.
- ``robust``: noise with heavier tails: Student's t and Laplace.
- ``classes``: Bernoulli, Categorical, and classes in an order.
- ``count_functions``: densities and distribution functions of counts, accurate in float32.
- ``integer_quantiles``: quantiles of distributions of whole numbers.
- ``counts``: Poisson and negative binomial.
- ``custom``: a criterion of your own.
- ``by_name``: all likelihoods by name.
"""
