"""Shared by the methods that descend on an objective and return a posterior."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from dubito.methods.held_out_noise import with_held_out_noise
from dubito.methods.priors import l1_strengths
from dubito.methods.types import Batch, Clock, Inputs, Key, Model, Objective, Params, RowValues, Trained
from dubito.posteriors.base import log_mean_prob
from dubito.training.descent import Descent, DescentState, objective_step, start_descent
from dubito.training.members import one_member
from dubito.training.optimizers import init_state, limit_norms
from dubito.training.packing import unpack


@dataclass(frozen=True, kw_only=True)
class ObjectiveDescent(Descent):
    """One descent on penalty − log likelihood. A method defines ``initial``, ``objective``, ``posterior`` and ``score``.

    Parameters
    ----------
    ema_epochs : float, optional
        The horizon of an exponential moving average of the parameters, in epochs: the averaged
        parameters are scored and kept. None: the last ones.

    Attributes
    ----------
    flat : bool
        Whether small parts of the parameters descend as ``FlatParams``.
    proximal : bool
        Whether the step of a Laplace prior is proximal.
    noise : {"training", "held-out"}
        Where the likelihood's own parameters come from: the objective, or held-out rows after it.
    """

    ema_epochs: float | None = None

    flat: ClassVar[bool] = True
    proximal: ClassVar[bool] = False
    noise: ClassVar[Any] = "training"

    members = one_member

    @abstractmethod
    def initial(self, model: Model, batch: Batch, key: Key) -> Params:
        """The parameters at the start.

        Parameters
        ----------
        model : Model
            The model.
        batch : Batch
            Rows; only the shapes matter.
        key : jax.Array
            A key of ``jax.random.key``.

        Returns
        -------
        dict
            {"network": θ, "likelihood": φ, ...}, or a dict of such and of arrays.
        """

    @abstractmethod
    def objective(self, model: Model, params: Params, batch: Batch, key: Key) -> Objective:
        """The expected log likelihood and the penalty, estimated from a batch.

        Parameters
        ----------
        model : Model
            The model.
        params : pytree
            Packed parameters; what sums over all of them may stay so, a network needs
            ``unpack(params)``.
        batch : Batch
            The rows.
        key : jax.Array
            A key for the noise.

        Returns
        -------
        tuple of two arrays of shape ()
            In nats of the data set.
        """

    @abstractmethod
    def posterior(self, model: Model, params: Params, x: Inputs) -> Any:
        """The posterior with these parameters.

        Parameters
        ----------
        model : Model
            The model.
        params : pytree
            Parameters as of ``initial``, not packed.
        x : array of shape (rows, ...)
            Inputs; only the shape of a row matters.

        Returns
        -------
        Posterior
            Of the kind that the method makes.
        """

    def init(self, model: Model, batch: Batch, key: Key) -> DescentState:
        params = self.initial(model, batch, key)
        if not self.flat:
            return DescentState(params, init_state(self, params), average=None if self.ema_epochs is None else params)
        return start_descent(self, params, model.likelihood if "likelihood" in params else None)

    def step(self, model: Model, state: DescentState, batch: Batch, clock: Clock, key: Key) -> tuple[DescentState, Any]:
        objective = partial(self.objective, model, batch=batch, key=key)
        strengths = l1_strengths(model, state.params, batch.size) if self.proximal else None
        state, info = objective_step(self, objective, state, clock, model, batch, strengths)
        return state._replace(params=limit_norms(self, model, state.params, batch.x)), info

    def point(self, model: Model, state: DescentState) -> Params:
        params = unpack(state.result)
        return params.get("mean", params)

    def finish(self, model: Model, trained: Trained, key: Key, run: Any) -> Any:
        def build(state: DescentState) -> Any:
            return self.posterior(model, unpack(state.result), trained.rows.x[:1])

        posterior = build(trained.states[0])
        if self.noise == "training":
            return posterior
        return with_held_out_noise(posterior, trained, build, partial(run, model, self), key)


@dataclass(frozen=True, kw_only=True)
class PosteriorDescent(ObjectiveDescent):
    """A descent whose parameters are those of a distribution, scored by its draws."""

    def score(self, model: Model, state: DescentState, batch: Batch, key: Key) -> RowValues:
        return log_mean_prob(self.posterior(model, unpack(state.result), batch.x), batch, key)
