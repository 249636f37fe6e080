"""Checks of what a user passes: each failure is one sentence with the argument, its value and what is allowed."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def is_concrete(value: Any) -> bool:
    """Whether `value` can be looked at now: False for what jit has yet to compute."""
    return not isinstance(value, jax.core.Tracer)


def suggest(name: str, names: Iterable[str], *, limit: int = 12) -> str:
    """The nearest of `names` to `name`, then what there is: the second half of an error message."""
    names = list(names)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    shown = ", ".join(repr(n) for n in names[:limit]) + (f", ... ({len(names)} in all)" if len(names) > limit else "")
    return (f"did you mean {' or '.join(map(repr, near))}? " if near else "") + f"There are: {shown or 'none'}."


def shown(value: Any) -> str:
    """`value` on one short line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


def check_choice(argument: str, value: Any, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{argument} is {shown(value)}: {suggest(str(value), allowed)}")


def check_alpha(alpha: Any) -> None:
    """`alpha` must be a positive, finite number, or a range; a traced one (a schedule inside jit) is not looked at."""
    if isinstance(alpha, tuple):
        if not (_are_numbers(alpha, 2) and 0 <= alpha[0] <= alpha[1] and 0 < alpha[1] < math.inf):
            raise ValueError(f"alpha must be a positive number, or a range (low, high) of them, got {shown(alpha)}.")
        return
    if not is_concrete(alpha):
        return
    if isinstance(alpha, (str, bool, type(None))) or np.ndim(alpha) != 0:
        raise ValueError(f"alpha must be one positive number, got {shown(alpha)}.")
    if not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(
            f"alpha must be positive and finite, got {float(alpha)!r}; to train without mixing, leave it out."
        )


def check_lam(lam: Any, *, fold: bool, alpha: Any, default: Any) -> None:
    """A method's `lam`, which stands in Beta's place, is one number or a range, from 0 to 1."""
    if lam is None:
        return
    if not is_concrete(alpha) or alpha != default:
        raise ValueError(f"lam and alpha cannot both be given, got lam={shown(lam)}, alpha={shown(alpha)}.")
    if not is_concrete(lam):
        return
    check_part("lam", lam)
    lowest = lam[0] if isinstance(lam, tuple) else lam
    if fold and lowest < 0.5:
        raise ValueError(f"lam is {shown(lam)}, and fold=True would take 1-lam where it is below 0.5: give fold=False.")


def check_part(argument: str, value: Any) -> None:
    """One number or a range (low, high), from 0 to 1."""
    numbers = value if isinstance(value, tuple) else (value,)
    ranged = _are_numbers(numbers, 2 if isinstance(value, tuple) else 1)
    if not (ranged and 0 <= numbers[0] <= numbers[-1] <= 1):
        raise ValueError(f"{argument} must be a number from 0 to 1, or a range (low, high), got {shown(value)}.")


def check_number(argument: str, value: Any, low: float, high: float) -> None:
    """One number from `low` to `high`, known before compilation."""
    right = is_concrete(value) and np.ndim(value) == 0 and np.asarray(value).dtype.kind in "iuf"
    if not right or not low <= value <= high or math.isinf(value):
        allowed = f"a number from {low} to {high}" if high < math.inf else f"a number of {low} or more"
        raise ValueError(f"{argument} must be {allowed}, known before compilation, got {shown(value)}.")


def check_two_numbers(argument: str, value: Any) -> tuple[float, float]:
    """Two numbers, of any sequence."""
    numbers = tuple(value) if np.ndim(value) == 1 else ()
    if len(numbers) != 2 or not all(np.asarray(number).dtype.kind in "iuf" for number in numbers):
        raise ValueError(f"{argument} must be two numbers (low, high), got {shown(value)}.")
    return float(numbers[0]), float(numbers[1])


def check_range(argument: str, value: Any) -> tuple[float, float]:
    """A range from 0 to 1, of any sequence of two numbers."""
    low, high = check_two_numbers(argument, value)
    if not 0 <= low <= high <= 1:
        raise ValueError(f"{argument} must be a range (low, high) from 0 to 1, got {shown(value)}.")
    return low, high


def _are_numbers(values: tuple[Any, ...], count: int) -> bool:
    return len(values) == count and all(
        is_concrete(v) and np.ndim(v) == 0 and np.asarray(v).dtype.kind in "iuf" for v in values
    )


def check_probabilities(argument: str, value: Any, names: Sequence[str]) -> None:
    """One probability for each of `names`; a traced array's shape alone is looked at."""
    if not is_concrete(value):
        fits = np.shape(value) == (len(names),)
    else:
        numbers = np.asarray(value)
        fits = numbers.shape == (len(names),) and numbers.dtype.kind in "iuf" and bool(np.all(numbers >= 0))
        fits = fits and abs(float(numbers.sum()) - 1) < 1e-5
    if not fits:
        raise ValueError(
            f"{argument} must be {len(names)} numbers that sum to 1, for {', '.join(names)}, got {shown(value)}."
        )


def check_rows(argument: str, value: Any, n: int, kind: str) -> None:
    """`within` and `where`: one whole number, or one bool, for each row."""
    check_arrays(value, argument)
    dtype = jnp.result_type(value)
    right = jnp.issubdtype(dtype, jnp.integer) if kind == "int" else dtype == np.bool_
    if np.shape(value) != (n,) or not right:
        raise ValueError(f"{argument} must be one {kind} for each row, [{n}], got {dtype}{list(np.shape(value))}.")


def check_key(key: Any) -> None:
    """`key` must be one key: of `jax.random.key`, or of the old form, two uint32."""
    array: Any = None if isinstance(key, nnx.Rngs) else key  # those have a stream of any name, "dtype" too
    dtype, shape = getattr(array, "dtype", None), np.shape(array) if hasattr(array, "shape") else None
    typed = dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)
    if not (typed and shape == ()) and not (dtype == np.uint32 and shape == (2,)):
        got = "nnx.Rngs: rngs.mixup() gives one" if isinstance(key, nnx.Rngs) else shown(key)
        raise TypeError(f"key must be one key, as jax.random.key(seed) makes it, got {got}.")


