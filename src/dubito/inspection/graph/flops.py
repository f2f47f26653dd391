"""Arithmetic operations of an equation, and of a whole function as XLA counts them."""

import math
from collections.abc import Callable
from typing import Any

import jax

from dubito._jax.jaxpr import INLINED, body

MOVES = set(  # operations that only move data
    "broadcast_in_dim reshape transpose squeeze expand_dims slice dynamic_slice dynamic_update_slice concatenate pad gather "
    "rev copy copy_p convert_element_type split stack iota stop_gradient".split()
)


def count_flops(function: Callable[..., Any], *arguments: Any) -> float:
    """Arithmetic operations of a function, as XLA counts them before it optimizes."""
    analysis = jax.jit(function).lower(*arguments).cost_analysis()
    return float((analysis or {}).get("flops", math.nan))


def flops(eqn: Any) -> int:
    """Count the arithmetic operations of one equation.

    A product counts 2 for each multiplication with its addition; any other operation 1 for each
    number that it makes or reduces; moving data counts 0.

    Parameters
    ----------
    eqn : jax.extend.core.JaxprEqn

    Returns
    -------
    int
        The number of operations.
    """
    name, params = eqn.primitive.name, eqn.params
    made = sum(math.prod(var.aval.shape) for var in eqn.outvars)
    if name == "dot_general":
        shape = eqn.invars[0].aval.shape
        return 2 * made * math.prod(shape[axis] for axis in params["dimension_numbers"][0][0])
    if name == "conv_general_dilated":
        shape = eqn.invars[1].aval.shape
        return 2 * made * math.prod(shape) // shape[params["dimension_numbers"].rhs_spec[0]]
    if name == "scan":
        return params["length"] * body_flops(params["jaxpr"].jaxpr)
    if name == "while":
        return body_flops(params["cond_jaxpr"].jaxpr) + body_flops(params["body_jaxpr"].jaxpr)
    if name == "cond":
        return max(body_flops(branch.jaxpr) for branch in params["branches"])
    if "call_jaxpr" in params or name in INLINED:
        return body_flops(body(eqn)[0])
    if name in MOVES:
        return 0
    if name.startswith(("reduce_", "arg", "cum")):
        return sum(math.prod(var.aval.shape) for var in eqn.invars)
    return made


def body_flops(jaxpr: Any) -> int:
    """Arithmetic operations of all equations of a jaxpr."""
    return sum(map(flops, jaxpr.eqns))
