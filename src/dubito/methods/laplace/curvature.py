"""The curvature of a log likelihood in a network's parameters, G = Σ_i w_i J_iᵀ H_i J_i, a block of rows at a time.

J_i (K, P) is the derivative of example i's outputs f, H_i (K, K) what the likelihood makes of them:

- "ggn", the generalized Gauss-Newton (Schraudolph 2002; Martens 2020): H = −∂² log p/∂f², its negative eigenvalues set to 0;
- "fisher", the empirical Fisher: H = s sᵀ with the score s = ∂ log p/∂f.

Both are given as roots L (K, R), H = L Lᵀ, times √w. So G is a sum of squares, and rounding in float32 cannot make what is 0
in it as large as the rounding of its largest entry, which a product of curvatures summed in float32 would.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dubito._jax import programs
from dubito._jax.jaxpr import analyze, bind, dot_axis, trace_program
from dubito._jax.types import Params
from dubito.models.model import Batch, Model
from dubito.training.data import padded_size

BLOCK_ROWS = 512  # at most
BLOCK_NUMBERS = 2**24  # that a block may make
LARGEST_SIDE = 4096  # of a product's factors at most


class Data(NamedTuple):
    """Rows on the host, those of weight 0 left out, and the number of ``all`` rows, of which the blocks' size follows: so it does
    not depend on how many are held out."""

    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    all: int


class Block(NamedTuple):
    """Some of the rows, filled up with rows of weight 0."""

    x: Any
    y: Any
    weight: Any


class Product(NamedTuple):
    """Leaves that enter one product (n, inputs) × (inputs, outputs), as one matrix of ``shape``: their entries one after another.

    Its rows are the inputs, the last one the bias's; ``turned``: its columns are the inputs, and it has no bias. ``step`` of
    the program gives the product, ``data`` is where its input stands (None: ones, of a bias alone).
    """

    leaves: tuple
    shape: tuple
    step: int
    data: int | None
    turned: bool = False


def blocks(rows: Data, numbers: int) -> Iterator[Block]:
    """``Block``s of equally many rows; each row makes ``numbers``."""
    x, y, weight, total = rows
    size = padded_size(total)
    while size > 1 and (size > BLOCK_ROWS or size * numbers > BLOCK_NUMBERS):
        size //= 2
    for start in range(0, len(x), size):
        some = x[start : start + size], y[start : start + size], weight[start : start + size]
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


def roots(model: Model, params: Params, f: Any, block: Block, curvature: str) -> Any:
    """√w L of each example's H = L Lᵀ in its outputs f (n, K): (n, K, R)."""

    def log_prob(f, y):
        z = model.likelihood.join(f[None], params["likelihood"])
        return model.likelihood.log_prob(z, y[None])[0]

    if curvature == "fisher":
        found = jax.vmap(jax.grad(log_prob))(f, block.y)[:, :, None]
    else:
        values, vectors = jnp.linalg.eigh(-jax.vmap(jax.hessian(log_prob))(f, block.y))
        found = vectors * jnp.sqrt(jnp.maximum(values, 0))[:, None, :]
    return jnp.sqrt(block.weight)[:, None, None] * found


@programs.jit(static_argnums=(3, 4))
def root_rows(model: Model, params: Params, block: Block, curvature: str, chosen: tuple) -> Any:
    """√w Lᵀ J of each example for the ``chosen`` leaves of the network, one after another: (n·R, P) with G = its square."""
    leaves, tree = jax.tree.flatten(params["network"])

    def row(x, root):
        def outputs(some):
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

    def apply(network):
        return model.network.apply(network, block.x)

    f, moved = jax.jvp(apply, (params["network"],), (direction,))
    found = roots(model, params, f, block, curvature)
    _, pull = jax.vjp(apply, params["network"])
    return pull(jnp.einsum("nkr,njr,nj->nk", found, found, moved))[0]


