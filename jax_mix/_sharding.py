"""Sharding: what indexing, selecting and broadcasting must be told where a batch is split over devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

if TYPE_CHECKING:
    from jax import Array
    from jax.typing import ArrayLike


def explicit_sharding(x: Array) -> NamedSharding | None:
    """The sharding of `x` if its mesh has Explicit axes, where indexing and selecting must be told; else None."""
    sharding = jax.typeof(x).sharding
    return sharding if AxisType.Explicit in sharding.mesh.axis_types else None


def replicated(value: ArrayLike) -> Array:
    """`value` whole on every device, where its mesh has Explicit axes: it can be indexed and sorted there."""
    value = jnp.asarray(value)
    sharding = explicit_sharding(value)
    return jax.sharding.reshard(value, of_mesh(sharding)) if sharding else value


def of_mesh(sharding: NamedSharding, *axes: Any) -> NamedSharding:
    """A sharding on the same mesh, named in full: a bare `PartitionSpec` needs `jax.set_mesh` around it."""
    return NamedSharding(sharding.mesh, PartitionSpec(*axes))


def stays_in_groups(x: Array, groups: int) -> bool:
    """Whether, as far as is known while tracing, no device has a part of one of the batch's groups only."""
    sharding = explicit_sharding(x)
    return not sharding or groups % (x.shape[0] // sharding.shard_shape(x.shape)[0]) == 0


def take_in_groups(x: Array, partner: Array, groups: int, sharding: NamedSharding | None) -> Array:
    """`x[partner]`, written so that XLA sees that no index leaves its group."""
    size = x.shape[0] // groups
    index = partner.reshape(groups, size) % size
    within = None
    if sharding:
        index = jax.sharding.reshard(index, of_mesh(sharding, sharding.spec[0]))
        within = of_mesh(sharding, None, *sharding.spec[1:])
    take = jax.vmap(lambda x, index: x.at[index].get(out_sharding=within))
    return take(x.reshape(groups, size, *x.shape[1:]), index).reshape(x.shape)
