"""Running a Flax model with some of its modules' outputs going through a hook.

`run` calls an unmodified NNX or Linen model and shows each wanted module's first output to a hook. Two facts
make the same idea work under remat and scan, whose bodies JAX may trace more than once:

- NNX: a shallow copy of the model shares every Variable; in it, a wanted module holds a tap, to which its class's
  `__call__` shows the output while the copy runs. Beside its weights rides a Variable, the iteration: 0, or 0..N-1
  if its weights may be stacked, which a scan over them cuts to a number. The first call sets it to -1, so "first call
  only" is state that JAX's transformations carry, not a Python flag that a second trace would find set.
- Linen: `intercept_methods` sees each output. The iteration rides among the parameters in the same way, and
  what was called is a mutable collection.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from flax import linen, nnx

from jax_mix._call import Call
from jax_mix._running_linen import run_linen
from jax_mix._running_nnx import call_nnx, run_nnx

# (path, module type, iteration now, number of stacked iterations or None, output, (args, kwargs) given) -> output
# The iteration is None where the module is in a stack of stacks.
Hook = Callable[[str, type, Any, int | None, Any, Any], Any]


def run(
    call: Call,
    hook: Hook | None,
    paths: Collection[str] | None,
    uncertain: set[str] | None = None,
    *,
    nested: bool = False,
) -> Any:
    """Call the model; the first output of each module in `paths` (None: of every one) goes through `hook`.

    To `uncertain` are added those whose call could not be noted where the next iteration of a loop would see it. With
    `nested`, modules in stacks of stacks may run, which are told from those in one stack.
    """
    uncertain = set() if uncertain is None else uncertain
    model, variables = call.model, call.variables
    if isinstance(model, nnx.Module):
        if variables is not None:
            nnx.update(model, variables)  # the arrays of a model of shapes, while it is traced
        if hook is None or (paths is not None and not paths):
            return call_nnx(model, call)
        return run_nnx(call, hook, paths, uncertain, nested)
    if isinstance(model, linen.Module):
        if variables is None or model.scope is not None:
            raise TypeError(
                "a Linen model is passed unbound, with its variables: forward(model, x, mix, variables=variables)."
            )
        if hook is None or (paths is not None and not paths):
            return model.apply(variables, *call.args, method=call.method, **call.kwargs)
        return run_linen(call, hook, paths, uncertain, nested)
    if hasattr(model, "apply_fn"):
        raise TypeError(
            f"model must be a Flax model, got a {type(model).__name__}, which holds one: "
            "forward(state.apply_fn, x, mix, variables={'params': state.params})."
        )
    raise TypeError(
        f"model must be a Flax NNX model, or a Flax Linen module with variables=..., got {type(model).__name__}."
    )


def fresh(value: Any) -> Any:
    return nnx.clone(value) if isinstance(value, nnx.Pytree) else value
