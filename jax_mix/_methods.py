"""MixUp, ManifoldMixup and CutMix: frozen hyper-parameters whose `sample` draws one batch's `Mix`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jax_mix import _checks, _sampling
from jax_mix._call import as_call
from jax_mix._choosing import check_input, choose
from jax_mix._explain import Explanation, explain
from jax_mix._layers import find_layers
from jax_mix._mix import INPUT, Mix

if TYPE_CHECKING:
    from jax.typing import ArrayLike
    from jaxtyping import Array, Key

PER = ("sample", "batch")


@dataclasses.dataclass(frozen=True)
class _Method:
    """What the three have in common."""

    alpha: ArrayLike
    _: dataclasses.KW_ONLY
    per: str = "sample"
    fold: bool = True
    partner: str = "permutation"
    probability: ArrayLike = 1.0
    groups: int = 1

    def __post_init__(self) -> None:
        _checks.check_alpha(self.alpha)
        _checks.check_choice("per", self.per, PER)
        _checks.check_choice("partner", self.partner, _sampling.PARTNERS)
        _checks.check_probability(self.probability)
        _checks.check_bool("fold", self.fold)
        _checks.check_groups(self.groups)
        for name in ("alpha", "probability"):
            value = getattr(self, name)
            if _checks.is_concrete(value) and not isinstance(value, (int, float)):
                object.__setattr__(self, name, float(value))  # hashable, to be static in jit; an array is not

    def sample(self, key: Key[Array, ""], shape: Sequence[int]) -> Mix:
        """Draw one batch's lambdas and partners.

        Args:
          key: a key of `jax.random.key`.
          shape: the batch's shape, batch first; only its first number counts.

        Returns:
          A `Mix`: `lam` float32 `[batch]`, `partner` int32 `[batch]`.

        Raises:
          TypeError: `key` is not one key.
          ValueError: `shape` has no batch axis, or `groups` does not divide it.

        >>> import jax, jax_mix
        >>> bool((jax_mix.MixUp(1.0).sample(jax.random.key(0), (100,)).lam >= 0.5).all())
        True
        """
        _checks.check_key(key)
        key_lam, key_partner = jax.random.split(key)
        n = _batch(shape)
        lam = jnp.broadcast_to(self._lambdas(key_lam, n), (n,))
        return Mix(lam, self._partners(key_partner, n), groups=self.groups)

    def _lambdas(self, key: Key[Array, ""], n: int) -> Array:
        shape = (n,) if self.per == "sample" else ()
        return _sampling.lambdas(key, self.alpha, shape, fold=self.fold, probability=self.probability)

    def _partners(self, key: Key[Array, ""], n: int) -> Array:
        _checks.check_divides(self.groups, n)
        if self.groups == n > 1:
            raise ValueError(f"groups must leave two samples or more in each, or none has a partner: got {n} of {n}.")
        return _sampling.partners(key, n, self.partner, self.groups)


@dataclasses.dataclass(frozen=True)
class MixUp(_Method):
    """MixUp: blend two samples' inputs and targets by lambda ~ Beta(alpha, alpha).

    The defaults are fastai's. The paper's form is `MixUp(alpha, per="batch", fold=False)`.

    Args:
      alpha: Beta's parameter, positive: small is almost no mixing, 1 is uniform. A traced scalar works too
        (a schedule inside jit).
      per: "sample", each its own lambda, or "batch", one for all.
      fold: take max(lam, 1-lam), so that a sample always weighs at least as much as its partner.
      partner: "permutation", a random one; "roll", the sample before (torchvision); "flip", the batch
        reversed (timm).
      probability: how often to mix at all, per sample or per batch; else lambda is 1.
      groups: partners are found within each of this many equal, consecutive parts of the batch. One for each
        device, of a batch that is split over devices, and mixing needs no communication.

    Raises:
      ValueError: an argument is outside what is allowed.

    Source: arXiv:1710.09412, section 2; `fastai.callback.mixup.MixUp`.

    >>> import jax, jax_mix
    >>> method = jax_mix.MixUp(0.4)
    >>> mix = method.sample(jax.random.key(0), (8, 32, 32, 3))
    >>> mix.lam.shape, mix.partner.shape
    ((8,), (8,))
    """

    alpha: ArrayLike = 0.4


@dataclasses.dataclass(frozen=True)
class ManifoldMixup(_Method):
    """Manifold Mixup: blend two samples' hidden states at a random layer, the input included.

    The defaults are those of the fastai callback ManifoldMixupV2. The authors' form is
    `ManifoldMixup(alpha, per="batch", fold=False, layers=("stage1", "stage2"))`.

    Args:
      alpha: Beta's parameter, positive.
      layers: where to mix, at the outputs of these: a path ("layer1", "blocks.0"), a glob ("blocks.*", one `*`
        a path segment, `**` any number, `?` a character), a module type, or several of them. None chooses:
        `MixPoint` marks if the model has any, else layers where mixing is exact and is neither that of the input nor
        that of the output: blocks first, then single layers. All but plain paths need `bind`.
        A block scanned over stacked weights counts as "blocks.0", "blocks.1", ...
      use_input: whether the input is among the layers.
      per, fold, partner, probability, groups: as in `MixUp`.

    Raises:
      ValueError: an argument is outside what is allowed.

    Source: arXiv:1806.05236, section 2; ManifoldMixupV2's `ManifoldMixup`.

    >>> import jax, jax_mix
    >>> method = jax_mix.ManifoldMixup(2.0, layers=("stem", "layer1"))
    >>> method.sample(jax.random.key(0), (8, 32, 32, 3)).layers
    ('input', 'stem', 'layer1')
    """

    alpha: ArrayLike = 0.4
    _: dataclasses.KW_ONLY
    layers: Any = None
    use_input: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.check_bool("use_input", self.use_input)
        if self.layers is None:
            return
        several = isinstance(self.layers, Iterable) and not isinstance(self.layers, (str, type))
        layers = tuple(self.layers) if several else (self.layers,)
        for layer in layers:
            if not isinstance(layer, (str, type)):
                raise ValueError(f"layers must be paths, globs or module types, got {_checks.shown(layer)}.")
        dotted = [l.replace("/", ".") if isinstance(l, str) else l for l in layers]  # Linen users write a/b
        object.__setattr__(self, "layers", tuple(dict.fromkeys(dotted)))
        if not self.use_input and all(l == INPUT for l in self.layers):
            raise ValueError(f"layers must name at least one layer when use_input is False, got {self.layers}.")

    def bind(
        self,
        model: Any,
        *args: Any,
        variables: Any = None,
        method: Any = None,
        mixed: Any = (),
        strict: bool = False,
        **kwargs: Any,
    ) -> ManifoldMixup:
        """Find this method's layers in `model`: the same method with `layers` as plain paths, in running order.

        The model is traced on shapes alone, nothing is computed or changed, so a typo or a layer that never
        runs is found before training starts.

        Args:
          model: a Flax NNX model, or a Flax Linen module with its `variables`.
          *args, **kwargs: an example of what the model is called with in training; arrays, or
            `jax.ShapeDtypeStruct`s.
          variables: a Linen model's variables.
          method, mixed: as in `forward`.
          strict: refuse a layer that the batch also goes around, instead of a warning.

        Returns:
          A `ManifoldMixup` whose `layers` are paths. Print it to see what was chosen.

        Raises:
          ValueError: a layer is unknown (the nearest names are listed), never runs, or puts out no batch of floats;
            none is eligible; there is no example, or its input cannot be mixed.

        >>> import jax, jax_mix
        >>> from flax import nnx
        >>> mlp = nnx.Sequential(nnx.Linear(4, 8, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(8, 2, rngs=nnx.Rngs(1)))
        >>> jax_mix.ManifoldMixup(2.0, layers="layers.*").bind(mlp, jax.ShapeDtypeStruct((8, 4), "float32")).layers
        ('layers.0', 'layers.2')
        """
        call = as_call(model, args, kwargs, variables, method, mixed)
        _checks.check_arrays(call.inputs, call.what)
        check_input(call, self.use_input)
        _checks.check_bool("strict", strict)
        choice = choose(call, find_layers(call), self.layers, use_input=self.use_input, strict=strict)
        return dataclasses.replace(self, layers=choice.layers)

    def explain(
        self, model: Any, *args: Any, variables: Any = None, method: Any = None, mixed: Any = (), **kwargs: Any
    ) -> Explanation:
        """A table of the model's layers: where mixing is exact, what goes around the others, and which are chosen.

        Args: as in `bind`, which chooses the same layers. Nothing is refused: what `bind` would say is told below.

        Returns:
          An `Explanation`, to be printed, or shown in a notebook.

        >>> import jax, jax_mix
        >>> from flax import nnx
        >>> mlp = nnx.Sequential(nnx.Linear(4, 8, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(8, 2, rngs=nnx.Rngs(1)))
        >>> print(jax_mix.ManifoldMixup(2.0, layers="layers.0").explain(mlp, jax.ShapeDtypeStruct((8, 4), "float32")))
        layer     type    output         mixing there             chosen
        input             float32[8, 4]  exact                    yes
        layers.0  Linear  float32[8, 8]  the same as at 'input'   yes: named
        layers.2  Linear  float32[8, 2]  the same as at 'output'
        <BLANKLINE>
        Each batch is mixed at one of 2 places, drawn at random: 'input' or 'layers.0'.
        """
        call = as_call(model, args, kwargs, variables, method, mixed)
        _checks.check_arrays(call.inputs, call.what)
        return explain(call, self.layers, use_input=self.use_input)

    def sample(self, key: Key[Array, ""], shape: Sequence[int], *, layer: str | None = None) -> Mix:
        """Draw one batch's lambdas, partners and layer.

        Args:
          key: a key of `jax.random.key`.
          shape: the batch's shape, batch first; only its first number counts.
          layer: None draws it, uniformly, inside jit: one compiled step serves all layers. A name fixes it,
            "input" included, and gives a program for that layer alone.

        Returns:
          A `Mix`: `lam` float32 `[batch]`, `partner` int32 `[batch]`, `layer` int32 `[]` or the name.

        Raises:
          TypeError: `key` is not one key.
          ValueError: `layers` needs a model (call `bind`), `layer` is not among them, `shape` is empty, or `groups`
            does not divide the batch.

        >>> import jax, jax_mix
        >>> method = jax_mix.ManifoldMixup(2.0, layers=("stem", "layer1"))
        >>> method.sample(jax.random.key(0), (8, 4), layer="layer1").layer_name
        'layer1'
        """
        names = self.places
        _checks.check_key(key)
        key_mix, key_layer = jax.random.split(key)
        mix = super().sample(key_mix, shape)
        if layer is not None:
            if layer not in names:
                raise ValueError(f"layer is {layer!r}: {_checks.suggest(str(layer), names)}")
            return dataclasses.replace(mix, layer=layer, layers=names)
        drawn = jax.random.randint(key_layer, (), 0, len(names), jnp.int32)
        return dataclasses.replace(mix, layer=drawn, layers=names)

    @property
    def places(self) -> tuple[str, ...]:
        """The names of where a batch may be mixed: of layers, and "input"."""
        if self.layers is None or any(isinstance(l, type) or set("*?") & set(l) for l in self.layers):
            raise ValueError(
                f"layers={self.layers!r} must be looked up in the model first: method = method.bind(model, image)."
            )
        return ((INPUT,) if self.use_input else ()) + tuple(l for l in self.layers if l != INPUT)


@dataclasses.dataclass(frozen=True)
class CutMix(_Method):
    """CutMix: paste a box of one sample into another; the targets' lambda is the area left.

    The box covers about 1-lam of the image, lam ~ Beta(alpha, alpha), and is clipped at the border, so the
    area left is on average more than lam: for alpha 1 at 32 pixels 0.69 (0.70 with the paper's box), not 0.5;
    0.2% (0.4%) of the boxes are empty. The defaults are fastai's. The paper's box is `CutMix(alpha, box="paper")`, with
    `probability=0.5` on CIFAR.

    Args:
      alpha: Beta's parameter, positive; 1 in the paper.
      per: "batch", one box for all, or "sample", each its own.
      fold: take max(lam, 1-lam) before the box is made.
      partner, probability, groups: as in `MixUp`.
      box: how a side is rounded: "fastai" (to the nearest) or "paper" (down; also timm's and torchvision's). Both are
        made even: images with a side of one pixel, for "paper" or folded of two, have no box but empty ones.
      spatial_axes: the axes of height and width, (1, 2) for NHWC.

    Raises:
      ValueError: an argument is outside what is allowed.

    Source: arXiv:1905.04899, section 3.2 and algorithm A1; `fastai.callback.mixup.CutMix`.

    >>> import jax, jax_mix
    >>> mix = jax_mix.CutMix(1.0).sample(jax.random.key(1), (8, 32, 32, 3))
    >>> y1, x1, y2, x2 = mix.box.tolist()
    >>> float(mix.lam[0]) == 1 - (y2 - y1) * (x2 - x1) / 32**2
    True
    """

    alpha: ArrayLike = 1.0
    _: dataclasses.KW_ONLY
    per: str = "batch"
    fold: bool = False
    box: str = "fastai"
    spatial_axes: tuple[int, int] = (1, 2)

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.check_choice("box", self.box, _sampling.BOXES)
        axes = _checks.two_ints("spatial_axes", self.spatial_axes, "the axes of height and width")
        if axes[0] == axes[1] or min(axes) < 1:
            raise ValueError(f"spatial_axes must be two different axes after the batch axis 0, got {axes}.")
        object.__setattr__(self, "spatial_axes", axes)

    def sample(self, key: Key[Array, ""], shape: Sequence[int]) -> Mix:
        """Draw one batch's box, partners and the lambda of the clipped area.

        Args:
          key: a key of `jax.random.key`.
          shape: the images' shape, batch first, with the two `spatial_axes`.

        Returns:
          A `Mix`: `lam` float32 `[batch]`, or with x64 float64, `partner` int32 `[batch]`, `box` int32 `[4]` or
          `[batch, 4]`.

        Raises:
          TypeError: `key` is not one key.
          ValueError: `shape` has no two spatial axes, or too few pixels for a box; `groups` does not divide the batch.

        >>> import jax, jax_mix
        >>> jax_mix.CutMix(1.0, per="sample").sample(jax.random.key(0), (8, 32, 32, 3)).box.shape
        (8, 4)
        """
        _checks.check_key(key)
        n = _batch(shape)
        rows, columns = self.spatial_axes
        _checks.check_spatial("shape", shape, (rows, columns))
        size = int(shape[rows]), int(shape[columns])
        shortest = _sampling.shortest_side(self.box, fold=self.fold)
        if min(size) < shortest:
            raise ValueError(
                f"CutMix can cut no box from images of {size} pixels: with box={self.box!r} and fold={self.fold}, "
                f"height and width must be at least {shortest}, got shape {tuple(shape)}."
            )
        key_lam, key_partner, key_box = jax.random.split(key, 3)
        box = _sampling.boxes(key_box, self._lambdas(key_lam, n), *size, self.box)
        partner = self._partners(key_partner, n)
        return Mix.from_box(partner, box, size, spatial_axes=(rows, columns), groups=self.groups)


def _batch(shape: Sequence[int]) -> int:
    if hasattr(shape, "shape") or not isinstance(shape, Sequence) or not shape or shape[0] < 0:
        raise ValueError(f"shape must be the batch's shape, batch first, as image.shape, got {_checks.shown(shape)}.")
    return int(shape[0])
