"""The recipes of fastai, of ManifoldMixupV2 and of the papers' authors; `jax_mix.recipes` has them with the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jax_mix import _checks
from jax_mix._cutmix import CutMix
from jax_mix._methods import ManifoldMixup, MixUp

if TYPE_CHECKING:
    from jax.typing import ArrayLike


def fastai_mixup(alpha: ArrayLike = 0.4) -> MixUp:
    """fastai's `MixUp`: a lambda for each sample, folded. It stops at a batch of one; here that is left as it is.

    Args:
      alpha: Beta's parameter.

    Raises:
      ValueError: `alpha` is not positive.

    Source: `fastai.callback.mixup.MixUp`, fastai 2.8.12.

    >>> import jax_mix
    >>> jax_mix.recipes.fastai_mixup() == jax_mix.MixUp(0.4)
    True
    """
    return MixUp(alpha)


def fastai_cutmix(alpha: ArrayLike = 1.0) -> CutMix:
    """fastai's `CutMix`: one box a batch, its side rounded. fastai writes into the caller's batch; this does not.

    Args:
      alpha: Beta's parameter.

    Raises:
      ValueError: `alpha` is not positive.

    Source: `fastai.callback.mixup.CutMix`, fastai 2.8.12.

    >>> import jax_mix
    >>> jax_mix.recipes.fastai_cutmix() == jax_mix.CutMix(1.0)
    True
    """
    return CutMix(alpha)


def manifold_mixup_v2(alpha: ArrayLike = 0.4, use_input_mixup: bool = True, module_list: Any = None) -> ManifoldMixup:
    """ManifoldMixupV2's `ManifoldMixup`. Its `OutputMixup(alpha)` is `jax_mix.OutputMixup(alpha)`.

    Args:
      alpha: Beta's parameter.
      use_input_mixup: whether the input is among the layers.
      module_list: `layers` of `jax_mix.ManifoldMixup`: names, globs or types, in the place of modules. None chooses,
        with the method's `bind`.

    Raises:
      ValueError: an argument is outside what is allowed.

    Source: ManifoldMixupV2's `ManifoldMixup`.

    >>> import jax_mix
    >>> jax_mix.recipes.manifold_mixup_v2(module_list=("layer1", "layer2")).places
    ('input', 'layer1', 'layer2')
    """
    _checks.check_bool("use_input_mixup", use_input_mixup)
    return ManifoldMixup(alpha, layers=module_list, use_input=use_input_mixup)


def mixup_paper(alpha: ArrayLike = 1.0) -> MixUp:
    """The mixup authors' code: one lambda a batch, not folded.

    Args:
      alpha: Beta's parameter.

    Raises:
      ValueError: `alpha` is not positive.

    Source: arXiv:1710.09412; `mixup_data` of the authors' code.

    >>> import jax_mix
    >>> jax_mix.recipes.mixup_paper().per
    'batch'
    """
    return MixUp(alpha, per="batch", fold=False)


def cutmix_paper(beta: ArrayLike = 1.0, cutmix_prob: ArrayLike = 0.5) -> CutMix:
    """The CutMix authors' code, with what they give it for CIFAR; for ImageNet `cutmix_prob=1.0`.

    Args:
      beta: Beta's parameter. Their flag is 0 unless given, which mixes nothing, as is that of `cutmix_prob`.
      cutmix_prob: how often a batch is mixed.

    Raises:
      ValueError: an argument is outside what is allowed.

    Source: arXiv:1905.04899; `rand_bbox` and `train` of the authors' code.

    >>> import jax_mix
    >>> jax_mix.recipes.cutmix_paper().probability
    0.5
    """
    return CutMix(beta, box="paper", probability=cutmix_prob)


def manifold_mixup_paper(mixup_alpha: ArrayLike = 2.0, layers: Any = ("layer1", "layer2")) -> ManifoldMixup:
    """The Manifold Mixup authors' code for ResNets: at the input or after one of the first two stages.

    Their loss is a binary cross-entropy of the softmax, for their baseline too: docs/recipes.md has it.

    Args:
      mixup_alpha: Beta's parameter; 2 in the paper.
      layers: those of `jax_mix.ManifoldMixup`, the names of the first two stages in your model.

    Raises:
      ValueError: an argument is outside what is allowed.

    Source: arXiv:1806.05236; `mixup_hidden` of the authors' code.

    >>> import jax_mix
    >>> jax_mix.recipes.manifold_mixup_paper().places
    ('input', 'layer1', 'layer2')
    """
    return ManifoldMixup(mixup_alpha, layers=layers, per="batch", fold=False)
