"""Noise on the parameters of any network, put where it costs the least variance.

``noisy(apply, params, noise, x, key=key)`` runs ``apply`` under an interpreter of its own jaxpr in which some leaves of
``params`` are random. How each leaf is treated is decided from the traced program, never from names:

- "product": every example multiplies the weight once. Local reparametrization (Kingma, Salimans & Welling 2015):
  a ~ N(xμ, x²σ²) per example; or a mask per example on the product's input (Gal & Ghahramani 2016).
- "places": every example uses it at many places (convolution, tokens). Noise per place would lose the covariance between
  places; flipout (Wen et al. 2018) keeps it: y = xμ + ((x ⊙ s) Δ) ⊙ t with one Δ = σε and random signs s, t per example.
- "draw": any other use (tied, in a loop, transposed ...): one draw for the block. Always right, only noisier.
- "unused": no operation reads it.

The first two are right only per example, so the interpreter follows which axis of every value holds the examples. Where
it loses track (examples mixed, an operation it does not know) and the output depends on that, every leaf is one draw.

What "product" leaves that are Gaussian get can be chosen, and so can a draw of all leaves for each example: the marginals
stay, the variance of a gradient and the cost change.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dubito._check import check_choice
from dubito._jax.jaxpr import analyze, bind, dot_axis, trace_program
from dubito._jax.prng import coarse, normals
from dubito._jax.pytree import register_dataclass, static
from dubito._jax.types import Key, Params

PRODUCTS = ("local", "flipout", "separate")
TEMPERATURE = 0.1  # of concrete masks


@register_dataclass
@dataclass(frozen=True)
class GaussianNoise:
    """The leaf is N(its value in params, scale²), entries independent; ``scale`` ≥ 0 has the leaf's shape."""

    scale: jax.Array


@register_dataclass
@dataclass(frozen=True)
class Masked:
    """The weight's inputs are multiplied by masks, by ``kind``:

    - ``"bernoulli"``: dropped with probability ``rate`` r in [0, 1); those kept are divided by 1 − r
    - ``"concrete"``: the same relaxed (Gal, Hron & Kendall 2017), with a derivative in r > 0:
      [1 − sigmoid((logit r + logit u)/0.1)]/(1 − r), u uniform
    - ``"normal"``: N(1, r/(1 − r)), of the same mean and variance as dropped ones (Srivastava et al. 2014, section 10)
    """

    rate: jax.Array | float
    kind: str = static(default="bernoulli")


def _mask(supply, noise, shape, dtype):
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


def _signs(supply, shape, dtype):
    return jnp.where(supply("uniform", shape) < 0.5, -1, 1).astype(dtype)


def _only(shape, axes):
    return tuple(size if d in axes else 1 for d, size in enumerate(shape))


def _draw(leaf, noise, supply, number, inputs):
    if isinstance(noise, GaussianNoise):
        return leaf + noise.scale * supply("normal", leaf.shape)
    if leaf.ndim < 2:
        raise ValueError(f"parameter leaf {number} of shape {leaf.shape} has no inputs to mask; masks are for weights")
    return leaf * _mask(supply, noise, _only(leaf.shape, (leaf.ndim + inputs,)), leaf.dtype)


def _spread(site, mean, data):
    """The shape of a bias's noise: its own, with all examples where it has one row for them."""
    return tuple(data[d] if d == site.axis else size for d, size in enumerate(mean))


def _random(center, variance, supply):
    # sqrt has an infinite derivative at 0, which would make NaN of 0 · ∞ (an input row of zeros, a scale of zero)
    positive = variance > 0
    std = jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, jnp.ones_like(variance))), 0)
    return center + std.astype(center.dtype) * supply("normal", center.shape)


class NoisyStep(NamedTuple):
    """A product, convolution or bias addition of the program whose leaf is noisy.

    Attributes
    ----------
    eqn, site
        The step, and the place of the leaf in it.
    treatment : str
        How the leaf is treated.
    noise : GaussianNoise or Masked
        With the scale of the operand.
    waits : bool
        Whether the output may lack some variance, which is drawn with a bias's.
    """

    eqn: Any
    site: Any
    treatment: str
    noise: Any
    waits: bool


