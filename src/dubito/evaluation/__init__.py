"""The quality of a predictive distribution on rows that it has not seen.

- ``validation``: input validation: a predictive, targets and weights that fit together.
- ``standard_errors``: scores with standard errors over rows.
- ``crps``: the continuous ranked probability score.
- ``calibrated``: the contract of calibrations, and calibrated predictive distributions.
- ``conformal``: conformal intervals and sets.
- ``integral_transform``: F(y) of observed targets, and the coverage of central intervals.
- ``metrics``: all scores, each with its standard error.
- ``diagnostics``: whether there are enough draws.
- ``interpretation``: the meaning of a scorecard, in sentences.
- ``calibration``: temperature, isotonic and quantile calibration.
- ``elbo``: the evidence lower bound.
- ``loo``: leave-one-out cross-validation by importance sampling.
- ``decisions``: out-of-distribution detection, abstaining, active learning, Thompson sampling.
"""

import lazy_loader

MODULES = "calibration conformal decisions diagnostics elbo interpretation loo metrics".split()
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, MODULES)
