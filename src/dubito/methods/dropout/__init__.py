"""Dropout as inference.

- ``mc_dropout``: MC dropout: fixed rates.
- ``concrete_dropout``: learned rates.
- ``variational_dropout``: multiplicative Gaussian noise, and its sparse form.
"""
