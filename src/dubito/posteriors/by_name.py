"""The registry of posteriors: the closed list of classes that a model file may hold.

A new posterior is one file beside this one, its import here, and its entry.
"""

from dubito.posteriors import base, dropout, laplace, noise, normals

POSTERIORS: tuple[type[base.Posterior], ...] = (
    *(base.Samples, base.Mixture, dropout.DropoutPosterior, noise.GammaNoisePosterior, noise.FixedNoisePosterior),
    *(normals.DiagonalNormal, normals.LowRankNormal, normals.FullCovarianceNormal),
    *(laplace.KroneckerNormal, laplace.LowRankPrecisionNormal),
)
