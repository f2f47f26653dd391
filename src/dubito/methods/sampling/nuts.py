"""The no-U-turn sampler (Hoffman & Gelman, JMLR 2014), with BlackJAX's kernel."""

from dataclasses import dataclass
from typing import Any

from dubito._check import check_whole
from dubito._jax.pytree import register_dataclass, static
from dubito.methods.sampling.hamiltonian import HamiltonianMethod, check_hamiltonian
from dubito.methods.sampling.mcmc import Density, Mass
from dubito.methods.types import Key, Model


@register_dataclass
@dataclass(frozen=True)
class NUTS(HamiltonianMethod):
    """HMC whose trajectories end when they turn back; the draw is one of their points.

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
        check_whole("max_depth", self.max_depth, 1, 15)

    def kernel(self, key: Key, state: Any, density: Density, step_size: Any, inverse_mass: Mass) -> tuple[Any, Any]:
        from blackjax.mcmc import nuts

        return nuts.build_kernel()(
            key, nuts.hmc.HMCState(*state), density, step_size, inverse_mass, max_num_doublings=self.max_depth
        )
