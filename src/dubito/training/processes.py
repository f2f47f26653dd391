"""What the processes of one fit do together: stop, resume, and write one file."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Int

from dubito._jax import programs


def spans_processes(mesh: Any) -> bool:
    """Whether the devices of a mesh, or None, belong to several processes."""
    return mesh is not None and len(_processes(mesh)) > 1


def writes_files(mesh: Any) -> bool:
    """Whether this is the process of a mesh, or None, that writes the files of all."""
    return mesh is None or jax.process_index() == min(_processes(mesh))


def in_any_process(mesh: Any, flag: bool) -> bool:
    """Whether ``flag`` is true in any process of a mesh, all of which must call this; without one, ``flag``."""
    return bool(gather(mesh, [flag]).any()) if spans_processes(mesh) else flag


def same_in_all_processes(mesh: Any, digest: str) -> bool:
    """Whether a hexadecimal text is the same in all processes of a mesh, all of which must call this; True without one."""
    if not spans_processes(mesh):
        return True
    found = gather(mesh, [int(digest[start : start + 7], 16) for start in range(0, len(digest), 7)])
    return bool(np.all(found == found[:1]))


def gather(mesh: Any, numbers: Sequence[int]) -> Int[np.ndarray, "devices numbers"]:
    """The whole numbers, below 2³¹, of the process of each device of a mesh. All processes must call this."""
    own = np.asarray(numbers, np.int32)[None]
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    parts = jax.make_array_from_callback((mesh.size, own.shape[1]), sharding, lambda _: own)
    return np.asarray(_replicated(parts, mesh))


@programs.jit(static_argnums=1)
def _replicated(values: Any, mesh: Any) -> Any:
    """The same array on all devices of a mesh."""
    return jax.lax.with_sharding_constraint(values, NamedSharding(mesh, PartitionSpec()))


def _processes(mesh: Any) -> set[int]:
    return {device.process_index for device in mesh.devices.flat}
