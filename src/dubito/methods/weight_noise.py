"""Noise on the parameters of any network, put where it costs the least variance.

``noisy(apply, params, noise, x, key=key)`` interprets the jaxpr of ``apply`` with some leaves of
``params`` random. How each leaf is treated is decided from the traced program, never from names:

- "product": every example multiplies the weight once. Local reparametrization (Kingma, Salimans &
  Welling 2015): a ~ N(xμ, x²σ²) per example; or one mask per example on the product's input (Gal &
  Ghahramani 2016).
- "places": every example uses it at many places (convolution, tokens). Independent noise per place
  would lose the covariance between places; flipout (Wen et al. 2018) keeps it:
  y = xμ + ((x ⊙ s) Δ) ⊙ t with one Δ = σε and random signs s, t per example.
- "draw": any other use (tied, in a loop, transposed ...): one draw for all examples. Always right,
  with more variance.
- "unused": no operation reads it.

The first two are right only if no example reads another, so the interpreter follows which axis of
every value holds the examples. Where it loses track (examples mixed, an unknown operation) and the
output depends on that value, every leaf is drawn once.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dubito._check import check_choice
from dubito._jax import prng
from dubito._jax.jaxpr import Program, Site, Use, analyze, bind, dot_axis, trace_program
from dubito._jax.pytree import register_dataclass, static
from dubito.methods.types import Batch, Key, Model, Params, Scalar

PRODUCTS = ("local", "flipout")
TEMPERATURE = 0.1  # of concrete masks

Shape: TypeAlias = tuple[int, ...]
Supply: TypeAlias = Callable[[str, Shape], Array]  # supply("normal" or "uniform", shape) gives noise


@register_dataclass
@dataclass(frozen=True)
class NormalNoise:
    """The leaf is N(its value in params, scale²), with independent entries.

    Parameters
    ----------
    scale : array
        Standard deviations ≥ 0, of the leaf's shape.
    """

    scale: jax.Array


@register_dataclass
@dataclass(frozen=True)
class Masked:
    """The weight's inputs are multiplied by random masks of mean 1.

    Parameters
    ----------
    rate : float
        r, in [0, 1).
    kind : str
        The distribution of the masks:

        - ``"bernoulli"``: inputs are dropped with probability r, the others divided by 1 − r;
        - ``"concrete"``: the same relaxed (Gal, Hron & Kendall 2017), with a derivative in r > 0:
          [1 − sigmoid((logit r + logit u)/0.1)]/(1 − r), u uniform;
        - ``"normal"``: N(1, r/(1 − r)), the mean and variance of dropout (Srivastava et al. 2014,
          section 10).
    """

    rate: jax.Array | float
    kind: str = static(default="bernoulli")


Noise: TypeAlias = NormalNoise | Masked


def noisy(
    apply: Callable[[Params, Any], Any], params: Params, noise: Params, x: Any, *, key: Key, products: str = "local"
) -> Any:
    """``apply(params, x)`` with random parameters.

    The distribution of each example's output is that under drawn parameters; the noise of different
    examples is independent where the program allows.

    Parameters
    ----------
    apply : callable
        The network, ``apply(params, x) -> f``; rows of x and f are examples.
    params : pytree of arrays
        Means of Gaussian leaves, weights of masked ones.
    noise : pytree like ``params``
        None (no noise), ``NormalNoise`` or ``Masked`` at each leaf.
    x : array or pytree of arrays of shape (n, ...)
        The inputs.
    key : jax.Array
        A key of ``jax.random.key``.
    products : {"local", "flipout"}
        The treatment of Gaussian leaves in products: local reparametrization or flipout.

    Returns
    -------
    array or pytree of arrays
        As ``apply`` returns it.

    Raises
    ------
    ValueError
        If a bias is masked, the trees do not match, or ``products`` is unknown.
    """
    check_choice("products", products, PRODUCTS)
    leaves, tree = jax.tree.flatten(params)
    program = trace_program(apply, params, x)
    uses, sites, _ = analyze(program, params, x)
    if products == "flipout":  # a product is then a use at one place
        uses = [replace(use, treatment="places") if use.treatment == "product" else use for use in uses]
    values = [*map(jnp.asarray, leaves), *jax.tree.leaves(x)]
    noisy_leaves = NoisyLeaves(tree.flatten_up_to(noise), uses, sites)
    return _with_joint_draws(partial(_run, program, noisy_leaves, values), key)


def noisy_log_likelihood(
    model: Model, params: Params, noise: Params, batch: Batch, key: Key, products: str = "local"
) -> Scalar:
    """log p(D | θ, φ) in nats, estimated from a batch, with noise on the network's parameters as in ``noisy``."""
    f = noisy(model.network.apply, params["network"], noise, batch.x, key=key, products=products)
    z = model.likelihood.join(f, params["likelihood"])
    return model.weighted_sum(model.likelihood.log_prob_observed(z, batch.y), batch)


