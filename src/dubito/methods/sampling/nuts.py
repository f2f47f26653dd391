"""The no-U-turn sampler (Hoffman & Gelman, JMLR 2014), with BlackJAX's kernel."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dubito._jax.pytree import register_dataclass, static
from dubito._jax.types import Key
from dubito.methods.sampling.hamiltonian import HamiltonianMethod, check_hamiltonian
from dubito.models.model import Model


@register_dataclass
@dataclass(frozen=True)
class NUTS(HamiltonianMethod):
    """HMC whose trajectories end where they turn back, with the draw from among their points.

    Target, start, adaptation and exactness are those of ``HMC``.

    Parameters
    ----------
    max_depth : int
        A trajectory has at most 2^``max_depth`` − 1 gradients of all rows.
    draws, warmup, chains, acceptance, mass, thin, anneal, warm_start_steps
        As in ``HMC``.
    """

    max_depth: int = static(default=8)

    def check(self, model: Model) -> None:
        check_hamiltonian(self, model)
        if not (isinstance(self.max_depth, int) and 1 <= self.max_depth <= 15):
            raise ValueError(f"max_depth must be a whole number from 1 to 15, got {self.max_depth!r}")

    def kernel(self, key: Key, state: Any, density: Callable[[Any], Any], step_size: Any, inverse_mass: Any) -> Any:
        from blackjax.mcmc import nuts

        return nuts.build_kernel()(
            key, nuts.hmc.HMCState(*state), density, step_size, inverse_mass, max_num_doublings=self.max_depth
        )
