"""The Laplace approximation (MacKay, Neural Computation 1992), linearized (Immer, Korzepa & Bauer, AISTATS 2021)."""

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dubito._check import check_choice, check_whole
from dubito._jax import prng
from dubito._jax.pytree import register_dataclass, static
from dubito._process.archive import expect
from dubito.methods.laplace import curvature
from dubito.methods.laplace.curvature import Data
from dubito.methods.laplace.evidence import Evidence, Noise
from dubito.methods.laplace.structures import LARGEST_DENSE, STRUCTURES, EigenCurvature, LaplaceProblem
from dubito.methods.map import MAP, MaximumLikelihood, one_sample
from dubito.methods.priors import map_prior
from dubito.methods.settings import check_normal_prior
from dubito.methods.types import Key, Member, Model, Params, Rows, Trained
from dubito.models.inputs import joined_inputs
from dubito.models.likelihoods.base import LOG_2PI
from dubito.models.likelihoods.gaussian import Gaussian
from dubito.models.likelihoods.robust import LaplaceNoise
from dubito.models.linearized import Linearized, inner_params
from dubito.models.priors import check_proper
from dubito.posteriors.base import Posterior, Samples, Seed, Source, unwrapped
from dubito.posteriors.file_layout import FileLayout, float32_shape
from dubito.posteriors.noise import GammaNoisePosterior
from dubito.training.fit import float32_leaves
from dubito.training.method import Recipe, Wrapper


@register_dataclass
@dataclass(frozen=True)
class LaplacePosterior(Posterior):
    """A normal around θ*: its draws as offsets in a ``Linearized`` network, or as they are in a plain one.

    Parameters
    ----------
    model : Model
        The model that predicts.
    part : Posterior
        The normal, or one with a distribution of τ beside it.
    log_evidence : array of shape ()
        The approximation of log p(D), in nats.
    prior_factor : array of shape ()
        The factor of the prior's scale that maximizes the evidence (1 without ``prior_updates``).
    """

    model: Any
    part: Any = field()
    log_evidence: Any = field()
    prior_factor: Any

    def sources(self, key: Key, n: int | None = None) -> list[Source]:
        return [(replace(self, part=part), seeds) for part, seeds in self.part.sources(key, n)]

    def draw(self, seed: Seed) -> Params:
        drawn = self.part.draw(seed)
        if not isinstance(self.model.network, Linearized):
            return drawn
        # a leaf that is the same object is a point
        offset = jax.tree.map(
            lambda leaf, point: None if leaf is point else leaf - point, drawn["network"], self.center
        )
        return {**drawn, "network": {"center": self.center, "offset": offset}}

    @property
    def center(self) -> Params:
        """θ*, the network's parameters."""
        return unwrapped(self.part).mean["network"]

    @property
    def point(self) -> Samples:
        """The network itself with θ*, a posterior of one point."""
        normal = unwrapped(self.part)  # the posterior of τ is left out
        return one_sample(normal.model, normal.mean)

    @classmethod
    def file_layout(cls, params: Params, parts: list[Params], values: dict[str, Any]) -> FileLayout:
        expected = {**params, "network": inner_params(params["network"])}
        expect(parts == [expected], "the posterior belongs to another network")
        return FileLayout({"log_evidence": float32_shape(), "prior_factor": float32_shape()}, {})


