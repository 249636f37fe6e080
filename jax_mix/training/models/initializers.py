"""Initial weights: Flax's own numbers, drawn so that XLA compiles one program for all kernels of a small network."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Array, Key

_LEAST = 2**16  # numbers, the fewest that are drawn: some milliseconds, where a program takes a fifth of a second


def variance_scaling(
    scale: float,
    mode: Literal["fan_in", "fan_out"] = "fan_in",
    distribution: Literal["normal", "truncated_normal"] = "normal",
) -> nnx.Initializer:
    """`nnx.initializers.variance_scaling`, for kernels `[*window, in, out]` on one device; the same to the last bit.

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

        def draw(count: int) -> Any:
            # Its fan is `count`, a power of two times as many as there are or as many: the quotient is the same number.
            part = scale * others * count / size
            flat: Any = nnx.initializers.variance_scaling(part, "fan_in", distribution, in_axis=0, out_axis=())
            return flat(key, (count,), dtype)

        return _first_of(draw, key, shape)

    return init


def normal(std: float) -> nnx.Initializer:
    """Normal numbers of deviation `std`, drawn along one axis.

    They are those of `std * jax.random.normal`.

    >>> import jax
    >>> normal(0.02)(jax.random.key(0), (3, 4)).shape
    (3, 4)
    """

    def init(key: Key[Array, ""], shape: Any, dtype: Any = jnp.float32) -> Any:
        return _first_of(lambda count: std * jax.random.normal(key, (count,), dtype), key, shape)

    return init


def _first_of(draw: Callable[[int], Any], key: Key[Array, ""], shape: Any) -> Any:
    """The numbers that `draw` gives for the size of `shape`, in that shape.

    They are drawn along one axis, as XLA's CPU compiler unrolls loops over short ones. Where nothing is being traced
    more are drawn, a power of two of them, for kernels of many shapes to share a program: of JAX's own generator each
    number is a function of key and place alone, so that the first are the same.
    """
    size = math.prod(shape)
    alike = jax.config.jax_threefry_partitionable and jax.random.key_impl(key) == "threefry2x32"  # type: ignore[attr-defined]
    if isinstance(key, jax.core.Tracer) or not alike:
        return draw(size).reshape(shape)
    drawn = draw(max(_LEAST, 2 ** math.ceil(math.log2(max(size, 1)))))
    return jax.device_put(np.asarray(drawn)[:size].reshape(shape))


lecun_normal = variance_scaling(1.0, distribution="truncated_normal")  # as Flax's layers start
kaiming_normal = variance_scaling(2.0)  # torch's kaiming_normal_
kaiming_normal_fan_out = variance_scaling(2.0, "fan_out")
