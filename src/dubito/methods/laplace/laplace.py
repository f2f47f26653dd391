"""The Laplace approximation (MacKay, Neural Computation 1992), linearized (Immer, Korzepa & Bauer, AISTATS 2021)."""

import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dubito._jax import prng
from dubito._jax.pytree import register_dataclass, static
from dubito._jax.types import Key, Params
from dubito._process.archive import expect
from dubito.methods.laplace import curvature
from dubito.methods.laplace.curvature import Data
from dubito.methods.laplace.evidence import Evidence, Noise
from dubito.methods.laplace.structures import LARGEST, STRUCTURES, EigenCurvature, LaplaceProblem
from dubito.methods.map import MAP, MaximumLikelihood
from dubito.models.likelihoods.base import LOG_2PI
from dubito.models.likelihoods.gaussian import Gaussian
from dubito.models.likelihoods.robust import LaplaceNoise
from dubito.models.linearized import Linearized, inner_params
from dubito.models.model import Model
from dubito.models.priors import Normal, leaf_scales
from dubito.posteriors.base import Posterior, Samples, unwrapped
from dubito.posteriors.file_layout import FileLayout, float32_shape
from dubito.posteriors.noise import GammaNoisePosterior
from dubito.training.data import Rows
from dubito.training.fit import float32_leaves
from dubito.training.members import Member, Trained
from dubito.training.method import Wrapper


@register_dataclass
@dataclass(frozen=True)
class LaplacePosterior(Posterior):
    """A normal around θ*: its draws as offsets in a ``Linearized`` network, or as they are in a plain one.

    Parameters
    ----------
    model : Model
    part : posterior
        The normal, or one with a distribution of τ beside it.
    log_evidence : float32 scalar
        log p(D), in nats, by the approximation.
    prior_factor : float32 scalar
        How many times the scale of the model's prior the evidence chose (1 without ``prior_updates``).
    """

    model: Any
    part: Any = field()
    log_evidence: Any = field()
    prior_factor: Any

    def sources(self, key, n=None):
        return [(replace(self, part=part), seeds) for part, seeds in self.part.sources(key, n)]

    def draw(self, seed):
        drawn = self.part.draw(seed)
        if not isinstance(self.model.network, Linearized):
            return drawn
        offset = jax.tree.map(jnp.subtract, drawn["network"], self.center)
        return {**drawn, "network": {"center": self.center, "offset": offset}}

    @property
    def center(self) -> Params:
        """θ*, the network's parameters."""
        return self._normal.mean["network"]

    @property
    def point(self) -> Samples:
        """The network itself with θ*: a posterior of one point."""
        return Samples(self._normal.model, jax.tree.map(lambda leaf: leaf[None], self._normal.mean))

    @property
    def _normal(self):
        return unwrapped(self.part)  # without a τ of its own

    @classmethod
    def file_layout(cls, params, parts, values):
        del values
        expected = {**params, "network": inner_params(params["network"])}
        expect(parts == [expected], "a posterior stands around another network")
        return FileLayout({"log_evidence": float32_shape(), "prior_factor": float32_shape()}, {})


