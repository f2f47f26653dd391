"""What a predictive is worth, from rows it has not seen.

- ``validation``: a predictive, outcomes and weights that fit together.
- ``standard_errors``: scores with standard errors over rows.
- ``crps``: the continuous ranked probability score.
- ``calibration_base``: the contract of calibrations.
- ``conformal``: conformal intervals and sets.
- ``ood_metrics``: scores of detecting rows outside the training distribution.
- ``metrics``: all scores, each with its standard error.
- ``interpretation``: what a score card says, in sentences.
- ``quantile_recalibration``: a predictive distribution whose cdf is mapped.
- ``calibration``: temperature, isotonic and quantile calibration.
- ``diagnostics``: whether the draws are enough.
- ``elbo``: the evidence lower bound.
- ``loo``: leave-one-out cross-validation by importance sampling.
- ``decisions``: abstaining, detecting foreign rows, choosing what to label.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, ["calibration", "conformal", "decisions", "diagnostics", "elbo", "interpretation", "loo", "metrics"]
)
