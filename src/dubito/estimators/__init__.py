"""scikit-learn: fit a table, ask, save.

- ``base``: what a fitted estimator answers.
- ``files``: fitted estimators as one safe file.
- ``table_network``: the network for a table.
- ``regressor``: BayesianRegressor and BayesianClassifier.
- ``cross_validation``: several estimators on the same folds.
- ``size_sweep``: one estimator at many sizes.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, ["cross_validation", "size_sweep"])
