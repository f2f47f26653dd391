"""The curvature of a log likelihood in a network's parameters, G = Σ_i w_i J_iᵀ H_i J_i, a block of rows at a time.

J_i (K, P) is the derivative of example i's outputs f, and H_i (K, K) is defined by the likelihood:

- "ggn", the generalized Gauss-Newton (Schraudolph 2002; Martens 2020): H = −∂² log p/∂f², its
  negative eigenvalues set to 0;
- "fisher", the empirical Fisher: H = s sᵀ with the score s = ∂ log p/∂f.

Both are given as roots L (K, R), H = L Lᵀ, times √w. So G is a sum of squares, and rounding in
float32 cannot turn a 0 in it into the rounding error of its largest entry, unlike a product of
curvatures summed in float32.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dubito._jax import programs
from dubito._jax.jaxpr import Program, analyze, bind, dot_axis, trace_program
from dubito.methods.types import Batch, Model, Params, Scalar
from dubito.training.data import padded_size

BLOCK_ROWS = 512  # of a block at most
BLOCK_NUMBERS = 2**24  # that a block may make
LARGEST_SIDE = 4096  # of a product's factors at most

Leaves: TypeAlias = tuple[int, ...]  # numbers of leaves of the network


class Data(NamedTuple):
    """Rows on the host, without those of weight 0.

    Attributes
    ----------
    x, y, weight : array of shape (rows, ...)
        As in a ``Batch``.
    all : int
        The number of rows with those of weight 0, which determines the size of blocks: so it does
        not depend on how many are held out.
    """

    x: np.ndarray
    y: np.ndarray
    weight: Float[np.ndarray, " rows"]
    all: int


class Block(NamedTuple):
    """Some of the rows, padded with rows of weight 0."""

    x: Any
    y: Any
    weight: Any


class Product(NamedTuple):
    """Leaves that enter one product (n, inputs) × (inputs, outputs).

    Attributes
    ----------
    leaves : tuple of int
        The leaves whose entries, one after another, are those of one matrix.
    shape : tuple of int
        The shape of the matrix: its rows are the inputs, the last one that of the bias.
    step : int
        The step of the program that computes the product.
    data : int or None
        The slot of its input; None: ones, of a bias alone.
    turned : bool
        Whether the columns of the matrix are the inputs; then it has no bias.
    rows : int
        The axis of examples in the result of that step.
    """

    leaves: Leaves
    shape: tuple[int, int]
    step: int
    data: int | None
    turned: bool = False
    rows: int = 0


def blocks(rows: Data, numbers: int) -> Iterator[Block]:
    """``Block``s of equally many rows; each row makes ``numbers``."""
    size = padded_size(rows.all)
    while size > 1 and (size > BLOCK_ROWS or size * numbers > BLOCK_NUMBERS):
        size //= 2
    for start in range(0, len(rows.x), size):
        some = [a[start : start + size] for a in (rows.x, rows.y, rows.weight)]
        missing = size - len(some[0])
        filled = [np.pad(a, [(0, missing)] + [(0, 0)] * (a.ndim - 1), mode="edge") for a in some]
        filled[2][size - missing :] = 0
        yield Block(*filled)


def sum_over_blocks(function: Callable[[Block], Any], rows: Data, numbers: int) -> Any:
    """function(block), a tree of arrays, summed over blocks in float64."""
    total: Any = None
    for block in blocks(rows, numbers):
        found = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), function(block))
        total = found if total is None else jax.tree.map(np.add, total, found)
    return total


def roots(model: Model, params: Params, f: Float[Array, "n K"], block: Block, curvature: str) -> Float[Array, "n K R"]:
    """√w L of each example's H = L Lᵀ in its outputs f.

    Parameters
    ----------
    model : Model
        The model.
    params : dict
        {"network": θ, "likelihood": φ}.
    f : array of shape (n, K)
        The network's outputs.
    block : Block
        The rows.
    curvature : {"ggn", "fisher"}
        H.

    Returns
    -------
    array of shape (n, K, R)
        R is K for "ggn", 1 for "fisher".
    """

    def log_prob(f: Array, y: Array) -> Array:
        z = model.likelihood.join(f[None], params["likelihood"])
        return model.likelihood.log_prob(z, y[None])[0]

    if curvature == "fisher":
        found = jax.vmap(jax.grad(log_prob))(f, block.y)[:, :, None]
    else:
        values, vectors = jnp.linalg.eigh(-jax.vmap(jax.hessian(log_prob))(f, block.y))
        found = vectors * jnp.sqrt(jnp.maximum(values, 0))[:, None, :]
    return jnp.sqrt(block.weight)[:, None, None] * found


@programs.jit(static_argnums=(3, 4))
def root_rows(model: Model, params: Params, block: Block, curvature: str, chosen: Leaves) -> Float[Array, "nR P"]:
    """√w Lᵀ J of each example for the ``chosen`` leaves of the network, one after another; G is its square."""
    leaves, tree = jax.tree.flatten(params["network"])

    def row(x: Array, root: Array) -> Array:
        def outputs(some: list[Array]) -> Array:
            whole = dict(enumerate(leaves)) | dict(zip(chosen, some, strict=True))
            return model.network.apply(tree.unflatten(whole.values()), x[None])[0]

        _, pull = jax.vjp(outputs, [leaves[k] for k in chosen])
        (slopes,) = jax.vmap(pull)(root.T)
        return jnp.concatenate([slope.reshape(len(slope), -1) for slope in slopes], axis=1)

    found = roots(model, params, model.network.apply(params["network"], block.x), block, curvature)
    rows = jax.vmap(row)(block.x, found)
    return rows.reshape(-1, rows.shape[-1])


@programs.jit(static_argnums=4)
def times(model: Model, params: Params, block: Block, direction: Params, curvature: str) -> Params:
    """G·``direction`` from one block, trees like the network's parameters."""

    def apply(network: Params) -> Array:
        return model.network.apply(network, block.x)

    f, moved = jax.jvp(apply, (params["network"],), (direction,))
    found = roots(model, params, f, block, curvature)
    _, pull = jax.vjp(apply, params["network"])
    return pull(jnp.einsum("nkr,njr,nj->nk", found, found, moved))[0]


