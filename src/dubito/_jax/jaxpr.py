"""How a traced program uses each parameter, and which axis of every value holds the examples.

This is decided from the jaxpr, never from names. ``methods.weight_noise.noisy`` builds on it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from dubito._jax.types import Params

Eqn: TypeAlias = Any  # a jax.extend.core.JaxprEqn, whose operands and results are arrays
Record: TypeAlias = Callable[[frozenset[int], bool, frozenset[int]], None]

CONST, LOST = -1, -2
INLINED = {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"}
CALLS = INLINED | {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}
WRAPPERS = {"convert_element_type", "copy", "copy_p", "reshape", "broadcast_in_dim"}
# Operations along one axis, and the parameter that names it.
ALONG: dict[str, str] = dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "split"), "axis")
ALONG |= {"concatenate": "dimension", "sort": "dimension"}
ELEMENTWISE = set(
    "abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type copy copy_p cos cosh "
    "digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le lgamma log log1p logistic lt max "
    "min mul ne neg nextafter not or pow reduce_precision rem round rsqrt select_n sign sin sinh sqrt square "
    "stop_gradient sub tan tanh xor slice dynamic_slice".split()  # a slice that keeps all n examples keeps their order
)


@dataclass(frozen=True)
class Use:
    """How the noise of a parameter enters.

    Attributes
    ----------
    treatment : str
        ``"product"``: in one product or addition with a row of its own for each example;
        ``"places"``: in one that uses it at many places of an example, such as a convolution;
        ``"draw"``: in any other way; ``"unused"``: in none.
    raw : bool
        Whether the input of its product is x, not yet in a product with another parameter.
    multiplies : bool
        Whether it is in a matrix product or convolution.
    inputs : int
        The axis summed over there, counted from the end: −2 if unknown (in a loop) or different
        between uses.
    incoming : tuple of int
        All axes that are summed over, for a convolution those of its window, too.
    hidden : bool
        Whether another parameter multiplies its result.
    """

    treatment: str
    raw: bool
    multiplies: bool = False
    inputs: int = -2
    incoming: tuple[int, ...] = (-2,)
    hidden: bool = False


class ValueState(NamedTuple):
    """A value: its axis of examples, whether a parameter multiplied x, and the leaves in it."""

    axis: int
    deep: bool = False
    leaves: frozenset[int] = frozenset()


class Step(NamedTuple):
    """An equation of the program, and the numbers (slots) of its operands and results."""

    eqn: Eqn
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class Site(NamedTuple):
    """The only use of a leaf: step, operand, and the axis of examples of the other operand."""

    step: int
    position: int
    axis: int


class Program(NamedTuple):
    """A traced program.

    Attributes
    ----------
    steps : list of Step
        Its equations in order.
    values : dict
        The constants by their slots.
    aliases : dict
        The number of the parameter leaf by the slots that hold it.
    outputs : list of int
        The slots of the results.
    tree : jax.tree_util.PyTreeDef
        The structure of the results.
    """

    steps: list[Step]
    values: dict[int, Any]
    aliases: dict[int, int]
    outputs: list[int]
    tree: Any


def bind(eqn: Eqn, *operands: Any) -> list[Any]:
    """The results of an equation's operation on these operands."""
    with eqn.ctx.manager:
        out = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
    return out if eqn.primitive.multiple_results else [out]


def body(eqn: Eqn) -> tuple[Jaxpr, Sequence[Any]]:
    """The jaxpr that a call's equation runs, and its constants."""
    inner = eqn.params["jaxpr"] if "jaxpr" in eqn.params else eqn.params["call_jaxpr"]
    return (inner.jaxpr, inner.consts) if isinstance(inner, ClosedJaxpr) else (inner, ())


