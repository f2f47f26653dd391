"""Inference: one file, one method, one paper.

- ``types``: names for the types that annotations share.
- ``settings``: checks of a method's settings, and of the prior that it needs.
- ``priors``: the prior's scale of each parameter, and its proximal step.
- ``weight_noise``: noise on the parameters of any network, where it costs the least variance.
- ``held_out_noise``: the noise of a predictive mixture, from held-out rows.
- ``posterior_descent``: shared by the methods that descend on an objective and return a posterior.
- ``variational``: Gaussians over weights.
- ``dropout``: fixed and learned dropout.
- ``map``: maximum likelihood and maximum a posteriori.
- ``laplace``: a Gaussian around a point.
- ``swag``: a Gaussian through the points that descent passes.
- ``sampling``: Markov chain Monte Carlo.
- ``ensembles``: several fits.
- ``conjugate_noise``: the noise precision of a Gaussian integrated out.
- ``default``: the estimators' default method.
- ``by_name``: the registry of methods, and their settings as text.

A method is a final subclass of an abstract class in ``training.method``, ``training.descent``
or here. To add one: write its file, and add its import and its entry to ``by_name.METHODS``; the
command line, the model file and the contract test read that table.
"""
