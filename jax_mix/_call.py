"""How a model is called: which method, with which arguments, and which of those are mixed at the input."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import jax
from flax import linen, nnx

from jax_mix._checks import shown, suggest

_OF_APPLY = ("rngs", "mutable", "capture_intermediates")  # arguments of Linen's apply, not of the model


@dataclasses.dataclass(frozen=True)
class Call:
    """A model and one call of it."""

    model: Any
    variables: Any  # a Linen model's
    method: Any  # None: __call__; or a name, or a function of the model
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    mixed: tuple[int | str, ...]  # the positions and keywords of the arguments that are mixed at the input

    @property
    def inputs(self) -> tuple[Any, ...]:
        """The arguments that are mixed at the input."""
        return tuple(self.args[at] if isinstance(at, int) else self.kwargs[at] for at in self.mixed)

    @property
    def what(self) -> str:
        """What those are called in an error."""
        return " and ".join("x" if at == 0 else f"argument {at}" if isinstance(at, int) else at for at in self.mixed)

    def name_of(self, at: int | str) -> str:
        """The name of the argument at a position or keyword."""
        names = _names(self.model, self.method, self.args, self.kwargs)
        return next((str(name) for name, where in names.items() if where == at), f"argument {at}")

    def with_inputs(self, inputs: tuple[Any, ...]) -> Call:
        args, kwargs = list(self.args), dict(self.kwargs)
        for at, value in zip(self.mixed, inputs, strict=True):
            if isinstance(at, int):
                args[at] = value
            else:
                kwargs[at] = value
        return dataclasses.replace(self, args=tuple(args), kwargs=kwargs)


def as_call(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], variables: Any, method: Any, mixed: Any) -> Call:
    """The call of `model` whose first argument and those that `mixed` names are the input.

    A first argument of None stands for none: the model takes its input by keyword.
    """
    if not args and not kwargs:
        raise ValueError("an example of what the model is called with is needed, as in method.bind(model, image).")
    owner = getattr(model, "__self__", None)
    if isinstance(owner, linen.Module) and getattr(model, "__name__", "") == "apply":
        model = owner  # a TrainState's apply_fn
    if isinstance(model, nnx.Module) and variables is not None:
        raise TypeError("variables is for Linen models; an NNX model holds its own.")
    method = _method(model, method)
    first: tuple[int, ...] = (0,) if args and args[0] is not None else ()
    args = args if first else args[1:]
    names = mixed if isinstance(mixed, (tuple, list)) else (mixed,)
    given = _names(model, method, args, kwargs)
    found: list[int | str] = list(first)
    for name in names:
        if name not in given:
            told = suggest(str(name), map(str, given))
            raise ValueError(f"mixed has {shown(name)}, which is not among the arguments that are given: {told}")
        found.append(given[name])
    call = Call(model, variables, method, args, kwargs, tuple(dict.fromkeys(found)))
    if not found:
        raise ValueError(
            "there is no input to mix: give it as the first argument, or by keyword and with its name in mixed, as in "
            f"forward(model, None, mix, inputs=image, mixed='inputs'). {suggest('inputs', given)}"
        )
    for at, value in zip(call.mixed, call.inputs, strict=True):
        if not jax.tree.leaves(value):
            raise ValueError(f"{'x' if at == 0 else shown(at)} holds no array to mix.")
    return call


def input_of(model: Any, x: Any, *, variables: Any = None, method: Any = None, mixed: Any = (), **kwargs: Any) -> Any:
    """The arguments that `forward`, called so, mixes at the input."""
    return as_call(model, (x,), kwargs, variables, method, mixed).inputs


def _method(model: Any, method: Any) -> Any:
    """The method as a name or a function of the model; a sentence if there is none."""
    if not isinstance(model, (nnx.Module, linen.Module)):
        return method
    if getattr(method, "__self__", None) is model:
        return getattr(method, "__func__", method)
    if isinstance(getattr(method, "__self__", None), (nnx.Module, linen.Module)):
        raise ValueError("method is bound to another model than the one given: pass its name, as in method='encode'.")
    kind = _kind(model)
    if method is None and not callable(model):
        raise TypeError(f"{kind.__name__} has no __call__: name a method, as in method='encode'. {_methods(kind)}")
    if isinstance(method, str) and not callable(getattr(kind, method, None)):
        raise ValueError(f"{kind.__name__} has no method {method!r}: {_methods(kind, method)}")
    if method is not None and not isinstance(method, str) and not callable(method):
        raise TypeError(f"method must be the name of a method or a function of the model, got {shown(method)}.")
    return method


def _kind(model: Any) -> type:
    """The class that the user wrote."""
    return type(model.to_nnx__module if isinstance(model, nnx.bridge.ToNNX) else model)


def _methods(kind: type, name: str = "") -> str:
    base = nnx.Module if issubclass(kind, nnx.Module) else linen.Module
    own = [n for n in dir(kind) if not n.startswith("_") and not hasattr(base, n) and callable(getattr(kind, n, None))]
    return suggest(name, own)


def _names(model: Any, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[Any, int | str]:
    """Where the arguments stand that can be named: by keyword, or by the name that the signature gives a position."""
    of_apply = _OF_APPLY if isinstance(model, linen.Module) else ()
    names: dict[Any, int | str] = {name: name for name in kwargs if name not in of_apply}
    function = (
        getattr(_kind(model), method or "__call__", None) if method is None or isinstance(method, str) else method
    )
    try:
        parameters = list(inspect.signature(function).parameters.values())[1:] if function else []
    except (TypeError, ValueError):
        parameters = []
    for at, parameter in enumerate(parameters[: len(args)]):
        if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            break
        names.setdefault(parameter.name, at)
    return names