def trace_program(apply: Callable[[Params, Any], Any], params: Params, x: Any) -> Program:
    """Trace ``apply(params, x)`` as flat steps; the first slots are the leaves of params and x.

    Calls are opened only where a parameter enters, so custom derivatives survive.
    """
    closed, shape = jax.make_jaxpr(apply, return_shape=True)(params, x)
    number = len(jax.tree.leaves(params))
    values, steps = {}, []
    aliases = {slot: slot for slot in range(number)}
    count = iter(range(len(closed.jaxpr.invars), 1 << 62))

    def constant(value: Any) -> int:
        slot = next(count)
        values[slot] = value
        return slot

    def open_call(jaxpr: Jaxpr, consts: Sequence[Any], inputs: Sequence[int]) -> list[int]:
        slots = dict(zip(jaxpr.constvars, map(constant, consts), strict=True))
        slots.update(zip(jaxpr.invars, inputs, strict=True))

        def slot(atom: Any) -> int:
            return constant(atom.val) if isinstance(atom, Literal) else slots[atom]

        for eqn in jaxpr.eqns:
            name, inner = eqn.primitive.name, tuple(map(slot, eqn.invars))
            if name in INLINED and any(i in aliases for i in inner):
                outer = open_call(*body(eqn), inner)
            else:
                outer = tuple(next(count) for _ in eqn.outvars)
                steps.append(Step(eqn, inner, outer))
                if name in WRAPPERS and inner[0] in aliases:
                    aliases[outer[0]] = aliases[inner[0]]
            slots.update(zip(eqn.outvars, outer, strict=True))
        return [slot(v) for v in jaxpr.outvars]

    outputs = open_call(closed.jaxpr, closed.consts, range(len(closed.jaxpr.invars)))
    return Program(steps, values, aliases, outputs, jax.tree.structure(shape))


def dot_axis(eqn: Eqn, side: int, axis: int) -> int:
    """Where an ``axis`` of operand ``side`` of a dot_general is in the result; LOST if summed."""
    contract, batch = eqn.params["dimension_numbers"]
    if axis in contract[side]:
        return LOST
    if axis in batch[side]:
        return list(batch[side]).index(axis)
    free = [
        [d for d in range(v.aval.ndim) if d not in c and d not in b]
        for v, c, b in zip(eqn.invars, contract, batch, strict=True)
    ]
    return len(batch[0]) + side * len(free[0]) + free[side].index(axis)


def _moved(eqn: Eqn, moving: list[tuple[int, int]]) -> int:
    """Where the examples' axis goes. ``moving``: (operand, axis) of the operands that have one."""
    name, p = eqn.primitive.name, eqn.params
    operand, k = moving[0]
    if name == "dot_general":
        found = {dot_axis(eqn, i, j) for i, j in moving}
        return found.pop() if len(found) == 1 else LOST
    if any(j != k for _, j in moving):
        return LOST
    if name in ELEMENTWISE:
        return k
    if name in ALONG:
        return k if p[ALONG[name]] != k else LOST
    if name == "squeeze" or name.startswith(("reduce_", "arg")) and "axes" in p:
        removed = p["dimensions" if name == "squeeze" else "axes"]
        return LOST if k in removed else k - sum(d < k for d in removed)
    if name.startswith("reduce_window"):
        return k if p["window_dimensions"][k] == 1 and tuple(p["padding"][k]) == (0, 0) else LOST
    match name:
        case "conv_general_dilated":
            spec = p["dimension_numbers"]
            simple = len(moving) == 1 and operand == 0 and k == spec.lhs_spec[0] and p["batch_group_count"] == 1
            return spec.out_spec[0] if simple else LOST
        case "reshape" if p["dimensions"] is None:
            old, new = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
            before = math.prod(old[:k])
            return next((j for j in range(len(new)) if math.prod(new[:j]) == before and new[j] == old[k]), LOST)
        case "broadcast_in_dim":
            return int(p["broadcast_dimensions"][k])
        case "transpose":
            return list(p["permutation"]).index(k)
        case "stack":
            return k + (p["axis"] <= k)
        case "pad" if operand == 0 and tuple(p["padding_config"][k]) == (0, 0, 0):
            return k
        case "rev" if k not in p["dimensions"]:
            return k
    return LOST


