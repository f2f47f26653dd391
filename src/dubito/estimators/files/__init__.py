"""Fitted estimators as one safe file.

- ``codec``: methods and models as JSON, from a closed list of classes.
- ``posterior_file``: posteriors as JSON and arrays.
- ``model_file``: the whole estimator; ``_process.archive`` has the bytes and their hash.
"""