@register_dataclass
@dataclass(frozen=True)
class LaplaceApproximation(Wrapper):
    """A normal around the point θ* that a point estimate finds, and its evidence, in nats:

        q(θ) = N(θ*, Λ⁻¹),   Λ = G + S⁻²,   log p(D) ≈ log p(D | θ*) + log p(θ*) + (P/2) log 2π − ½ log det Λ,

    S the scales of the model's Normal prior, G the curvature of the log likelihood, in nats.

    A Gaussian's learned τ is Gamma(a + ½(N − γ/K), b + ½Σ(y − f)²), γ = tr(G Λ⁻¹) the number of
    parameters that the data determine (γ/K is at most N/2). It is the maximum of the evidence, and
    exact for a linear network, a flat prior and one target; K targets share γ. Other φ are
    independent normals by their own curvature, or points where that is not positive.

    It describes one mode. It is accurate if θ* is a mode (full batches and enough epochs:
    ``MAP(epochs=None)`` for a small network, for which the usual 200 are too few) and the network
    is about linear over the posterior's width; the evidence is that of the mode alone. Choose it
    for calibrated uncertainty after one cheap training, for the evidence, and in an ``Ensemble``
    for several modes.

    Parameters
    ----------
    method : MAP or MaximumLikelihood
        The method that finds θ*.
    structure : str, optional
        The part of G that is kept. The default is "kronecker", and "last-layer" with classes, where
        the variance of a linearized network's logits is otherwise far too large.

        - ``"dense"``: all of it, for up to 10,000 parameters (thousands take seconds, 10,000
          minutes);
        - ``"kronecker"``: for the weights and the bias of each product a Kronecker product (with
          factors of up to 4,096 rows); the diagonal for other parameters (convolutions, tied
          weights, periodic features);
        - ``"diagonal"``: the variances; epistemic uncertainty is far too large where the network
          has many more parameters than the data need;
        - ``"last-layer"``: all of the block of the weights into the outputs; the others are points,
          and the evidence is conditional on them;
        - ``"low-rank"``: the ``rank`` largest directions of S G S; all others keep the prior's
          variance, so with a small rank uncertainty remains where the data determine the function.
    curvature : {"ggn", "fisher"}
        "ggn": Σ J_iᵀ H_i J_i with H = −∂² log p/∂f² of the likelihood, without the negative
        eigenvalues of H (Student's t, σ(x)); "fisher": the empirical Fisher, Σ of squared
        gradients.
    linearized : bool
        Predict with the linearized network f(θ*) + J(θ*)δ, of which q is the posterior. False
        evaluates the network itself at the draws, which then do not fit the data along directions
        that the data leave free in the linearized network.
    prior_updates : int
        How often the prior's scale is multiplied by the factor that maximizes the evidence (MacKay
        1992, γ = ‖θ*/S‖²; Immer et al., ICML 2021), and the network trained again with it and with
        the τ of the evidence. The results are ``log_evidence`` and ``prior_factor`` of the
        posterior.
    rank : int
        The rank of ``"low-rank"``.
    """

    method: Any = MAP(epochs=None, clip=5.0)
    structure: str | None = static(default=None)
    curvature: str = static(default="ggn")
    linearized: bool = static(default=True)
    prior_updates: int = static(default=0)
    rank: int = static(default=20)

    recipes: ClassVar[dict[str, Recipe] | None] = {
        "regression": Recipe((128, 128), "silu", 8, prior_scale=2.0, rows_seen=300_000, least_epochs=100),
        "classification": Recipe(prior_scale=3.0),
    }
    allows_missing_targets: ClassVar[bool] = False
    every_row: ClassVar[bool] = True  # the curvature sums over all rows

    def check(self, model: Model) -> None:
        if self.structure is not None:
            check_choice("structure", self.structure, STRUCTURES)
        check_choice("curvature", self.curvature, ("ggn", "fisher"))
        if not isinstance(self.method, MAP | MaximumLikelihood):
            raise ValueError(
                "LaplaceApproximation needs a method that returns a point, MAP or MaximumLikelihood; got "
                f"{type(self.method).__name__}. For an ensemble use Ensemble(LaplaceApproximation(...))."
            )
        self.method.check(model)
        check_whole("prior_updates", self.prior_updates, 0)
        check_whole("rank", self.rank, 1)
        if self.prior_updates and not isinstance(self.method, MAP):
            raise ValueError("prior_updates trains again with another prior, and MaximumLikelihood has none: wrap MAP")
        if self.curvature == "ggn" and isinstance(model.likelihood, LaplaceNoise):
            raise ValueError("LaplaceNoise has no second derivative in f for curvature='ggn': use curvature='fisher'")
        # a loaded posterior's model is linearized
        network = model.network.network if isinstance(model.network, Linearized) else model.network
        check_normal_prior(self, model)
        check_proper(self, replace(model, network=network))
        shapes = jax.eval_shape(lambda data: network.init(prng.fast(data)), jax.ShapeDtypeStruct((2,), np.uint32))
        size = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        if self.structure == "dense" and size > LARGEST_DENSE:
            raise ValueError(
                f"structure='dense' is for up to {LARGEST_DENSE:,} parameters, and this network has {size:,}: "
                "use 'kronecker'"
            )
        if self.structure == "low-rank" and self.rank >= size:
            raise ValueError(
                f"rank={self.rank} must be below the network's {size} parameters: lower it, or use structure='dense'"
            )

    def members(self, rows: Rows, key: Key) -> list[Member]:
        return self.method.members(rows, key)

    def finish(self, model: Model, trained: Trained, key: Key, run: Any) -> LaplacePosterior:
        keys = prng.keys(key, self.prior_updates + 1)
        kept, evidence = self.around(model, trained, keys[0], run)
        u = 1.0
        for k in keys[1:]:
            u, t = evidence.optimum()
            again = with_prior_factor(model, math.sqrt(u), evidence.noise, evidence.determined(u, t))
            trained = run(again, self.method, members=trained.members)
            kept, evidence = self.around(model, trained, k, run)
        u, t = evidence.optimum(u)
        part = kept.build(model, math.sqrt(u), u * t)
        if evidence.noise is not None:
            part = GammaNoisePosterior(model, part, *map(jnp.float32, evidence.noise.gamma(evidence.determined(u, t))))
        final = replace(model, network=Linearized(model.network)) if self.linearized else model
        return LaplacePosterior(final, part, jnp.float32(evidence.log(u, t)), jnp.float32(math.sqrt(u)))

    def around(self, model: Model, trained: Trained, key: Key, run: Any) -> tuple[EigenCurvature, Evidence]:
        """The kept curvature at the point, and the evidence there.

        Parameters
        ----------
        model : Model
            The model.
        trained : Trained
            What ``method`` has trained.
        key : jax.Array
            A key of ``jax.random.key``.
        run : callable
            As for ``finish``.

        Returns
        -------
        EigenCurvature
            The curvature that ``structure`` keeps.
        Evidence
            As a function of the scales of prior and noise.
        """
        key_point, key_own = jax.random.split(key)
        point = self.method.finish(model, trained, key_point, run).params
        params = jax.tree.map(lambda leaf: np.asarray(leaf)[0], point)
        member = trained.members[0]
        used, y = member.train > 0, trained.rows.y if member.y is None else member.y
        rows, model = Data(trained.rows.x[used], y[used], member.train[used], len(used)), float32_leaves(model)
        leaves = jax.tree.leaves(params["network"])
        full = map_prior(lambda w, s: np.broadcast_to(np.asarray(s, np.float64), w.shape), model, params)
        phi, scales = around_phi(model, params, rows), jax.tree.leaves(full)
        problem = LaplaceProblem(model, params, rows, scales, phi.sd, self.curvature, self.rank, key_own)
        usual = "kronecker" if model.likelihood.task == "regression" else "last-layer"
        kept = STRUCTURES[self.structure or usual](problem)
        norm = sum(float(np.sum((np.float64(leaves[k]) / scales[k]) ** 2)) for k in kept.leaves)
        return kept, Evidence(kept.values, norm, phi.log_likelihood, phi.noise, phi.evidence)


