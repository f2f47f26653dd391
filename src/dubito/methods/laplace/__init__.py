"""The Laplace approximation, and the curvature it is made of.

- ``curvature``: the generalized Gauss-Newton matrix, a block of rows at a time.
- ``structures``: the part of it that is kept: diagonal, Kronecker, full, low rank.
- ``evidence``: log p(D), and the scales of prior and noise that maximize it.
- ``laplace``: the method.
"""
