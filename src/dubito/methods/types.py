"""The types in the signatures of a method: those of its contract, and names for shapes."""

from typing import TypeAlias

import numpy as np
from jaxtyping import Array, Float

from dubito._jax.types import Key as Key
from dubito._jax.types import Params as Params
from dubito.models.model import Batch as Batch
from dubito.models.model import Model as Model
from dubito.training.data import Rows as Rows
from dubito.training.members import Member as Member
from dubito.training.members import Trained as Trained
from dubito.training.method import Clock as Clock

Scalar: TypeAlias = Float[Array, ""]
RowValues: TypeAlias = Float[Array, " rows"]
Inputs: TypeAlias = Float[Array | np.ndarray, "rows *columns"]
Objective: TypeAlias = tuple[Scalar, Scalar]  # log likelihood and penalty, in nats of the data set
