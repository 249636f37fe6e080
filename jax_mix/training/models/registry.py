"""The networks by name, and a user's own by where it is."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen, nnx

from jax_mix._checks import suggest
from jax_mix._imports import import_from
from jax_mix.training.errors import UserError, require
from jax_mix.training.models import resnets
from jax_mix.training.models.convnext import convnext_tiny
from jax_mix.training.models.mlp import MLP
from jax_mix.training.models.vit import ViT, vit_small_patch16_224


class _Named(NamedTuple):
    factory: Callable[..., nnx.Module]
    layers: tuple[str, ...]  # where Manifold Mixup mixes besides the input


def _vit(in_channels: int, num_classes: int, *, image_size: tuple[int, int], width: int = 64, rngs: nnx.Rngs) -> ViT:
    """A `ViT` of about 64 patches, or as near as whole patches of the image come."""
    common = math.gcd(*image_size)
    sizes = [size for size in range(1, common + 1) if common % size == 0]
    patch_size = min(sizes, key=lambda size: abs(math.log(math.prod(image_size) / size**2 / 64)))
    return ViT(in_channels, num_classes, image_size=image_size, patch_size=patch_size, width=width, rngs=rngs)


ModelName = Literal[
    "preact_resnet8",
    "preact_resnet18",
    "resnet18",
    "resnet34",
    "resnet50",
    "xresnet18",
    "wide_resnet28_10",
    "vit",
    "vit_small_patch16_224",
    "convnext_tiny",
    "mlp",
]
_STAGES = ("layer1", "layer2")  # the input and the first two, as Manifold Mixup's authors train residual networks
_NAMED: dict[ModelName | str, _Named] = {
    "preact_resnet8": _Named(resnets.PreActResNet, _STAGES),
    "preact_resnet18": _Named(resnets.preact_resnet18, _STAGES),
    "resnet18": _Named(resnets.resnet18, _STAGES),
    "resnet34": _Named(resnets.resnet34, _STAGES),
    "resnet50": _Named(resnets.resnet50, _STAGES),
    "xresnet18": _Named(resnets.xresnet18, _STAGES),
    "wide_resnet28_10": _Named(resnets.wide_resnet28_10, _STAGES),
    "vit": _Named(_vit, ("blocks.0", "blocks.1")),
    "vit_small_patch16_224": _Named(vit_small_patch16_224, ("blocks.0", "blocks.1")),
    "convnext_tiny": _Named(convnext_tiny, ("stages.0", "stages.1")),
    "mlp": _Named(MLP, ("hidden.0", "hidden.1")),
}
NAMES = tuple(_NAMED)
HEADS = ("head", "fc", "classifier")  # what a head is called, as an attribute of the model


def default_layers(name: str) -> tuple[str, ...] | None:
    """The layers where Manifold Mixup mixes in the network `name`, besides the input; None: as `bind` chooses."""
    return _NAMED[name].layers if name in _NAMED else None


def make(
    name: str,
    *,
    in_channels: int,
    num_classes: int,
    image_size: tuple[int, int],
    width: int | None = None,
    rngs: nnx.Rngs,
) -> nnx.Module:
    """A network by name, or a user's own.

    >>> model = make("mlp", in_channels=1, num_classes=10, image_size=(8, 8), rngs=nnx.Rngs(0))
    >>> model(jnp.ones((2, 8, 8, 1))).shape
    (2, 10)

    Args:
      name: one of `NAMES`; or "package.module:factory" or "path/to/file.py:factory", a function or class that gives an
        NNX model. It is called with those of the following arguments that it has, by name.
      in_channels: channels of the images.
      num_classes: how many logits.
      image_size: `(height, width)` of the images.
      width: channels of the first stage, or features of a patch; None: the network's own.
      rngs: for the parameters.

    Raises:
      UserError: there is no such network; or it fails, or gives something else than a model that makes logits,
        `[batch, num_classes]`, of images, float32 `[batch, height, width, in_channels]`.
    """
    given = {"in_channels": in_channels, "num_classes": num_classes, "image_size": image_size, "rngs": rngs}
    factory = _NAMED[name].factory if name in _NAMED else _import(name)
    _check_kind(name, factory)
    require(
        not isinstance(factory, nnx.Module),
        f"--model {name} is a model already: name a function or class that makes it.",
    )
    try:
        # Of a class its __init__: the signature of an nnx.Module is that of its metaclass.
        called = factory.__init__ if isinstance(factory, type) else factory  # type: ignore[misc]
        parameters = inspect.signature(called).parameters
    except (TypeError, ValueError) as error:
        raise UserError(f"--model {name} cannot be called: {error}.") from error
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    if width is not None:
        require("width" in parameters or takes_all, f"--width is {width}, but --model {name} has no such argument.")
        given["width"] = width
    try:
        model = factory(**{key: value for key, value in given.items() if key in parameters or takes_all})
    except (Exception, SystemExit) as error:
        raise UserError(f"--model {name} cannot be made: {_first_line(error)}") from error
    _check_kind(name, model)
    require(isinstance(model, nnx.Module), f"--model {name} must give a flax.nnx.Module, got {type(model).__name__}.")
    for n in (2,) if name in _NAMED else (2, 3):  # any batch must do: of training, of its parts, of evaluation
        _check_logits(name, model, (n, *image_size, in_channels), num_classes)
    return model


def head_of(model: nnx.Module) -> str | None:
    """The name of a model's head, the module that makes logits of features; None: it has none of the usual names."""
    return next((name for name in HEADS if isinstance(getattr(model, name, None), nnx.Module)), None)