def mask_noise(rates: Params, kind: str = "bernoulli") -> Params:
    """The noise of dropout with these rates, a tree with None where nothing is masked."""
    return jax.tree.map(lambda rate: Masked(rate, kind), rates)


class NoisyLeaves(NamedTuple):
    """For each leaf of the parameters its noise (None: none), its use in the program, and the place of its only use."""

    noises: list[Noise | None]
    uses: list[Use]
    sites: list[Any]


class NoisyStep(NamedTuple):
    """A product, convolution or bias addition of the program whose leaf is noisy.

    Attributes
    ----------
    eqn : jaxpr equation
        The step.
    site : Site
        The place of the leaf in it.
    treatment : str
        How the leaf is treated.
    noise : NormalNoise or Masked
        The noise, with the scale of the operand.
    waits : bool
        Whether part of the output's variance may be drawn later, with a bias's noise.
    """

    eqn: Any
    site: Site
    treatment: str
    noise: Noise
    waits: bool


def _with_joint_draws(run: Callable[[Supply], Any], key: Key) -> Any:
    """run(supply) with all noise of one kind from one draw, which compiles and runs far faster than one draw per leaf.

    A first, abstract pass collects the shapes.
    """
    shapes: dict[str, list[Shape]] = {"normal": [], "uniform": []}

    def collect(kind: str, shape: Shape) -> Array:
        shapes[kind].append(shape)
        return jnp.zeros(shape, jnp.float32)

    jax.eval_shape(lambda: run(collect))
    keys = jax.random.split(key) if all(shapes.values()) else (key, key)
    draws = {}
    for kind, draw, k in zip(shapes, (prng.normals, prng.coarse), keys, strict=True):
        draws[kind] = iter(draw(k, shapes[kind]) if shapes[kind] else [])
    return run(lambda kind, shape: next(draws[kind]))


def _run(program: Program, noisy_leaves: NoisyLeaves, values: list[Any], supply: Supply) -> Any:
    """The program's results for these leaves and inputs, with noise."""
    noises, uses, sites = noisy_leaves
    env, scales, at = dict(program.values) | dict(enumerate(values)), {}, {}
    for i, (noise, use, site) in enumerate(zip(noises, uses, sites, strict=True)):
        if noise is not None and site is not None:
            at[site.step] = i
            if isinstance(noise, NormalNoise):
                scales[i] = noise.scale
        elif noise is not None and use.treatment == "draw":
            env[i] = _draw(env[i], noise, supply, i, use.inputs)
    waiting, variances = _waiting(program, noisy_leaves, at), {}
    for number, (eqn, inputs, outputs) in enumerate(program.steps):
        operands = [env[slot] for slot in inputs]
        if number in at:
            i = at[number]
            site, slot = sites[i], inputs[sites[i].position]
            noise = NormalNoise(scales[slot]) if slot in scales else noises[i]
            step = NoisyStep(eqn, site, uses[i].treatment, noise, outputs[0] in waiting)
            result, variances[outputs[0]] = _at_site(step, operands, variances.get(inputs[1 - site.position]), supply)
            results = [result]
        else:
            results = bind(eqn, *operands)
            if inputs and inputs[0] in scales and outputs[0] in program.aliases:
                scales[outputs[0]] = bind(eqn, scales[inputs[0]])[0]
        env.update(zip(outputs, results, strict=True))
    return jax.tree.unflatten(program.tree, [env[slot] for slot in program.outputs])


def _waiting(program: Program, noisy_leaves: NoisyLeaves, at: dict[int, int]) -> set[int]:
    """The values that are only added to a noisy bias with noise for each of their entries.

    The noise of the product that made such a value is drawn with that of the bias, as one normal of
    their summed variance: half the noise of a network of products and biases.
    """
    readers = Counter(program.outputs)
    for _, inputs, _ in program.steps:
        readers.update(inputs)
    found = set()
    for number, i in at.items():
        (eqn, inputs, _), site = program.steps[number], noisy_leaves.sites[i]
        if eqn.primitive.name == "add" and isinstance(noisy_leaves.noises[i], NormalNoise):
            mean, data = (eqn.invars[p].aval.shape for p in (site.position, 1 - site.position))
            if _bias_shape(site, mean, data) == data and readers[inputs[1 - site.position]] == 1:
                found.add(inputs[1 - site.position])
    return found


