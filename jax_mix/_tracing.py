"""Tracing a model on shapes alone, whatever it needs around it: weights that are shapes, axes with a name."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.extend.core import ClosedJaxpr

from jax_mix._call import Call
from jax_mix._checks import shown


def with_shapes(call: Call) -> Call:
    """The call with an abstract NNX model's shapes as its variables, so that a trace can have them as arguments."""
    if not isinstance(call.model, nnx.Module):
        return call
    shapes = nnx.state(call.model, _is_shape)
    return dataclasses.replace(call, variables=shapes) if jax.tree.leaves(shapes) else call


def _is_shape(path: Any, value: Any) -> bool:
    return isinstance(value.get_value() if isinstance(value, nnx.Variable) else value, jax.ShapeDtypeStruct)


def program_of(
    trace: Callable[..., Any], arrays: list[Any], hook: Any, restart: Callable[[], None]
) -> tuple[ClosedJaxpr, Any, Callable[..., Any]]:
    """The program of `trace(arrays, hook)`, the shapes of its outputs, and the trace that was possible.

    An axis that the model names and nobody around it gives, such as a BatchNorm's, is one of length 1. Stacks of
    blocks in stacks are traced with `nested=True`.

    Args:
      trace: takes arrays, a hook or None, and `nested`.
      arrays: its arguments, arrays or shapes.
      hook: what it is called with.
      restart: called before another attempt.
    """
    names: list[str] = []
    nested = False
    while True:
        attempt = functools.partial(_within, tuple(names), functools.partial(trace, nested=nested))
        try:
            program, outputs = jax.make_jaxpr(functools.partial(attempt, hook=hook), return_shape=True)(arrays)
        except NameError as error:
            name = re.search(r"unbound axis name: (\w+)", str(error))
            if name is None or name[1] in names:
                raise
            names.append(name[1])
        except (IndexError, TypeError, ValueError) as error:
            jax.eval_shape(functools.partial(attempt, hook=None), arrays)  # what the model itself raises comes first
            if nested:
                raise ValueError(
                    f"the model's layers cannot be listed ({type(error).__name__}: {shown(str(error))}): its blocks "
                    "are scanned over weights in a way that cannot be followed, stacked along another axis than the "
                    "first. Name layers outside of that scan by plain paths, and do without bind."
                ) from error
            nested = True
        else:
            return program, outputs, attempt
        restart()


def _within(names: tuple[str, ...], function: Callable[..., Any], arrays: list[Any], hook: Any) -> Any:
    call = functools.partial(function, hook=hook)
    for name in names:
        call = jax.vmap(call, in_axes=None, out_axes=None, axis_name=name, axis_size=1)
    return call(arrays)
