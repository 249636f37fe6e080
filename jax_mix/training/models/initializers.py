"""Initial weights: Flax's own numbers, drawn so that XLA compiles them for CPU in a fraction of the time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

if TYPE_CHECKING:
    from jaxtyping import Array, Key


def variance_scaling(
    scale: float,
    mode: Literal["fan_in", "fan_out"] = "fan_in",
    distribution: Literal["normal", "truncated_normal"] = "normal",
) -> nnx.Initializer:
    """`nnx.initializers.variance_scaling`, for kernels `[*window, in, out]` on one device; the same to the last bit.

    The numbers are drawn along one axis: XLA's CPU compiler unrolls loops over short ones.

    >>> import jax
    >>> kernel = variance_scaling(1.0)(jax.random.key(0), (3, 3, 2, 4))
    >>> kernel.shape, kernel.dtype
    ((3, 3, 2, 4), dtype('float32'))

    Args:
      scale: of the variance, which is `scale` divided by the number of inputs or outputs.
      mode: which of them.
      distribution: the truncated one has no numbers beyond two standard deviations.

    Source: He et al., arXiv:1502.01852, section 2.2; `jax.nn.initializers.variance_scaling`.
    """

    def init(key: Key[Array, ""], shape: Any, dtype: Any = jnp.float32) -> Any:
        *window, inputs, outputs = shape
        size = math.prod(window) * inputs * outputs
        others = outputs if mode == "fan_in" else inputs  # the vector's fan is its length, these times the kernel's
        flat: Any = nnx.initializers.variance_scaling(scale * others, "fan_in", distribution, in_axis=0, out_axis=())
        return flat(key, (size,), dtype).reshape(shape)

    return init


def normal(std: float) -> nnx.Initializer:
    """Normal numbers of deviation `std`, drawn along one axis.

    >>> import jax
    >>> normal(0.02)(jax.random.key(0), (3, 4)).shape
    (3, 4)
    """

    def init(key: Key[Array, ""], shape: Any, dtype: Any = jnp.float32) -> Any:
        return (std * jax.random.normal(key, (math.prod(shape),), dtype)).reshape(shape)

    return init


lecun_normal = variance_scaling(1.0, distribution="truncated_normal")  # as Flax's layers start
kaiming_normal = variance_scaling(2.0)  # torch's kaiming_normal_
kaiming_normal_fan_out = variance_scaling(2.0, "fan_out")