def _at_site(step: NoisyStep, operands: list[Any], variance: Any, supply: Supply) -> tuple[Array, Any]:
    """The step's output, and its variance still to be drawn (None: none); ``variance`` is its input's."""
    eqn, site, treatment, noise, waits = step
    mean, data = operands[site.position], operands[1 - site.position]

    def product(data: Any, leaf: Any) -> Array:
        return bind(eqn, *((leaf, data) if site.position == 0 else (data, leaf)))[0]

    if eqn.primitive.name == "add":
        if isinstance(noise, Masked):
            raise ValueError(f"a bias of {mean.size} entries has no inputs to mask; masks are for weights")
        if variance is not None:
            return _normal(product(data, mean), variance + noise.scale**2, supply), None
        return product(data, mean + noise.scale * supply("normal", _bias_shape(site, mean.shape, data.shape))), None
    if eqn.primitive.name == "dot_general":
        channel = eqn.params["dimension_numbers"][0][1 - site.position][0]
        axis = dot_axis(eqn, 1 - site.position, site.axis)
        columns = range(mean.ndim - 1) if site.position == 0 else range(data.ndim - 1, data.ndim + mean.ndim - 2)
    else:
        spec = eqn.params["dimension_numbers"]
        channel, axis, columns = spec.lhs_spec[1], spec.out_spec[0], (spec.out_spec[1],)
    inputs = _sizes_along(data.shape, (site.axis, channel))
    if isinstance(noise, Masked):
        return product(data * _mask(supply, noise, inputs, data.dtype), mean), None
    center = product(data, mean)
    if treatment == "product":
        variance = product(data**2, noise.scale**2)
        return (center, variance) if waits else (_normal(center, variance, supply), None)
    delta = noise.scale * supply("normal", mean.shape)
    s = _signs(supply, inputs, data.dtype)
    t = _signs(supply, _sizes_along(center.shape, (axis, *columns)), center.dtype)
    return center + product(data * s, delta) * t, None


def _draw(leaf: Array, noise: Noise, supply: Supply, number: int, inputs: int) -> Array:
    """One draw of a leaf for all examples; ``inputs`` is its axis of inputs."""
    if isinstance(noise, NormalNoise):
        return leaf + noise.scale * supply("normal", leaf.shape)
    if leaf.ndim < 2:
        raise ValueError(f"parameter leaf {number} of shape {leaf.shape} has no inputs to mask; masks are for weights")
    return leaf * _mask(supply, noise, _sizes_along(leaf.shape, (leaf.ndim + inputs,)), leaf.dtype)


def _normal(center: Float[Array, "*shape"], variance: Float[Array, "*shape"], supply: Supply) -> Float[Array, "*shape"]:
    # sqrt has an infinite derivative at 0, which would make NaN of 0 · ∞ (an input row of zeros, a scale of zero)
    positive = variance > 0
    std = jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, jnp.ones_like(variance))), 0)
    return center + std.astype(center.dtype) * supply("normal", center.shape)


def _mask(supply: Supply, noise: Masked, shape: Shape, dtype: Any) -> Array:
    rate = jnp.asarray(noise.rate, dtype)
    if noise.kind == "normal":
        return 1 + jnp.sqrt(rate / (1 - rate)) * supply("normal", shape).astype(dtype)
    u = supply("uniform", shape)
    if noise.kind == "concrete":
        u = u.astype(dtype) + 2**-17  # of 16 bits: the middles of the intervals, never 0
        logits = jnp.log(rate) - jnp.log1p(-rate) + jnp.log(u) - jnp.log1p(-u)
        return jax.nn.sigmoid(-logits / TEMPERATURE) / (1 - rate)
    kept = jnp.ceil((1 - rate) * 2**16) / 2**16  # exact for uniforms of 16 bits
    return (u < kept).astype(dtype) / kept


def _signs(supply: Supply, shape: Shape, dtype: Any) -> Array:
    return jnp.where(supply("uniform", shape) < 0.5, -1, 1).astype(dtype)


def _sizes_along(shape: Shape, axes: Sequence[int]) -> Shape:
    """``shape`` with 1 for all but these axes."""
    return tuple(size if d in axes else 1 for d, size in enumerate(shape))


def _bias_shape(site: Site, mean: Shape, data: Shape) -> Shape:
    """The shape of a bias's noise: the bias's own, with one row for each example."""
    return tuple(data[d] if d == site.axis else size for d, size in enumerate(mean))