class AroundPhi(NamedTuple):
    """The likelihood's parameters φ around the point.

    Attributes
    ----------
    noise : Noise or None
        The noise of a Gaussian that learns its precision.
    sd : list of array
        Standard deviations of each leaf of φ.
    evidence : float
        The term of φ in the log evidence, in nats.
    log_likelihood : float
        log p(D | θ*, φ), in nats.
    """

    noise: Noise | None
    sd: list[np.ndarray]
    evidence: float
    log_likelihood: float


def around_phi(model: Model, params: Params, rows: Data) -> AroundPhi:
    """Noise and curvature of the likelihood's parameters."""
    likelihood, phi = model.likelihood, jax.tree.leaves(params["likelihood"])
    width = 2 * likelihood.width + 1
    one = partial(curvature.sums, model, params)
    log_likelihood, second = curvature.sum_over_blocks(one, rows, width)
    if isinstance(likelihood, Gaussian) and phi:
        squares = curvature.sum_over_blocks(partial(curvature.squares, model, params), rows, width)
        tau, size = np.exp(np.float64(phi[0])), float(np.sum(rows.weight, dtype=np.float64))
        noise = Noise(tau, squares, size, float(likelihood.shape), float(likelihood.rate))
        return AroundPhi(noise, [np.zeros(phi[0].shape)], 0.0, float(log_likelihood))
    log_prior, own = curvature.prior_sums(model, params)
    sd = []
    for a, b, leaf in zip(second, own, phi, strict=True):
        precision = -(a + b)
        positive = precision > 0
        sd.append(np.where(positive, 1 / np.sqrt(np.where(positive, precision, 1)), 0).reshape(leaf.shape))
    volume = sum(float(np.sum(np.where(s > 0, 0.5 * LOG_2PI + np.log(np.where(s > 0, s, 1)), 0))) for s in sd)
    return AroundPhi(None, sd, float(log_prior) + volume, float(log_likelihood))


def with_prior_factor(model: Model, factor: float, noise: Noise | None, determined: float) -> Model:
    """The model to train with: the prior's scale times ``factor``, and the shape a of τ's prior by which the mode
    (a + ½N)/(b + ½Σ(y − f)²) is that of the evidence.
    """
    prior, likelihood = model.prior, model.likelihood
    if noise is not None:
        likelihood = replace(likelihood, shape=float(noise.gamma(determined)[0][0] - 0.5 * noise.size))
    if prior.by_network and model.network.scales is not None:
        return replace(model, network=ScaledByNetwork(model.network, factor), likelihood=likelihood)
    biases = None if prior.biases is None else prior.biases * factor
    return replace(model, prior=replace(prior, scale=prior.scale * factor, biases=biases), likelihood=likelihood)


@register_dataclass
@dataclass(frozen=True)
class ScaledByNetwork:
    """A network whose own prior scales are multiplied: those of all leaves, not of weights alone.

    Parameters
    ----------
    network : network
        With ``scales``.
    factor : float
        What multiplies them.
    """

    network: Any
    factor: float

    def init(self, key: Key) -> Params:
        return self.network.init(key)

    def apply(self, params: Params, x: Any) -> Any:
        return self.network.apply(params, x)

    def join_inputs(self, x: Any) -> np.ndarray:
        return joined_inputs(self.network, x)

    def scales(self, params: Params, scale: Any) -> Params:
        return jax.tree.map(lambda s: self.factor * s, self.network.scales(params, scale))
