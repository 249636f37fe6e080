"""The networks, Flax NNX on NHWC images, each with names for the layers where Manifold Mixup may mix.

Paddings, epsilons and BatchNorm's momentum are PyTorch's, so that a network of the same name there gives the same
numbers from the same weights. Initial weights are Flax's own unless a docstring says otherwise.
"""

from jax_mix.training.models.convnext import ConvNeXt, convnext_tiny
from jax_mix.training.models.depth import ResidualBlock, dropping, layer_rates, residual_blocks, set_drop_path
from jax_mix.training.models.mlp import MLP
from jax_mix.training.models.registry import HEADS, NAMES, ModelName, default_layers, head_of, make, set_dtype
from jax_mix.training.models.resnets import (
    PreActResNet,
    ResNet,
    XResNet,
    preact_resnet18,
    resnet18,
    resnet34,
    resnet50,
    wide_resnet28_10,
    xresnet18,
)
from jax_mix.training.models.vit import ViT, vit_small_patch16_224

__all__ = [
    "HEADS",
    "MLP",
    "NAMES",
    "ConvNeXt",
    "ModelName",
    "PreActResNet",
    "ResNet",
    "ResidualBlock",
    "ViT",
    "XResNet",
    "convnext_tiny",
    "default_layers",
    "dropping",
    "head_of",
    "layer_rates",
    "make",
    "preact_resnet18",
    "residual_blocks",
    "resnet18",
    "resnet34",
    "resnet50",
    "set_drop_path",
    "set_dtype",
    "vit_small_patch16_224",
    "wide_resnet28_10",
    "xresnet18",
]
