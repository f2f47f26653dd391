"""What methods share that descend once on an objective and end with a distribution over functions."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from dubito._jax.types import Key, Params
from dubito.models.model import Batch, Model
from dubito.posteriors.base import log_mean_prob
from dubito.training.descent import Descent, DescentState, objective_step, start_descent
from dubito.training.members import Trained, one_member
from dubito.training.method import Clock
from dubito.training.optimizers import init_state, limit_norms
from dubito.training.packing import unpack


@dataclass(frozen=True, kw_only=True)
class PosteriorDescent(Descent):
    """One descent on −objective whose parameters are those of a posterior. A method gives start, objective and posterior.

    Attributes
    ----------
    flat : bool
        Whether small parts of the parameters descend as ``FlatParams``.
    """

    flat: ClassVar[bool] = True

    members = one_member

    @abstractmethod
    def initial(self, model: Model, batch: Batch, key: Key) -> Params:
        """The parameters at the start: {"network": θ, "likelihood": φ, ...}, or a dict of such and of arrays."""

    @abstractmethod
    def objective(self, model: Model, params: Params, batch: Batch, key: Key) -> tuple[Any, Any]:
        """The expected log likelihood and the penalty, scalars in nats of the data set, estimated from a batch.

        ``params``: packed; what sums over all parameters may stay so, a network needs ``unpack(params)``.
        """

    @abstractmethod
    def posterior(self, model: Model, params: Params, x: Any) -> Any:
        """The posterior of these parameters. Of ``x`` only the shape of a row has a meaning."""

    def init(self, model: Model, batch: Batch, key: Key) -> DescentState:
        params = self.initial(model, batch, key)
        return start_descent(self, params) if self.flat else DescentState(params, init_state(self, params))

    def step(self, model: Model, state: DescentState, batch: Batch, clock: Clock, key: Key) -> tuple[DescentState, Any]:
        objective = partial(self.objective, model, batch=batch, key=key)
        state, info = objective_step(self, objective, state, clock, batch.size)
        return state._replace(params=limit_norms(self, model, state.params, batch.x)), info

    def point(self, model: Model, state: DescentState) -> Params:
        del model
        params = unpack(state.params)
        return params.get("mean", params)

    def score(self, model: Model, state: DescentState, batch: Batch, key: Key) -> Any:
        return log_mean_prob(self.posterior(model, unpack(state.params), batch.x), batch, key)

    def finish(self, model: Model, trained: Trained, key: Key, run: Any) -> Any:
        del key, run
        return self.posterior(model, unpack(trained.states[0].params), trained.rows.x[:1])
