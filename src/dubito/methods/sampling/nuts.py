"""The no-U-turn sampler (Hoffman & Gelman, JMLR 2014), with BlackJAX's kernel."""

from dataclasses import dataclass

from dubito._check import check_whole
from dubito._jax.pytree import register_dataclass, static
from dubito.methods.sampling import mcmc
from dubito.methods.sampling.hmc import HMC, check_energy


@register_dataclass
@dataclass(frozen=True)
class NUTS:
    """HMC whose trajectories end where they turn back: of at most 2^``max_depth`` − 1 gradients of all rows, with the draw
    from among their points. The other fields are as in ``HMC``; target, start, adaptation and what is exact are its own.
    """

    draws: int = static(default=1000)
    warmup: int = static(default=500)
    chains: int = static(default=4)
    max_depth: int = static(default=8)
    acceptance: float = 0.8
    mass: str = static(default="diagonal")
    thin: int = static(default=1)
    anneal: int = static(default=0)
    descent: int = static(default=500)

    batch_size = None
    epochs = property(mcmc.epochs)
    members = mcmc.members
    init = HMC.init
    step = HMC.step
    finish = HMC.finish

    def check(self, model):
        mcmc.check(self, model)
        check_energy(self)
        check_whole("max_depth", self.max_depth, 1, 15)

    def kernel(self, key, state, density, step_size, inverse_mass):
        from blackjax.mcmc import nuts

        return nuts.build_kernel()(
            key, nuts.hmc.HMCState(*state), density, step_size, inverse_mass, max_num_doublings=self.max_depth
        )
