"""What a network reads: numbers in one array of float32, or something that it makes into one."""

from typing import Any, Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class OwnInputs(Protocol):
    """A network that reads other things than one array of numbers, such as integer tokens or several arrays."""

    def join_inputs(self, x: Any) -> np.ndarray:
        """One array of float32 with the rows first, which ``apply`` also takes.

        Parameters
        ----------
        x : pytree of arrays
            Inputs as the network takes them.

        Returns
        -------
        float32 array of shape (rows, ...)
            Everything in them, exactly.

        Raises
        ------
        ValueError
            If the network cannot take them.
        """
        ...


def joined_inputs(network: Any, x: Any) -> np.ndarray:
    """The inputs of a network as one array.

    Parameters
    ----------
    network : AnyNetwork
        The network.
    x : array or pytree of arrays
        Its inputs.

    Returns
    -------
    array of shape (rows, ...)
        ``x``, or what the network makes of it.
    """
    return network.join_inputs(x) if isinstance(network, OwnInputs) else np.asarray(x)
