"""A posterior around a trained network, without training."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from dubito._check import check_choice
from dubito._jax.pytree import register_dataclass, static
from dubito._jax.types import ArrayLike, Key, Params
from dubito.interop.trained import MaskedWeights, TrainedNetwork
from dubito.methods.dropout.mc_dropout import MCDropout
from dubito.methods.ensembles.ensemble import combine
from dubito.methods.held_out_noise import best_noise, network_outputs
from dubito.methods.laplace.laplace import LaplaceApproximation
from dubito.models.inputs import joined_inputs
from dubito.models.likelihoods.base import Likelihood
from dubito.models.likelihoods.by_name import get_likelihood
from dubito.models.model import Model
from dubito.models.partial_network import Where, chosen_names, partial_network
from dubito.models.priors import Normal, Prior
from dubito.posteriors.base import KeyedPosterior, Samples, Seed
from dubito.training.data import check_rows, pad_data, padded_size
from dubito.training.descent import DescentState
from dubito.training.members import Member, Trained

OUTPUTS = ("values", "probabilities")
PROBABILITY = 1e-4  # rows that sum to one by so much, and are never negative, look like probabilities


@register_dataclass
@dataclass(frozen=True)
class MaskedPosterior(KeyedPosterior):
    """Trained weights with dropped units: a draw is one function, as in training.

    Parameters
    ----------
    model : Model
        Its network is a ``TrainedNetwork`` with dropout.
    params : pytree of arrays
        {"network": the weights, "likelihood": φ}.
    """

    model: Model
    params: Params

    def draw(self, seed: Seed) -> Params:
        return {**self.params, "network": MaskedWeights(self.params["network"], seed)}


@register_dataclass
@dataclass(frozen=True)
class ScaledNetwork:
    """A network whose outputs are mapped to those of a likelihood: to logits, or by a shift and a scale.

    Attributes
    ----------
    network : TrainedNetwork
        The network.
    outputs : {"values", "probabilities"}
        Whether it returns probabilities, of which logarithms are taken.
    shift, scale : float or tuple of float
        f = shift + scale · output.
    """

    network: Any = static()
    outputs: str = static(default="values")
    shift: Any = static(default=0.0)
    scale: Any = static(default=1.0)

    def init(self, key: Key) -> Params:
        return self.network.init(key)

    def apply(self, params: Params, x: Any) -> Array:
        f = self.network.apply(params, x)
        if self.outputs == "probabilities":
            floor = jnp.finfo(f.dtype).tiny
            log_p = jnp.log(jnp.maximum(f, floor))
            return log_p if f.shape[1] > 1 else log_p - jnp.log(jnp.maximum(1 - f, floor))
        return jnp.asarray(self.shift, f.dtype) + jnp.asarray(self.scale, f.dtype) * f

    def join_inputs(self, x: Any) -> np.ndarray:
        return joined_inputs(self.network, x)

    def scales(self, params: Params, scale: Any) -> Params:
        return self.network.scales(params, scale)


def wrap(
    networks: TrainedNetwork | Sequence[TrainedNetwork],
    method: MCDropout | LaplaceApproximation | None = None,
    *,
    likelihood: str | Likelihood,
    key: Key,
    validation: tuple[ArrayLike, ArrayLike] | None = None,
    train: tuple[ArrayLike, ArrayLike] | None = None,
    prior: Prior | None = None,
    outputs: str = "values",
    shift: float | Sequence[float] = 0.0,
    scale: float | Sequence[float] = 1.0,
    where: Where | None = None,
) -> Any:
    """A posterior around trained networks, which stay as they are. ``dubito.predict`` takes it like any other.

    - ``MCDropout()``: masks at the places and with the rates of the network. The noise is fitted to the
      predictive mixture on rows that the network has not seen, ``validation``.
    - ``LaplaceApproximation()``: a normal around the weights, with the curvature of the rows on which the network
      was trained, ``train``. The noise is that of their residuals, or of ``validation`` if it is given.
    - A list of networks of one architecture, without a method: an ensemble, with noise from ``validation``.

    Parameters
    ----------
    networks : TrainedNetwork or sequence of TrainedNetwork
        As of ``from_torch`` and its siblings.
    method : MCDropout or LaplaceApproximation, optional
        The method; settings for training have no effect.
    likelihood : str or Likelihood
        Its name, or a likelihood with the network's number of targets or classes.
    key : jax.Array
        Key of the random numbers.
    validation, train : pair of arrays, optional
        Rows (x, y) in the units of the network's inputs and of the targets.
    prior : Prior, optional
        For Laplace; by default a ``Normal`` whose scale maximizes the evidence.
    outputs : {"values", "probabilities"}
        What the network returns: numbers in the units of the target or logits, or probabilities of classes.
    shift, scale : float or sequence of float
        y in its units is shift + scale · the network's output, for a network that was trained on
        standardized targets.
    where : str, sequence of str or callable, optional
        Which part is random: of the dropout sites for ``MCDropout``, of the weights for
        ``LaplaceApproximation``; names as for ``partial_network``. All others stay points. None: everything.

    Returns
    -------
    Posterior
        The posterior. It belongs to a network of another framework, so it is not saved in a model file.

    Raises
    ------
    ValueError
        Without the rows that are needed, for a network without dropout under ``MCDropout``, and for
        outputs that the likelihood cannot take.
    """
    several = list(networks) if isinstance(networks, Sequence) else [networks]
    check_choice("outputs", outputs, OUTPUTS)
    needed = _needed_rows(several, method, validation, train, where)
    shift, scale = (tuple(v) if isinstance(v, Sequence) else v for v in (shift, scale))
    x = joined_inputs(several[0], needed[0])
    found = _likelihood(likelihood, _some_outputs(several[0], x), outputs)
    weights = _weights(several, x[:8])
    network: Any = ScaledNetwork(several[0], outputs, shift, scale)
    if where is not None and isinstance(method, MCDropout):
        if several[0].keyed:
            raise ValueError("the module draws its masks itself, so where= cannot choose: set other rates in it to 0")
        names = set(chosen_names(list(several[0].dropout), where))
        sites = tuple(site for site in several[0].sites if site.name in names)
        network = replace(network, network=replace(several[0], sites=sites))
    elif where is not None:
        network = partial_network(network, where, weights[0])
        weights = [network.select(network.points)]
    model = Model(network, found, prior)
    point = [{"network": each, "likelihood": found.init()} for each in weights]
    key_noise, key_method = jax.random.split(key)
    if isinstance(method, MCDropout):
        posterior: Any = MaskedPosterior(model, point[0])
    else:
        parts = [Samples(model, jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], each)) for each in point]
        posterior = combine(parts)
    noise = _noise(posterior, validation if validation is not None else train, key_noise)
    if not isinstance(method, LaplaceApproximation):
        if isinstance(posterior, Samples):
            count = len(posterior)
            noise = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), noise)
        return replace(posterior, params={**posterior.params, "likelihood": noise})
    return _laplace(method, model, {**point[0], "likelihood": noise}, needed, key_method)


def _needed_rows(networks: list[Any], method: Any, validation: Any, train: Any, where: Any) -> Any:
    """The rows that a method needs; ValueError without."""
    if not networks or not all(isinstance(one, TrainedNetwork) for one in networks):
        raise ValueError(
            "wrap takes a network of dubito.from_torch, from_keras, from_flax, from_equinox or from_sklearn, or a list of them"
        )
    if method is None and len(networks) < 2:
        raise ValueError(
            "wrap needs a method for a single network: dubito.MCDropout() or dubito.LaplaceApproximation()"
        )
    if method is not None and len(networks) > 1:
        raise ValueError(
            "wrap makes several networks an ensemble, without a method: leave out the method, or wrap one of them"
        )
    if method is None and where is not None:
        raise ValueError("where= chooses what is random, and the networks of an ensemble are points: leave it out")
    if method is not None and not isinstance(method, MCDropout | LaplaceApproximation):
        raise ValueError(
            f"wrap takes MCDropout, LaplaceApproximation, or a list of networks; got {type(method).__name__}, which trains: "
            "dubito.fit(dubito.Model(network, likelihood, prior), X, y, method, key=key) starts from the network's weights"
        )
    if isinstance(method, MCDropout) and not networks[0].sites:
        raise ValueError(
            "the network has no dropout. Wrap it by dubito.LaplaceApproximation() with train=(X, y), or wrap a list of networks"
        )
    if isinstance(method, LaplaceApproximation):
        if method.prior_updates:
            raise ValueError(
                "prior_updates trains again, which wrap does not: leave it at 0. The prior's scale follows from the evidence"
            )
        if train is None:
            raise ValueError("LaplaceApproximation needs the rows on which the network was trained: train=(X, y)")
        return train
    if validation is None:
        raise ValueError("the noise is fitted to rows that the network has not seen: validation=(X, y)")
    return validation


def _some_outputs(network: TrainedNetwork, x: np.ndarray) -> np.ndarray:
    """The outputs at a few rows; ValueError if the network cannot take them."""
    try:
        return np.asarray(network.apply(network.weights(), jnp.asarray(x[:128])))
    except (TypeError, ValueError) as error:
        raise ValueError(f"the network cannot take x of shape {x.shape}: {str(error).splitlines()[0]}") from error


def _likelihood(likelihood: str | Likelihood, raw: np.ndarray, outputs: str) -> Likelihood:
    """The likelihood for outputs of this width."""
    width = raw.shape[1]
    if isinstance(likelihood, str):
        entry = get_likelihood(likelihood)
        likelihood = entry.make(width if entry.task == "regression" or width > 1 else 2)
    if likelihood.width != width:
        raise ValueError(
            f"{type(likelihood).__name__} needs {likelihood.width} outputs of the network for each row, and there are {width}"
        )
    classes = likelihood.task == "classification"
    alike = raw.min() >= 0 and (raw.max() <= 1 if width == 1 else np.allclose(raw.sum(1), 1, atol=PROBABILITY))
    if classes and outputs == "values" and alike:
        raise ValueError(
            f"{type(likelihood).__name__} takes logits, and the network's outputs look like probabilities: say "
            "outputs='probabilities'"
        )
    if outputs == "probabilities" and not (classes and alike):
        raise ValueError("outputs='probabilities' is for classes, with outputs between 0 and 1 that sum to 1")
    return likelihood


def _weights(networks: list[Any], x: np.ndarray) -> list[Params]:
    """The weights of each network for the first one's function; ValueError unless it gives their outputs."""
    first, found = networks[0], [networks[0].weights()]
    leaves, tree = jax.tree.flatten(found[0])
    for number, other in enumerate(networks[1:], 1):
        own = jax.tree.leaves(other.weights())
        weights = tree.unflatten(own) if [*map(np.shape, own)] == [*map(np.shape, leaves)] else None  # names may differ
        if weights is None or not np.allclose(
            first.apply(weights, x), other.apply(other.weights(), x), rtol=1e-4, atol=1e-5
        ):
            raise ValueError(
                f"network {number} has another architecture than network 0: wrap makes an ensemble of one architecture"
            )
        found.append(weights)
    return found


