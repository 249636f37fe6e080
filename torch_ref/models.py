"""The torch twin (NCHW) of each Flax model: the same modules under the same names, so that weights convert by name.

Two need no twin here, for they are themselves the reference: `torchvision.models.resnet18` and fastai's `xresnet18`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


class PreActBlock(nn.Module):
    """`jax_mix.training.models.resnets.PreActBlock`. `[batch, in, h, w]` -> `[batch, out, h / stride, w / stride]`."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        activated = F.relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        return shortcut + self.conv2(F.relu(self.norm2(self.conv1(activated))))


class PreActResNet(nn.Module):
    """`jax_mix.training.models.PreActResNet`. `[batch, in_channels, h, w]` -> logits `[batch, num_classes]`."""

    def __init__(
        self, in_channels: int, num_classes: int, *, blocks: Sequence[int] = (1, 1, 1), width: int = 16
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.stages = []
        channels = width
        for k, count in enumerate(blocks, start=1):
            stage = [PreActBlock(channels, channels) if k == 1 else PreActBlock(channels, 2 * channels, stride=2)]
            channels = width if k == 1 else 2 * channels
            stage += [PreActBlock(channels, channels) for _ in range(count - 1)]
            self.stages.append(f"layer{k}")
            self.add_module(f"layer{k}", nn.Sequential(*stage))
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.stem(image)
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return self.head(F.relu(self.norm(x)).mean((2, 3)))


class MLP(nn.Module):
    """`jax_mix.training.models.MLP`. `[batch, in_channels, h, w]` -> logits `[batch, num_classes]`."""

    def __init__(
        self, in_channels: int, num_classes: int, *, image_size: tuple[int, int], hidden: Sequence[int] = (128, 128)
    ) -> None:
        super().__init__()
        sizes = (image_size[0] * image_size[1] * in_channels, *hidden)
        self.hidden = nn.ModuleList(Hidden(a, b) for a, b in itertools.pairwise(sizes))
        self.head = nn.Linear(sizes[-1], num_classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = image.permute(0, 2, 3, 1).flatten(1)  # pixels before channels, as they lie in NHWC
        for layer in self.hidden:
            x = layer(x)
        return self.head(x)


class Hidden(nn.Linear):
    """`jax_mix.training.models.mlp.Hidden`. `[..., in]` to `[..., out]`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(super().forward(x))


class ViT(nn.Module):
    """`jax_mix.training.models.ViT`. `[batch, in_channels, h, w]` -> logits `[batch, num_classes]`."""

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        image_size: tuple[int, int],
        patch_size: int = 4,
        width: int = 64,
        depth: int = 4,
        heads: int = 4,
    ) -> None:
        super().__init__()
        self.patch = nn.Conv2d(in_channels, width, patch_size, patch_size)
        patches = (image_size[0] // patch_size) * (image_size[1] // patch_size)
        self.position = nn.Parameter(0.02 * torch.randn(1, patches, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.patch(image).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


class Block(nn.Module):
    """`jax_mix.training.models.vit.Block`. `[batch, tokens, width]` -> the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Attention(nn.Module):
    """`jax_mix.training.models.vit.Attention`, by torch's own. `[batch, tokens, width]` -> the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=2)
        )
        return self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class Pooled(nn.Module):
    """The smallest model that a callback can be run with. `[batch, channels, h, w]` -> `[batch, classes]`."""

    def __init__(self, channels: int, classes: int = 10) -> None:
        super().__init__()
        self.head = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.mean((2, 3)))
