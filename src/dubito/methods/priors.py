"""The prior's scale of each parameter, and the proximal step of a Laplace prior."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dubito.methods.types import Model, Params, Scalar
from dubito.models.priors import Laplace, leaf_scales
from dubito.training.descent import Descent
from dubito.training.packing import pack, unpack


def map_prior(function: Callable[..., Any], model: Model, params: Params, *others: Params) -> Params:
    """Apply a function to each leaf of the network and its prior scale.

    Parameters
    ----------
    function : callable
        ``function(leaf, scale, *more)``; the scale is None for a leaf without a prior.
    model : Model
        The model, whose prior is used.
    params : dict
        {"network": θ, "likelihood": φ}, not packed.
    *others : pytree like ``params["network"]``
        Further arguments of the function.

    Returns
    -------
    pytree like ``params["network"]``
        The function's values.
    """
    leaves, tree = jax.tree.flatten(params["network"])
    scales = leaf_scales(model.prior, leaves, model.scales(params))
    more = [tree.flatten_up_to(other) for other in others]
    return tree.unflatten([function(*each) for each in zip(leaves, scales, *more, strict=True)])


def check_l1(method: Descent, model: Model) -> None:
    """Raise ValueError if the optimizer has no proximal step for the Laplace prior of a model."""
    if isinstance(model.prior, Laplace) and method.optimizer not in ("sgd", "momentum", "adam"):
        raise ValueError(f"a Laplace prior needs optimizer 'sgd', 'momentum' or 'adam', got {method.optimizer!r}")


def smooth_log_prior(model: Model, params: Params) -> Scalar:
    """log p(θ) + log p(φ), in nats, without the gradient of a Laplace prior, whose step is proximal."""
    if isinstance(model.prior, Laplace):
        params = {**params, "network": jax.lax.stop_gradient(params["network"])}
    return model.log_prior(params)


def l1_strengths(model: Model, params: Params, size: Any) -> Params | None:
    """The strengths 1/(scale · N) of the proximal step of a Laplace prior, 0 without a prior; None for another prior."""
    if not isinstance(model.prior, Laplace):
        return None
    plain = unpack(params)
    network = map_prior(lambda w, b: jnp.full_like(w, 0 if b is None else 1 / (b * size)), model, plain)
    return pack({"network": network, "likelihood": jax.tree.map(jnp.zeros_like, plain["likelihood"])})