def _transfer(eqn: Eqn, states: list[ValueState], record: Record) -> list[ValueState]:
    """The states of an equation's outputs.

    ``record(leaves, raw, below)`` receives which leaves multiply what kind of input, and which leaves
    went into that input.
    """
    name = eqn.primitive.name
    if name in CALLS:
        jaxpr, consts = body(eqn)
        return _states(jaxpr, [ValueState(CONST)] * len(consts), states, record)
    if name == "scan":
        return _scan(eqn, states, record)
    leaves = frozenset().union(*(s.leaves for s in states))
    moving = [(i, s.axis) for i, s in enumerate(states) if s.axis != CONST]
    deep = any(s.deep for s in states)
    if not moving:
        return [ValueState(CONST, deep, leaves)] * len(eqn.outvars)
    axis = LOST if any(k == LOST for _, k in moving) else _moved(eqn, moving)
    if name in ("dot_general", "conv_general_dilated", "cond", "while"):
        constant = frozenset().union(*(s.leaves for s in states if s.axis == CONST))
        record(constant, not deep, frozenset().union(*(s.leaves for s in states if s.axis != CONST)))
        deep = deep or bool(constant)
    n = None if axis == LOST else eqn.invars[moving[0][0]].aval.shape[moving[0][1]]
    kept = [axis != LOST and axis < v.aval.ndim and v.aval.shape[axis] == n for v in eqn.outvars]
    return [ValueState(axis if ok else LOST, deep, leaves) for ok in kept]


def _states(jaxpr: Jaxpr, consts: list[ValueState], states: list[ValueState], record: Record) -> list[ValueState]:
    env = dict(zip(jaxpr.constvars, consts, strict=True)) | dict(zip(jaxpr.invars, states, strict=True))

    def read(atom: Any) -> ValueState:
        return ValueState(CONST) if isinstance(atom, Literal) else env[atom]

    for eqn in jaxpr.eqns:
        env.update(zip(eqn.outvars, _transfer(eqn, [read(v) for v in eqn.invars], record), strict=True))
    return [read(v) for v in jaxpr.outvars]


def _join(a: ValueState, b: ValueState) -> ValueState:
    axis = a.axis if b.axis in (CONST, a.axis) else b.axis if a.axis == CONST else LOST
    return ValueState(axis, a.deep or b.deep, a.leaves | b.leaves)


def _scan(eqn: Eqn, states: list[ValueState], record: Record) -> list[ValueState]:
    jaxpr, consts = body(eqn)
    first, last = eqn.params["num_consts"], eqn.params["num_consts"] + eqn.params["num_carry"]
    over = [s if s.axis < 0 else s._replace(axis=s.axis - 1 if s.axis else LOST) for s in states[last:]]
    carry = states[first:last]
    while True:  # to the fixed point: a carry may start as zeros and become the examples'
        out = _states(jaxpr, [ValueState(CONST)] * len(consts), states[:first] + carry + over, record)
        joined = [_join(a, b) for a, b in zip(carry, out, strict=False)]
        if joined == carry:
            break
        carry = joined
    return carry + [s if s.axis < 0 else s._replace(axis=s.axis + 1) for s in out[len(carry) :]]


def _treatment(eqn: Eqn, site: Site, size: int) -> str:
    """The treatment of the only use of a leaf with ``size`` entries."""
    if len(eqn.invars) != 2 or site.axis < 0 or eqn.invars[site.position].aval.size != size:
        return "draw"
    leaf, data = eqn.invars[site.position].aval, eqn.invars[1 - site.position].aval
    match eqn.primitive.name:
        case "dot_general":
            contract, batch = eqn.params["dimension_numbers"]
            if not batch[0] and len(contract[0]) == 1 and site.axis not in contract[1 - site.position]:
                return "product" if data.ndim == 2 else "places"
        case "conv_general_dilated":
            by_examples = site.axis == eqn.params["dimension_numbers"].lhs_spec[0]
            if site.position == 1 and by_examples and eqn.params["batch_group_count"] == 1:
                return "places"
        case "add" if leaf.ndim == data.ndim and leaf.shape[site.axis] == 1:
            out = eqn.outvars[0].aval
            return "product" if out.size == out.shape[site.axis] * size else "places"
    return "draw"


