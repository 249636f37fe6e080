"""The devices a run is split over: those of one process, or of several, joined by JAX's own runtime."""

from __future__ import annotations

import sys

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from training.errors import UserError, require


def join(coordinator: str, num_processes: int | None, process_id: int | None) -> None:
    """Join this process to the others of its run. Nothing may have asked JAX for its devices before.

    Args:
      coordinator: "host:port" of process 0, where the others find it; or "auto", where JAX knows the cluster.
      num_processes: how many there are; None with "auto".
      process_id: which of them this is, from 0; None with "auto".

    Raises:
      UserError: with "auto", JAX does not know this cluster; or the others did not come.

    Source: `jax.distributed.initialize`, which lists the clusters it knows.
    """
    address = None if coordinator == "auto" else coordinator
    if process_id is not None:
        print(f"process {process_id} of {num_processes}, waiting for the others at {coordinator}", file=sys.stderr)
    try:
        jax.distributed.initialize(address, num_processes, process_id)
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"--coordinator {coordinator}: the processes could not be joined ({reason}).") from error


def make_mesh(count: int | None = None) -> Mesh:
    """A mesh of one axis, "batch", over all devices of all processes, or the first `count`.

    Raises:
      UserError: there are not so many; or fewer than all are asked for with several processes.
    """
    there = jax.devices()
    count = count or len(there)
    require(count <= len(there), f"--devices must be at most {len(there)}, all there are; got {count}.")
    require(
        count == len(there) or jax.process_count() == 1,
        f"--devices must be all {len(there)} with several processes, got {count}.",
    )
    # Auto, not Explicit: a user's own model need not say how each of its operations is split.
    return jax.make_mesh((count,), ("batch",), (AxisType.Auto,), devices=there[:count])


def split(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec("batch"))


def everywhere(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """A copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    return jax.process_index() == 0