def _at_site(step, operands, variance, supply):
    """The output of a ``NoisyStep``, and the variance that it still lacks; ``variance`` is what the data lack, None: nothing."""
    eqn, site, treatment, noise, waits = step
    mean, data = operands[site.position], operands[1 - site.position]

    def product(data, leaf):
        return bind(eqn, *((leaf, data) if site.position == 0 else (data, leaf)))[0]

    if eqn.primitive.name == "add":
        if isinstance(noise, Masked):
            raise ValueError(f"a bias of {mean.size} entries has no inputs to mask; masks are for weights")
        if variance is not None:
            return _random(product(data, mean), variance + noise.scale**2, supply), None
        return product(data, mean + noise.scale * supply("normal", _spread(site, mean.shape, data.shape))), None
    if eqn.primitive.name == "dot_general":
        channel = eqn.params["dimension_numbers"][0][1 - site.position][0]
        axis = dot_axis(eqn, 1 - site.position, site.axis)
        columns = range(mean.ndim - 1) if site.position == 0 else range(data.ndim - 1, data.ndim + mean.ndim - 2)
    else:
        spec = eqn.params["dimension_numbers"]
        channel, axis, columns = spec.lhs_spec[1], spec.out_spec[0], (spec.out_spec[1],)
    inputs = _only(data.shape, (site.axis, channel))
    if isinstance(noise, Masked):
        return product(data * _mask(supply, noise, inputs, data.dtype), mean), None
    center = product(data, mean)
    if treatment == "product":
        variance = product(data**2, noise.scale**2)
        return (center, variance) if waits else (_random(center, variance, supply), None)
    delta = noise.scale * supply("normal", mean.shape)
    s = _signs(supply, inputs, data.dtype)
    t = _signs(supply, _only(center.shape, (axis, *columns)), center.dtype)
    return center + product(data * s, delta) * t, None


def noisy(
    apply: Callable[[Params, Any], Any], params: Params, noise: Any, x: Any, *, key: Key, products: str = "local"
) -> Any:
    """``apply(params, x)`` with random parameters: the marginal of each example is that under drawn parameters.

    Parameters
    ----------
    apply : callable
        The network, ``apply(params, x) -> f``; rows of x and f are examples.
    params : pytree of arrays
        Means of Gaussian leaves, weights of Masked ones.
    noise : pytree like ``params``
        None (no noise), ``GaussianNoise`` or ``Masked`` at each leaf.
    x : array or pytree of arrays of shape (n, ...)
    key : Key
    products : {"local", "flipout", "separate"}
        What Gaussian leaves of products get: local reparametrization or flipout; "separate": every leaf, however used, is
        drawn anew for each example, which takes the memory of n sets of parameters.

    Returns
    -------
    array or pytree of arrays
        As ``apply`` gives it.

    Raises
    ------
    ValueError
        Where a bias is Masked, the trees do not match or ``products`` is none of these.
    """
    check_choice("products", products, PRODUCTS)
    leaves, tree = jax.tree.flatten(params)
    noises = tree.flatten_up_to(noise)
    program = trace_program(apply, params, x)
    found, sites, separate = analyze(program, params, x)
    if products == "separate" and separate:
        return _separate(apply, params, zip(noises, found, strict=True), x, key)
    if products == "flipout":  # a product is then a use at one place
        found = [replace(use, treatment="places") if use.treatment == "product" else use for use in found]
    values, noisy_leaves = [*leaves, *jax.tree.leaves(x)], NoisyLeaves(noises, found, sites)
    return _at_once(lambda supply: _run(program, noisy_leaves, values, supply), key)


class NoisyLeaves(NamedTuple):
    """For each leaf of the parameters its noise (None: none), its use in the program, and where one operation has it."""

    noises: list[Any]
    uses: list[Any]
    sites: list[Any]


