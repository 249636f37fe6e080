"""Each library's own MixUp and CutMix: its names and defaults in, a method of jax_mix out.

>>> import jax, jax_mix
>>> method = jax_mix.recipes.timm(mixup_alpha=0.8, cutmix_alpha=1.0)
>>> mix = method.sample(jax.random.key(0), (8, 32, 32, 3))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

from jax_mix import _checks
from jax_mix._cutmix import CutMix
from jax_mix._methods import MixUp, Per
from jax_mix._one_of import OneOf
from jax_mix._originals import (
    cutmix_paper,
    fastai_cutmix,
    fastai_mixup,
    manifold_mixup_paper,
    manifold_mixup_v2,
    mixup_paper,
)

if TYPE_CHECKING:
    from jax.typing import ArrayLike

__all__ = [
    "big_vision_mixup",
    "composer_cutmix",
    "composer_mixup",
    "cutmix_paper",
    "fastai_cutmix",
    "fastai_mixup",
    "keras_cutmix",
    "keras_mixup",
    "kornia_cutmix",
    "kornia_mixup",
    "manifold_mixup_paper",
    "manifold_mixup_v2",
    "mixup_paper",
    "timm",
    "torchvision_cutmix",
    "torchvision_mixup",
]

TimmMode = Literal["batch", "pair", "elem"]
_PER: dict[str, Per] = {"batch": "batch", "pair": "pair", "elem": "sample"}


def timm(
    mixup_alpha: float = 1.0,
    cutmix_alpha: float = 0.0,
    cutmix_minmax: Sequence[float] | None = None,
    prob: float = 1.0,
    switch_prob: float = 0.5,
    mode: TimmMode = "batch",
    correct_lam: bool = True,
) -> MixUp | CutMix | OneOf:
    """timm's `Mixup`, as of 1.0.31; for its boxes until 1.0.29 use `CutMix(..., box="paper")`.

    Its labels are smoothed too, by 0.1 unless told otherwise: `mix.targets(optax.smooth_labels(one_hot, 0.1))` is
    the same. timm refuses an odd batch; here the sample in the middle of one is its own partner.

    Args:
      mixup_alpha, cutmix_alpha: Beta's parameters; 0 leaves the method out. With both, one of them is drawn.
      cutmix_minmax: (low, high), the sides of CutMix's boxes as parts of the image's, in place of `cutmix_alpha`;
        `mixup_alpha` counts beside it, as in timm, whose default is 1. From `int(low * length)` up to, not with,
        `int(high * length)`; where these are one number, timm stops, and here it is the side.
      prob: how often a batch, pair or element is mixed.
      switch_prob: how likely CutMix is, if both are drawn from.
      mode: "batch", one draw for all, "pair", or "elem", one for each sample.
      correct_lam: the targets' lambda is the area left, or as it was drawn; always the area with `cutmix_minmax`.

    Returns:
      `MixUp`, `CutMix`, or `OneOf` both.

    Raises:
      ValueError: an argument is outside what is allowed, or both alphas are 0; `mode="half"`.

    Source: `timm.data.mixup.Mixup`, timm 1.0.31.

    >>> import jax_mix
    >>> jax_mix.recipes.timm(mixup_alpha=0.8).partner
    'flip'
    """
    if mode == "half":
        raise ValueError(
            "mode is 'half', timm's batches of half the size, and a draw here keeps the batch's size: use mode='elem' "
            "and keep the first half of the mixed batch."
        )
    _checks.check_choice("mode", mode, get_args(TimmMode))
    _checks.check_bool("correct_lam", correct_lam)
    for name, value in (("mixup_alpha", mixup_alpha), ("cutmix_alpha", cutmix_alpha)):
        _checks.check_number(name, value, 0, math.inf)
    for name, value in (("prob", prob), ("switch_prob", switch_prob)):
        _checks.check_number(name, value, 0, 1)
    shared: dict[str, Any] = {"per": _PER[mode], "fold": False, "partner": "flip", "probability": prob}
    methods: list[MixUp | CutMix] = []
    if mixup_alpha > 0:
        methods.append(MixUp(mixup_alpha, **shared))
    if cutmix_minmax is not None:
        methods.append(CutMix(box="inside", side=_checks.check_range("cutmix_minmax", cutmix_minmax), **shared))
    elif cutmix_alpha > 0:
        methods.append(CutMix(cutmix_alpha, box="timm", correct_lam=correct_lam, **shared))
    if not methods:
        raise ValueError("mixup_alpha and cutmix_alpha are both 0, which mixes nothing: give one of them.")
    if len(methods) == 1:
        return methods[0]
    return OneOf(*methods, probabilities=(1 - switch_prob, switch_prob), per=_PER[mode])


def torchvision_mixup(alpha: ArrayLike = 1.0) -> MixUp:
    """torchvision's `v2.MixUp`: one lambda a batch, and everybody's partner is the sample before.

    Args:
      alpha: Beta's parameter.

    Raises:
      ValueError: `alpha` is not positive.

    Source: `torchvision.transforms.v2.MixUp`, torchvision 0.29.2.

    >>> import jax_mix
    >>> jax_mix.recipes.torchvision_mixup().partner
    'roll'
    """
    return MixUp(alpha, per="batch", fold=False, partner="roll")


def torchvision_cutmix(alpha: ArrayLike = 1.0) -> CutMix:
    """torchvision's `v2.CutMix`: the paper's boxes, one a batch, and everybody's partner is the sample before.

    Args:
      alpha: Beta's parameter.

    Raises:
      ValueError: `alpha` is not positive.

    Source: `torchvision.transforms.v2.CutMix`, torchvision 0.29.2.

    >>> import jax_mix
    >>> jax_mix.recipes.torchvision_cutmix().box
    'paper'
    """
    return CutMix(alpha, box="paper", partner="roll")


def keras_mixup(alpha: ArrayLike = 0.2) -> MixUp:
    """Keras's `layers.MixUp`: a lambda for each sample, not folded.

    Its segmentation masks are blended as images are, and taken from a flattened batch; `mixed_loss(..., dense=True)`
    weighs two losses instead.

    Args:
      alpha: Beta's parameter.

    Raises:
      ValueError: `alpha` is not positive.

    Source: `keras.layers.MixUp`, Keras 3.15.1.

    >>> import jax_mix
    >>> jax_mix.recipes.keras_mixup().per
    'sample'
    """
    return MixUp(alpha, fold=False)


def keras_cutmix(factor: float | Sequence[float] = 1.0) -> CutMix:
    """Keras's `layers.CutMix`: boxes of fractions of pixels, whole inside the image, and alpha drawn for each batch.

    The targets' lambda is that of the fractional box, as in Keras, so that it is not quite the area that is left:
    `dataclasses.replace(method, correct_lam=True)` mends that.

    Args:
      factor: the range that Beta's parameter is drawn from, (0, factor) for one number.

    Raises:
      ValueError: `factor` is 0 or not a number or a range.

    Source: `keras.layers.CutMix`, Keras 3.15.1.

    >>> import jax_mix
    >>> jax_mix.recipes.keras_cutmix(0.5).alpha
    (0.0, 0.5)
    """
    if isinstance(factor, (int, float)) and not isinstance(factor, bool):
        bounds: tuple[float, ...] = (0.0, float(factor))
    else:
        bounds = tuple(sorted(_checks.check_two_numbers("factor", factor)))
    if not 0 <= bounds[0] <= bounds[1] <= 1 or bounds[1] == 0:
        raise ValueError(
            f"factor must be a number above 0 and up to 1, or a range of them, got {_checks.shown(factor)}."
        )
    return CutMix((bounds[0], bounds[1]), per="sample", box="keras", correct_lam=False)


def kornia_mixup(
    lambda_val: Sequence[float] | None = None, same_on_batch: bool = False, p: float = 1.0
) -> MixUp | OneOf:
    """Kornia's `RandomMixUpV2`: lambda uniform in a range.

    Its lambda is the partner's weight, `lam` of the `Mix` one less that. `p` is drawn once a batch, as in Kornia
    0.9.0; in earlier versions it counted twice.

    Args:
      lambda_val: the range of the partner's weight; None is (0, 1).
      same_on_batch: one lambda for the batch; partners are a permutation still.
      p: how often a batch is mixed.

    Returns:
      `MixUp`, or with `p` below 1 `OneOf` it and None.

    Raises:
      ValueError: an argument is outside what is allowed.

    Source: `kornia.augmentation.RandomMixUpV2`, Kornia 0.9.0.

    >>> import jax_mix
    >>> jax_mix.recipes.kornia_mixup(lambda_val=(0.0, 0.25)).lam
    (0.75, 1.0)
    """
    _checks.check_bool("same_on_batch", same_on_batch)
    low, high = (0.0, 1.0) if lambda_val is None else _checks.check_range("lambda_val", lambda_val)
    return _of_a_batch(MixUp(lam=(1 - high, 1 - low), per="batch" if same_on_batch else "sample", fold=False), p)


def kornia_cutmix(
    num_mix: int = 1,
    cut_size: Sequence[float] | None = None,
    beta: ArrayLike | None = None,
    same_on_batch: bool = False,
    p: float = 1.0,
    use_correct_lambda: bool = False,
) -> CutMix | OneOf:
    """Kornia's `RandomCutMixV2`: boxes of whole pixels, whole inside the image.

    Args:
      num_mix: 1. More boxes of one batch are as many draws, each with `mix.blend(mixed, other=image)`.
      cut_size: None or (0, 1), which clamps nothing.
      beta: Beta's parameter; None is 1.
      same_on_batch: one box for the batch; partners are a permutation still.
      p: how often a batch is mixed; once a batch, as in Kornia 0.9.0.
      use_correct_lambda: which of the two weights Kornia hands out, True for the sample's own and False for the
        partner's. The `Mix` is one and the same: its `lam` is always the sample's own.

    Returns:
      `CutMix`, or with `p` below 1 `OneOf` it and None.

    Raises:
      ValueError: an argument is outside what is allowed; `num_mix` above 1; `cut_size` that clamps.

    Source: `kornia.augmentation.RandomCutMixV2`, Kornia 0.9.0.

    >>> import jax_mix
    >>> jax_mix.recipes.kornia_cutmix(beta=0.5).box
    'inside'
    """
    if num_mix != 1 or isinstance(num_mix, bool):
        raise ValueError(
            f"num_mix must be 1, since a draw has one box a sample, got {_checks.shown(num_mix)}: make as many draws "
            "and apply each with mix.blend(mixed, other=image)."
        )
    if cut_size is not None and _checks.check_range("cut_size", cut_size) != (0, 1):
        low, high = _checks.check_range("cut_size", cut_size)
        raise ValueError(
            f"cut_size must be None or (0, 1), since no draw here clamps Beta's lambda, got {_checks.shown(cut_size)}: "
            f'the nearest is CutMix(lam=({low}, {high}), per="sample", box="inside"), uniform in that range.'
        )
    _checks.check_bool("same_on_batch", same_on_batch)
    _checks.check_bool("use_correct_lambda", use_correct_lambda)
    per: Per = "batch" if same_on_batch else "sample"
    return _of_a_batch(CutMix(1.0 if beta is None else beta, per=per, box="inside"), p)


def composer_mixup(alpha: ArrayLike = 0.2) -> MixUp:
    """Composer's `MixUp`: one lambda a batch, of which a sample has the larger part.

    Its `mixing` is the partner's weight, `lam` of the `Mix` one less that. With `interpolate_loss=True` its loss is
    that of `mixed_loss`, else that against `mix.targets`.

    Args:
      alpha: Beta's parameter.

    Raises:
      ValueError: `alpha` is not positive; Composer's 0 mixes nothing.

    Source: `composer.algorithms.MixUp`, read in Composer 0.33.

    >>> import jax_mix
    >>> jax_mix.recipes.composer_mixup().fold
    True
    """
    return MixUp(alpha, per="batch")


def composer_cutmix(alpha: ArrayLike = 1.0, length: float | None = None, uniform_sampling: bool = False) -> CutMix:
    """Composer's `CutMix`: the paper's boxes, or those that cover all pixels as often.

    Args:
      alpha: Beta's parameter. Composer takes 0 for lambda 0, a box as large as the image, and so does this.
      length: that of `cutmix_batch`: the box's sides as a part of the image's, in place of `alpha`. This cuts what
        Composer documents. Its code takes the box's area for the one left, and cuts sides of `sqrt(1 - length**2)`:
        to train as it did, use `CutMix(lam=length**2, box="paper")`.
      uniform_sampling: draw centres outside of the image too, so that all pixels are covered as often.

    Raises:
      ValueError: an argument is outside what is allowed.

    Source: `composer.algorithms.CutMix` and `composer.functional.cutmix_batch`, read in Composer 0.33.

    >>> import jax_mix
    >>> jax_mix.recipes.composer_cutmix(uniform_sampling=True).box
    'uniform'
    """
    _checks.check_bool("uniform_sampling", uniform_sampling)
    box: Literal["uniform", "paper"] = "uniform" if uniform_sampling else "paper"
    if length is not None:
        _checks.check_number("length", length, 0, 1)
        return CutMix(box=box, side=length)
    if _checks.is_concrete(alpha) and isinstance(alpha, (int, float)) and alpha == 0:
        return CutMix(box=box, lam=0.0)
    return CutMix(alpha, box=box)


def big_vision_mixup(p: ArrayLike) -> MixUp:
    """big_vision's `mixup`: one lambda a batch, folded, and everybody's partner is the sample before.

    Where the batch is split over devices and each rolled its own part, as in the versions before `jit` over all
    devices, use `dataclasses.replace(method, groups=devices)`.

    Args:
      p: Beta's parameter, 0.2 in its configurations.

    Raises:
      ValueError: `p` is not positive.

    Source: `big_vision.utils.get_mixup`.

    >>> import jax_mix
    >>> jax_mix.recipes.big_vision_mixup(p=0.2).partner
    'roll'
    """
    return MixUp(p, per="batch", partner="roll")


def _of_a_batch(method: MixUp | CutMix, p: float) -> Any:
    """The method, mixing a batch with probability `p`, whatever is drawn for each sample."""
    _checks.check_number("p", p, 0, 1)
    return method if p == 1 else OneOf(method, None, probabilities=(p, 1 - p))