def check_probability(probability: Any) -> None:
    if not is_concrete(probability):
        return
    number = np.ndim(probability) == 0 and np.issubdtype(np.asarray(probability).dtype, np.number)
    if not number or not 0 <= probability <= 1:
        raise ValueError(f"probability must be a number from 0 to 1, got {shown(probability)}.")


def check_groups(groups: Any) -> None:
    if isinstance(groups, bool) or not isinstance(groups, (int, np.integer)) or groups < 1:
        raise ValueError(f"groups must be a whole number of 1 or more, got {shown(groups)}.")


def check_divides(groups: int, n: int) -> None:
    if n % groups:
        raise ValueError(f"groups must divide the batch of {n} samples, got {groups}.")


def check_bool(argument: str, value: Any) -> None:
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{argument} must be True or False, got {shown(value)}.")


def ints(argument: str, value: Any, count: int, meaning: str) -> tuple[int, ...]:
    """`value` as a tuple of ints, which is hashable whatever sequence was given."""
    numbers = np.asarray(value)
    if numbers.shape != (count,) or not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(f"{argument} must be {_COUNT[count]}, {meaning}, got {shown(value)}.")
    return tuple(numbers.tolist())


_COUNT = {1: "one whole number", 2: "two whole numbers", 3: "three whole numbers"}
SIDES = {1: "(length,)", 2: "(height, width)", 3: "(depth, height, width)"}
CORNERS = {1: "(x1, x2)", 2: "(y1, x1, y2, x2)", 3: "(z1, y1, x1, z2, y2, x2)"}


