"""training/models.py: the stages Manifold Mixup names, and their shapes."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import jax_mix
from training.models import PreActResNet


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 1), (32, 3)])
def test_stages_and_shapes(size, channels):
    width = 4
    model = PreActResNet(channels, 10, width=width, rngs=nnx.Rngs(0))
    image = jax.ShapeDtypeStruct((2, size, size, channels), jnp.float32)
    outputs = {layer.name: layer.output.shape for layer in jax_mix.list_layers(model, image)}
    assert outputs["stem"] == outputs["layer1"] == (2, size, size, width)
    assert outputs["layer2"] == (2, size // 2, size // 2, 2 * width)
    assert outputs["layer3"] == (2, size // 4, size // 4, 4 * width)
    assert outputs["head"] == (2, 10)


def test_the_automatic_choice_is_the_blocks():
    model = PreActResNet(1, 10, width=4, rngs=nnx.Rngs(0))
    method = jax_mix.ManifoldMixup(0.4).bind(model, jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32))
    assert method.layers == ("layer1", "layer2", "layer3")


def test_a_block_is_pre_activated():
    """With its last convolution at 0, a block without a change of shape is the identity: nothing follows the sum."""
    model = PreActResNet(1, 10, width=4, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 4))
    model.layer1.conv2.kernel[...] = jnp.zeros_like(model.layer1.conv2.kernel[...])
    assert jnp.array_equal(model.layer1(x), x)
    assert model.layer1.shortcut is None
    assert model.layer2.shortcut is not None
