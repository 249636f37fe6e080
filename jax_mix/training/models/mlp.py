"""The smallest network: linear layers on the flattened image."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flax import nnx

from jax_mix.training.models.initializers import lecun_normal

if TYPE_CHECKING:
    from jaxtyping import Array, Float


class MLP(nnx.Module):
    """Linear layers with ReLU between them, on the image as one vector.

    Shapes: hidden.0, hidden.1, ...: `[batch, hidden[i]]`, after the ReLU.

    Args:
      in_channels: channels of the images.
      num_classes: how many logits.
      image_size: `(height, width)` of the images.
      hidden: features of each hidden layer.
      rngs: for the parameters.

    Source: Rosenblatt's perceptron in layers, as in Manifold Mixup's first experiments (arXiv:1806.05236).
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        image_size: tuple[int, int],
        hidden: Sequence[int] = (128, 128),
        rngs: nnx.Rngs,
    ) -> None:
        sizes = (image_size[0] * image_size[1] * in_channels, *hidden)
        self.hidden = nnx.List([Hidden(a, b, rngs=rngs) for a, b in itertools.pairwise(sizes)])
        self.head = nnx.Linear(sizes[-1], num_classes, kernel_init=lecun_normal, rngs=rngs)

    def __call__(self, image: Float[Array, "batch height width channels"]) -> Float[Array, "batch classes"]:
        x = image.reshape(image.shape[0], -1)
        for layer in self.hidden:
            x = layer(x)
        return self.head(x)


class Hidden(nnx.Linear):
    """A linear layer and ReLU, `[..., in]` to `[..., out]`: before it, mixing would be the same as mixing the input."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return nnx.relu(super().__call__(*args, **kwargs))
