"""The one-line forms: a batch in, a mixed batch out; the draw is not kept."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, overload

import jax

from jax_mix._call import input_of
from jax_mix._checks import check_key, check_same_length, is_concrete, suggest
from jax_mix._cutmix import CutMix
from jax_mix._forward import forward
from jax_mix._methods import ManifoldMixup, MixUp, Per
from jax_mix._sampling import Box, Partner

if TYPE_CHECKING:
    from jax import Array
    from jax.typing import ArrayLike


class _Options(TypedDict, total=False):
    """Those of `MixUp`, for type checkers and editors."""

    per: Per
    fold: bool
    partner: Partner
    probability: ArrayLike
    groups: int
    lam: ArrayLike | tuple[float, float] | None


class _CutMixOptions(_Options, total=False):
    box: Box
    spatial_axes: Sequence[int]
    side: float | tuple[float, float] | None
    correct_lam: bool


class _ManifoldMixupOptions(_Options, total=False):
    use_input: bool
    layer_probabilities: ArrayLike | Sequence[float] | None


@overload
def mixup(
    key: Array,
    x: ArrayLike,
    y: ArrayLike,
    alpha: ArrayLike | tuple[float, float] = 0.4,
    **options: Unpack[_Options],
) -> tuple[Array, Array]: ...
@overload
def mixup(
    key: Array, x: Any, y: Any, alpha: ArrayLike | tuple[float, float] = 0.4, **options: Unpack[_Options]
) -> tuple[Any, Any]: ...
def mixup(
    key: Array, x: Any, y: Any, alpha: ArrayLike | tuple[float, float] = 0.4, **options: Unpack[_Options]
) -> tuple[Any, Any]:
    """MixUp of one batch: mixed inputs and mixed targets.

    Args:
      key: a key of `jax.random.key`.
      x: float arrays `[batch, ...]`, in any pytree.
      y: float targets `[batch, ...]`, one-hot or soft.
      alpha, **options: those of `MixUp`, which tells of each: per, fold, partner, probability, groups, lam.

    Returns:
      `(x, y)` mixed, of the same shapes and dtypes.

    Raises:
      TypeError: `x` or `y` is integer, or no array of JAX or NumPy.
      ValueError: `x` and `y` differ in length, or an option is outside what is allowed.

    Source: arXiv:1710.09412, section 2; `fastai.callback.mixup.MixUp`.

    >>> import jax, jax.numpy as jnp, jax_mix
    >>> one_hot = jax.nn.one_hot(jnp.array([0, 1, 2, 1]), 3)
    >>> image, target = jax_mix.mixup(jax.random.key(0), jnp.ones((4, 8, 8, 1)), one_hot, alpha=0.4)
    >>> image.shape, target.shape
    ((4, 8, 8, 1), (4, 3))
    """
    return _mix_batch(key, x, y, MixUp, alpha, options)


@overload
def cutmix(
    key: Array,
    x: ArrayLike,
    y: ArrayLike,
    alpha: ArrayLike | tuple[float, float] = 1.0,
    *,
    dense: bool | Sequence[int] | None = None,
    **options: Unpack[_CutMixOptions],
) -> tuple[Array, Array]: ...
@overload
def cutmix(
    key: Array,
    x: Any,
    y: Any,
    alpha: ArrayLike | tuple[float, float] = 1.0,
    *,
    dense: bool | Sequence[int] | None = None,
    **options: Unpack[_CutMixOptions],
) -> tuple[Any, Any]: ...
def cutmix(
    key: Array,
    x: Any,
    y: Any,
    alpha: ArrayLike | tuple[float, float] = 1.0,
    *,
    dense: bool | Sequence[int] | None = None,
    **options: Unpack[_CutMixOptions],
) -> tuple[Any, Any]:
    """CutMix of one batch: pasted images and mixed targets.

    Args:
      key: a key of `jax.random.key`.
      x: images `[batch, height, width, ...]`, of any type; for PyTorch's `[batch, channels, height, width]` say
        `spatial_axes=(2, 3)`.
      y: float targets `[batch, ...]`, one-hot or soft; or masks, of any type.
      dense: whether targets that have the images' spatial axes, such as masks, are pasted as the images are (True), or
        weighed by lambda as a whole (False). None refuses them.
      alpha, **options: those of `CutMix`, which tells of each: per, fold, partner, probability, groups, lam, box,
        spatial_axes, side, correct_lam.

    Returns:
      `(x, y)` mixed, of the same shapes and dtypes.

    Raises:
      TypeError: `y` is integer, or one of both is no array of JAX or NumPy.
      ValueError: `x` and `y` differ in length, `x` has no two spatial axes, or an option is outside what is allowed;
        `y` has the images' spatial axes and `dense` says nothing.

    Source: arXiv:1905.04899, algorithm A1; `fastai.callback.mixup.CutMix`.

    >>> import jax, jax.numpy as jnp, jax_mix
    >>> one_hot = jax.nn.one_hot(jnp.array([0, 1, 2, 1]), 3)
    >>> image, target = jax_mix.cutmix(jax.random.key(0), jnp.ones((4, 8, 8, 1)), one_hot, alpha=1.0)
    >>> image.shape, target.shape
    ((4, 8, 8, 1), (4, 3))
    """
    return _mix_batch(key, x, y, CutMix, alpha, options, dense)


def manifold_mixup(
    key: Array,
    model: Any,
    x: Any,
    y: Any,
    *,
    layers: Any,
    alpha: ArrayLike | tuple[float, float] = 0.4,
    **options: Unpack[_ManifoldMixupOptions],
) -> tuple[Any, Any]:
    """Manifold Mixup of one batch: the NNX model's output, mixed inside, and the mixed targets. Call it inside jit.

    Args:
      key: a key of `jax.random.key`.
      model: a Flax model, as in `forward`.
      x: float arrays `[batch, ...]`, in any pytree, or None where the model takes its input by keyword.
      y: float targets `[batch, ...]`, one-hot or soft.
      layers, alpha, **options: those of `ManifoldMixup`, layers as plain paths: use_input, layer_probabilities, per,
        fold, partner, probability, groups, lam; and those of `forward`, the model's own included.

    Returns:
      `(logits, y)`.

    Raises:
      TypeError: `x` or `y` is integer, `model` is no Flax model.
      ValueError: `x` and `y` differ in length, a layer is unknown, or an option is outside what is allowed.

    Source: arXiv:1806.05236, section 2; ManifoldMixupV2's `ManifoldMixup`.

    >>> import jax, jax.numpy as jnp, jax_mix
    >>> from flax import nnx
    >>> model = nnx.Sequential(nnx.Linear(4, 8, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(8, 3, rngs=nnx.Rngs(1)))
    >>> one_hot = jax.nn.one_hot(jnp.array([0, 1, 2, 1]), 3)
    >>> logits, target = jax_mix.manifold_mixup(
    ...     jax.random.key(0), model, jnp.ones((4, 4)), one_hot, alpha=2.0, layers=("layers.0",)
    ... )
    >>> logits.shape, target.shape
    ((4, 3), (4, 3))
    """
    given: dict[str, Any] = dict(options)
    fields = {field.name for field in dataclasses.fields(ManifoldMixup)} & given.keys()
    method = ManifoldMixup(alpha, layers=layers, **{name: given.pop(name) for name in fields})
    inputs = input_of(model, x, **given)
    check_same_length(inputs, y)
    mix = method.sample(key, jax.tree.leaves(inputs)[0].shape)
    return forward(model, x, mix, **given), mix.targets(y)


def _mix_batch(key: Array, x: Any, y: Any, method: Any, alpha: Any, options: Any, dense: Any = None) -> Any:
    try:  # what is hashable is checked once; arrays are not, and may be traced
        hash((alpha, *options.values()))
    except TypeError:
        numbers, static = _numbers_and_static(method, alpha, **options)
    else:
        numbers, static = _kept(method, alpha, **options)
    try:
        return _jitted(key, x, y, numbers, method, static, tuple(dense) if isinstance(dense, Sequence) else dense)
    except (TypeError, ValueError) as error:
        refused = error
    check_key(key)  # JAX may take no such arguments, or not as they were given: then in our words
    check_same_length(x, y)
    raise refused


def _numbers_and_static(method: Any, alpha: Any, **options: Any) -> tuple[dict[str, Any], tuple[tuple[str, Any], ...]]:
    """A method's numbers, which are the program's arguments, so that another alpha compiles nothing; and the rest."""
    known = [field.name for field in dataclasses.fields(method)]
    for name in options:
        if name not in known:
            raise TypeError(f"{method.__name__.lower()} has no option {name!r}: {suggest(name, known, limit=20)}")
    made = method(alpha, **options)
    names = ["probability", *(["alpha"] if made.lam is None else [] if is_concrete(made.lam) else ["lam"])]
    numbers = {name: getattr(made, name) for name in names if not isinstance(getattr(made, name), tuple)}
    fields = [field.name for field in dataclasses.fields(made) if field.name not in numbers]
    return numbers, tuple((name, getattr(made, name)) for name in fields)


_kept = functools.lru_cache(maxsize=128, typed=True)(_numbers_and_static)


@functools.partial(jax.jit, static_argnums=(4, 5, 6))
def _jitted(
    key: Array, x: Any, y: Any, numbers: Any, method: Any, static: Any, dense: bool | tuple[int, ...] | None
) -> tuple[Any, Any]:
    check_same_length(x, y)
    mix = method(**numbers, **dict(static)).sample(key, jax.tree.leaves(x)[0].shape)
    return mix.blend(x), mix.targets(y, dense=dense)
