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
    """f(θ*) + J(θ*) δ, with the parameters {"center": θ*, "offset": δ}.

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
        def apply(network: Params) -> Any:
            return self.network.apply(network, x)

        f, moved = jax.jvp(apply, (params["center"],), (params["offset"],))
        return f + moved

    def join_inputs(self, x: Any) -> np.ndarray:
        return joined_inputs(self.network, x)


def inner_params(network: Params) -> Params:
    """The parameters of the network itself, given those of one that may be ``Linearized``."""
    return network["center"] if isinstance(network, dict) and set(network) == {"center", "offset"} else network
