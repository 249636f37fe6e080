"""jax_mix/training/models: the layers Manifold Mixup names, their shapes, and how the networks start."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jax_mix
from jax_mix.training import models
from jax_mix.training.errors import UserError
from jax_mix.training.models import (
    MLP,
    ConvNeXt,
    PreActResNet,
    ViT,
    convnext_tiny,
    initializers,
    preact_resnet18,
    resnet18,
    resnet34,
    resnet50,
    vit_small_patch16_224,
    wide_resnet28_10,
    xresnet18,
)

RNGS = nnx.Rngs(0)


def outputs(model, image):
    return {layer.name: layer.output.shape for layer in jax_mix.list_layers(model, image)}


def automatic(model, image):
    return jax_mix.ManifoldMixup(0.4).bind(model, image).layers


def traced(make, image):
    """`outputs` and `automatic` of a network that is only traced: no weights are drawn."""
    found = []

    def look():
        model = make()
        found.extend((outputs(model, image), automatic(model, image)))

    jax.eval_shape(look)
    return found


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
    image = jax.ShapeDtypeStruct((2, 64, 40, 3), jnp.float32)
    found, chosen = traced(lambda: make(3, 10, rngs=nnx.Rngs(0)), image)
    assert {name: found[name] for name in shapes} == {name: (2, *shape) for name, shape in shapes.items()}
    blocks = [f"layer{k}.layers.{i}" for k in (1, 2, 3, 4) for i in (0, 1)]
    linear_after_the_last = make is not preact_resnet18  # mixing there would be mixing the logits
    assert chosen == tuple(blocks[:-1] if linear_after_the_last else blocks)


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (resnet18, 11_689_512),  # torchvision's
        (xresnet18, 11_708_744),  # fastai's
        (resnet34, 21_797_672),  # torchvision's
        (resnet50, 25_557_032),  # torchvision's
        (functools.partial(vit_small_patch16_224, image_size=(224, 224)), 22_050_664),  # timm's
        (functools.partial(convnext_tiny, image_size=(224, 224)), 28_589_128),  # timm's
    ],
)
def test_number_of_parameters_with_1000_classes(make, count):
    assert number_of_parameters(lambda: make(3, 1000, rngs=nnx.Rngs(0))) == count


def number_of_parameters(make):
    params = nnx.state(nnx.eval_shape(make), nnx.Param)
    return sum(p.size for p in jax.tree.leaves(params))


def test_wide_resnet_has_the_papers_36_5_million_parameters():
    assert round(number_of_parameters(lambda: wide_resnet28_10(3, 10, rngs=nnx.Rngs(0))) / 1e6, 1) == 36.5


def test_mlp_and_vit():
    image = jax.ShapeDtypeStruct((2, 8, 12, 3), jnp.float32)
    mlp = MLP(3, 10, image_size=(8, 12), hidden=(6, 5), rngs=RNGS)
    assert outputs(mlp, image) == {"hidden.0": (2, 6), "hidden.1": (2, 5), "head": (2, 10)}
    vit = ViT(3, 10, image_size=(8, 12), width=8, depth=2, heads=2, rngs=RNGS)
    shapes = outputs(vit, image)
    assert shapes["patch"] == (2, 2, 3, 8)
    assert shapes["blocks.0"] == shapes["blocks.1"] == (2, 6, 8)
    assert automatic(vit, image) == ("blocks.0", "blocks.1")


def test_images_and_widths_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"patch_size, 4, got \(10, 8\)"):
        ViT(3, 10, image_size=(10, 8), rngs=RNGS)
    with pytest.raises(ValueError, match="heads, 3, got 8"):
        ViT(3, 10, image_size=(8, 8), width=8, heads=3, rngs=RNGS)
    with pytest.raises(
        UserError, match=r"vit_small_patch16_224 cannot be made: ValueError: width .* of 64, .* got 65\."
    ):
        models.make("vit_small_patch16_224", width=65, **ARGUMENTS)
    with pytest.raises(UserError, match=r"convnext_tiny cannot be made: .* image_size .* 32 x 32, got \(8, 8\)"):
        models.make("convnext_tiny", **ARGUMENTS)


def test_timms_networks_and_what_is_chosen_in_them():
    image = jax.ShapeDtypeStruct((2, 48, 35, 3), jnp.float32)
    make = functools.partial(ConvNeXt, 3, 10, image_size=(48, 35), blocks=(1, 2, 1, 1), width=4)
    shapes, chosen = traced(lambda: make(rngs=nnx.Rngs(0)), image)
    assert shapes["stem"] == shapes["stages.0"] == (2, 12, 8, 4)
    assert shapes["stages.3"] == (2, 1, 1, 32)
    blocks = [(0, 0), (1, 0), (1, 1), (2, 0), (3, 0)]  # the last too: a norm follows its mean
    assert chosen == tuple(f"stages.{stage}.blocks.{block}" for stage, block in blocks)
    image = jax.ShapeDtypeStruct((2, 8, 12, 3), jnp.float32)
    make = functools.partial(ViT, 3, 10, image_size=(8, 12), width=8, depth=2, heads=2, timm=True)
    shapes, chosen = traced(lambda: make(rngs=nnx.Rngs(0)), image)
    assert shapes["blocks.0"] == shapes["blocks.1"] == (2, 7, 8)
    assert chosen == ("blocks.0", "blocks.1")


def test_timms_networks_start_as_timms():
    vit = ViT(3, 10, image_size=(8, 8), width=64, depth=1, timm=True, rngs=nnx.Rngs(0))
    net = ConvNeXt(3, 10, image_size=(32, 32), blocks=(1, 1), width=64, rngs=nnx.Rngs(0))
    ours, block = vit.blocks[0], net.stages[0].blocks[0]
    for module in (ours.attention.qkv, ours.fc1, block.fc1, block.conv):
        np.testing.assert_allclose(np.std(module.kernel[...]), 0.02, rtol=0.05)
    assert 0 < np.max(np.abs(vit.token[...])) < 1e-5
    assert set(np.asarray(block.gamma[...])) == {np.float32(1e-6)}


@pytest.mark.parametrize("shape", [(3, 3, 1, 16), (3, 3, 6, 5), (7, 7, 3, 8), (1, 1, 16, 32), (64, 10), (300, 300)])
@pytest.mark.parametrize(
    ("ours", "flax"),
    [
        (initializers.lecun_normal, nnx.initializers.lecun_normal()),
        (initializers.kaiming_normal, nnx.initializers.variance_scaling(2.0, "fan_in", "normal")),
        (initializers.kaiming_normal_fan_out, nnx.initializers.variance_scaling(2.0, "fan_out", "normal")),
    ],
)
def test_initial_weights_are_flaxs_to_the_last_bit(ours, flax, shape):
    key = jax.random.key(0)
    np.testing.assert_array_equal(ours(key, shape), flax(key, shape, jnp.float32))


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


def test_forward_mode_derivatives_are_those_of_reverse_mode():
    model = PreActResNet(1, 10, width=4, rngs=nnx.Rngs(0))
    model.eval()
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))

    def total(x):
        return jnp.sum(jnp.square(model(x)))

    _, forward = jax.jvp(total, (x,), (x,))
    np.testing.assert_allclose(forward, jnp.sum(jax.grad(total)(x) * x), rtol=1e-4)


def make(name, size=(8, 8), **others):
    arguments = {"in_channels": 1, "num_classes": 10, "image_size": size, **others}
    return nnx.eval_shape(lambda: models.make(name, **arguments, rngs=nnx.Rngs(0)))


SIZES = {"vit_small_patch16_224": (32, 48), "convnext_tiny": (32, 37)}  # of whole patches; for five halvings
WIDTHS = {"xresnet18": None, "mlp": None, "vit_small_patch16_224": 64}


@pytest.mark.parametrize(
    ("name", "size"), [(name, SIZES.get(name, (10, 6))) for name in models.NAMES] + [("vit", (7, 28))]
)
def test_every_name_makes_a_model_with_its_layers(name, size):
    arguments = ARGUMENTS | {"image_size": size, "width": WIDTHS.get(name, 8)}
    image = jax.ShapeDtypeStruct((2, *size, 1), jnp.float32)
    shapes, _ = traced(lambda: models.make(name, **arguments | {"rngs": nnx.Rngs(0)}), image)
    layers = models.default_layers(name)
    assert len(layers) == 2
    assert set(layers) <= shapes.keys()


def test_width_is_the_models():
    assert make("preact_resnet8").stem.out_features == 16
    assert make("preact_resnet8", width=24).stem.out_features == 24
    assert make("wide_resnet28_10", width=32).layer1.layers[0].conv1.kernel.shape == (3, 3, 16, 32)
    assert make("vit", width=32).patch.out_features == 32


OWN = """
import jax.numpy as jnp
from flax import linen as nn, nnx

