"""A fitted estimator as an ONNX model.

- ``graph``: an ONNX graph that is being built.
- ``operations``: a traced program as nodes of it.
- ``columns``: the encoding of a table's columns as nodes, and rows to check it with.
- ``answers``: what a predictive distribution answers, as a function of the encoded rows.
- ``export``: the file.
"""
