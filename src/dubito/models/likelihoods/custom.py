"""A criterion of your own as a likelihood."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Array, Float

from dubito._jax.pytree import register_dataclass, static
from dubito._jax.types import Params
from dubito.models.likelihoods.base import OutcomeParams, WithoutParameters


@register_dataclass
@dataclass(frozen=True)
class Criterion(WithoutParameters):
    """A criterion of your own: ``function(f, y)`` is the cost of network outputs f for targets y.

    Training minimizes the sum of costs minus the log prior, as if exp(−cost) were a likelihood:
    multiplying the cost by ten multiplies the weight of the data by ten. Predictions have a
    ``mean`` and its epistemic uncertainty. A cost alone implies no noise, so there are no
    variances, quantiles or samples. A model file cannot hold a function.

    Parameters
    ----------
    function : callable
        ``function(f, y)`` for f (rows, width) and y (rows, targets) returns costs (rows,). It is
        written in jax.numpy, and its derivative with respect to f is continuous almost everywhere.
    targets : int
        K, the number of columns of y.
    width : int
        The number of network outputs.
    point : callable or None
        ``point(f)`` returns E[y], (rows, targets); None is f itself.
    standardizes_targets : bool
        Whether y is standardized for ``function`` and ``point``.
    normalized : bool
        Whether the cost is −log p(y given f) with all constants; then predictions have a
        ``log_prob``.

    Examples
    --------
    >>> import dubito, jax.numpy as jnp
    >>> huber = dubito.Criterion(lambda f, y: jnp.sqrt(1 + jnp.sum((y - f) ** 2, axis=1)) - 1)
    >>> huber.width
    1
    """

    function: Callable[[Any, Any], Any] = static()
    targets: int = static(default=1)
    width: int = static(default=1)  # pyright: ignore[reportIncompatibleMethodOverride] a field where others compute it
    point: Callable[[Any], Any] | None = static(default=None)
    standardizes_targets: bool = static(default=False)
    normalized: bool = static(default=False)

    task = "regression"
    has_noise = False

    def join(self, f: Float[Array, "rows width"], phi: Params) -> OutcomeParams:
        return {"f": f}

    def log_prob(self, z: OutcomeParams, y: Float[Array, "rows targets"]) -> Float[Array, " rows"]:
        return -self._of_shape("function", self.function(z["f"], y), (len(y),))

    def mean(self, z: OutcomeParams) -> Float[Array, "rows targets"]:
        f = z["f"]
        return self._of_shape("point", f if self.point is None else self.point(f), (len(f), self.targets))

    def _of_shape(self, name: str, value: Any, shape: tuple[int, ...]) -> Any:
        """``value``; ValueError that names its function if it does not have the ``shape``."""
        if value.shape != shape:
            raise ValueError(f"a Criterion's {name} must return an array of shape {shape} here, got {value.shape}")
        return value