def products(program: Any, params: Params, x: Any) -> tuple[Product, ...]:
    """The ``Product``s of a network's traced program. Leaves in none are used many times, in a loop, or in another way."""
    uses, sites, _ = analyze(program, params, x)
    made, readers = {}, [slot for step in program.steps for slot in step.inputs] + program.outputs
    places = [(k, site) for k, (use, site) in enumerate(zip(uses, sites, strict=True)) if use.treatment == "product"]
    for k, site in places:
        eqn, inputs, outputs = program.steps[site.step]
        if eqn.primitive.name == "dot_general" and site.axis == 0 and dot_axis(eqn, 1 - site.position, 0) == 0:
            shape, contracted = (
                eqn.invars[site.position].aval.shape,
                eqn.params["dimension_numbers"][0][site.position][0],
            )
            if contracted in (0, len(shape) - 1):
                turned = contracted != 0
                side = shape[contracted]
                rest = math.prod(shape) // side
                whole = (rest, side) if turned else (side, rest)
                made[outputs[0]] = Product((k,), whole, site.step, inputs[1 - site.position], turned)
    for k, site in places:
        eqn, inputs, outputs = program.steps[site.step]
        if eqn.primitive.name == "add" and site.axis == 0:
            before = inputs[1 - site.position]
            size = math.prod(eqn.invars[site.position].aval.shape)
            product = made.get(before)
            if product is not None and not product.turned and readers.count(before) == 1:
                shape = (product.shape[0] + 1, product.shape[1])
                made[before] = product._replace(leaves=(*product.leaves, k), shape=shape)
            else:
                made[outputs[0]] = Product((k,), (1, size), site.step, None)
    return tuple(product for product in made.values() if max(product.shape) <= LARGEST_SIDE)


@programs.jit(static_argnums=(3, 4))
def factors(model: Model, params: Params, block: Block, curvature: str, chosen: tuple) -> list[Any]:
    """Of the products of the ``chosen`` leaves (Σ w a aᵀ, Σ g gᵀ) over a block: a a product's inputs, with a 1 for the bias, g
    √w Lᵀ times the derivatives of f in its outputs. G of its matrix is about their Kronecker product / Σ w (Martens & Grosse 2015).
    """
    program = trace_program(model.network.apply, params["network"], block.x)
    all_products = {p.leaves: p for p in products(program, params["network"], block.x)}
    found = [all_products[leaves] for leaves in chosen]
    shapes = {p.step: program.steps[p.step].eqn.outvars[0].aval for p in found}

    def run(added):
        env = dict(program.values) | dict(enumerate([*jax.tree.leaves(params["network"]), block.x]))
        for number, (eqn, inputs, outputs) in enumerate(program.steps):
            results = bind(eqn, *(env[slot] for slot in inputs))
            results = [results[0] + added[number]] if number in added else results
            env.update(zip(outputs, results, strict=True))
        return env[program.outputs[0]], {p.step: env[p.data] for p in found if p.data is not None}

    f, pull, data = jax.vjp(run, {step: jnp.zeros(a.shape, a.dtype) for step, a in shapes.items()}, has_aux=True)
    (slopes,) = jax.vmap(pull, in_axes=-1)(roots(model, params, f, block, curvature))
    sums = []
    for p in found:
        ones = jnp.ones((len(block.x), 1), block.x.dtype)
        parts = ([] if p.data is None else [data[p.step]]) + ([ones] if p.data is None or len(p.leaves) == 2 else [])
        a = jnp.sqrt(block.weight)[:, None] * jnp.concatenate(parts, axis=1)
        g = slopes[p.step].reshape(-1, p.shape[0 if p.turned else 1])
        sums.append((a.T @ a, g.T @ g))
    return sums


@programs.jit
def sums(model: Model, params: Params, block: Block) -> tuple[Any, list[Any]]:
    """Over a block: the log likelihood, and the diagonal of its second derivative in the likelihood's own parameters φ."""
    batch = Batch(*block, jnp.ones((), jnp.float32), jnp.sum(block.weight))

    def log_likelihood(phi):
        return model.log_likelihood({**params, "likelihood": phi}, batch)

    return log_likelihood(params["likelihood"]), _second(log_likelihood, params["likelihood"])


@programs.jit
def prior_sums(model: Model, params: Params) -> tuple[Any, list[Any]]:
    """log p(φ), and the diagonal of its second derivative."""
    phi = params["likelihood"]
    return model.likelihood.log_prior(phi), _second(model.likelihood.log_prior, phi)


@programs.jit
def squares(model: Model, params: Params, block: Block) -> Any:
    """Σ w (y − f)² over a block, for each target (K,)."""
    return jnp.sum(block.weight[:, None] * (block.y - model.network.apply(params["network"], block.x)) ** 2, axis=0)


def _second(function, tree):
    """The diagonal of the second derivative: a list, for each leaf."""
    leaves, structure = jax.tree.flatten(tree)
    numbers = range(len(leaves))
    each = [jax.hessian(lambda *some: function(structure.unflatten(some)), k)(*leaves) for k in numbers]
    return [jnp.diagonal(h.reshape(leaf.size, leaf.size)) for h, leaf in zip(each, leaves, strict=True)]
