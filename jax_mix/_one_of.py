"""One of several methods for each batch, sample or pair: their draws, made one structure and chosen from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jax_mix import _checks, _sampling
from jax_mix._methods import Method, Per, batch, draws, rows, words_of
from jax_mix._mix import Mix

if TYPE_CHECKING:
    from jax import Array
    from jax.typing import ArrayLike


@dataclasses.dataclass(frozen=True, init=False, repr=False)
class OneOf:
    """One of several methods, drawn anew for each batch, or for each sample.

    Its draw is a `Mix` of one structure, whichever method was drawn, so that one compiled step serves all of them.
    timm's default recipe is `OneOf(MixUp(0.8, ...), CutMix(1.0, ...))`.

    Args:
      *methods: `MixUp`, `CutMix`, `ManifoldMixup`, `OutputMixup`, another `OneOf`, or None for a batch that is not
        mixed.
      probabilities: how likely each is, numbers that sum to 1; may be traced (a schedule inside jit). None: all alike.
      per: "batch", one method for all, "sample", one for each, or "pair", one for two that are each other's partner,
        which needs methods with `partner="flip"`. Within its method, each sample is mixed as the method's own `per`
        says. But for "batch", all methods must mix at one and the same layer.

    Raises:
      TypeError: one of `methods` is no method.
      ValueError: an argument is outside what is allowed, or the methods differ in `groups`, `spatial_axes` or, but for
        "batch", in where they mix.

    Source: timm's `Mixup`, its `switch_prob` and `mode`.

    >>> import jax, jax_mix
    >>> method = jax_mix.OneOf(jax_mix.CutMix(1.0), jax_mix.ManifoldMixup(2.0, layers=("layer1",)))
    >>> mix = method.sample(jax.random.key(0), (8, 32, 32, 3))
    >>> mix.layers, mix.box.shape
    (('input', 'layer1'), (4,))
    """

    methods: tuple[Method | OneOf | None, ...]
    probabilities: Any
    per: Per

    def __init__(
        self,
        *methods: Method | OneOf | None,
        probabilities: ArrayLike | Sequence[float] | None = None,
        per: Per = "batch",
    ) -> None:
        if not methods:
            raise ValueError("OneOf needs one method or more, as in OneOf(MixUp(0.8), CutMix(1.0)).")
        for method in methods:
            if method is not None and not isinstance(method, (Method, OneOf)):
                raise TypeError(f"OneOf chooses among methods of jax_mix and None, got {_checks.shown(method)}.")
        _checks.check_choice("per", per, get_args(Per))
        if probabilities is not None:
            names = ["None" if method is None else type(method).__name__ for method in methods]
            _checks.check_probabilities("probabilities", probabilities, names)
            if _checks.is_concrete(probabilities):
                probabilities = tuple(np.asarray(probabilities, float).tolist())
        for name, value in (("methods", methods), ("probabilities", probabilities), ("per", per)):
            object.__setattr__(self, name, value)
        self._check_alike("groups")
        self._check_alike("spatial_axes")
        if per == "pair" and (partners := {m.partner for m in self._each()} - {"flip"}):
            raise ValueError(f"per='pair' needs methods with partner='flip', got {', '.join(sorted(partners))}.")

    def __repr__(self) -> str:
        given = [repr(method) for method in self.methods]
        given += [f"{name}={getattr(self, name)!r}" for name in ("probabilities", "per")]
        return f"OneOf({', '.join(given)})"

    @property
    def groups(self) -> int:
        """The methods' `groups`."""
        return next((method.groups for method in self._each()), 1)

    def bind(self, model: Any, *args: Any, variables: Any = None, **kwargs: Any) -> OneOf:
        """The same with the layers of all its methods found in `model`, as `ManifoldMixup.bind` finds them."""
        bound = [
            method.bind(model, *args, variables=variables, **kwargs)
            if method is not None and hasattr(method, "bind")
            else method
            for method in self.methods
        ]
        return OneOf(*bound, probabilities=self.probabilities, per=self.per)

    def sample(
        self, key: Array, shape: Sequence[int], *, within: ArrayLike | None = None, where: ArrayLike | None = None
    ) -> Mix:
        """Draw one batch's methods, and of each what its own `sample` draws.

        Args:
          key: a key of `jax.random.key`.
          shape: the images' shape, batch first.
          within, where: as in `MixUp.sample`.

        Returns:
          A `Mix`: `lam` and `partner` `[batch]`; `box` if one of the methods has boxes, empty where another was drawn;
          `outside` if others blend; `layer` int32 `[]` if they mix at different layers.

        Raises:
          TypeError: `key` is not one key.
          ValueError: what the methods' own `sample` refuses; different layers, but for `per="batch"`.

        >>> import jax, jax_mix
        >>> method = jax_mix.OneOf(jax_mix.MixUp(0.8), jax_mix.CutMix(1.0), None, per="sample")
        >>> method.sample(jax.random.key(0), (8, 32, 32, 3)).outside.shape
        (8,)
        """
        return self._draw(words_of(key, shape), shape, within, where)

    def _draw(self, words: _sampling.Words, shape: Sequence[int], within: Any, where: Any) -> Mix:
        """What `sample` draws, from words that others may have taken theirs from."""
        n = batch(shape)
        mixes = [
            _unmixed(n) if method is None else method._draw(words, shape, within, where) for method in self.methods
        ]
        drawn = draws(self.per, n, self.groups)
        choice = _sampling.choices(words, len(self.methods), drawn, self.probabilities)
        mixes = _of_one_structure(mixes, [method is not None for method in self.methods], self.per)
        return _chosen(mixes, rows(self.per, choice, n, self.groups))

    def _each(self) -> list[Any]:
        """The methods, with those of a `OneOf` inside in its place."""
        nested = [m._each() if isinstance(m, OneOf) else [m] for m in self.methods if m is not None]
        return [method for methods in nested for method in methods]

    def _check_alike(self, name: str) -> None:
        values = list(dict.fromkeys(getattr(method, name) for method in self._each() if hasattr(method, name)))
        if len(values) > 1:
            raise ValueError(f"OneOf's methods must have the same {name}, got {', '.join(map(str, values))}.")


