"""What inference returns: draws of functions, and the predictive distribution they make.

- ``base``: what a posterior is: normals, samples, dropout, mixtures.
- ``laplace``: normals in coordinates in which a curvature is diagonal.
- ``blocks``: rows in blocks of one size.
- ``function_samples``: functions drawn from a posterior, evaluated at rows.
- ``reductions``: moments and densities over draws, some at a time.
- ``quantiles``: quantiles of mixtures.
- ``readings``: what a predictive computes from draws, as compiled programs.
- ``outcomes``: targets as numbers or class codes, checked.
- ``temperature``: the temperature of class probabilities.
- ``predictive``: one distribution per row, in the target's units.
"""
