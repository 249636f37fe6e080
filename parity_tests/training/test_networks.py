"""Every named network, evaluated as a compiled program: the numbers that its operations give one by one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_mix.training import evaluation, models
from jax_mix.training.data import Dataset, Examples, Normalize
from jax_mix.training.errors import TrainingFailed
from jax_mix.training.models import ConvNeXt, ResNet, ViT
from jax_mix.training.models.resnets import Bottleneck
from parity_tests import quick_jax
from parity_tests.tolerances import assert_close

pytestmark = pytest.mark.as_users_run

WIDTH = {"wide_resnet28_10": 32}  # all others as wide as they are
SHALLOW = {  # these are of one block after the other; a second one in a stage is as all further ones
    "resnet34": functools.partial(ResNet, 3, 10, blocks=(2, 1, 1, 1)),
    "resnet50": functools.partial(ResNet, 3, 10, block=Bottleneck, blocks=(2, 1, 1, 1)),
    "vit_small_patch16_224": functools.partial(
        ViT, 3, 10, image_size=(32, 32), patch_size=16, width=64, depth=1, timm=True
    ),
    "convnext_tiny": functools.partial(ConvNeXt, 3, 10, image_size=(32, 32), blocks=(1, 1), width=32),
}


def logits(model, image, dtype, *, transform=lambda call: call):
    models.set_dtype(model, jnp.dtype(dtype))
    with jax.numpy_dtype_promotion("standard"):  # Flax's LayerNorm and pooling need it in bfloat16
        return np.asarray(transform(lambda model, image: model(image))(model, image), np.float32)


@pytest.mark.parametrize("name", models.NAMES)
def test_compiled_logits_are_those_of_one_operation_after_the_other(name):
    """On images of 32x32, in both dtypes: a compiler's fault seen there did not show on smaller ones."""
    named = functools.partial(
        models.make, name, in_channels=3, num_classes=10, image_size=(32, 32), width=WIDTH.get(name)
    )
    with quick_jax.unoptimized():
        model = SHALLOW.get(name, named)(rngs=nnx.Rngs(0))
        model.eval()
        image = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
        one_by_one = {"bfloat16": logits(model, image, "bfloat16")}
    one_by_one["float32"] = logits(model, image, "float32")  # rounded as compiled ones are, to the last bits
    for dtype in one_by_one:
        compiled = logits(model, image, dtype, transform=nnx.jit)
        largest = np.max(np.abs(one_by_one[dtype]))
        assert largest > 0.1
        assert_close(compiled / largest, one_by_one[dtype] / largest, f"compiled logits {dtype}")


def test_logits_that_are_not_finite_are_told():
    class Overflows(nnx.Module):
        def __call__(self, image):
            return jnp.exp(image.reshape(image.shape[0], -1)[:, :2])

    image = np.zeros((5, 2, 2, 1), np.uint8)
    image[3:] = 200
    examples = Examples(image, np.zeros(5, np.int32))
    zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
    dataset = Dataset(examples, examples, Normalize(zero, one), "two pixels", ("a", "b"))
    with pytest.raises(
        TrainingFailed, match=r"^the logits of 2 of 5 test images are infinite or nan.* --dtype float32"
    ):
        evaluation.evaluate(Overflows(), dataset)
