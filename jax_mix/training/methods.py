"""What `--mix` says, and each of compare's `--methods`: read, told in words, and made a method of jax_mix.

It is one of `METHODS` or `RECIPES`, or none; after a colon stand its arguments, in their order or by their names, as
Python takes them. Several are joined by `+`, of which one is drawn; `@` and a number say how likely it is:

    mixup    cutmix:1.0,box=paper    mixup:0.8+cutmix:1.0@0.3    cutmix+none    timm:0.8,1.0,mode=elem
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax_mix
from jax_mix import recipes
from jax_mix._checks import shown, suggest
from jax_mix._explain import told_where
from jax_mix._places import layer_names
from jax_mix.training.errors import UserError, require

Method = jax_mix.MixUp | jax_mix.ManifoldMixup | jax_mix.CutMix | jax_mix.OutputMixup | jax_mix.OneOf
METHODS: dict[str, Any] = {
    "mixup": jax_mix.MixUp,
    "manifold": jax_mix.ManifoldMixup,
    "cutmix": jax_mix.CutMix,
    "output": jax_mix.OutputMixup,
}
RECIPES: dict[str, Callable[..., Any]] = {name: getattr(recipes, name) for name in recipes.__all__}
_CALLED = {
    "none": "no mixing",
    "mixup": "MixUp",
    "manifold": "Manifold Mixup",
    "cutmix": "CutMix",
    "output": "Output Mixup",
}
LEAST_ALPHA = 1e-3  # with less, fewer than one in 200 lambdas of Beta(alpha, alpha) is between 0.01 and 0.99
_CONSTANTS = {"True": True, "False": False, "None": None}
_WITHOUT = {False: (1,), True: (0, 1)}  # lambdas that mix nothing, folded or not
_NOT_HERE = ("groups", "spatial_axes")  # --mix-groups says the first, and images have two axes


@dataclasses.dataclass(frozen=True)
class Part:
    """One of the methods that are named.

    Attributes:
      name: of `METHODS` or `RECIPES`, or "none".
      given: its arguments, by name, as they were written.
      probability: how likely it is, if that was written.
    """

    name: str
    given: dict[str, str]
    probability: float | None

    @property
    def leaves_alpha(self) -> bool:
        """Whether it leaves alpha to `--alpha`."""
        return self.name in METHODS and not {"alpha", "lam", "side"} & self.given.keys()


def parse(mix: str, where: str | None = None) -> tuple[Part, ...]:
    """What is written, part by part.

    >>> parse("mixup:0.8+cutmix:box=paper@0.3")[1]
    Part(name='cutmix', given={'box': 'paper'}, probability=0.3)

    Args:
      mix: as the module says.
      where: what a complaint begins with; None: the flag and `mix`.

    Raises:
      UserError: a method or an argument is unknown, missing or given twice.
    """
    where = where or _where(mix)
    parts = tuple(_part(text, where) for text in re.split(r"\+(?!\d)", mix))  # 1e+2 is one number
    require(sum(part.name == "none" for part in parts) < 2, f"{where} names none twice.")
    alone = len(parts) == 1 and parts[0].probability is not None
    require(not alone, f"{where}: one method alone has no probability; the rest may be none, as in cutmix@0.5+none.")
    return parts


def make(
    mix: str, alpha: float | None = None, groups: int | None = None, per: Any = None, where: str | None = None
) -> Method | None:
    """The method that is written; Manifold Mixup's layers are still to be bound.

    >>> make("cutmix:1.0,box=paper@0.3+none").probabilities
    (0.3, 0.7)

    Args:
      mix, where: as in `parse`.
      alpha: of the parts that leave it open; None: each has its own.
      groups: of each part, as in `MixUp`; None: its own.
      per: what one of several parts is drawn for; None: each batch.

    Returns:
      One of `METHODS`, a `OneOf`, or None, which does not mix.

    Raises:
      UserError: something that is written cannot be used.
    """
    parts = parse(mix, where)
    where = where or _where(mix)
    try:
        methods = [_made(part, alpha, where) for part in parts]
        probabilities = _probabilities(parts, where)
        method = methods[0]
        if len(parts) > 1:
            method = jax_mix.OneOf(*methods, probabilities=probabilities, per=per or "batch")
        if groups is not None:
            method = changed(method, lambda each: dataclasses.replace(each, groups=groups))
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{where}: {error}") from error
    for each in every(method):
        most = max(each.alpha) if isinstance(each.alpha, tuple) else each.alpha
        some = most >= LEAST_ALPHA or each.lam is not None or getattr(each, "side", None) is not None
        told = f"{where}: alpha must be at least {LEAST_ALPHA}, below which next to nothing is mixed, got {most}."
        require(some, told)
        nothing = each.probability == 0 or each.lam in _WITHOUT[each.fold] or getattr(each, "side", None) == 0
        require(not nothing, f"{where}: {_described(each)} mixes nothing: leave it out, or give none.")
    return method


def every(method: Any) -> Iterator[Any]:
    """The methods in a `OneOf`, or the one that it is."""
    if isinstance(method, jax_mix.OneOf):
        for each in method.methods:
            yield from every(each)
    elif method is not None:
        yield method


def changed(method: Any, change: Callable[[Any], Any]) -> Any:
    """A method with each one in it changed."""
    if isinstance(method, jax_mix.OneOf):
        inside = (changed(each, change) for each in method.methods)
        return jax_mix.OneOf(*inside, probabilities=method.probabilities, per=method.per)
    return None if method is None else change(method)


def leaves_layers(method: Any) -> bool:
    """Whether it leaves its layers to `--layers`: a Manifold Mixup that was written without."""
    return isinstance(method, jax_mix.ManifoldMixup) and method.layers is None


def has_one_alpha(method: Method | None) -> bool:
    """Whether all lambdas are of one Beta, so that `--alpha-end` has where to begin."""
    return (
        method is not None
        and not isinstance(method, jax_mix.OneOf)
        and not isinstance(method.alpha, tuple)
        and method.lam is None
        and getattr(method, "side", None) is None
    )


def as_flags(mix: str) -> tuple[str, float | None]:
    """One method with its alpha and nothing more as `--mix` and `--alpha`, which say the same.

    >>> as_flags("mixup:0.4"), as_flags("mixup+cutmix")
    (('mixup', 0.4), ('mixup+cutmix', None))
    """
    part, *others = parse(mix)
    alpha = _value(part.given["alpha"], mix) if part.name in METHODS and part.given.keys() == {"alpha"} else None
    return (mix, None) if others or not isinstance(alpha, (int, float)) else (part.name, float(alpha))


def label(mix: str) -> str:
    """What people call it.

    >>> label("mixup:0.2"), label("mixup:0.8+cutmix:box=paper@0.3")
    ('MixUp, alpha 0.2', 'MixUp (alpha 0.8) or 30% CutMix (box paper)')
    """
    parts = parse(mix)
    if len(parts) == 1:
        return ", ".join([_called(parts[0].name), *_words(parts[0].given)])
    told = []
    for part in parts:
        chance = "" if part.probability is None else f"{100 * part.probability:g}% "
        told.append(f"{chance}{_called(part.name)}" + (f" ({', '.join(_words(part.given))})" if part.given else ""))
    return " or ".join(told)


def file_name(mix: str) -> str:
    """What of it can be in a file's name.

    >>> file_name("mixup:0.8+cutmix:1.0,box=paper")
    'mixup-0.8+cutmix-1.0-box=paper'
    """
    name = re.sub(r"[^\w.+=@]+", "-", mix, flags=re.ASCII).strip("-")
    if re.fullmatch(r"[\w.+=@:,()\[\]-]{,80}", mix, re.ASCII):
        return name
    digest = hashlib.sha256(mix.encode(errors="replace")).hexdigest()[:6]  # two may differ in what is left out alone
    return f"{name[:70]}-{digest}"


def told(method: Method | None) -> str:
    """What is mixed where, as one line.

    >>> told(jax_mix.ManifoldMixup(0.4, layers=("layer1",)))
    "Manifold Mixup, alpha 0.4. Each batch is mixed at one of 2 places, drawn at random: 'input' or 'layer1'."
    >>> told(make("mixup:0.8+cutmix:1.0,box=paper@0.3"))
    'one of 2, drawn for each batch: 70% MixUp, alpha 0.8; 30% CutMix, alpha 1, box paper'
    """
    if method is None:
        return "no mixing"
    if not isinstance(method, jax_mix.OneOf):
        places = _places(method)
        return _described(method) + (f". {told_where(places)}" if places else "")
    count = len(method.methods)
    chances = method.probabilities or [1 / count] * count
    parts = [
        f"{100 * chance:.3g}% {f'({told(each)})' if isinstance(each, jax_mix.OneOf) else _inside(each)}"
        for chance, each in zip(chances, method.methods, strict=True)
    ]
    return f"one of {count}, drawn for each {method.per}: {'; '.join(parts)}"


def told_in_groups(method: Method | None, devices: int) -> str:
    """What is mixed where, and among which images where that is not the whole batch.

    >>> told_in_groups(jax_mix.MixUp(0.4, groups=8), devices=8)
    'within each of 8 groups of a batch, on 8 devices: MixUp, alpha 0.4'
    """
    groups = max((each.groups for each in every(method)), default=1)
    where = f"on {devices} device{'s' if devices > 1 else ''}"
    return (f"within each of {groups} groups of a batch, {where}: " if groups > 1 else "") + told(method)


def beside(mix: str, *, label_smoothing: float, loss: str | None = None) -> list[str]:
    """What those who wrote the recipes do besides mixing, and this run does not."""
    names = {part.name for part in parse(mix)}
    notes = []
    if "timm" in names and label_smoothing == 0:
        notes.append("--mix timm: timm smooths labels as well, unless told otherwise: --label-smoothing 0.1 does.")
    if "manifold_mixup_paper" in names:
        own = "the cross-entropy" if loss in (None, "cross_entropy") else "that of a sigmoid for each class"
        notes.append(
            "--mix manifold_mixup_paper: the authors' loss is a binary cross-entropy (docs/recipes.md has it); "
            f"this run's is {own}."
        )
    return notes


def _where(mix: str) -> str:
    return f"--mix {mix if mix.isprintable() and len(mix) <= 80 else shown(mix)}"


def _part(text: str, where: str) -> Part:
    text, at, chance = text.partition("@")
    name, colon, arguments = text.partition(":")
    names = ("none", *METHODS, *RECIPES)
    require(name in names, f"{where}: there is no {shown(name)}: {suggest(name, names, limit=len(names))}")
    probability: Any = _value(chance, where) if at else 1.0
    right = isinstance(probability, (int, float)) and 0 < probability <= 1
    require(right, f"{where}: after @ stands how likely it is, above 0 and up to 1, got {chance!r}.")
    require(name != "none" or not colon, f"{where} draws no lambda: give none without an alpha.")
    require(bool(arguments) or not colon, f"{where}: after {name}: stand its arguments, as in {name}:0.4.")
    return Part(name, _given(name, arguments, where) if colon else {}, probability if at else None)


def _given(name: str, arguments: str, where: str) -> dict[str, str]:
    """The arguments of a method or recipe, by name."""
    parameters = inspect.signature(METHODS.get(name) or RECIPES[name]).parameters
    names = [each for each in parameters if each not in _NOT_HERE]
    in_order = [each for each in names if parameters[each].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    given: dict[str, str] = {}
    named = False
    for i, argument in enumerate(re.split(r",(?![^(\[]*[)\]])", arguments)):  # not at those inside of brackets
        found = re.fullmatch(r"\s*(\w+)\s*=(.*)", argument, re.DOTALL)
        if found is None:
            told = ", ".join(f"{each}=" for each in names)
            require(bool(argument.strip()), f"{where}: {name} has a comma with nothing behind it or before it.")
            require(not named and i < len(in_order), f"{where}: {shown(argument)} needs its name, one of {told}.")
            key, value = in_order[i], argument
        else:
            key, value, named = found[1], found[2], True
            require(key != "groups", f"{where}: groups are the same for all: give --mix-groups.")
            require(key in names, f"{where}: {name} has no {shown(key)}: {suggest(key, names)}")
        require(key not in given, f"{where}: {key} is given twice.")
        given[key] = value.strip()
    return given


def _made(part: Part, alpha: float | None, where: str) -> Any:
    if part.name == "none":
        return None
    call = METHODS.get(part.name) or RECIPES[part.name]
    values = {name: _value(text, where) for name, text in part.given.items()}
    if part.name in METHODS and isinstance(values.get("alpha", 1.0), (str, bool, type(None))):
        raise UserError(f"{where}: alpha must be a number, as in {part.name}:0.4, got {part.given['alpha']!r}.")
    instead = [name for name in ("lam", "side") if name in values and part.name in METHODS]
    told = f"{where}: {' and '.join(instead)} stands in the place of alpha: drop one."
    require(not instead or "alpha" not in values, told)
    if alpha is not None and part.leaves_alpha:
        values["alpha"] = alpha
    for name, parameter in inspect.signature(call).parameters.items():
        needed = parameter.default is inspect.Parameter.empty and name not in values
        require(not needed, f"{where}: {part.name} needs {name}, as in {part.name}:{name}=0.2.")
    return call(**values)


def _probabilities(parts: tuple[Part, ...], where: str) -> tuple[float, ...] | None:
    """Of each part; those without a number share what the others leave. None: all alike."""
    given = [part.probability for part in parts if part.probability is not None]
    if not given:
        return None
    rest, sharing = 1 - sum(given), len(parts) - len(given)
    if sharing:
        require(rest > 1e-6, f"{where}: the probabilities after @ must leave something to the parts without one.")
    else:
        told = f"{where}: the probabilities after @ must sum to 1, got {sum(given):g}; the rest may be none: +none."
        require(abs(rest) <= 1e-6, told)
    return tuple(round(rest / sharing, 9) if part.probability is None else part.probability for part in parts)


def _value(text: str, where: str) -> Any:
    """A number, True, False, None, a word, or several of these in brackets."""
    text = text.strip()
    if (bracketed := re.fullmatch(r"\((.*)\)|\[(.*)\]", text, re.DOTALL)) and not re.search(r"[()\[\]]", text[1:-1]):
        inside = bracketed[1] if bracketed[2] is None else bracketed[2]
        return tuple(_value(each, where) for each in inside.removesuffix(",").split(","))
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(text)
    if word := re.fullmatch(r"""(["']?)([\w.*?/-]+)\1""", text):
        return word[2]
    raise UserError(f"{where}: {shown(text)} is no number, no word, and not several of these in brackets.")


def _called(name: str) -> str:
    return _CALLED.get(name, name.replace("_", " "))


def _words(given: dict[str, str]) -> list[str]:
    return [f"{name.replace('_', ' ')} {text}" for name, text in given.items()]


def _places(method: Any) -> tuple[str, ...]:
    """Where it mixes, if not at the input or the output alone."""
    if isinstance(method, jax_mix.ManifoldMixup):
        return method.places
    layers = getattr(method, "layers", ())
    return layer_names(layers, use_input=method.use_input) if layers else ()


def _described(method: Any) -> str:
    """A method and its options, but for where it mixes."""
    name = next(name for name, kind in METHODS.items() if type(method) is kind)
    drawn = next(key for key in ("side", "lam", "alpha") if getattr(method, key, None) is not None)
    value = getattr(method, drawn)
    number = " to ".join(f"{each:g}" for each in value) if isinstance(value, tuple) else f"{value:g}"
    told = [_called(name), f"{'lambda' if drawn == 'lam' else drawn} {number}"]
    for field in dataclasses.fields(method):
        value = getattr(method, field.name)
        if field.name not in ("alpha", "lam", "side", "layers", "use_input", "groups") and value != field.default:
            told.append(f"{field.name.replace('_', ' ')} {value}")
    return ", ".join(told)


def _inside(method: Any) -> str:
    """A method of a `OneOf`."""
    if method is None:
        return "no mixing"
    places = _places(method)
    return _described(method) + (f" at {' or '.join(map(repr, places))}" if places else "")