def products(program: Program, params: Params, x: Any) -> tuple[Product, ...]:
    """The products of a network's traced program.

    Leaves in none are used many times, in a loop, or in another way.

    Parameters
    ----------
    program : Program
        The program of ``apply(params, x)``.
    params : pytree
        The network's parameters.
    x : array or ShapeDtypeStruct
        Inputs; only the shape matters.

    Returns
    -------
    tuple of Product
        Those whose factors have at most 4,096 rows.
    """
    uses, sites, _ = analyze(program, params, x)
    pairs = enumerate(zip(uses, sites, strict=True))
    places = [(k, site) for k, (use, site) in pairs if site is not None and use.treatment == "product"]
    readers = [slot for step in program.steps for slot in step.inputs] + program.outputs
    made: dict[int, Product] = {}
    for k, site in places:
        eqn, inputs, outputs = program.steps[site.step]
        if eqn.primitive.name == "dot_general" and site.axis == 0:
            shape = eqn.invars[site.position].aval.shape
            contracted = eqn.params["dimension_numbers"][0][site.position][0]
            side, turned = shape[contracted], contracted != 0
            rest, rows = math.prod(shape) // side, dot_axis(eqn, 1 - site.position, 0)
            if contracted in (0, len(shape) - 1) and rows >= 0 and (rows == 0 or turned):
                whole = (rest, side) if turned else (side, rest)
                made[outputs[0]] = Product((k,), whole, site.step, inputs[1 - site.position], turned, rows)
    for k, site in places:
        eqn, inputs, outputs = program.steps[site.step]
        if eqn.primitive.name == "add" and site.axis == 0:
            before = inputs[1 - site.position]
            product = made.get(before)
            if product is not None and not product.turned and readers.count(before) == 1:
                side, rest = product.shape
                made[before] = product._replace(leaves=(*product.leaves, k), shape=(side + 1, rest))
            else:
                size = math.prod(eqn.invars[site.position].aval.shape)
                made[outputs[0]] = Product((k,), (1, size), site.step, None)
    return tuple(product for product in made.values() if max(product.shape) <= LARGEST_SIDE)


