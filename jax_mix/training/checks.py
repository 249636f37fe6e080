"""What a flag's value must be, told by its type: `epochs: Count = 20`."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable, Iterator
from typing import Annotated, Any

from jax_mix.training.errors import require


@dataclasses.dataclass(frozen=True)
class Must:
    """A condition in an `Annotated` type. Of a tuple, every element must hold it; None always may be given.

    Args:
      be: the condition in words that follow "must be".
      holds: whether a value holds it.
      or_else: the end of the sentence: what the user may do instead.
    """

    be: str
    holds: Callable[[Any], bool]
    or_else: str = ""


POSITIVE = Must("positive and finite", lambda value: 0 < value < math.inf)
Positive = Annotated[float, POSITIVE]
Count = Annotated[int, Must("at least 1", lambda value: value >= 1)]
Between0And1 = Annotated[float, Must("between 0 and 1", lambda value: 0 < value < 1)]


def within(low: float, high: float, why: str = "") -> Must:
    """From `low` to `high`, both included; `why` follows in the sentence."""
    return Must(f"from {low} to {high}{why}", lambda value: low <= value <= high)


def check_fields(config: Any) -> None:
    """Raise `UserError` at the first field of a dataclass whose value is not as its type says.

    >>> @dataclasses.dataclass
    ... class Config:
    ...     batch_size: Count | None = None
    >>> check_fields(Config(batch_size=0))
    Traceback (most recent call last):
    jax_mix.training.errors.UserError: --batch-size must be at least 1, got 0.
    """
    for name, hint in typing.get_type_hints(type(config), include_extras=True).items():
        for must, of_elements in _conditions(hint):
            value = getattr(config, name, None)
            for each in value if isinstance(value, tuple) else [value]:
                told = f"--{name.replace('_', '-')} must be {must.be}, got {each if of_elements else value}"
                require(each is None or must.holds(each), f"{told}{must.or_else}.")


def _conditions(hint: Any, of_elements: bool = False) -> Iterator[tuple[Must, bool]]:
    """The conditions in a type, and whether each is about the elements of a tuple."""
    for must in getattr(hint, "__metadata__", ()):
        if isinstance(must, Must):
            yield must, of_elements
    for part in typing.get_args(hint):
        yield from _conditions(part, of_elements or typing.get_origin(hint) is tuple)