def summed_axes(program: Program, shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, tuple[int, ...]]]:
    """For each leaf the ``inputs`` and the ``incoming`` of its ``Use``."""
    origins = {leaf: (leaf, tuple(range(len(shape)))) for leaf, shape in enumerate(shapes)}  # slot: leaf, order of axes
    seen: list[set[int]] = [set() for _ in shapes]
    together: list[set[tuple[int, ...]]] = [set() for _ in shapes]
    for eqn, inputs, outputs in program.steps:
        name, p = eqn.primitive.name, eqn.params
        for position, slot in enumerate(inputs[:2]):
            if slot not in origins:
                continue
            leaf, axes = origins[slot]
            if name == "dot_general" or name == "conv_general_dilated" and position == 1:
                dot = name == "dot_general"
                numbers = p["dimension_numbers"]
                summed = tuple(axes[axis] for axis in (numbers[0][position] if dot else numbers.rhs_spec[1:]))
                seen[leaf].update(summed if dot else summed[:1])
                together[leaf].add(summed)
            elif name == "transpose":
                origins[outputs[0]] = (leaf, tuple(axes[axis] for axis in p["permutation"]))
            elif name in WRAPPERS and eqn.outvars[0].aval.shape == eqn.invars[0].aval.shape:
                origins[outputs[0]] = (leaf, axes)
    found = []
    for shape, axes, uses in zip(shapes, seen, together, strict=True):
        incoming = tuple(axis - len(shape) for axis in uses.pop()) if len(uses) == 1 else (-2,)
        found.append((axes.pop() - len(shape) if len(axes) == 1 else -2, incoming))
    return found


def analyze(program: Program, params: Params, x: Any) -> tuple[list[Use], list[Site | None], bool]:
    """Analyze how a program uses its parameters.

    Parameters
    ----------
    program : Program
        The program of ``apply(params, x)``.
    params : pytree of arrays
        The parameters.
    x : array or pytree of arrays
        Inputs with the examples as their first axis.

    Returns
    -------
    uses : list of Use
        The use of each leaf.
    sites : list of Site or None
        The place of each leaf whose treatment is "product" or "places".
    separate : bool
        Whether the first axis of all outputs holds the examples.
    """
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(params)]
    states = {i: ValueState(CONST, False, frozenset([i])) for i in range(len(shapes))}
    states |= {len(shapes) + i: ValueState(0) for i in range(len(jax.tree.leaves(x)))}
    states |= dict.fromkeys(program.values, ValueState(CONST))
    found: list[list[Site | None]] = [[] for _ in shapes]
    multiplied, multiplied_raw, covered = set(), set(), set()

    def record(leaves: frozenset[int], raw: bool, below: frozenset[int]) -> None:
        multiplied.update(leaves)
        multiplied_raw.update(leaves if raw else ())
        covered.update(below if leaves else ())

    for number, (eqn, slots, outputs) in enumerate(program.steps):
        known = [states[i] for i in slots]
        states.update(zip(outputs, _transfer(eqn, known, record), strict=True))
        for position, slot in enumerate(slots):
            if slot in program.aliases and outputs[0] not in program.aliases:
                other = known[1 - position].axis if len(slots) == 2 else LOST
                found[program.aliases[slot]].append(Site(number, position, other))
    for slot in program.outputs:
        if slot in program.aliases:
            found[program.aliases[slot]].append(None)
    separate = all(states[slot].axis in (0, CONST) for slot in program.outputs)
    uses_, sites = [], []
    for leaf, (inputs, incoming) in enumerate(summed_axes(program, shapes)):
        site = found[leaf][0] if separate and len(found[leaf]) == 1 else None
        treatment = _treatment(program.steps[site.step].eqn, site, math.prod(shapes[leaf])) if site else "draw"
        sites.append(site if treatment != "draw" else None)
        treatment = treatment if found[leaf] else "unused"
        uses_.append(Use(treatment, leaf in multiplied_raw, leaf in multiplied, inputs, incoming, leaf in covered))
    return uses_, sites, separate


def uses(apply: Callable[[Params, Any], Any], params: Params, x: Any) -> Any:
    """How a Bayesian method adds noise to each parameter of a network.

    Parameters
    ----------
    apply : callable
        ``apply(params, x)``, as of a network.
    params : pytree of arrays
        The network's parameters.
    x : array or pytree of arrays or ShapeDtypeStructs
        Inputs with the examples as their first axis.

    Returns
    -------
    pytree of Use
        A tree like ``params``.
    """
    found, *_ = analyze(trace_program(apply, params, x), params, x)
    return jax.tree.unflatten(jax.tree.structure(params), found)