@register_dataclass
@dataclass(frozen=True)
class LaplaceApproximation(Wrapper):
    """A normal around the point θ* that a point estimate finds, and its evidence, in nats:

        q(θ) = N(θ*, Λ⁻¹),   Λ = G + S⁻²,   log p(D) ≈ log p(D | θ*) + log p(θ*) + (P/2) log 2π − ½ log det Λ,

    S the scales of the model's Normal prior, G the curvature of the log likelihood, in nats.

    A Gaussian's learned τ is Gamma(a + ½(N − γ/K), b + ½Σ(y − f)²), γ = tr(G Λ⁻¹) the number of parameters that the data
    determine: the maximum of the evidence (half of the rows stay at least), and exact for a linear network, a flat prior and
    one target; K targets share γ. Other φ are independent normals by their own curvature, points where it is not positive.

    It describes one mode, and is accurate as far as θ* is one (full batches and enough epochs: ``MAP(epochs=None)`` for a small
    network, whose usual 200 end before) and the network is about linear over the posterior's width; the evidence is of that
    mode alone. Choose it for calibrated uncertainty after one cheap training, for the evidence, and in an ``Ensemble`` for
    several modes.

    Parameters
    ----------
    method : MAP or MaximumLikelihood
        Finds θ*.
    structure : str
        What is kept of G:

        - ``"dense"``: all, of up to 10,000 parameters (thousands take seconds, all of them minutes);
        - ``"kronecker"``: for each product's weights, with their bias, a Kronecker product (factors of up to 4,096); the
          diagonal of other parameters (convolutions, tied weights, periodic features);
        - ``"diagonal"``: the variances; epistemic uncertainty is far too wide where the network has many more parameters
          than the data need;
        - ``"last-layer"``: all of the weights into the outputs; the others are points, and the evidence is given them;
        - ``"low-rank"``: the ``rank`` largest directions of S G S; all others keep the prior's variance, so with a small
          rank uncertainty stays where the data determine the function.
    curvature : {"ggn", "fisher"}
        "ggn": Σ J_iᵀ H_i J_i with H = −∂² log p/∂f² of the likelihood, without H's negative eigenvalues where it has such
        (Student's t, σ(x)); "fisher": the empirical Fisher, Σ of squared gradients.
    linearized : bool
        Predict with the linearized network f(θ*) + J(θ*)δ, whose posterior q is. False sends draws through the network
        itself, where those in directions that the data leave free in the linearized network fit the data no more.
    prior_updates : int
        So many times the prior's scale is multiplied by what maximizes the evidence (MacKay 1992, γ = ‖θ*/S‖²; Immer et al.,
        ICML 2021) and the network is trained again with it and with the evidence's τ. ``log_evidence`` and ``prior_factor``
        of the posterior have what came out.
    rank : int
        Of ``"low-rank"``.
    """

    method: Any = MAP()
    structure: str = static(default="kronecker")
    curvature: str = static(default="ggn")
    linearized: bool = static(default=True)
    prior_updates: int = static(default=0)
    rank: int = static(default=20)

    every_row: ClassVar[bool] = True  # the curvature is of all of them

    def check(self, model: Model) -> None:
        for name, value, known in (
            ("structure", self.structure, STRUCTURES),
            ("curvature", self.curvature, ("ggn", "fisher")),
        ):
            if value not in known:
                raise ValueError(f"{name}={value!r} is unknown. Choose one of {', '.join(known)}.")
        if not isinstance(self.method, MAP | MaximumLikelihood):
            raise ValueError(
                f"LaplaceApproximation is made around a point, of MAP or MaximumLikelihood; got "
                f"{type(self.method).__name__}. An ensemble goes around it: Ensemble(LaplaceApproximation(...))."
            )
        self.method.check(model)
        for name, value, least in (("prior_updates", self.prior_updates, 0), ("rank", self.rank, 1)):
            if not (isinstance(value, int) and value >= least):
                raise ValueError(f"{name} is a whole number of at least {least}, got {value!r}")
        if self.prior_updates and not isinstance(self.method, MAP):
            raise ValueError("prior_updates trains again with another prior, and MaximumLikelihood has none: wrap MAP")
        if self.curvature == "ggn" and isinstance(model.likelihood, LaplaceNoise):
            raise ValueError("LaplaceNoise has no second derivative in f for curvature='ggn': use curvature='fisher'")
        linear = isinstance(model.network, Linearized)  # a loaded posterior's
        network = model.network.network if linear else model.network
        check_prior(model.prior, network)
        shapes = jax.eval_shape(lambda data: network.init(prng.fast(data)), jax.ShapeDtypeStruct((2,), np.uint32))
        size = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        if self.structure == "dense" and size > LARGEST:
            raise ValueError(
                f"structure='dense' is for up to {LARGEST:,} parameters, and this network has {size:,}: use 'kronecker'"
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
            shape, rate = (jnp.asarray(each, jnp.float32) for each in evidence.noise.gamma(evidence.determined(u, t)))
            part = GammaNoisePosterior(model, part, shape, rate)
        final = replace(model, network=Linearized(model.network)) if self.linearized else model
        numbers = (jnp.asarray(value, jnp.float32) for value in (evidence.log(u, t), math.sqrt(u)))
        return LaplacePosterior(final, part, *numbers)

    def around(self, model: Model, trained: Trained, key: Key, run: Any) -> tuple[EigenCurvature, Evidence]:
        """What is kept of the curvature at the point, and the evidence there."""
        key_point, key_own = jax.random.split(key)
        point = self.method.finish(model, trained, key_point, run).params
        params = jax.tree.map(lambda leaf: np.asarray(leaf)[0], point)
        member = trained.members[0]
        used, y = member.train > 0, trained.rows.y if member.y is None else member.y
        rows, model = Data(trained.rows.x[used], y[used], member.train[used], len(used)), float32_leaves(model)
        leaves = jax.tree.leaves(params["network"])
        scales = [
            np.broadcast_to(np.asarray(s, np.float64), leaf.shape)
            for s, leaf in zip(leaf_scales(model.prior, leaves, model.scales(params)), leaves, strict=True)
        ]
        phi = around_phi(model, params, rows)
        kept = STRUCTURES[self.structure](
            LaplaceProblem(model, params, rows, scales, phi.sd, self.curvature, self.rank, key_own)
        )
        norm = sum(float(np.sum((np.float64(leaves[k]) / scales[k]) ** 2)) for k in kept.leaves)
        return kept, Evidence(kept.values, norm, phi.log_likelihood, phi.noise, phi.evidence)


class AroundPhi(NamedTuple):
    """At the point, of the likelihood's parameters φ.

    Attributes
    ----------
    noise : Noise, optional
        Of a Gaussian that learns its precision.
    sd : list of array
        Standard deviations, for each leaf of φ.
    evidence : float
        What they add to the log evidence, in nats.
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
    precision = [-(a + b) for a, b in zip(second, own, strict=True)]
    sd = [
        np.where(p > 0, 1 / np.sqrt(np.where(p > 0, p, 1)), 0).reshape(v.shape)
        for p, v in zip(precision, phi, strict=True)
    ]
    volume = sum(float(np.sum(np.where(s > 0, 0.5 * LOG_2PI + np.log(np.where(s > 0, s, 1)), 0))) for s in sd)
    return AroundPhi(None, sd, float(log_prior) + volume, float(log_likelihood))


def check_prior(prior: Any, network: Any) -> None:
    """Raise ValueError for a prior that has no curvature for every parameter."""
    if not isinstance(prior, Normal):
        raise ValueError(
            f"LaplaceApproximation needs a Normal prior, whose curvature it adds; got {type(prior).__name__}"
        )
    if prior.biases is None and not (prior.by_network and network.scales is not None):
        raise ValueError(
            "LaplaceApproximation needs a proper prior, and with biases=None it is improper: give the biases a scale, as "
            "in Normal(scale, biases=10.0)"
        )


def with_prior_factor(model: Model, factor: float, noise: Noise, determined: float) -> Model:
    """The model to train with: the prior's scale times ``factor``; a learned τ, whose mode is (a + ½N)/(b + ½Σ(y − f)²), with
    an a that makes it the evidence's."""
    prior, likelihood = model.prior, model.likelihood
    biases = None if prior.biases is None else prior.biases * factor
    if noise is not None:
        likelihood = replace(likelihood, shape=float(noise.gamma(determined)[0][0] - 0.5 * noise.size))
    return replace(model, prior=replace(prior, scale=prior.scale * factor, biases=biases), likelihood=likelihood)