@programs.jit(static_argnums=(3, 4))
def factors(
    model: Model, params: Params, block: Block, curvature: str, chosen: tuple[Leaves, ...]
) -> list[tuple[Array, Array]]:
    """(Σ w a aᵀ, Σ g gᵀ) over a block, for the products of the ``chosen`` leaves.

    a is a product's inputs, with a 1 for the bias, and g √w Lᵀ times the derivatives of f in its
    outputs. G of its matrix is about their Kronecker product / Σ w (Martens & Grosse 2015).
    """
    program = trace_program(model.network.apply, params["network"], block.x)
    by_leaves = {p.leaves: p for p in products(program, params["network"], block.x)}
    found = [by_leaves[leaves] for leaves in chosen]
    shapes = {p.step: program.steps[p.step].eqn.outvars[0].aval for p in found}

    def run(added: dict[int, Array]) -> tuple[Array, dict[int, Array]]:
        env = dict(program.values) | dict(enumerate([*jax.tree.leaves(params["network"]), block.x]))
        for number, (eqn, inputs, outputs) in enumerate(program.steps):
            results = bind(eqn, *(env[slot] for slot in inputs))
            results = [results[0] + added[number]] if number in added else results
            env.update(zip(outputs, results, strict=True))
        return env[program.outputs[0]], {p.step: env[p.data] for p in found if p.data is not None}

    f, pull, data = jax.vjp(run, {step: jnp.zeros(a.shape, a.dtype) for step, a in shapes.items()}, has_aux=True)
    (slopes,) = jax.vmap(pull, in_axes=-1)(roots(model, params, f, block, curvature))
    sums, ones = [], jnp.ones((len(block.x), 1), block.x.dtype)
    for p in found:
        parts = ([] if p.data is None else [data[p.step]]) + ([ones] if p.data is None or len(p.leaves) == 2 else [])
        a = jnp.sqrt(block.weight)[:, None] * jnp.concatenate(parts, axis=1)
        g = jnp.moveaxis(slopes[p.step], 1 + p.rows, 1).reshape(-1, p.shape[0 if p.turned else 1])
        sums.append((a.T @ a, g.T @ g))
    return sums


@programs.jit
def sums(model: Model, params: Params, block: Block) -> tuple[Scalar, list[Array]]:
    """Over a block: the log likelihood, and the diagonal of its second derivative in the likelihood's own parameters φ."""
    batch = Batch(*block, jnp.ones((), jnp.float32), jnp.sum(block.weight))

    def log_likelihood(phi: Params) -> Scalar:
        return model.log_likelihood({**params, "likelihood": phi}, batch)

    return log_likelihood(params["likelihood"]), _second_derivatives(log_likelihood, params["likelihood"])


@programs.jit
def prior_sums(model: Model, params: Params) -> tuple[Scalar, list[Array]]:
    """log p(φ), and the diagonal of its second derivative."""
    phi = params["likelihood"]
    return model.likelihood.log_prior(phi), _second_derivatives(model.likelihood.log_prior, phi)


@programs.jit
def squares(model: Model, params: Params, block: Block) -> Float[Array, " K"]:
    """Σ w (y − f)² over a block, for each target."""
    return jnp.sum(block.weight[:, None] * (block.y - model.network.apply(params["network"], block.x)) ** 2, axis=0)


def _second_derivatives(function: Callable[[Params], Scalar], tree: Params) -> list[Array]:
    """The diagonal of the second derivative, for each leaf."""
    leaves, structure = jax.tree.flatten(tree)
    numbers = range(len(leaves))
    each = [jax.hessian(lambda *some: function(structure.unflatten(some)), k)(*leaves) for k in numbers]
    return [jnp.diagonal(h.reshape(leaf.size, leaf.size)) for h, leaf in zip(each, leaves, strict=True)]
