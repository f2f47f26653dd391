"""From a table to float32 arrays and back to the target's units; no JAX, except in ``targets``.

- ``texts``: texts that stand for numbers or for missing values.
- ``dates``: dates and times as numbers, and their phases.
- ``columns``: the values of a table's columns, read from any frame or array.
- ``changes``: counts of values that fit did not have.
- ``validation``: checks of sample weights, targets and their task.
- ``class_weights``: the weights of classes, given or by their numbers of rows.
- ``scaling``: moments of columns, and the standardization that they define.
- ``encoding``: the encoding of a column, and the statistics that determine it.
- ``schema``: the columns of a table: learned, matched, encoded.
- ``frames``: rows and columns of frames: chosen and split off.
- ``row_labels``: groups and times of rows, which say how the rows may be split.
- ``csv_quotes``: an error where an unclosed quote swallows rows of a CSV file.
- ``dialects``: separators and encoding of a table of text.
- ``spreadsheets``: a sheet of an .xlsx file as a table of text.
- ``text_files``: a table's file as text in UTF-8, unpacked and decoded.
- ``reading``: a whole table from a file, with inferred types; opening files.
- ``files``: a table's file some rows at a time.
- ``streams``: a Parquet table that need not fit into memory, to fit a model to.
- ``targets``: the likelihood of a target, and its scaling.
- ``datasets``: small tables that come with the library or with scikit-learn.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, ["datasets"])