def check_axes(axes: Any) -> tuple[int, ...]:
    """`spatial_axes`: one, two or three different axes after the batch axis."""
    if np.ndim(axes) != 1 or np.size(axes) not in SIDES:
        raise ValueError(f"spatial_axes must be one, two or three axes, as (1, 2) for NHWC, got {shown(axes)}.")
    axes = ints("spatial_axes", axes, np.size(axes), "the axes of " + SIDES[np.size(axes)][1:-1].replace(", ", " and "))
    if len(set(axes)) < len(axes) or min(axes) < 1:
        raise ValueError(
            f"spatial_axes must be {_COUNT[len(axes)].split()[0]} different axes after the batch axis 0, got {axes}."
        )
    return axes


def check_spatial(what: str, shape: Sequence[int], axes: tuple[int, ...]) -> None:
    """CutMix's images have the spatial axes, none of them of length 0."""
    if max(axes) >= len(shape) or 0 in [shape[axis] for axis in axes]:
        *most, last = map(str, axes)
        named = f"{', '.join(most)} and {last}" if most else last
        count = {1: "one spatial axis", 2: "two spatial axes", 3: "three spatial axes"}[len(axes)]
        raise ValueError(f"CutMix needs {count}, {named} (spatial_axes), got {what} {tuple(shape)}.")


def check_same_length(x: Any, y: Any) -> None:
    """`x` and `y` (pytrees, batch first) must hold as many samples."""
    n_x, n_y = batch_size(x, "x"), batch_size(y, "y")
    if n_x != n_y:
        raise ValueError(f"x and y must have the same number of samples, got {n_x} in x and {n_y} in y.")


def check_no_torch(tree: Any, what: str) -> None:
    """JAX takes no torch tensor, in jit at least; torch is not imported to know one."""
    for leaf in jax.tree.leaves(tree):
        if any(kind.__module__.partition(".")[0] == "torch" for kind in type(leaf).__mro__):
            raise TypeError(
                f"{what} must be arrays of JAX or NumPy, got a torch.{type(leaf).__name__}: "
                "jnp.asarray(tensor.detach().cpu().numpy()) makes one."
            )


def check_arrays(tree: Any, what: str) -> None:
    """Every leaf of `tree` must be an array or a number that JAX takes."""
    check_no_torch(tree, what)
    for leaf in jax.tree.leaves(tree):
        dtype = getattr(leaf, "dtype", None)
        kind = dtype.kind if isinstance(dtype, np.dtype) else None
        if kind in ("U", "S", "O", "T") or isinstance(leaf, (str, bytes)):
            got = "Python objects" if kind == "O" else "strings"
            if what in ("y", "labels"):
                told = f"class numbers or one-hot, got {got}: np.unique({what}, return_inverse=True)[1] numbers names"
            else:
                told = f"numbers, got {got}: np.asarray({what}, np.float32) makes floats, if they are written so"
            raise TypeError(f"{what} must be {told}.")
        if kind in ("m", "M") or getattr(dtype, "names", None):
            raise TypeError(f"{what} must be numbers, got {dtype}: make an array of floats of it.")
        if not isinstance(leaf, _ARRAYS) and not hasattr(leaf, "__jax_array__"):
            raise TypeError(
                f"{what} must be arrays of JAX or NumPy, got {type(leaf).__name__}: np.asarray({what}) may make one."
            )


_ARRAYS = (jax.Array, np.ndarray, np.generic, bool, int, float, complex, jax.ShapeDtypeStruct)  # what JAX takes