def set_dtype(model: nnx.Module, dtype: Any) -> None:
    """Let a model's layers compute in `dtype`; its parameters, and the sums of norms, stay as they are.

    Every module with an attribute `dtype`, as Flax's own have it, is set.
    """
    for _, module in nnx.iter_modules(model):
        if hasattr(module, "dtype"):
            module.dtype = dtype


def _import(name: str) -> Callable[..., Any]:
    where, colon, attribute = name.rpartition(":")
    if not colon and not name.endswith(".py"):
        if Path(f"{name}.py").is_file():
            return _import(f"{name}.py")
        raise UserError(f"--model {name!r} is not known: {suggest(name, [*NAMES, 'package.module:factory'])}")
    if not colon:
        where, attribute = name, ""
    try:
        module = import_from(where)
    except (Exception, SystemExit) as error:
        raise UserError(f"--model {name}: '{where}' cannot be imported: {_first_line(error)}") from error
    if hasattr(module, attribute):
        return getattr(module, attribute)
    public = {key: value for key, value in vars(module).items() if callable(value) and not key.startswith("_")}
    of_its_own = [key for key, value in public.items() if getattr(value, "__module__", None) == module.__name__]
    if not public:
        raise UserError(
            f"--model {name}: '{where}' has no function or class: write one that makes a flax.nnx.Module of "
            "in_channels, num_classes and rngs."
        )
    if not attribute:
        first = f"{where}:{(of_its_own or list(public))[0]}"
        raise UserError(
            f"--model {name} must name what makes the model, as {first}. {suggest('', of_its_own or public)}"
        )
    raise UserError(f"--model {name}: '{where}' has no {attribute!r}: {suggest(attribute, of_its_own or public)}")


def _check_kind(name: str, made: Any) -> None:
    """Raise `UserError` for a model, or the class of one, that is of Flax's other kind."""
    linen_class = isinstance(made, type) and issubclass(made, linen.Module)
    require(
        not linen_class and not isinstance(made, linen.Module),
        f"--model {name} is a Flax Linen model, and train.py trains NNX ones: name a function of in_channels, "
        "image_size and rngs that gives nnx.bridge.lazy_init(nnx.bridge.ToNNX(model, rngs=rngs), "
        "jnp.ones((1, *image_size, in_channels))), for --mix mixup or cutmix: inside it nothing can be mixed.",
    )


def _check_logits(name: str, model: nnx.Module, shape: tuple[int, ...], num_classes: int) -> None:
    images = " x ".join(map(str, shape[1:]))
    try:
        logits = nnx.eval_shape(lambda model, image: model(image), model, jax.ShapeDtypeStruct(shape, jnp.float32))
    except Exception as error:
        raise UserError(f"--model {name} cannot take images of {images}: {_first_line(error)}") from error
    n = shape[0]
    wanted, got = (n, num_classes), getattr(logits, "shape", type(logits).__name__)
    require(got == wanted, f"--model {name} must make logits of shape {wanted} from {n} images of {images}, got {got}.")
    dtype = logits.dtype
    require(jnp.issubdtype(dtype, jnp.floating), f"--model {name} must make logits of a floating type, got {dtype}.")


def _first_line(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return f"{type(error).__name__}{': ' if text else ''}{text}."
