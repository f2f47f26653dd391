"""The fraction of a posterior's weights that are exactly zero."""

from collections import defaultdict

import jax
import numpy as np

from dubito._jax.types import Params
from dubito.posteriors import dropout, laplace, normals
from dubito.posteriors.base import Mixture, Posterior, Samples


def sparsity(posterior: Posterior) -> dict[str, float]:
    """The fraction of weights that are exactly 0, as L1 regularization or ``prune`` makes them.

    Biases, the parameters of the likelihood and the masks of dropout do not count. A weight of a
    ``DiagonalNormal`` is 0 if both its mean and its scale are.

    Parameters
    ----------
    posterior : Posterior
        Any posterior; for samples and mixtures the fraction is averaged over draws and members.

    Returns
    -------
    dict
        The fraction by the weight's name, and that of all weights as ``"all"``.

    Raises
    ------
    ValueError
        For a network without weights, which are arrays with at least two axes.
    """
    shares: dict[str, list[float]] = defaultdict(list)
    sizes: dict[str, int] = {}
    for zeros in _zeros(posterior):
        for path, leaf in jax.tree_util.tree_flatten_with_path(zeros)[0]:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            if leaf.ndim > 1:
                shares[name].append(float(np.mean(leaf)))
                sizes[name] = leaf.size
    if not shares:
        raise ValueError("the network has no weights (arrays with at least two axes), so sparsity is not defined")
    found = {name: float(np.mean(each)) for name, each in shares.items()}
    return found | {"all": sum(found[name] * size for name, size in sizes.items()) / sum(sizes.values())}


def _zeros(posterior: Posterior) -> list[Params]:
    """For each part of a posterior a tree of which weights are 0, or in what fraction of its draws."""
    match posterior:
        case Mixture():
            return [zeros for part in posterior.parts for zeros in _zeros(part)]
        case Samples():
            return [jax.tree.map(lambda leaf: np.mean(np.asarray(leaf) == 0, axis=0), posterior.params["network"])]
        case normals.DiagonalNormal() | normals.LowRankNormal():
            trees = [posterior.mean, posterior.scale]
        case dropout.DropoutPosterior():
            trees = [posterior.params]
        case normals.FullCovarianceNormal() | laplace.KroneckerNormal() | laplace.LowRankPrecisionNormal():
            return [jax.tree.map(lambda leaf: np.zeros(leaf.shape, bool), posterior.mean["network"])]
        case _ if posterior.part is None:
            raise ValueError(f"sparsity is not defined for a posterior of type {type(posterior).__name__}")
        case _:
            return _zeros(posterior.part)  # of the network, without the noise beside it
    return [jax.tree.map(lambda *leaves: np.all(np.equal(leaves, 0), axis=0), *(tree["network"] for tree in trees))]
