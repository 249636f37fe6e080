"""MixUp, ManifoldMixup and OutputMixup: frozen hyper-parameters whose `sample` draws one batch's `Mix`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import jax.numpy as jnp
import numpy as np

from jax_mix import _checks, _sampling
from jax_mix._call import Call, as_call
from jax_mix._choosing import check_input, choose
from jax_mix._explain import Explanation, explain
from jax_mix._layers import Found, find_layers
from jax_mix._mix import INPUT, OUTPUT, Mix
from jax_mix._places import as_layers, at_layer, in_order_of, layer_names
from jax_mix._sharding import replicated

if TYPE_CHECKING:
    from jax import Array
    from jax.typing import ArrayLike

Per = Literal["sample", "batch", "pair"]


@dataclasses.dataclass(frozen=True)
class Method:
    """What the methods have in common."""

    alpha: ArrayLike | tuple[float, float]
    _: dataclasses.KW_ONLY
    per: Per = "sample"
    fold: bool = True
    partner: _sampling.Partner = "permutation"
    probability: ArrayLike = 1.0
    groups: int = 1
    lam: ArrayLike | tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("alpha", "lam"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        _checks.check_alpha(self.alpha)
        _checks.check_choice("per", self.per, get_args(Per))
        _checks.check_choice("partner", self.partner, _sampling.PARTNERS)
        _checks.check_probability(self.probability)
        _checks.check_bool("fold", self.fold)
        _checks.check_groups(self.groups)
        _checks.check_lam(self.lam, fold=self.fold, alpha=self.alpha, default=self._default_alpha())
        for name in ("alpha", "probability", "lam"):
            object.__setattr__(self, name, static(getattr(self, name)))
        if self.per == "pair" and self.partner != "flip":
            raise ValueError(
                "per='pair' is one draw for a sample and the partner that it is partner of, which there is with "
                f"partner='flip' alone, got partner={self.partner!r}."
            )

    def _default_alpha(self) -> Any:
        return next(field.default for field in dataclasses.fields(self) if field.name == "alpha")

    def sample(
        self, key: Array, shape: Sequence[int], *, within: ArrayLike | None = None, where: ArrayLike | None = None
    ) -> Mix:
        """Draw one batch's lambdas and partners.

        Args:
          key: a key of `jax.random.key`.
          shape: the batch's shape, batch first; only its first number counts.
          within: int `[batch]`, such as classes or domains: partners are of the same number. One alone of its number
            is its own partner.
          where: bool `[batch]`, False for rows that only fill up the batch: they stay as they are, with lambda 1, and
            are nobody's partner.

        Returns:
          A `Mix`: `lam` float32 `[batch]`, `partner` int32 `[batch]`.

        Raises:
          TypeError: `key` is not one key.
          ValueError: `shape` has no batch axis, or `groups` does not divide it; `within` or `where` is not one a row.

        >>> import jax, jax_mix
        >>> bool((jax_mix.MixUp(1.0).sample(jax.random.key(0), (100,)).lam >= 0.5).all())
        True
        """
        return self._draw(words_of(key, shape), shape, within, where)

    def _draw(self, words: _sampling.Words, shape: Sequence[int], within: Any, where: Any) -> Mix:
        """What `sample` draws, from words that others may have taken theirs from."""
        n = batch(shape)
        lam = jnp.broadcast_to(self._rows(self._lambdas(words, n), n), (n,))
        partner = self._partners(words, n, within, where)
        return Mix(kept(where, lam), partner, groups=self.groups)

    def _lambdas(self, words: _sampling.Words, n: int) -> Array:
        return _sampling.lambdas(
            words,
            self.alpha,
            draws(self.per, n, self.groups),
            fold=self.fold,
            probability=self.probability,
            **({} if self.lam is None else {"lam": self.lam}),
        )

    def _rows(self, drawn: Array, n: int) -> Array:
        return rows(self.per, drawn, n, self.groups)

    def _partners(self, words: _sampling.Words, n: int, within: ArrayLike | None, where: ArrayLike | None) -> Array:
        _checks.check_divides(self.groups, n)
        if self.groups == n > 1:
            raise ValueError(f"groups must leave two samples or more in each, or none has a partner: got {n} of {n}.")
        if within is None and where is None:
            return _sampling.partners(words, n, self.partner, self.groups)
        if self.per == "pair":
            raise ValueError("per='pair' needs every sample and the one as far from the end: no within, no where.")
        number = jnp.zeros(n, jnp.int32)
        if within is not None:
            _checks.check_rows("within", within, n, "int")
            number = jnp.unique(replicated(within), return_inverse=True, size=n)[1].astype(jnp.int32)
        if where is None:
            return _sampling.partners(words, n, self.partner, self.groups, number)
        _checks.check_rows("where", where, n, "bool")
        filled = replicated(where)
        partner = _sampling.partners(words, n, self.partner, self.groups, jnp.where(filled, number, n))
        return jnp.where(filled, partner, jnp.arange(n, dtype=jnp.int32))


def static(value: Any) -> Any:
    """A number or a range as Python's own, which is hashable, to be static in jit; a traced one as it is."""
    if isinstance(value, tuple):
        return tuple(map(static, value))
    if value is None or not _checks.is_concrete(value) or isinstance(value, (int, float)):
        return value
    return float(value)


