"""One batch's draw, `Mix`, and applying it: to arrays, to targets and to losses. Nothing here is random."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

import jax
import jax.numpy as jnp
import numpy as np

from jax_mix import _product, _sampling
from jax_mix._checks import (
    SIDES,
    batch_size,
    check_axes,
    check_blendable,
    check_box_form,
    check_like,
    check_loss,
    check_spatial,
    check_targets,
    ints,
    is_concrete,
)
from jax_mix._draw_checks import check_box, check_draw
from jax_mix._lerp import column, per_sample
from jax_mix._lerp import lerp as _lerp
from jax_mix._pixels import covered as _covered
from jax_mix._pixels import dense_axes, of_axes
from jax_mix._pixels import inside as _inside
from jax_mix._sharding import explicit_sharding, stays_in_groups, take_in_groups

if TYPE_CHECKING:
    from jax import Array
    from jax.typing import ArrayLike

Tree = TypeVar("Tree")
INPUT = "input"  # the name of layer 0, the model's input
OUTPUT = "<output>"  # what the model puts out: no path, so that a module may be called "output"


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no one truth value
class Mix:
    """One batch's draw: how much each sample keeps, who it is mixed with, and where.

    A method's `sample` makes it. Make one by hand to replay a draw from elsewhere, say of the original
    implementations. It is a pytree: log it, save it, vmap or scan over it.

    Attributes:
      lam: float, `[batch]` or one for all `[]`: the weight of the sample's own target in [0, 1]; its partner's gets
        the rest. Without a box, also that of its values: `lam * x + (1 - lam) * x[partner]`. With one, the area left.
      partner: int, `[batch]`: sample `i` is mixed with sample `partner[i]`.
      box: int, `[batch, 4]` or one for all `[4]`, or None: `(y1, x1, y2, x2)` in pixels, end exclusive; of one
        spatial axis `(x1, x2)`, of three `(z1, y1, x1, z2, y2, x2)`. Inside it the partner's values are pasted.
      layer: where: the name of a layer (static), or an int array `[]`, an index into `layers`. "input" is the
        model's input, "<output>" its output.
      layers: the names that an index `layer` counts.
      image_size: `(height, width)` in pixels of the images that `box` was drawn for, or None if not known.
      spatial_axes: the axes that `box` cuts, (1, 2) for NHWC; one to three.
      groups: in how many equal, consecutive parts of the batch partners stay among themselves. Where a batch is split
        over devices and none of its parts is, partners are found without communication.
      outside: float, `[batch]` or one for all `[]`: the weight of a sample's own values outside of its box; or None,
        1 where there is a box and `lam` where there is none. With it one batch has rows of CutMix (1), of MixUp (`lam`
        and an empty box) and unmixed ones.
      box_layers: of `layers`, those that the box cuts, or None for all; at the others `outside` alone counts. At a
        hidden layer of another size than the image the box is scaled, and a cell that it covers in part takes that
        part of the partner.

    Source: the notation of mixup (arXiv:1710.09412), Manifold Mixup (1806.05236) and CutMix (1905.04899).

    >>> import jax.numpy as jnp, jax_mix
    >>> mix = jax_mix.Mix(lam=jnp.array([0.75, 1.0]), partner=jnp.array([1, 0]))
    >>> mix.blend(jnp.array([[0.0], [4.0]]))
    Array([[1.],
           [4.]], dtype=float32)
    """

    lam: Array
    partner: Array
    box: Array | None = None
    layer: str | Array = INPUT
    layers: tuple[str, ...] = (INPUT,)
    image_size: tuple[int, ...] | None = None
    spatial_axes: tuple[int, ...] = (1, 2)
    groups: int = 1
    outside: Array | None = None
    box_layers: tuple[str, ...] | None = None

    if TYPE_CHECKING:  # a draw has arrays; one that is made by hand may be given numbers, and keeps what it was given

        def __init__(
            self,
            lam: ArrayLike,
            partner: ArrayLike,
            box: ArrayLike | None = None,
            layer: str | ArrayLike = INPUT,
            layers: Sequence[str] = (INPUT,),
            image_size: Sequence[int] | None = None,
            spatial_axes: Sequence[int] = (1, 2),
            groups: int = 1,
            outside: ArrayLike | None = None,
            box_layers: Sequence[str] | None = None,
        ) -> None: ...

    @classmethod
    def from_box(
        cls,
        partner: ArrayLike,
        box: ArrayLike,
        image_size: Sequence[int],
        *,
        spatial_axes: Sequence[int] = (1, 2),
        groups: int = 1,
    ) -> Mix:
        """CutMix's draw from its box: lambda is the area left.

        Args:
          partner: int `[batch]`.
          box: int `[4]` or `[batch, 4]`, `(y1, x1, y2, x2)` in pixels, end exclusive, inside the image.
          image_size: `(height, width)` in pixels; one number for each of the `spatial_axes`.
          spatial_axes: the axes of height and width, or one to three others.
          groups: as the attribute.

        Returns:
          A `Mix`, `lam` float32 `[batch]`, or with x64 float64.

        Raises:
          ValueError: the box is not whole pixels inside the image, or `image_size` is not as many numbers as there are
            axes.

        Source: CutMix, arXiv:1905.04899, equation 1.

        >>> import jax.numpy as jnp, jax_mix
        >>> jax_mix.Mix.from_box(jnp.array([1, 0]), jnp.array([0, 0, 16, 16]), (32, 32)).lam
        Array([0.75, 0.75], dtype=float32)
        """
        axes = check_axes(spatial_axes)
        size = ints("image_size", image_size, len(axes), SIDES[len(axes)])
        check_box_form(box, partner, len(axes))
        lam = _sampling.area_left(jnp.asarray(box), size)
        lam = jnp.broadcast_to(lam, np.shape(partner))
        mix = cls(lam, partner, box, image_size=size, spatial_axes=axes, groups=groups)
        check_box(mix, size)
        return mix

    @overload
    def blend(self, x: ArrayLike, *, other: ArrayLike | None = None) -> Array: ...
    @overload
    def blend(self, x: Tree, *, other: Tree | None = None) -> Tree: ...
    def blend(self, x: Any, *, other: Any = None) -> Any:
        """Mix arrays, inputs or hidden states, with their partners; wherever `layer` is.

        Args:
          x: float or complex arrays, batch first, in any pytree. With a box, each has the `spatial_axes`, and any type
            if nothing but the box is mixed: pixels are pasted, so that integer images and masks are too.
          other: as `x`, a second batch to take the partners from, in place of `x` itself: of a loader of its own, or
            for a second draw, the batch before the first one.

        Returns:
          The same tree, shapes and dtypes. bfloat16 and float16 are blended in float32. A sample of weight 1 is as it
          was, one of weight 0 is its partner, also where the other is infinite or nan.

        Raises:
          TypeError: an array is not of a floating type, and is not pasted alone; or it is no array of JAX or NumPy.
          ValueError: the batch is not this draw's, or the box does not fit the image; `other` is not as `x` is.

        >>> import jax.numpy as jnp, jax_mix
        >>> mix = jax_mix.Mix(lam=0.75, partner=jnp.array([1, 0]), box=jnp.array([0, 0, 1, 2]))
        >>> mix.blend(jnp.stack([jnp.zeros((2, 4, 1)), jnp.ones((2, 4, 1))]))[0, ..., 0]
        Array([[1., 1., 0., 0.],
               [0., 0., 0., 0.]], dtype=float32)
        """
        other = self._check_pair(x, other, "x")
        if self.box is not None:
            if self.outside is not None:
                check_blendable(x)
            return jax.tree.map(self._paste, x, other)
        check_blendable(x)
        return jax.tree.map(self._lerp_values, x, other)

    @overload
    def targets(
        self, y: ArrayLike, *, dense: bool | Sequence[int] | None = None, other: ArrayLike | None = None
    ) -> Array: ...
    @overload
    def targets(self, y: Tree, *, dense: bool | Sequence[int] | None = None, other: Tree | None = None) -> Tree: ...
    def targets(self, y: Any, *, dense: bool | Sequence[int] | None = None, other: Any = None) -> Any:
        """Mix targets: `lam * y + (1 - lam) * y[partner]`, also where the inputs were pasted; or paste dense ones.

        Args:
          y: float arrays, batch first, in any pytree: one-hot or soft labels, several labels a sample,
            regression targets.
          dense: with a box, whether targets that have the images' spatial axes, such as masks and depths, are mixed as
            the images are, pixel by pixel (True, or those axes of theirs, if they are others), or by `lam` as a whole
            (False). None refuses them. Pasted ones may be of any dtype.
          other: as `y`, the targets of a second batch that partners are taken from.

        Returns:
          The same tree, shapes and dtypes.

        Raises:
          TypeError: `y` is integer or strings: make it one-hot, or use `mixed_loss`.
          ValueError: the batch is not this draw's; `y` has the images' spatial axes and `dense` says nothing.

        >>> import jax, jax.numpy as jnp, jax_mix
        >>> mix = jax_mix.Mix(lam=0.75, partner=jnp.array([1, 0]))
        >>> mix.targets(jax.nn.one_hot(jnp.array([0, 2]), 3))
        Array([[0.75, 0.  , 0.25],
               [0.25, 0.  , 0.75]], dtype=float32)
        """
        other = self._check_pair(y, other, "y")
        axes = dense_axes(self, y, dense, "y")

        def mixed(y: ArrayLike, other: ArrayLike, axes: tuple[int, ...] | None) -> Array:
            if axes is None or self.outside is not None:
                check_targets(y)
            return self._lerp(y, other, self.lam) if axes is None else self._paste(y, other, axes)

        leaves = map(mixed, jax.tree.leaves(y), jax.tree.leaves(other), axes)
        return jax.tree.unflatten(jax.tree.structure(y), leaves)

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

    @overload
    def take_partners(self, x: ArrayLike) -> Array: ...
    @overload
    def take_partners(self, x: Tree) -> Tree: ...
    def take_partners(self, x: Any) -> Any:
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
        if self.groups == 1 or not stays_in_groups(x, self.groups):
            return x.at[partner].get(out_sharding=sharding)
        return take_in_groups(x, partner, self.groups, sharding)

    def _partners(self, x: ArrayLike) -> Array:
        """As `_take`, or as a product in a program for a TPU: partners to be mixed."""
        if _product.fits(x := jnp.asarray(x), self.groups):
            return _product.choose(lambda x: _product.take(x, jnp.asarray(self.partner), self.groups), self._take, x)
        return self._take(x)

    def _lerp(self, x: ArrayLike, other: ArrayLike, weight: ArrayLike) -> Array:
        """`x` with the values of partners from `other`; `weight` is one for each sample, or for all."""
        if other is not x or not _product.fits(x := jnp.asarray(x), self.groups):
            return _lerp(jnp.asarray(x), self._partners(other), weight)
        return _product.choose(
            lambda x: _product.blend(x, jnp.asarray(self.partner), weight, self.groups),
            lambda x: _lerp(x, self._take(x), weight),
            x,
        )

    def _lerp_values(self, x: ArrayLike, other: ArrayLike) -> Array:
        return self._lerp(x, other, self.lam if self.outside is None else self.outside)

    def _paste(self, x: ArrayLike, other: ArrayLike, axes: tuple[int, ...] | None = None) -> Array:
        x = jnp.asarray(x)
        mask = jnp.broadcast_to(self._mask(x.shape, axes), x.shape, out_sharding=explicit_sharding(x))
        partners = self._partners(other)
        return jnp.where(mask, partners, x if self.outside is None else _lerp(x, partners, self.outside))

    def _mask(self, shape: tuple[int, ...], axes: tuple[int, ...] | None = None) -> Array:
        """Whether each pixel of an array of this shape is inside of its box, with 1 for every other axis."""
        axes = self.spatial_axes if axes is None else axes
        check_spatial("x of shape", shape, axes)
        size = tuple(shape[axis] for axis in axes)
        check_box(self, size)
        starts, ends = self._starts_and_ends(shape[0])
        return of_axes(map(_inside, starts, ends, size), axes, len(shape), operator.and_)

    def _starts_and_ends(self, n: int) -> tuple[list[Array], list[Array]]:
        corners = list(jnp.moveaxis(per_sample(jnp.asarray(self.box), n, 1), -1, 0))
        return corners[: len(corners) // 2], corners[len(corners) // 2 :]

    def _blend_at(self, layer: str, x: Any) -> Any:
        """`blend` at this layer, where the box may not cut, or may have to be scaled."""
        if self.box is None:
            return self.blend(x)
        if self.box_layers is not None and layer not in self.box_layers:
            return dataclasses.replace(self, box=None).blend(x)
        if layer == INPUT or self.image_size is None:
            return self.blend(x)
        self._check_pair(x, None, "x")
        check_blendable(x)
        return jax.tree.map(self._paste_scaled, x)

    def _paste_scaled(self, x: ArrayLike) -> Array:
        x, axes = jnp.asarray(x), self.spatial_axes
        check_spatial("a hidden state of shape", x.shape, axes)
        assert self.image_size is not None
        check_box(self, self.image_size)
        size = [x.shape[axis] for axis in axes]
        covered = of_axes(
            map(_covered, *self._starts_and_ends(x.shape[0]), size, self.image_size), axes, x.ndim, operator.mul
        )
        weight = 1 - covered
        if self.outside is not None:
            weight = weight * column(jnp.asarray(self.outside, jnp.float32), weight)
        return _lerp(x, self._partners(x), jnp.broadcast_to(weight, x.shape, out_sharding=explicit_sharding(x)))

    def _check_pair(self, x: Any, other: Any, what: str) -> Any:
        """`other`, that partners are taken from, or `x` where there is none; both are checked."""
        self._check_batch(x, what)
        if other is None:
            return x
        check_like(x, other)
        return other

    def _check_batch(self, tree: Any, what: str) -> None:
        check_draw(self)
        n = np.shape(self.partner)[0]
        if batch_size(tree, what) != n:
            raise ValueError(f"{what} must have the draw's batch size, {n}, got {batch_size(tree, what)}.")

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        static_layer = self.layer if isinstance(self.layer, str) else None
        children = tuple(
            (jax.tree_util.GetAttrKey(name), value)
            for name, value in (
                ("lam", self.lam),
                ("partner", self.partner),
                ("outside", self.outside),
                ("box", self.box),
                ("layer", None if static_layer is not None else self.layer),
            )
        )
        static = (self.layers, self.image_size, self.spatial_axes, self.groups, self.box_layers)
        return children, (static_layer, *static)

    @classmethod
    def tree_unflatten(cls, static: Any, children: Any) -> Mix:
        lam, partner, outside, box, layer = children
        named, layers, image_size, spatial_axes, groups, box_layers = static
        layer = layer if named is None else named
        return cls(lam, partner, box, layer, layers, image_size, spatial_axes, groups, outside, box_layers)


def check_mix(mix: Any) -> None:
    if not isinstance(mix, Mix):
        raise TypeError(f"mix must be a jax_mix.Mix, as method.sample returns, got {type(mix).__name__}.")