class Net(nnx.Module):
    def __init__(self, num_classes, *, image_size, rngs):
        self.linear = nnx.Linear(image_size[0] * image_size[1], num_classes, rngs=rngs)

    def __call__(self, image):
        return self.linear(image.reshape(image.shape[0], -1))

def wide(width=3, **arguments):
    net = Net(arguments["num_classes"], image_size=arguments["image_size"], rngs=arguments["rngs"])
    net.width = width
    return net

def broken(rngs):
    raise RuntimeError("no such thing\\nas this")

def leaves(rngs):
    raise SystemExit(3)

class OfPairs(Net):
    def __call__(self, image):
        return super().__call__(image).reshape(2, -1, 10).mean(1)

class Whole(Net):
    def __call__(self, image):
        return super().__call__(image).astype("int32")

class Linen(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, image):
        return nn.Dense(self.num_classes)(image.reshape(image.shape[0], -1))

class LinenOfFeatures(nn.Module):
    features: int

def linen(num_classes): return Linen(num_classes)
def bridged(num_classes, in_channels, image_size, rngs):
    model = linen(num_classes)
    return nnx.bridge.lazy_init(nnx.bridge.ToNNX(model, rngs=rngs), jnp.ones((1, *image_size, in_channels)))
made = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
def nothing(): return 3
def five(image_size, rngs): return Net(5, image_size=image_size, rngs=rngs)
def grey(rngs): return nnx.Conv(3, 10, (3, 3), rngs=rngs)
number = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_models.py").write_text(OWN)
    (tmp_path / "empty.py").write_text("")
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("own_models", None)


