"""The command: two models that are named by where they are, and the report of them."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from flax import linen, nnx

from jax_mix._checks import suggest
from jax_mix._imports import import_from
from jax_mix.parity.comparing import compare

_DESCRIPTION = """Compare a Flax model with the PyTorch model that it is a port of, and say where they first go apart.

python -m jax_mix.parity my_port.py:FlaxNet my_port.py:TorchNet --image 3 32 32

It ends with status 0 if all is equal, 1 if something differs, 2 if it cannot be compared."""


def main(words: Sequence[str] | None = None) -> int:
    """`python -m jax_mix.parity`, with what stands after it."""
    parser = argparse.ArgumentParser(
        prog="python -m jax_mix.parity",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "model",
        help="the Flax model, as package.module:name or file.py:name: an NNX model, (Linen module, variables), or what "
        "makes one, called with rngs if it takes them",
    )
    parser.add_argument("original", help="the PyTorch model, named in the same way, or what makes it")
    parser.add_argument("--image", nargs="+", type=int, metavar="SIZE", help="channels, height, width of random images")
    parser.add_argument("--batch", default=4, type=int, help="how many images (default: 4)")
    parser.add_argument("--x", metavar="WHERE", help="instead: file.py:name of a batch for the original, or a tuple")
    parser.add_argument("--y", metavar="WHERE", help="file.py:name of its labels (default: drawn at random)")
    parser.add_argument("--names", metavar="WHERE", help="file.py:name of the map of module names, a dict")
    parser.add_argument("--arrays", metavar="WHERE", help="file.py:name of the map of arrays, a dict")
    parser.add_argument("--layers", nargs="*", help="names or globs of the layers to mix at (default: all)")
    parser.add_argument("--weights", choices=("own", "original"), help="whose weights the Flax model has")
    parser.add_argument("--tolerance", type=float, default=1e-9, help="which error is none (default: 1e-9)")
    parser.add_argument("--seed", type=int, default=0, help="of the images, of labels, of mixing")
    parser.add_argument("--details", action="store_true", help="print every comparison, too")
    options = parser.parse_args(words)
    try:
        model, variables = _flax(_named("model", options.model))
        where = {name: vars(options)[name] for name in ("x", "y", "names", "arrays")}
        given = {name: _named(f"--{name}", value) for name, value in where.items() if value}
        x = given.pop("x", None)
        if (x is None) == (options.image is None):
            raise ValueError("give --image 3 224 224, for random images of that size, or --x file.py:name, not both.")
        if x is None:
            x = np.random.default_rng(options.seed).normal(size=(options.batch, *options.image))
        report = compare(
            model,
            _made(_named("original", options.original)),
            x,
            variables=variables,
            weights=options.weights,
            layers=options.layers,
            tolerance=options.tolerance,
            seed=options.seed,
            **given,
        )
    except (ImportError, TypeError, ValueError) as error:
        notes = "".join(f" {note}" for note in getattr(error, "__notes__", ()))
        print(f"{parser.prog}: {error}{notes}", file=sys.stderr)
        return 2
    print(report)
    if options.details:
        print(f"\n{report.details}")
    return int(not report)


def _named(what: str, where: str) -> Any:
    """What `package.module:name` or `file.py:name` is."""
    path, colon, name = where.rpartition(":")
    if not colon:
        raise ValueError(f"{what} is {where!r}: it must be package.module:name or file.py:name.")
    try:
        module = import_from(path)
    except Exception as error:  # a user's file may raise anything
        raise ImportError(f"{what} {where}: {path!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        told = suggest(name, [known for known in vars(module) if not known.startswith("_")])
        raise ValueError(f"{what} {where}: {path!r} has no {name!r}: {told}")
    return getattr(module, name)


def _made(named: Any) -> Any:
    """A model, or what a class or function without arguments makes."""
    return named() if isinstance(named, type) or inspect.isfunction(named) else named


def _flax(named: Any) -> tuple[Any, Any]:
    """The Flax model, and the variables of a Linen one."""
    if isinstance(named, type) or inspect.isfunction(named):
        called: Any = named.__init__ if isinstance(named, type) else named  # type: ignore[misc]
        wanted = "rngs" in inspect.signature(called).parameters
        named = named(rngs=nnx.Rngs(0)) if wanted else named()
    if isinstance(named, tuple) and len(named) == 2 and isinstance(named[0], linen.Module):
        return named
    return named, None


if __name__ == "__main__":
    sys.exit(main())
