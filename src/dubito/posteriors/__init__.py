"""What inference returns: draws of functions, and the predictive distribution they make.

- ``file_layout``: what a model file holds of a posterior.
- ``base``: the contract of posteriors; samples and mixtures.
- ``normals``: normals: independent, of low rank, with all correlations.
- ``dropout``: weights with dropped inputs.
- ``noise``: posteriors with another noise beside them.
- ``laplace``: normals in the coordinates in which a curvature is diagonal.
- ``sparsity``: the fraction of weights that are exactly zero.
- ``blocks``: rows in blocks of one size.
- ``function_samples``: functions drawn from a posterior, evaluated at rows.
- ``reductions``: moments and densities over draws, some at a time.
- ``quantiles``: quantiles of mixtures.
- ``readings``: what a predictive computes from draws, as compiled programs.
- ``outcomes``: targets as numbers or class codes, checked.
- ``temperature``: the temperature of class probabilities.
- ``draw_mixture``: moments, densities, quantiles and samples of a mixture over draws.
- ``predictive_base``: the contract of predictive distributions, one a row, in the target's units.
- ``predictive``: the predictive distribution of a posterior.
"""
