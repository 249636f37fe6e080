"""The networks, Flax NNX on NHWC images, each with names for the layers where Manifold Mixup may mix.

Paddings, epsilons and BatchNorm's momentum are PyTorch's, so that a network of the same name there gives the same
numbers from the same weights. Initial weights are Flax's own unless a docstring says otherwise.
"""

from training.models.mlp import MLP
from training.models.resnets import PreActResNet, ResNet, XResNet, preact_resnet18, resnet18, xresnet18
from training.models.vit import ViT

__all__ = ["MLP", "PreActResNet", "ResNet", "ViT", "XResNet", "preact_resnet18", "resnet18", "xresnet18"]
