"""Variational inference with Gaussians.

- ``bayes_by_backprop``: independent weights, by reparametrized gradients.
- ``natural_gradient``: independent weights, by natural gradients.
- ``variational_gaussian``: correlated weights.
"""
