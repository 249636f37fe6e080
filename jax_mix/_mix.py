"""One batch's draw, `Mix`, and applying it: to arrays, to targets and to losses. Nothing here is random."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_mix import _sampling
from jax_mix._checks import (
    batch_size,
    check_arrays,
    check_blendable,
    check_box_form,
    check_divides,
    check_groups,
    check_loss,
    check_no_torch,
    check_spatial,
    check_targets,
    is_concrete,
    shown,
    two_ints,
)
from jax_mix._lerp import column, per_sample
from jax_mix._lerp import lerp as _lerp
from jax_mix._sharding import explicit_sharding, take_in_groups

if TYPE_CHECKING:
    from jax.typing import ArrayLike
    from jaxtyping import Array, Float, Int, PyTree

INPUT = "input"  # the name of layer 0, the model's input


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no one truth value
class Mix:
    """One batch's draw: how much each sample keeps, who it is mixed with, and where.

    A method's `sample` makes it. Make one by hand to replay a draw from elsewhere, say of the original
    implementations. It is a pytree: log it, save it, vmap or scan over it.

    Attributes:
      lam: float, `[batch]` or one for all `[]`: the weight of the sample itself in [0, 1]; its partner gets
        the rest, `lam * x + (1 - lam) * x[partner]`. With a box, the area left.
      partner: int, `[batch]`: sample `i` is mixed with sample `partner[i]`.
      box: int, `[batch, 4]` or one for all `[4]`, or None: `(y1, x1, y2, x2)` in pixels, end exclusive. Inside
        it the partner's values are pasted, outside it the sample is left as it is.
      layer: where: the name of a layer (static), or an int array `[]`, an index into `layers`. "input" is the
        model's input.
      layers: the names that an index `layer` counts.
      image_size: `(height, width)` in pixels of the images that `box` was drawn for, or None if not known.
      spatial_axes: the two axes that `box` cuts, (1, 2) for NHWC.
      groups: in how many equal, consecutive parts of the batch partners stay among themselves. Where a batch is split
        over devices and none of its parts is, partners are found without communication.

    Source: the notation of mixup (arXiv:1710.09412), Manifold Mixup (1806.05236) and CutMix (1905.04899).

    >>> import jax.numpy as jnp, jax_mix
    >>> mix = jax_mix.Mix(lam=jnp.array([0.75, 1.0]), partner=jnp.array([1, 0]))
    >>> mix.blend(jnp.array([[0.0], [4.0]]))
    Array([[1.],
           [4.]], dtype=float32)
    """

    lam: ArrayLike
    partner: ArrayLike
    box: ArrayLike | None = None
    layer: str | Array = INPUT
    layers: tuple[str, ...] = (INPUT,)
    image_size: tuple[int, int] | None = None
    spatial_axes: tuple[int, int] = (1, 2)
    groups: int = 1

    @classmethod
    def from_box(
        cls,
        partner: ArrayLike,
        box: ArrayLike,
        image_size: tuple[int, int],
        *,
        spatial_axes: tuple[int, int] = (1, 2),
        groups: int = 1,
    ) -> Mix:
        """CutMix's draw from its box: lambda is the area left.

        Args:
          partner: int `[batch]`.
          box: int `[4]` or `[batch, 4]`, `(y1, x1, y2, x2)` in pixels, end exclusive, inside the image.
          image_size: `(height, width)` in pixels.
          spatial_axes: the axes of height and width.
          groups: as the attribute.

        Returns:
          A `Mix`, `lam` float32 `[batch]`, or with x64 float64.

        Raises:
          ValueError: the box is not whole pixels inside the image, or `image_size` is not two numbers.

        Source: CutMix, arXiv:1905.04899, equation 1.

        >>> import jax.numpy as jnp, jax_mix
        >>> jax_mix.Mix.from_box(jnp.array([1, 0]), jnp.array([0, 0, 16, 16]), (32, 32)).lam
        Array([0.75, 0.75], dtype=float32)
        """
        image_size = two_ints("image_size", image_size, "(height, width)")
        check_box_form(box, partner)
        lam = _sampling.area_left(jnp.asarray(box), *image_size)
        lam = jnp.broadcast_to(lam, np.shape(partner))
        mix = cls(lam, partner, box, image_size=image_size, spatial_axes=spatial_axes, groups=groups)
        mix._check_box(image_size)
        return mix

    def blend(self, x: PyTree[ArrayLike]) -> PyTree[Array]:
        """Mix arrays, inputs or hidden states, with their partners; wherever `layer` is.

        Args:
          x: float or complex arrays, batch first, in any pytree. With a box, each has the two `spatial_axes`, and
            any type: pixels are pasted, so that integer images and masks are too.

        Returns:
          The same tree, shapes and dtypes. bfloat16 and float16 are blended in float32. A sample of weight 1 is as it
          was, one of weight 0 is its partner, also where the other is infinite or nan.

        Raises:
          TypeError: an array is not of a floating type, and there is no box; or it is no array of JAX or NumPy.
          ValueError: the batch is not this draw's, or the box does not fit the image.

        >>> import jax.numpy as jnp, jax_mix
        >>> mix = jax_mix.Mix(lam=0.75, partner=jnp.array([1, 0]), box=jnp.array([0, 0, 1, 2]))
        >>> mix.blend(jnp.stack([jnp.zeros((2, 4, 1)), jnp.ones((2, 4, 1))]))[0, ..., 0]
        Array([[1., 1., 0., 0.],
               [0., 0., 0., 0.]], dtype=float32)
        """
        self._check_batch(x, "x")
        if self.box is not None:
            return jax.tree.map(self._paste, x)
        check_blendable(x)
        return jax.tree.map(self._lerp, x)

    def targets(self, y: PyTree[ArrayLike]) -> PyTree[Array]:
        """Mix targets: `lam * y + (1 - lam) * y[partner]`, also where the inputs were pasted.

        Args:
          y: float arrays, batch first, in any pytree: one-hot or soft labels, several labels a sample,
            regression targets.

        Returns:
          The same tree, shapes and dtypes.

        Raises:
          TypeError: `y` is integer or strings: make it one-hot, or use `mixed_loss`.
          ValueError: the batch is not this draw's.

        >>> import jax, jax.numpy as jnp, jax_mix
        >>> mix = jax_mix.Mix(lam=0.75, partner=jnp.array([1, 0]))
        >>> mix.targets(jax.nn.one_hot(jnp.array([0, 2]), 3))
        Array([[0.75, 0.  , 0.25],
               [0.25, 0.  , 0.75]], dtype=float32)
        """
        self._check_batch(y, "y")
        check_targets(y)
        return jax.tree.map(self._lerp, y)

    def losses(self, own: ArrayLike, partners: ArrayLike) -> Array:
        """Weigh per-example losses against the sample's own label and against its partner's.

        Args:
          own: float `[batch, ...]`, the losses for the samples' own labels.
          partners: the same shape, the losses for the partners' labels.

        Returns:
          `lam * own + (1 - lam) * partners`, `[batch, ...]`, unreduced. A loss of weight 0 counts for nothing, also
          if it is infinite.

        Raises:
          TypeError: the losses are not arrays of floats.
          ValueError: the losses are not one per example.

        >>> import jax.numpy as jnp, jax_mix
        >>> jax_mix.Mix(lam=0.75, partner=jnp.array([1, 0])).losses(jnp.array([0.0, 1.0]), jnp.array([4.0, 1.0]))
        Array([1., 1.], dtype=float32)
        """
        check_loss(own)
        check_loss(partners)
        own, partners = jnp.asarray(own), jnp.asarray(partners)
        n = np.shape(self.partner)[0]
        if own.shape[:1] != (n,) or own.shape != partners.shape:
            raise ValueError(
                f"the loss must be one per example, [{n}, ...], not yet reduced; got shape {own.shape}"
                + (f" and {partners.shape}." if own.shape != partners.shape else ".")
            )
        return _lerp(own, partners, self.lam)

    @property
    def layer_name(self) -> str:
        """The name of the layer that was drawn, for logs; ValueError inside jit, where it is not known yet."""
        if isinstance(self.layer, str):
            return self.layer
        if not is_concrete(self.layer):
            raise ValueError("layer_name is not known inside jit: return the Mix and read it outside.")
        return self.layers[int(self.layer)]

    def take_partners(self, x: PyTree[ArrayLike]) -> PyTree[Array]:
        """Each sample's partner, `x[partner]`, in any pytree of arrays, of any dtype.

        Raises:
          ValueError: the batch is not this draw's.

        >>> import jax.numpy as jnp, jax_mix
        >>> jax_mix.Mix(lam=0.5, partner=jnp.array([2, 0, 1])).take_partners(jnp.array([10, 11, 12]))
        Array([12, 10, 11], dtype=int32)
        """
        self._check_batch(x, "x")
        return jax.tree.map(self._take, x)

    def _take(self, x: ArrayLike) -> Array:
        x, partner = jnp.asarray(x), jnp.asarray(self.partner)
        sharding = explicit_sharding(x)
        shards = x.shape[0] // sharding.shard_shape(x.shape)[0] if sharding else 1
        if self.groups == 1 or self.groups % shards:
            return x.at[partner].get(out_sharding=sharding)
        return take_in_groups(x, partner, self.groups, sharding)

    def _lerp(self, x: ArrayLike) -> Array:
        x = jnp.asarray(x)
        return _lerp(x, self._take(x), self.lam)

    def _paste(self, x: ArrayLike) -> Array:
        x = jnp.asarray(x)
        rows, columns = self.spatial_axes
        check_spatial("x of shape", x.shape, (rows, columns))
        size = x.shape[rows], x.shape[columns]
        self._check_box(size)
        y1, x1, y2, x2 = jnp.moveaxis(per_sample(jnp.asarray(self.box), x.shape[0], 1), -1, 0)
        inside_rows = _inside(y1, y2, size[0])
        inside_columns = _inside(x1, x2, size[1])
        mask = inside_rows[:, :, None] & inside_columns[:, None, :]
        if rows > columns:
            mask = jnp.swapaxes(mask, 1, 2)
        mask = jnp.expand_dims(mask, tuple(a for a in range(1, x.ndim) if a not in (rows, columns)))
        mask = jnp.broadcast_to(mask, x.shape, out_sharding=explicit_sharding(x))
        return jnp.where(mask, self._take(x), x)

    def _check_box(self, size: tuple[int, int]) -> None:
        check_box_form(self.box, self.partner)
        if self.image_size is not None and tuple(self.image_size) != size:
            raise ValueError(f"the box was drawn for images of {self.image_size} pixels, got x of {size} pixels.")
        if is_concrete(self.box):
            y1, x1, y2, x2 = np.moveaxis(np.asarray(self.box), -1, 0)
            if np.any((y1 < 0) | (x1 < 0) | (y2 > size[0]) | (x2 > size[1]) | (y1 > y2) | (x1 > x2)):
                box = np.asarray(self.box).tolist()
                raise ValueError(f"box must be (y1, x1, y2, x2) inside the image of {size} pixels, got {box}.")

    def _check_batch(self, tree: Any, what: str) -> None:
        check_arrays(self.lam, "lam")
        check_arrays(self.partner, "partner")
        if np.ndim(self.partner) != 1 or np.shape(self.lam) not in ((), np.shape(self.partner)):
            raise ValueError(
                "partner must be one int a sample, [batch], and lam as many floats or one for all; got shapes "
                f"{np.shape(self.partner)} and {np.shape(self.lam)}."
            )
        n = np.shape(self.partner)[0]
        check_groups(self.groups)
        check_divides(self.groups, n)
        if is_concrete(self.partner):
            partner = np.asarray(self.partner)
            if not np.issubdtype(partner.dtype, np.integer) or np.any((partner < 0) | (partner >= n)):
                raise ValueError(f"partner must be whole numbers from 0 to {n - 1}, got {shown(partner.tolist())}.")
            size = n // self.groups
            if self.groups > 1 and np.any(partner // size != np.arange(n) // size):
                raise ValueError(
                    f"partner must be of the same of {self.groups} groups of {size}, got {shown(partner.tolist())}."
                )
        if is_concrete(self.lam) and not np.all((np.asarray(self.lam) >= 0) & (np.asarray(self.lam) <= 1)):
            raise ValueError(f"lam must be from 0 to 1, got {shown(np.asarray(self.lam).tolist())}.")
        if len(set(self.layers)) < len(self.layers):
            raise ValueError(f"layers must be different names, got {self.layers}.")
        if not isinstance(self.layer, str) and is_concrete(self.layer):
            index = int(np.asarray(self.layer))  # an operation of jax.numpy would be traced inside jit
            if not 0 <= index < len(self.layers):
                raise ValueError(f"layer must be a name or an index into layers, {self.layers}, got {index}.")
        if batch_size(tree, what) != n:
            raise ValueError(f"{what} must have the draw's batch size, {n}, got {batch_size(tree, what)}.")

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        static_layer = self.layer if isinstance(self.layer, str) else None
        children = tuple(
            (jax.tree_util.GetAttrKey(name), value)
            for name, value in (
                ("lam", self.lam),
                ("partner", self.partner),
                ("box", self.box),
                ("layer", None if static_layer is not None else self.layer),
            )
        )
        return children, (static_layer, self.layers, self.image_size, self.spatial_axes, self.groups)

    @classmethod
    def tree_unflatten(cls, static: Any, children: Any) -> Mix:
        lam, partner, box, layer = children
        return cls(lam, partner, box, layer if static[0] is None else static[0], *static[1:])


def mixed_loss(
    loss_fn: Callable[[Any, Any], Array], logits: PyTree[ArrayLike], labels: PyTree[ArrayLike], mix: Mix | None
) -> Float[Array, "batch ..."]:
    """The per-example loss of a mixed batch: `lam * loss(logits, y) + (1 - lam) * loss(logits, y[partner])`.

    Works for any loss, class numbers included. For losses linear in the targets, as cross-entropy is, it equals
    the loss against `mix.targets(one_hot)`.

    Args:
      loss_fn: takes `logits` and labels, returns one loss per example, `[batch, ...]`, as optax's losses do.
      logits: what the model put out, `[batch, ...]`.
      labels: `[batch, ...]` in any pytree, as `loss_fn` takes them, not mixed.
      mix: the batch's draw, or None for a batch that was not mixed.

    Returns:
      `[batch, ...]`, unreduced: the caller takes the mean. Where a label's weight is 0, `loss_fn` gets the other in its
      place: a loss that is infinite for it makes neither the sum nor a gradient infinite or nan.

    Raises:
      TypeError: `mix` is not a `Mix`, or `loss_fn` does not return floats.
      ValueError: `loss_fn` does not return one loss per example, or the batch is not this draw's.

    Source: mixup's `mixup_criterion`; fastai's `MixHandler.lf`.

    >>> import jax.numpy as jnp, optax, jax_mix
    >>> xent = optax.softmax_cross_entropy_with_integer_labels
    >>> mix = jax_mix.Mix(lam=0.75, partner=jnp.array([1, 0]))
    >>> jax_mix.mixed_loss(xent, jnp.array([[0.0, 0.0], [0.0, 0.0]]), jnp.array([0, 1]), mix).round(4)
    Array([0.6931, 0.6931], dtype=float32)
    """
    if mix is None:
        return loss_fn(logits, labels)
    check_mix(mix)
    check_no_torch(logits, "logits")
    mix._check_batch(labels, "labels")
    labels = jax.tree.map(jnp.asarray, labels)
    partners = jax.tree.map(mix._take, labels)
    own = jax.tree.map(lambda own, other: jnp.where(column(mix.lam, own) > 0, own, other), labels, partners)
    others = jax.tree.map(lambda own, other: jnp.where(column(mix.lam, own) < 1, other, own), labels, partners)
    return mix.losses(loss_fn(logits, own), loss_fn(logits, others))


def check_mix(mix: Any) -> None:
    if not isinstance(mix, Mix):
        raise TypeError(f"mix must be a jax_mix.Mix, as method.sample returns, got {type(mix).__name__}.")


def _inside(start: Int[Array, " batch"], stop: Int[Array, " batch"], length: int) -> Array:
    pixel = jnp.arange(length, dtype=jnp.int32)[None, :]
    return (pixel >= start[:, None]) & (pixel < stop[:, None])
