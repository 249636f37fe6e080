"""Parameters split over the devices (--shard-parameters), whole on each only while they are used.

Optimizers work on the parts. A forward pass gathers each array before its use, a backward pass again.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from jax_mix.training import devices
from jax_mix.training.errors import UserError

Result = TypeVar("Result")
SMALL = 2**12  # numbers; an array of fewer stays whole, because to gather it would take longer than it saves memory


def parts(tree: Any, mesh: Mesh) -> Any:
    """For each array of a pytree, how it is split: along its longest axis of those that the devices divide.

    Of axes as long the last is taken. Small arrays, and those without such an axis, are whole on each device.

    >>> mesh = devices.make_mesh(1)
    >>> parts({"kernel": jax.ShapeDtypeStruct((3, 3, 64, 128), "float32")}, mesh)["kernel"].spec[3]
    'batch'
    """

    def of(a: Any) -> NamedSharding:
        axis = _axis(a.shape, mesh.size)
        return NamedSharding(mesh, PartitionSpec(*() if axis is None else (*[None] * axis, "batch")))

    return jax.tree.map(of, tree)


def is_split(tree: Any) -> bool:
    """Whether an array of a pytree is split over devices."""
    return any(isinstance(a, jax.Array) and not a.sharding.is_fully_replicated for a in jax.tree.leaves(tree))


def kept_in_parts(tree: Any, mesh: Mesh) -> Any:
    """The arrays of a pytree, within a compiled program, split as `parts` says."""
    return jax.lax.with_sharding_constraint(tree, parts(tree, mesh))


def gathered(model: nnx.Module, mesh: Mesh | AbstractMesh) -> nnx.Module:
    """A copy of a model, within a compiled program, whose arrays are whole on each device of the mesh."""
    graphdef, state = nnx.split(model)
    return nnx.merge(graphdef, _gathered(state, mesh))


def gathering(loss: Callable[[nnx.Module], Result], mesh: Mesh, batch: Any) -> Callable[[nnx.Module], Result]:
    """`loss`, to be differentiated, for a model whose parameters are split over the devices of the mesh.

    What is gathered for the forward pass is not kept for the backward pass: it is gathered again, array for array, for
    the devices to hold few whole ones at a time. All else is kept, as without.

    Args:
      loss: of a model, whose Variables it may change, but for its Params.
      mesh: over which `parts` has split them.
      batch: array that the loss is of. Nothing is gathered before it is there: else XLA would gather all ahead of a
        loop over the parts of a batch, and keep it.
    """

    def of_split(model: nnx.Module) -> Result:
        graphdef, state = nnx.split(model)
        split = {a.shape for a in jax.tree.leaves(state) if _axis(a.shape, mesh.size) is not None}

        def kept(primitive: Any, *inputs: Any, **_: Any) -> bool:
            # Of what has the shape of a split array: neither what is gathered, nor what a layer casts it to.
            made_of_one = ("optimization_barrier", "sharding_constraint", "convert_element_type")
            return primitive.name not in made_of_one or inputs[0].shape not in split

        def of_state(state: Any) -> tuple[Result, Any]:
            whole = nnx.merge(graphdef, _gathered(state, mesh, batch))
            result = loss(whole)
            return result, nnx.state(whole, nnx.Not(nnx.Param))

        result, changed = jax.checkpoint(of_state, policy=kept)(state)
        nnx.update(model, changed)
        return result

    return of_split


def in_host_memory(mesh: Mesh | None) -> contextlib.AbstractContextManager[Any]:
    """Where a network is made that is then split over a mesh: a device may be too small for all of it; None: anywhere.

    Raises:
      UserError: JAX was told to leave the CPU alone.
    """
    if mesh is None or jax.default_backend() == "cpu":
        return contextlib.nullcontext()
    try:
        host = jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        told = "--shard-parameters makes the network in the host's memory: let JAX_PLATFORMS name cpu too"
        raise UserError(f"{told}, as in cuda,cpu; got {jax.config.jax_platforms}.") from error  # type: ignore[attr-defined]
    return jax.default_device(host)


def told(tree: Any) -> str:
    """How much of a pytree of arrays a device holds.

    >>> told({"kernel": jax.numpy.zeros((512, 1024))})
    '2.1 MB of parameters, averages and optimizer state on each device, 2.1 MB in all'
    """
    leaves = [a for a in jax.tree.leaves(tree) if not jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key)]
    here = sum(math.prod(a.sharding.shard_shape(a.shape)) * a.dtype.itemsize for a in leaves) / 1e6
    everything = sum(a.nbytes for a in leaves) / 1e6
    return f"{here:,.1f} MB of parameters, averages and optimizer state on each device, {everything:,.1f} MB in all"


def _gathered(tree: Any, mesh: Mesh | AbstractMesh, after: Any = None) -> Any:
    """The arrays of a pytree whole on each device, where they are not; not before `after` is there."""

    def gather(a: Any) -> Any:
        if _axis(a.shape, mesh.size) is None:
            return a
        a, _ = jax.lax.optimization_barrier((a, after))
        return jax.lax.with_sharding_constraint(a, devices.everywhere(mesh))

    return jax.tree.map(gather, tree)


def _axis(shape: tuple[int, ...], count: int) -> int | None:
    """Along which axis an array of this shape is split over `count` devices; None: it is whole on each."""
    axes = [axis for axis, length in enumerate(shape) if length % count == 0]
    if math.prod(shape) < SMALL or not axes:
        return None
    return max(axes, key=lambda axis: (shape[axis], axis))