def _noise(posterior: Any, rows: Any, key: Key) -> Params:
    """The φ of the largest predictive likelihood on these rows."""
    x, y = rows
    found = check_rows(posterior.model, x, y, None)
    start = posterior.model.likelihood.init()
    if not start:
        return start
    padded = pad_data(found.x, found.y, found.train, padded_size(len(found.x)))
    ((_, seeds),) = posterior.sources(key)
    f = network_outputs(posterior, seeds, padded[0])
    return best_noise(posterior.model.likelihood, start, f, padded[1], np.asarray(padded[2], np.float32))


def _laplace(method: LaplaceApproximation, model: Model, params: Params, rows: Any, key: Key) -> Any:
    """The Laplace approximation around these parameters."""
    x, y = rows
    found = check_rows(model, x, y, None)
    trained = Trained((Member(key, found.train, found.valid),), (DescentState(params, None),), (0,), 1, found)

    def run(*args: Any, **options: Any) -> Any:
        raise AssertionError("nothing is trained")

    if model.prior is None:
        model = replace(model, prior=Normal())
        method.check(model)
        _, evidence = method.around(model, trained, key, run)
        factor, _ = evidence.optimum()
        model = replace(model, prior=Normal(float(np.sqrt(factor)), biases=float(np.sqrt(factor))))
    method.check(model)
    return method.finish(model, trained, key, run)
