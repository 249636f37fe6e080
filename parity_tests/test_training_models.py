"""training/models: the layers Manifold Mixup names, their shapes, and how the networks start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jax_mix
from training.models import MLP, PreActResNet, ViT, preact_resnet18, resnet18, xresnet18

RNGS = nnx.Rngs(0)


def outputs(model, image):
    return {layer.name: layer.output.shape for layer in jax_mix.list_layers(model, image)}


def automatic(model, image):
    return jax_mix.ManifoldMixup(0.4).bind(model, image).layers


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 1), (32, 3)])
def test_stages_and_shapes(size, channels):
    width = 4
    model = PreActResNet(channels, 10, width=width, rngs=RNGS)
    shapes = outputs(model, jax.ShapeDtypeStruct((2, size, size, channels), jnp.float32))
    assert shapes["stem"] == shapes["layer1"] == (2, size, size, width)
    assert shapes["layer2"] == (2, size // 2, size // 2, 2 * width)
    assert shapes["layer3"] == (2, size // 4, size // 4, 4 * width)
    assert shapes["head"] == (2, 10)


@pytest.mark.parametrize(
    ("make", "shapes"),
    [
        (preact_resnet18, {"stem": (64, 40, 64), "layer1": (64, 40, 64), "layer4": (8, 5, 512)}),
        (resnet18, {"conv1": (32, 20, 64), "layer1": (16, 10, 64), "layer4": (2, 2, 512)}),
        (xresnet18, {"stem": (32, 20, 64), "layer1": (16, 10, 64), "layer4": (2, 2, 512)}),
    ],
)
def test_stages_of_the_deep_resnets(make, shapes):
    model = make(3, 10, rngs=RNGS)
    image = jax.ShapeDtypeStruct((2, 64, 40, 3), jnp.float32)
    found = outputs(model, image)
    assert {name: found[name] for name in shapes} == {name: (2, *shape) for name, shape in shapes.items()}
    assert automatic(model, image) == tuple(f"layer{k}.layers.{i}" for k in (1, 2, 3, 4) for i in (0, 1))


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (resnet18, 11_689_512),  # torchvision's
        (xresnet18, 11_708_744),  # fastai's
    ],
)
def test_number_of_parameters_with_1000_classes(make, count):
    params = nnx.state(nnx.eval_shape(lambda: make(3, 1000, rngs=nnx.Rngs(0))), nnx.Param)
    assert sum(p.size for p in jax.tree.leaves(params)) == count


def test_mlp_and_vit():
    image = jax.ShapeDtypeStruct((2, 8, 12, 3), jnp.float32)
    mlp = MLP(3, 10, image_size=(8, 12), hidden=(6, 5), rngs=RNGS)
    assert outputs(mlp, image) == {"hidden.0": (2, 6), "hidden.1": (2, 5), "head": (2, 10)}
    vit = ViT(3, 10, image_size=(8, 12), width=8, depth=2, heads=2, rngs=RNGS)
    shapes = outputs(vit, image)
    assert shapes["patch"] == (2, 2, 3, 8)
    assert shapes["blocks.0"] == shapes["blocks.1"] == (2, 6, 8)
    assert automatic(vit, image) == ("blocks.0", "blocks.1")


def test_a_vit_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"patch_size, 4, got \(10, 8\)"):
        ViT(3, 10, image_size=(10, 8), rngs=RNGS)
    with pytest.raises(ValueError, match="heads, 3, got 8"):
        ViT(3, 10, image_size=(8, 8), width=8, heads=3, rngs=RNGS)


def test_the_residual_networks_start_as_torchvisions_and_fastais():
    """Spread of a convolution's weights: 2 over what goes out (torchvision), over what comes in (fastai)."""
    theirs, ours = resnet18(3, 10, rngs=RNGS), xresnet18(3, 10, rngs=RNGS)
    fan_out, fan_in = 9 * 128, 9 * 64
    np.testing.assert_allclose(np.var(theirs.layer2.layers[0].conv1.kernel[...]), 2 / fan_out, rtol=0.03)
    np.testing.assert_allclose(np.var(ours.layer2.layers[0].conv1.conv.kernel[...]), 2 / fan_in, rtol=0.03)
    block = ours.layer1.layers[0]
    x = jnp.abs(jax.random.normal(jax.random.key(0), (2, 6, 6, 64)))
    np.testing.assert_array_equal(block(x), x)  # its last scale is 0


def test_the_automatic_choice_is_the_blocks():
    model = PreActResNet(1, 10, width=4, rngs=nnx.Rngs(0))
    method = jax_mix.ManifoldMixup(0.4).bind(model, jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32))
    assert method.layers == ("layer1.layers.0", "layer2.layers.0", "layer3.layers.0")


def test_a_block_is_pre_activated():
    """With its last convolution at 0, a block without a change of shape is the identity: nothing follows the sum."""
    model = PreActResNet(1, 10, width=4, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 4))
    block, wider = model.layer1.layers[0], model.layer2.layers[0]
    block.conv2.kernel[...] = jnp.zeros_like(block.conv2.kernel[...])
    assert jnp.array_equal(block(x), x)
    assert block.shortcut is None
    assert wider.shortcut is not None