@pytest.mark.parametrize("where", ["own_models", "own_models.py", "./own_models.py"])
def test_a_model_of_ones_own(where, own):
    assert isinstance(models.make(f"{where}:Net", **ARGUMENTS).linear, nnx.Linear)
    assert models.make(f"{where}:wide", **ARGUMENTS).width == 3
    assert models.make(f"{where}:wide", width=5, **ARGUMENTS).width == 5
    assert models.default_layers(f"{where}:Net") is None


def test_a_linen_model_as_the_sentence_says(own):
    assert models.make("own_models:bridged", **ARGUMENTS)(jnp.ones((3, 8, 8, 1))).shape == (3, 10)


def test_a_model_in_a_file_may_import_what_is_beside_it(tmp_path):
    (tmp_path / "parts_beside.py").write_text(OWN)
    (tmp_path / "uses.py").write_text("from parts_beside import Net\n")
    try:
        assert isinstance(models.make(f"{tmp_path / 'uses.py'}:Net", **ARGUMENTS).linear, nnx.Linear)
    finally:
        sys.path.remove(str(tmp_path))
        for name in ("uses", "parts_beside"):
            sys.modules.pop(name, None)


ARGUMENTS = {"in_channels": 1, "num_classes": 10, "image_size": (8, 8), "rngs": nnx.Rngs(0)}
BAD = {
    # name: what the sentence says
    "preact_resnet19": "--model 'preact_resnet19' is not known: did you mean 'preact_resnet18'",
    "own_modls:Net": "'own_modls' cannot be imported: ModuleNotFoundError: No module named 'own_modls'.",
    "own.py:Net": "'own.py' cannot be imported: FileNotFoundError: there is no such file.",
    "own_models:Nett": "'own_models' has no 'Nett': did you mean 'Net'",
    "own_models.py": "own_models.py must name what makes the model, as own_models.py:Net. There are: 'Net', ",
    "./own_models.py": "must name what makes the model, as ./own_models.py:Net. There are: 'Net', ",
    "own_models.py:": "must name what makes the model, as own_models.py:Net. There are: 'Net', ",
    "own_models": "own_models.py must name what makes the model, as own_models.py:Net",
    "empty.py": "'empty.py' has no function or class: write one that makes a flax.nnx.Module",
    "own.py": "'own.py' cannot be imported: FileNotFoundError: there is no such file.",
    "own_models:Linen": "own_models:Linen is a Flax Linen model, .*: name a function .* nnx.bridge.lazy_init",
    "own_models:LinenOfFeatures": "own_models:LinenOfFeatures is a Flax Linen model",
    "own_models:linen": "own_models:linen is a Flax Linen model",
    "own_models:made": "own_models:made is a model already: name a function or class that makes it.",
    "own_models:number": "own_models:number cannot be called: ",
    "own_models:broken": "own_models:broken cannot be made: RuntimeError: no such thing.",
    "own_models:nothing": "own_models:nothing must give a flax.nnx.Module, got int.",
    "own_models:five": r"must make logits of shape \(2, 10\) from 2 images of 8 x 8 x 1, got \(2, 5\).",
    "own_models:leaves": "own_models:leaves cannot be made: SystemExit: 3.",
    "own_models:OfPairs": "own_models:OfPairs cannot take images of 8 x 8 x 1: ",
    "own_models:Whole": "own_models:Whole must make logits of a floating type, got int32.",
    "own_models:grey": "own_models:grey cannot take images of 8 x 8 x 1: ",
}


@pytest.mark.parametrize("name", BAD)
def test_a_model_that_cannot_be_used_is_told_in_one_sentence(name, own):
    with pytest.raises(UserError, match=BAD[name]) as caught:
        models.make(name, **ARGUMENTS)
    assert len(str(caught.value).splitlines()) == 1


def test_width_that_the_model_has_not(own):
    with pytest.raises(UserError, match="--width is 8, but --model own_models:Net has no such argument"):
        models.make("own_models:Net", width=8, **ARGUMENTS)


@pytest.mark.parametrize("name", ["preact_resnet8", "vit", "mlp"])
def test_bfloat16_is_computed_in_and_parameters_stay(name):
    model = models.make(name, **ARGUMENTS)
    image = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
    with jax.numpy_dtype_promotion("standard"):  # Flax's norms do not run in bfloat16 under strict
        expected = model(image)
        models.set_dtype(model, jnp.bfloat16)
        logits = model(image)
    assert (expected.dtype, logits.dtype) == (jnp.float32, jnp.bfloat16)
    assert {a.dtype for a in jax.tree.leaves(nnx.state(model, nnx.Param))} == {jnp.dtype("float32")}
    error = jnp.abs(logits.astype(jnp.float32) - expected)
    assert 0 < jnp.max(error) < 0.1 * jnp.max(jnp.abs(expected))
