"""scikit-learn: fit a table, predict, save.

- ``checks``: whether predictions are finite.
- ``files``: fitted estimators as one safe file.
- ``onnx_files``: fitted estimators as ONNX models.
- ``table_network``: the network for a table.
- ``model_card``: what a fitted estimator predicts, how well, and its limits, in Markdown.
- ``held_out``: the uncertainty of held-out rows, to compare new rows with.
- ``parameters``: those of both estimators and of their methods.
- ``fitted``: what both estimators share, apart from fitting.
- ``row_splits``: which rows a fit or a comparison may hold out from which.
- ``base``: the fit of both.
- ``regressor``: BayesianRegressor.
- ``classifier``: BayesianClassifier.
- ``loading``: estimators read from files.
- ``batches``: predictions of batches of rows in the worker processes of an engine.
- ``scorers``: scores of whole distributions, and predictive distributions through pipelines.
- ``fold_scores``: the scores of one fit on its held-out rows, and of all folds.
- ``comparison_fits``: the fits of a comparison, in threads or on an engine.
- ``cross_validation``: several estimators on the same folds.
- ``comparison_parts``: parts of a comparison, each a file.
- ``size_sweep``: one estimator at many sizes.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, ["cross_validation", "size_sweep"])
