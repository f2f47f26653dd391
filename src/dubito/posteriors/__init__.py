"""What inference returns: draws of functions, and the predictive distribution they make.

- ``file_layout``: what a model file holds of a posterior.
- ``base``: the contract of posteriors; samples and mixtures.
- ``normals``: normals: independent, of low rank, with all correlations.
- ``dropout``: weights with dropped inputs.
- ``noise``: posteriors with a noise of their own.
- ``laplace``: normals in the coordinates in which a curvature is diagonal.
- ``by_name``: the registry of posteriors that model files hold.
- ``sparsity``: the fraction of weights that are exactly zero.
- ``blocks``: rows in blocks of one size.
- ``function_samples``: functions drawn from a posterior, evaluated at rows.
- ``quantiles``: quantiles of mixtures.
- ``draw_mixture``: moments, densities, quantiles and samples of a mixture over draws.
- ``outcomes``: input validation of targets: numbers, labels and class codes.
- ``temperature``: the temperature of class probabilities.
- ``readings``: equal-tailed intervals, and the columns of a table of predictions.
- ``predictive_base``: mean, standard deviations, intervals, ... of predictive distributions, in the target's units.
- ``predictive``: the predictive distribution of a posterior.
- ``transformed``: the predictive distribution of a target that was transformed before the fit.
"""