def _unmixed(n: int) -> Mix:
    return Mix(jnp.ones(n, jnp.float32), jnp.arange(n, dtype=jnp.int32))


def _of_one_structure(mixes: list[Mix], mixed: list[bool], per: str) -> list[Mix]:
    """The draws with a box each if one has any, `outside` if some blend beside it, and a layer among those of all."""
    active = [mix for mix, some in zip(mixes, mixed, strict=True) if some] or mixes[:1]
    n = np.shape(mixes[0].partner)[0]
    boxed = [mix for mix in active if mix.box is not None]
    blended = [mix for mix in active if mix.box is None or mix.outside is not None]
    fixed = all(isinstance(mix.layer, str) and mix.layer == active[0].layer for mix in active)
    if per != "batch" and not fixed and len(active) > 1:
        places = [mix.layer if isinstance(mix.layer, str) else ", ".join(mix.layers) for mix in active]
        raise ValueError(f"per={per!r} needs methods that mix at one and the same layer, got {'; '.join(places)}.")
    layers = tuple(dict.fromkeys(name for mix in active for name in _names(mix)))
    box_layers = tuple(dict.fromkeys(name for mix in boxed for name in mix.box_layers or _names(mix)))
    one_box = per == "batch" and all(len(np.shape(mix.box)) == 1 for mix in boxed if mix.box is not None)
    dtype = jnp.result_type(*(jnp.result_type(mix.lam) for mix in mixes))

    def row(value: Any) -> Array:
        return jnp.broadcast_to(jnp.asarray(value, jnp.float32), (n,))

    def same(mix: Mix, some: bool) -> Mix:
        layer: Any = active[0].layer
        if not fixed:
            numbers = np.array([layers.index(name) for name in _names(mix)] if some else [0], np.int32)
            layer = jnp.asarray(numbers)[0 if isinstance(mix.layer, str) or not some else mix.layer]
        box = outside = None
        if boxed:
            corners = 2 * len(boxed[0].spatial_axes)
            box = jnp.zeros(corners, jnp.int32) if mix.box is None else jnp.asarray(mix.box)
            box = box if one_box else jnp.broadcast_to(box, (n, corners))
            if blended:
                pasted = mix.box is not None and mix.outside is None
                outside = row(1 if pasted else mix.lam if mix.outside is None else mix.outside)
        return Mix(
            jnp.broadcast_to(jnp.asarray(mix.lam), (n,)).astype(dtype),
            mix.partner,
            box,
            layer,
            active[0].layers if fixed else layers,
            boxed[0].image_size if boxed else None,
            boxed[0].spatial_axes if boxed else active[0].spatial_axes,
            active[0].groups,
            outside,
            box_layers if boxed and set(layers) != set(box_layers) else None,
        )

    return [same(mix, some) for mix, some in zip(mixes, mixed, strict=True)]


def _names(mix: Mix) -> tuple[str, ...]:
    """Where it may mix."""
    return (mix.layer,) if isinstance(mix.layer, str) else mix.layers


def _chosen(mixes: list[Mix], choice: Array) -> Mix:
    """Of each row, or of all, the draw that was chosen."""

    def choose(*values: Array) -> Array:
        if choice.ndim and not values[0].ndim:  # one for all, such as a layer
            return values[0]
        which = jnp.expand_dims(choice, tuple(range(choice.ndim, values[0].ndim)))
        return jax.lax.select_n(jnp.broadcast_to(which, values[0].shape), *values)

    return jax.tree.map(choose, *mixes)
