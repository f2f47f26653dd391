"""Several fits as one posterior.

- ``ensemble``: independent fits.
- ``randomized_map``: fits to perturbed data and priors.
- ``committee``: fits that each leave a fold out, for CV+ intervals.
- ``residual_noise``: the noise of members that leave rows out, from their errors there.
- ``cross_fit``: fits that each leave a fold out, with noise from the held-out residuals.
"""
