"""Every network of jax_mix.training.models beside its torch reference: the same weights and images, float32 or 64."""

import contextlib

import jax
import numpy as np
import timm
import torch
import torchvision
from fastai.vision.models import xresnet
from flax import nnx

from jax_mix.training.models import MLP, ConvNeXt, PreActResNet, ViT, preact_resnet18, resnet18, xresnet18
from torch_ref import convert, models

CLASSES = 10
SIZE = (24, 20)  # not square; odd further on, 6 x 5 and 3 x 3, where paddings and poolings differ most

_MLP = {"image_size": SIZE, "hidden": (9, 7)}
_VIT = {"image_size": SIZE, "patch_size": 4, "width": 8, "depth": 2, "heads": 2}
_TIMM_VIT = {"img_size": SIZE, "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2}

# name: (the torch model, the Flax model from its rngs)
MODELS = {
    "MLP": (lambda: models.MLP(3, CLASSES, **_MLP), lambda rngs: MLP(3, CLASSES, **_MLP, rngs=rngs)),
    "ViT": (lambda: models.ViT(3, CLASSES, **_VIT), lambda rngs: ViT(3, CLASSES, **_VIT, rngs=rngs)),
    "PreActResNet": (
        lambda: models.PreActResNet(3, CLASSES, width=8),
        lambda rngs: PreActResNet(3, CLASSES, width=8, rngs=rngs),
    ),
    "preact_resnet18": (
        lambda: models.PreActResNet(3, CLASSES, blocks=(2, 2, 2, 2), width=4),
        lambda rngs: preact_resnet18(3, CLASSES, width=4, rngs=rngs),
    ),
    "timm's ViT": (
        lambda: timm.models.VisionTransformer(num_classes=CLASSES, **_TIMM_VIT),
        lambda rngs: ViT(3, CLASSES, **_VIT, timm=True, rngs=rngs),
    ),
    "timm's ConvNeXt": (
        lambda: timm.models.ConvNeXt(num_classes=CLASSES, depths=(1, 1, 1, 1), dims=(4, 8, 16, 32), patch_size=1),
        lambda rngs: ConvNeXt(3, CLASSES, image_size=SIZE, patch_size=1, blocks=(1, 1, 1, 1), width=4, rngs=rngs),
    ),
    # These two at full width: torchvision's and fastai's own have no other.
    "resnet18": (
        lambda: torchvision.models.resnet18(num_classes=CLASSES),
        lambda rngs: resnet18(3, CLASSES, rngs=rngs),
    ),
    "xresnet18": (lambda: xresnet.xresnet18(n_out=CLASSES), lambda rngs: xresnet18(3, CLASSES, rngs=rngs)),
}


class CrossEntropy(torch.nn.CrossEntropyLoss):
    """For fastai what its own `CrossEntropyLossFlat` is, which casts float64 to float32."""

    y_int = True


@contextlib.contextmanager
def precision(dtype):
    """Within it JAX takes `dtype` for what it is."""
    if dtype != np.float64:
        yield
    else:
        # Flax's norms ask for the promotion of float64 with float32, which "strict" refuses.
        with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
            yield


def twins(name="PreActResNet", dtype=np.float32, seed=0):
    """The torch and the Flax model with the same weights, none of a norm's or a bias's at its initial zeros or ones."""
    torch.manual_seed(seed)
    ours = nnx.eval_shape(lambda: MODELS[name][1](nnx.Rngs(0)))  # weights come from torch
    theirs = unlike_the_start(MODELS[name][0]())
    theirs.to(torch.from_numpy(np.empty(0, dtype)).dtype)
    convert.copy_to_flax(theirs, ours)
    return theirs, ours


def unlike_the_start(model):
    """The torch model with all of its norms, biases and scales drawn, none at its initial zeros or ones."""
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.ndim == 1:
                value.uniform_(0.5, 1.5)
    return model


def given_timm(name, **arguments):
    """timm's network of that name, with weights drawn, in evaluation mode."""
    torch.manual_seed(0)
    return unlike_the_start(timm.create_model(name, **arguments)).eval()


def images(n=6, size=SIZE, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 3, *size)).astype(dtype)


def labels(n=6, seed=0):
    return np.random.default_rng(seed).integers(0, CLASSES, n)


def nhwc(x):
    return np.moveaxis(x, 1, -1)


def relative_errors(actual, desired):
    """For each array by name, the largest difference in units of the array's own largest value."""
    assert actual.keys() == desired.keys()
    return [np.max(np.abs(actual[name] - desired[name])) / np.max(np.abs(desired[name])) for name in desired]


def relative_distance(actual, desired):
    """The Euclidean norm of all differences together, over that of all that is desired."""
    assert actual.keys() == desired.keys()
    squares = [(np.sum((actual[name] - desired[name]) ** 2), np.sum(desired[name] ** 2)) for name in desired]
    difference, size = np.sqrt(np.sum(squares, axis=0))
    return difference / size
