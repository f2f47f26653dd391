"""The registry of posteriors: the closed list of classes that a model file may hold.

To add a posterior, write its file, import it here and add its entry.
"""

from dubito.posteriors import base, dropout, laplace, noise, normals

POSTERIORS: tuple[type[base.Posterior], ...] = (
    *(base.Samples, base.Mixture, dropout.DropoutPosterior, noise.GammaNoisePosterior, noise.FixedNoisePosterior),
    *(normals.DiagonalNormal, normals.LowRankNormal, normals.FullCovarianceNormal),
    *(laplace.KroneckerNormal, laplace.LowRankPrecisionNormal),
)
