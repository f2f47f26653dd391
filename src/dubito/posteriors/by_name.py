"""The registry of posteriors: the closed list of classes that a model file may hold.

A new posterior is one file beside this one, its import here, and its entry.
"""

from dubito.posteriors.base import Mixture, Posterior, Samples
from dubito.posteriors.dropout import DropoutPosterior
from dubito.posteriors.laplace import KroneckerNormal, LowRankPrecisionNormal
from dubito.posteriors.noise import FixedNoisePosterior, GammaNoisePosterior
from dubito.posteriors.normals import DiagonalNormal, FullCovarianceNormal, LowRankNormal

POSTERIORS: tuple[type[Posterior], ...] = (
    *(Samples, Mixture),
    *(DiagonalNormal, LowRankNormal, FullCovarianceNormal, KroneckerNormal, LowRankPrecisionNormal),
    *(DropoutPosterior, GammaNoisePosterior, FixedNoisePosterior),
)