def draws(per: str, n: int, groups: int) -> tuple[int, ...]:
    """The shape of what is drawn for a batch of `n`: once, for each sample, or for each pair."""
    if per == "pair":
        return (groups * ((n // groups + 1) // 2),)
    return (n,) if per == "sample" else ()


def rows(per: str, drawn: Array, n: int, groups: int) -> Array:
    """What was drawn for pairs, for each sample; the rest as it is."""
    if per != "pair":
        return drawn
    size = n // groups
    group, at = np.divmod(np.arange(n), size)
    return drawn[np.minimum(at, size - 1 - at) + group * ((size + 1) // 2)]


def kept(where: ArrayLike | None, lam: Array) -> Array:
    """`lam`, and 1 for the rows that are to stay as they are."""
    return lam if where is None else jnp.where(replicated(where), lam, 1)


@dataclasses.dataclass(frozen=True)
class MixUp(Method):
    """MixUp: blend two samples' inputs and targets by lambda ~ Beta(alpha, alpha).

    The defaults are fastai's. The paper's form is `MixUp(alpha, per="batch", fold=False)`.

    Args:
      alpha: Beta's parameter, positive: small is almost no mixing, 1 is uniform. A traced scalar works too
        (a schedule inside jit). A range (low, high): alpha is drawn from it, once for each batch (Keras).
      per: "sample", each its own lambda, "batch", one for all, or "pair", one for two that are each other's partner
        (timm), which needs `partner="flip"`.
      fold: take max(lam, 1-lam), so that a sample always weighs at least as much as its partner.
      partner: "permutation", a random one; "derangement", never oneself: the sample before, in a circle in random
        order (each of the (n-1)! circles is as likely); "roll", the sample before (torchvision); "flip", the batch
        reversed (timm).
      probability: how often to mix at all, per sample, batch or pair; else lambda is 1. May be traced.
      groups: partners are found within each of this many equal, consecutive parts of the batch. One for each
        device, of a batch that is split over devices, and mixing needs no communication.
      lam: in place of Beta's lambda and `alpha`, a fixed one, traced or not, or a range (low, high) that it is drawn
        from uniformly (Kornia's `lambda_val`, there of the partner).

    Raises:
      ValueError: an argument is outside what is allowed.

    Source: arXiv:1710.09412, section 2; `fastai.callback.mixup.MixUp`.

    >>> import jax, jax_mix
    >>> method = jax_mix.MixUp(0.4)
    >>> mix = method.sample(jax.random.key(0), (8, 32, 32, 3))
    >>> mix.lam.shape, mix.partner.shape
    ((8,), (8,))
    """

    alpha: ArrayLike | tuple[float, float] = 0.4


@dataclasses.dataclass(frozen=True)
class OutputMixup(Method):
    """Mixup of what the model puts out, logits or predictions: `forward` blends it after the model has run.

    Args:
      alpha, per, fold, partner, probability, groups, lam: as in `MixUp`.

    Raises:
      ValueError: an argument is outside what is allowed.

    Source: Manifold Mixup, arXiv:1806.05236, with the last layer as the only one.

    >>> import jax, jax_mix
    >>> jax_mix.OutputMixup(1.0).sample(jax.random.key(0), (8, 32, 32, 3)).layer_name
    '<output>'
    """

    alpha: ArrayLike | tuple[float, float] = 0.4

    def _draw(self, words: _sampling.Words, shape: Sequence[int], within: Any, where: Any) -> Mix:
        mix = super()._draw(words, shape, within, where)
        return dataclasses.replace(mix, layer=OUTPUT, layers=(OUTPUT,))


@dataclasses.dataclass(frozen=True)
class ManifoldMixup(Method):
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
      layer_probabilities: how likely each layer is, the input first if it is among them; may be traced (a schedule).
        Of globs, types and chosen layers they are in running order. None: all alike.
      per, fold, partner, probability, groups, lam: as in `MixUp`.

    Raises:
      ValueError: an argument is outside what is allowed.

    Source: arXiv:1806.05236, section 2; ManifoldMixupV2's `ManifoldMixup`.

    >>> import jax, jax_mix
    >>> method = jax_mix.ManifoldMixup(2.0, layers=("stem", "layer1"))
    >>> method.sample(jax.random.key(0), (8, 32, 32, 3)).layers
    ('input', 'stem', 'layer1')
    """

    alpha: ArrayLike | tuple[float, float] = 0.4
    _: dataclasses.KW_ONLY
    layers: Any = None
    use_input: bool = True
    layer_probabilities: ArrayLike | Sequence[float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if _checks.is_concrete(self.layer_probabilities) and self.layer_probabilities is not None:
            numbers = np.asarray(self.layer_probabilities)
            if numbers.ndim != 1:
                raise ValueError(f"layer_probabilities must be a number for each layer, got {numbers.tolist()}.")
            object.__setattr__(self, "layer_probabilities", tuple(numbers.tolist()))
        _checks.check_bool("use_input", self.use_input)
        if self.layers is None:
            return
        object.__setattr__(self, "layers", as_layers(self.layers))
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
        layers, _ = self._find(as_call(model, args, kwargs, variables, method, mixed), strict)
        return dataclasses.replace(self, layers=layers, layer_probabilities=in_order_of(layers, self))

    def _find(self, call: Call, strict: bool) -> tuple[tuple[str, ...], Found]:
        """The paths of the layers that are chosen, and all that the model has."""
        _checks.check_arrays(call.inputs, call.what)
        check_input(call, self.use_input)
        _checks.check_bool("strict", strict)
        found = find_layers(call, tell=False)
        return choose(call, found, self.layers, use_input=self.use_input, strict=strict).layers, found

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
        layer     type    output         mixing there               chosen
        input             float32[8, 4]  exact                      yes
        layers.0  Linear  float32[8, 8]  the same as at the input   yes: named
        layers.2  Linear  float32[8, 2]  the same as at the output
        <BLANKLINE>
        Each batch is mixed at one of 2 places, drawn at random: 'input' or 'layers.0'.
        """
        call = as_call(model, args, kwargs, variables, method, mixed)
        _checks.check_arrays(call.inputs, call.what)
        return explain(call, self.layers, use_input=self.use_input)

    def sample(
        self,
        key: Array,
        shape: Sequence[int],
        *,
        layer: str | None = None,
        within: ArrayLike | None = None,
        where: ArrayLike | None = None,
    ) -> Mix:
        """Draw one batch's lambdas, partners and layer.

        Args:
          key: a key of `jax.random.key`.
          shape: the batch's shape, batch first; only its first number counts.
          layer: None draws it inside jit: one compiled step serves all layers. A name fixes it,
            "input" included, and gives a program for that layer alone.
          within, where: as in `MixUp.sample`.

        Returns:
          A `Mix`: `lam` float32 `[batch]`, `partner` int32 `[batch]`, `layer` int32 `[]` or the name.

        Raises:
          TypeError: `key` is not one key.
          ValueError: `layers` needs a model (call `bind`), `layer` is not among them, `shape` is empty, or `groups`
            does not divide the batch; `layer_probabilities` are not one a layer.

        >>> import jax, jax_mix
        >>> method = jax_mix.ManifoldMixup(2.0, layers=("stem", "layer1"))
        >>> method.sample(jax.random.key(0), (8, 4), layer="layer1").layer_name
        'layer1'
        """
        return self._draw(words_of(key, shape), shape, within, where, layer)

    def _draw(
        self, words: _sampling.Words, shape: Sequence[int], within: Any, where: Any, layer: str | None = None
    ) -> Mix:
        names = self.places
        mix = super()._draw(words, shape, within, where)
        return at_layer(mix, words, names, layer, self.layer_probabilities)

    @property
    def places(self) -> tuple[str, ...]:
        """The names of where a batch may be mixed: of layers, and "input"."""
        return layer_names(self.layers, use_input=self.use_input)


def batch(shape: Sequence[int]) -> int:
    if hasattr(shape, "shape") or not isinstance(shape, Sequence) or not shape or shape[0] < 0:
        raise ValueError(f"shape must be the batch's shape, batch first, as image.shape, got {_checks.shown(shape)}.")
    return int(shape[0])


def words_of(key: Array, shape: Sequence[int]) -> _sampling.Words:
    _checks.check_key(key)
    return _sampling.Words(key, batch(shape))
