"""CutMix: frozen hyper-parameters whose `sample` draws one batch's `Mix`, with boxes."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jax_mix import _checks, _sampling
from jax_mix._call import as_call
from jax_mix._methods import ManifoldMixup, Method, Per, batch, draws, kept, static, words_of
from jax_mix._mix import Mix
from jax_mix._places import as_layers, at_layer, layer_names

if TYPE_CHECKING:
    from jax import Array
    from jax.typing import ArrayLike


@dataclasses.dataclass(frozen=True)
class CutMix(Method):
    """CutMix: paste a box of one sample into another; the targets' lambda is the area left.

    The box covers about 1-lam of the image, lam ~ Beta(alpha, alpha), and is clipped at the border, so the
    area left is on average more than lam: for alpha 1 at 32 pixels 0.69 (0.70 with the paper's box), not 0.5;
    0.2% (0.4%) of the boxes are empty. The defaults are fastai's. The paper's box is `CutMix(alpha, box="paper")`, with
    `probability=0.5` on CIFAR.

    Args:
      alpha: Beta's parameter, positive; 1 in the paper; or a range, as in `MixUp`.
      per: "batch", one box for all, "sample", each its own, or "pair", as in `MixUp`.
      fold: take max(lam, 1-lam) before the box is made.
      partner, probability, groups, lam: as in `MixUp`.
      box: how a box is made. Around a uniform pixel, and clipped: "fastai" (the side to the nearest pixel), "paper"
        (cut; also torchvision's) or "timm" (since 1.0.31, of odd sides too). The first two are made even: images with
        a side of one pixel, for "paper" or folded of two, have no box but empty ones. "uniform" is the paper's around
        a pixel that may be outside, so that all pixels are covered as often (Composer). Kept whole inside the image:
        "inside" (the side cut; Kornia) or "keras" (of fractions; with `correct_lam=False`, all of Keras's numbers).
      side: in place of lambda and `alpha`, the sides as a part of the image's; or a range (low, high) in which each
        axis has its own, in whole pixels from `int(low * length)` up to, not with, `int(high * length)` (timm's
        `cutmix_minmax`, there with `box="inside"`).
      correct_lam: the targets' lambda is the area left (True), or lambda as it was drawn.
      spatial_axes: the axes of height and width, (1, 2) for NHWC; one for audio and tokens, three for volumes and
        video. The box then covers about 1-lam of them.
      layers, use_input: as in `ManifoldMixup`, where hidden states are cut; none by default. The box is drawn in the
        image's pixels and scaled to the layer's, which need the `spatial_axes`.

    Raises:
      ValueError: an argument is outside what is allowed.

    Source: arXiv:1905.04899, section 3.2 and algorithm A1; `fastai.callback.mixup.CutMix`.

    >>> import jax, jax_mix
    >>> mix = jax_mix.CutMix(1.0).sample(jax.random.key(1), (8, 32, 32, 3))
    >>> y1, x1, y2, x2 = mix.box.tolist()
    >>> float(mix.lam[0]) == 1 - (y2 - y1) * (x2 - x1) / 32**2
    True
    """

    alpha: ArrayLike | tuple[float, float] = 1.0
    _: dataclasses.KW_ONLY
    per: Per = "batch"
    fold: bool = False
    box: _sampling.Box = "fastai"
    spatial_axes: Sequence[int] = (1, 2)
    side: float | tuple[float, float] | None = None
    correct_lam: bool = True
    layers: Any = ()
    use_input: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.check_choice("box", self.box, _sampling.BOXES)
        object.__setattr__(self, "spatial_axes", _checks.check_axes(self.spatial_axes))
        _checks.check_bool("correct_lam", self.correct_lam)
        _checks.check_bool("use_input", self.use_input)
        if self.side is not None:
            self._check_side()
        if self.layers is not None:
            object.__setattr__(self, "layers", as_layers(self.layers))
        if not self.use_input and not self.layers:
            raise ValueError(f"layers must name at least one layer when use_input is False, got {self.layers}.")

    def _check_side(self) -> None:
        side = tuple(self.side) if isinstance(self.side, list) else self.side
        if not all(map(_checks.is_concrete, side if isinstance(side, tuple) else (side,))):
            raise ValueError("side must be known before compilation: give lam, which may be traced.")
        _checks.check_part("side", side)
        object.__setattr__(self, "side", static(side))
        if self.lam is not None or not _checks.is_concrete(self.alpha) or self.alpha != self._default_alpha():
            raise ValueError("side stands in the place of lam and of alpha: give one of them.")
        if not self.correct_lam:
            raise ValueError("correct_lam must be True with side, where no lambda is drawn.")
        if self.fold:
            raise ValueError("fold must be False with side, where no lambda is drawn.")

    def bind(
        self,
        model: Any,
        *args: Any,
        variables: Any = None,
        method: Any = None,
        mixed: Any = (),
        strict: bool = False,
        **kwargs: Any,
    ) -> CutMix:
        """Find this method's layers in `model`, as `ManifoldMixup.bind` does; without any, the method as it is."""
        if self.layers == ():
            return self
        among = ManifoldMixup(layers=self.layers, use_input=False)  # an input of integers can be cut
        layers, found = among._find(as_call(model, args, kwargs, variables, method, mixed), strict)
        outputs = {layer.name: layer.output for layer in found.layers}
        for name in layers:
            for output in jax.tree.leaves(outputs.get(name)):
                if output.ndim and jnp.issubdtype(output.dtype, jnp.floating):
                    _checks.check_spatial(f"layer {name!r}, which puts out", output.shape, tuple(self.spatial_axes))
        return dataclasses.replace(self, layers=layers)

    def sample(
        self,
        key: Array,
        shape: Sequence[int],
        *,
        within: ArrayLike | None = None,
        where: ArrayLike | None = None,
    ) -> Mix:
        """Draw one batch's box, partners and the lambda of the clipped area.

        Args:
          key: a key of `jax.random.key`.
          shape: the images' shape, batch first, with the `spatial_axes`.
          within, where: as in `MixUp.sample`.

        Returns:
          A `Mix`: `lam` float32 `[batch]`, or with x64 float64, `partner` int32 `[batch]`, `box` int32 `[4]` or
          `[batch, 4]`, or of one spatial axis 2 numbers, of three 6.

        Raises:
          TypeError: `key` is not one key.
          ValueError: `shape` has no two spatial axes, or too few pixels for a box; `groups` does not divide the batch.

        >>> import jax, jax_mix
        >>> jax_mix.CutMix(1.0, per="sample").sample(jax.random.key(0), (8, 32, 32, 3)).box.shape
        (8, 4)
        """
        return self._draw(words_of(key, shape), shape, within, where)

    def _draw(self, words: _sampling.Words, shape: Sequence[int], within: Any, where: Any) -> Mix:
        names = layer_names(self.layers, use_input=self.use_input)
        mix = self._draw_box(words, shape, within, where)
        return at_layer(mix, words, names, None, None) if self.layers else mix

    def _draw_box(self, words: _sampling.Words, shape: Sequence[int], within: Any, where: Any) -> Mix:
        n = batch(shape)
        axes = tuple(self.spatial_axes)
        _checks.check_spatial("shape", shape, axes)
        size = tuple(int(shape[axis]) for axis in axes)
        self._check_size(size, shape)
        if len(shape) == 4 and axes == (1, 2) and shape[1] in (1, 3) and shape[3] > 4:
            warnings.warn(
                f"images of shape {tuple(shape)} seem to have their channels first: spatial_axes=(2, 3) cuts rows and "
                "columns, where (1, 2), as it is, cuts channels and rows.",
                stacklevel=2,
            )
        if self.side is None:
            lam = self._lambdas(words, n)
            box = _sampling.boxes(words, lam, size, self.box)
        else:
            drawn = draws(self.per, n, self.groups)
            sides = _sampling.whole_sides(words, self.side, size, drawn)
            applied = _sampling.applies(words, self.probability, drawn)
            if applied is not None:
                sides = [jnp.where(applied, side, 0) for side in sides]
            lam = jnp.zeros(drawn, jnp.float32)
            box = _sampling.boxes(words, lam, size, self.box, sides)
        box = self._rows(box, n)
        partner = self._partners(words, n, within, where)
        mix = Mix.from_box(partner, box, size, spatial_axes=axes, groups=self.groups)
        if not self.correct_lam:
            mix = dataclasses.replace(mix, lam=jnp.broadcast_to(self._rows(lam, n), (n,)))
        return mix if where is None else dataclasses.replace(mix, lam=kept(where, jnp.asarray(mix.lam)))

    def _check_size(self, size: tuple[int, ...], shape: Sequence[int]) -> None:
        lowest: Any = self.lam[0] if isinstance(self.lam, tuple) else 0 if self.lam is None else self.lam
        if not _checks.is_concrete(lowest):
            return
        shortest = _sampling.shortest_side(self.box, fold=self.fold, axes=len(size), lam=lowest, side=self.side)
        if min(size) < shortest:
            other = f"side={self.side}" if self.side is not None else f"lam={self.lam}"
            other = f"fold={self.fold}" if self.side is None and self.lam is None else other
            sides = _checks.SIDES[len(size)][1:-1].rstrip(",").replace(", ", " and ")
            raise ValueError(
                f"CutMix can cut no box from images of {size} pixels: with box={self.box!r} and {other}, "
                f"{sides} must be at least {shortest}, got shape {tuple(shape)}."
            )
