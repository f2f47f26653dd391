"""Names for the types that annotations share. Shapes are written with jaxtyping, as in
``Float[Array, "rows targets"]``.
"""

from typing import Any, TypeAlias

import jax
import numpy as np

Key: TypeAlias = jax.Array  # of random numbers, from jax.random.key
Params: TypeAlias = Any  # a pytree of arrays: a network's parameters, or {"network": ..., "likelihood": ...} of a model
ArrayLike: TypeAlias = np.ndarray | jax.Array
Inputs: TypeAlias = Any  # rows: an array, or the pytree of arrays that a trained network takes
