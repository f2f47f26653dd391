"""Likelihoods p(y given z): the criterion of training and the noise of prediction, in one object.

- ``base``: Gaussian, Student's t and Laplace noise; Bernoulli and Categorical classes.
- ``integer_quantiles``: quantiles of distributions of whole numbers.
- ``counts``: Poisson and negative binomial.
- ``by_name``: ordered classes, censored numbers, your own criterion; all likelihoods by name.
"""
