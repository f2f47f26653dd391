"""From a table to float32 and back to the target's units. No JAX here.

- ``texts``: texts that stand for numbers, and texts that stand for missing values.
- ``columns``: the values of a column, their moments, and their scaling.
- ``csv_quotes``: an error where an unclosed quote swallows rows of a CSV file.
- ``encoding``: how a column is encoded, learned from its rows.
- ``schema``: the columns of a table: read, checked, one-hot encoded and scaled.
- ``files``: a table's file some rows at a time.
- ``targets``: which likelihood a target gets, and how it is scaled.
- ``datasets``: small tables that come with the library or with scikit-learn.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, ["datasets"])
