"""A network's first-order expansion in its parameters."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dubito._jax.pytree import register_dataclass
from dubito._jax.types import Key, Params
from dubito.models.inputs import joined_inputs


@register_dataclass
@dataclass(frozen=True)
class Linearized:
    """f(θ*) + J(θ*) δ, with the parameters {"center": θ*, "offset": δ}; an offset of None is 0.

    What depends on no other parameters than those with an offset of None is the same for all δ, so
    that for a last layer the layers before it are evaluated once for all draws.

    Parameters
    ----------
    network : network
        The network f that is expanded.
    """

    network: Any

    scales: ClassVar[None] = None

    def init(self, key: Key) -> Params:
        center = self.network.init(key)
        return {"center": center, "offset": jax.tree.map(jnp.zeros_like, center)}

    def apply(self, params: Params, x: Float[Array, "rows *inputs"]) -> Float[Array, "rows outputs"]:
        centers, tree = jax.tree.flatten(params["center"])
        offsets = dict(enumerate(tree.flatten_up_to(params["offset"])))
        moving = {k: offset for k, offset in offsets.items() if offset is not None}

        def apply(moved: dict[int, Any]) -> Any:
            return self.network.apply(tree.unflatten(moved.get(k, leaf) for k, leaf in enumerate(centers)), x)

        f, moved = jax.jvp(apply, ({k: centers[k] for k in moving},), (moving,))
        return f + moved

    def join_inputs(self, x: Any) -> np.ndarray:
        return joined_inputs(self.network, x)


def inner_params(network: Params) -> Params:
    """The parameters of the network itself, given those of one that may be ``Linearized``."""
    return network["center"] if isinstance(network, dict) and set(network) == {"center", "offset"} else network
