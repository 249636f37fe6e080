"""Showing the calls of NNX modules to a tap that rides in them.

Python looks `__call__` up in a module's class, so while a model runs mixed, the classes of its tapped modules hold a
`__call__` that asks for a tap and does nothing without. The tap is an attribute of the module, and the only modules
with one are of the copy that `run_nnx` makes: to every other, in this thread or another, `__call__` is what it was.
So the modules keep their class, a parent may ask `type(layer) is nnx.Linear` or pass `Block.__call__` to a transform,
and no subclass is ever made, which the user's hooks and metaclasses would see.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Collection, Iterator
from typing import Any

from flax import nnx

TAP = "jax_mix_tap"  # the attribute: called with (module, output, (args, kwargs)), it returns the output to go on with
_NONE = object()


class _Held:
    """A class's own `__call__` while it is replaced, and by how many runs at once."""

    def __init__(self, own: Any, ours: Any) -> None:
        self.own, self.ours, self.runs = own, ours, 1


_held: dict[type, _Held] = {}
_lock = threading.RLock()


@contextlib.contextmanager
def intercepted(classes: Collection[type]) -> Iterator[None]:
    """While this lasts, in however many threads, calls of modules of exactly these classes go through their taps."""
    held: list[type] = []
    try:
        for cls in classes:
            held.append(cls)
            _hold(cls)
        yield
    finally:
        for cls in held:
            _release(cls)


def set_attribute(module: Any, name: str, value: Any) -> None:
    """Set a module's attribute past a `__setattr__` of the user's, which may refuse or change it."""
    nnx.Pytree.__setattr__(module, name, value)


def _hold(cls: type) -> None:
    with _lock:
        if cls in _held:
            _held[cls].runs += 1
            return
        own = vars(cls).get("__call__", _NONE)
        ours = _asking(cls)
        _held[cls] = _Held(own, ours)
        type.__setattr__(cls, "__call__", ours)


def _release(cls: type) -> None:
    with _lock:
        held = _held[cls]
        held.runs -= 1
        if held.runs:
            return
        del _held[cls]
        if vars(cls).get("__call__") is not held.ours:
            return  # the model replaced it while it ran
        if held.own is _NONE:
            type.__delattr__(cls, "__call__")
        else:
            type.__setattr__(cls, "__call__", held.own)


def _asking(cls: type) -> Any:
    """The class's `__call__`, which afterwards asks for a tap."""
    original = next(vars(base)["__call__"] for base in cls.__mro__ if "__call__" in vars(base))

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = original.__get__(self, type(self))(*args, **kwargs)
        # Only where this is the module's own __call__: a subclass may call it by super() and go on.
        tap = vars(self).get(TAP) if type(self) is cls else None
        return output if tap is None else tap(self, output, (args, kwargs))

    return functools.wraps(original)(__call__)