def check_blendable(tree: Any) -> None:
    """Of `x`: a weighted mean of integers is none, and of class numbers it means nothing."""
    for leaf in jax.tree.leaves(tree):
        dtype, axes = jnp.result_type(leaf), np.ndim(leaf)
        if jnp.issubdtype(dtype, jnp.inexact):
            continue
        told = f"x must be of a floating type to be mixed, got {dtype}: "
        if dtype == np.bool_:
            raise TypeError(told + "cast a mask first, x.astype(jnp.float32), or paste it, with CutMix.")
        if dtype == np.uint8 and axes >= 3:
            raise TypeError(
                told + "cast images first, x.astype(jnp.float32) / 255; make masks of class numbers one-hot; or paste "
                "either, with CutMix."
            )
        raise TypeError(
            told + "cast counts and columns of a table first, x.astype(jnp.float32); make class numbers one-hot; mix "
            "token ids at hidden layers, ManifoldMixup(use_input=False); or paste masks, with CutMix."
        )


def check_targets(tree: Any) -> None:
    for leaf in jax.tree.leaves(tree):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.inexact):
            several = " for 0 and 1 of several labels, y.astype(jnp.float32);" if np.ndim(leaf) > 1 else ""
            raise TypeError(
                f"y must be float targets, got {dtype}:{several} for class numbers, use "
                "jax.nn.one_hot(y, num_classes), or keep them and use jax_mix.mixed_loss."
            )


def check_loss(loss: Any) -> None:
    """A loss function's result must be one array of real floats."""
    check_arrays(loss, "the loss")
    if loss is None or isinstance(loss, (tuple, dict)):
        got = "None" if loss is None else f"a {type(loss).__name__}"
        raise TypeError(f"the loss must be one array, a float per example, got {got}.")
    dtype = jnp.asarray(loss).dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"the loss must be floats, to be weighed by lam, got {dtype}: cast it, loss.astype(jnp.float32), if its "
            "mean has a meaning, as that of hits has."
        )


def check_box_form(box: Any, partner: Any, axes: int) -> None:
    check_arrays(box, "box")
    check_arrays(partner, "partner")
    whole = np.ndim(box) and jnp.issubdtype(jnp.result_type(box), jnp.integer)
    if not whole or np.shape(box) not in ((2 * axes,), (*np.shape(partner), 2 * axes)):
        n = np.shape(partner)[0] if np.ndim(partner) else "batch"
        told = shown(np.asarray(box).tolist() if is_concrete(box) else np.shape(box))
        raise ValueError(f"box must be whole pixels {CORNERS[axes]}, [{2 * axes}] or [{n}, {2 * axes}], got {told}.")


def check_like(tree: Any, other: Any) -> None:
    """`other`, which partners are taken from, must look as what they are mixed into."""
    check_arrays(other, "other")
    trees: list[Any] = [jax.tree.structure(each) for each in (tree, other)]
    if trees[0] != trees[1]:
        raise ValueError(f"other must be a tree as what it is mixed with, {trees[0]}, got {trees[1]}.")
    for own, leaf in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        if np.shape(own) != np.shape(leaf) or jnp.result_type(own) != jnp.result_type(leaf):
            raise ValueError(
                f"other must be as what it is mixed with, {jnp.result_type(own)}{list(np.shape(own))}, got "
                f"{jnp.result_type(leaf)}{list(np.shape(leaf))}."
            )


def batch_size(tree: Any, what: str) -> int:
    """The length of the first axis, the same in every array of `tree`."""
    check_arrays(tree, what)
    leaves = jax.tree.leaves(tree)
    sizes = {np.shape(leaf)[0] if np.ndim(leaf) else None for leaf in leaves}
    if len(sizes) != 1 or None in sizes:
        if isinstance(tree, (list, tuple)) and any(isinstance(leaf, (int, float)) for leaf in leaves):
            kind = type(tree).__name__
            raise ValueError(f"{what} must be arrays, got numbers in a {kind}: jnp.asarray({what}) makes one.")
        got = "None" if tree is None else f"shapes {[np.shape(leaf) for leaf in leaves]}"
        raise ValueError(f"{what} must be arrays with one batch axis, first and of one length, got {got}.")
    return int(sizes.pop())  # type: ignore[arg-type]