def _at_once(run, key):
    """run(supply), where ``supply(kind, shape)`` gives noise.

    All noise of one kind is one draw, which compiles and runs far faster than one a leaf: a first, abstract pass collects
    the shapes.
    """
    shapes = {"normal": [], "uniform": []}

    def order(kind, shape):
        shapes[kind].append(shape)
        return jnp.zeros(shape, jnp.float32)

    jax.eval_shape(lambda: run(order))
    draws = {"normal": normals, "uniform": coarse}
    keys = jax.random.split(key) if all(shapes.values()) else (key, key)
    drawn = {
        kind: iter(draws[kind](k, shapes[kind]) if shapes[kind] else []) for kind, k in zip(shapes, keys, strict=True)
    }
    return run(lambda kind, shape: next(drawn[kind]))


def _separate(apply, params, noises_uses, x, key):
    """``apply`` to each example alone, with all noisy leaves drawn for it."""
    leaves, tree = jax.tree.flatten(params)
    noises, found = zip(*noises_uses, strict=True)

    def one(row, key):
        def run(supply):
            each = enumerate(zip(leaves, noises, found, strict=True))
            drawn = [w if kind is None else _draw(w, kind, supply, i, use.inputs) for i, (w, kind, use) in each]
            return apply(tree.unflatten(drawn), jax.tree.map(lambda leaf: leaf[None], row))

        return jax.tree.map(lambda leaf: leaf[0], _at_once(run, key))

    return jax.vmap(one)(x, jax.random.split(key, len(jax.tree.leaves(x)[0])))


def _run(program, noisy_leaves, values, supply):
    """The program with noise put in, of the leaves' and the inputs' ``values``; ``supply(kind, shape)`` gives the noise."""
    noises, found, sites = noisy_leaves
    leaves, inputs_x = values[: len(noises)], values[len(noises) :]
    env, scales, at = dict(program.values), {}, {}
    for i, (leaf, kind, use, site) in enumerate(zip(leaves, noises, found, sites, strict=True)):
        env[i] = jnp.asarray(leaf)
        if kind is not None and site is not None:
            at[site.step] = i
            if isinstance(kind, GaussianNoise):
                scales[i] = kind.scale
        elif kind is not None and use.treatment == "draw":
            env[i] = _draw(env[i], kind, supply, i, use.inputs)
    env.update((len(leaves) + i, value) for i, value in enumerate(inputs_x))
    waiting, variances = _waiting(program, noises, sites, at), {}
    for number, (eqn, inputs, outputs) in enumerate(program.steps):
        operands = [env[slot] for slot in inputs]
        if number in at:
            i = at[number]
            slot = inputs[sites[i].position]
            kind = GaussianNoise(scales[slot]) if slot in scales else noises[i]
            variance, waits = variances.get(inputs[1 - sites[i].position]), outputs[0] in waiting
            step = NoisyStep(eqn, sites[i], found[i].treatment, kind, waits)
            result, variances[outputs[0]] = _at_site(step, operands, variance, supply)
            results = [result]
        else:
            results = bind(eqn, *operands)
            if inputs and inputs[0] in scales and outputs[0] in program.aliases:
                scales[outputs[0]] = bind(eqn, scales[inputs[0]])[0]
        env.update(zip(outputs, results, strict=True))
    return jax.tree.unflatten(program.tree, [env[slot] for slot in program.outputs])


def _waiting(program, noises, sites, at):
    """The values that only a noisy bias for each of their entries is added to.

    The noise of the product that made one is drawn with the bias's, as one normal of their summed variance: half the
    noise of a network of products and biases.
    """
    readers = Counter(program.outputs)
    for _, inputs, _ in program.steps:
        readers.update(inputs)
    found = set()
    for number, i in at.items():
        eqn, inputs, _ = program.steps[number]
        if eqn.primitive.name == "add" and isinstance(noises[i], GaussianNoise):
            position = sites[i].position
            mean, data = (eqn.invars[p].aval.shape for p in (position, 1 - position))
            if _spread(sites[i], mean, data) == data and readers[inputs[1 - position]] == 1:
                found.add(inputs[1 - position])
    return found
