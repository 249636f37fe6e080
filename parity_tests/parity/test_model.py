"""Each Flax model beside its torch reference: weights convert without rest; the same weights, the same logits."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchvision
from flax import nnx

from jax_mix.training import models as flax_models
from parity_tests.parity.twins import MODELS, SIZE, given_timm, images, nhwc, precision, twins
from parity_tests.tolerances import assert_close
from torch_ref import convert, models

every_model = pytest.mark.parametrize("name", MODELS)
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@every_model
@every_dtype
def test_weights_survive_the_way_there_and_back(name, dtype):
    with precision(dtype):
        theirs, ours = twins(name, dtype, seed=1)
        back = MODELS[name][0]().to(next(theirs.parameters()).dtype)
        convert.copy_to_torch(ours, back)
        weights, returned = convert.torch_arrays(theirs), convert.torch_arrays(back)
        assert weights.keys() == returned.keys()
        for key, value in weights.items():
            if not key.endswith(convert.TORCH_ONLY):
                assert returned[key].dtype == dtype
                np.testing.assert_array_equal(returned[key], value, err_msg=key)
        assert len(convert.flax_arrays(ours)) == len(convert.flax_from_torch(weights))
        assert {array.dtype for array in convert.flax_arrays(ours).values()} == {np.dtype(dtype)}


@every_model
def test_gradients_have_the_names_of_the_weights(name):
    """What is converted by name is every parameter, also where only parameters are given."""
    theirs, ours = twins(name)
    gradients = convert.flax_from_torch({name: p.detach().numpy() for name, p in theirs.named_parameters()})
    params = convert.flax_arrays(nnx.state(ours, nnx.Param))
    assert {key: array.shape for key, array in gradients.items()} == {key: array.shape for key, array in params.items()}


def test_weights_without_counterpart_are_refused():
    theirs, ours = models.PreActResNet(3, 7, width=8), twins()[1]
    with pytest.raises(ValueError, match=r"head\.kernel"):
        convert.copy_to_flax(theirs, ours)
    with pytest.raises(ValueError, match=r"head\.kernel"):
        convert.copy_to_torch(ours, theirs)
    deeper = models.PreActResNet(3, 10, blocks=(1, 1, 2), width=8)
    with pytest.raises(ValueError, match=r"layer3\.layers\.1\.conv1\.kernel"):
        convert.copy_to_flax(deeper, ours)
    with pytest.raises(ValueError, match=r"layer3\.layers\.1\.conv1\.kernel"):
        convert.copy_to_torch(ours, deeper)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [SIZE, (23, 33)])
@pytest.mark.parametrize("name", [name for name in MODELS if "ResNet" in name or "resnet" in name])
def test_logits_equal_at_other_sizes_and_in_evaluation(name, size, training):
    with precision(np.float64):
        theirs, ours = twins(name, np.float64)
        theirs.train(training)
        ours.train() if training else ours.eval()
        x = images(4, size, np.float64)
        assert_close(ours(jnp.asarray(nhwc(x))), theirs(torch.tensor(x)).detach(), "logits float64")


@pytest.mark.parametrize("name", ["resnet34", "resnet50"])
def test_the_deeper_resnets_are_torchvisions(name):
    """Weights convert without rest, and the logits of both are the same; only here, for these are large."""
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)(num_classes=10).double()
    with precision(np.float64):
        ours = nnx.eval_shape(lambda: getattr(flax_models, name)(3, 10, rngs=nnx.Rngs(0)))
        convert.copy_to_flax(theirs, ours)
        x = images(4, (33, 40), np.float64)
        logits = nnx.jit(lambda model, x: model(x))(ours, jnp.asarray(nhwc(x)))
        assert_close(logits, theirs(torch.tensor(x)).detach(), "logits float64")


@pytest.mark.parametrize(("name", "size"), [("vit_small_patch16_224", (224, 224)), ("convnext_tiny", (224, 250))])
def test_timms_networks_at_their_real_size(name, size):
    """And ConvNeXt on images whose size does not divide: columns are left out."""
    theirs = given_timm(name, num_classes=10).double()
    with precision(np.float64):
        ours = nnx.eval_shape(lambda: getattr(flax_models, name)(3, 10, image_size=size, rngs=nnx.Rngs(0)))
        convert.copy_to_flax(theirs, ours)
        x = images(1, size, np.float64)
        logits = nnx.jit(lambda model, x: model(x))(ours, jnp.asarray(nhwc(x)))
        with torch.no_grad():
            assert_close(logits, theirs(torch.tensor(x)), "logits float64")


@pytest.mark.parametrize("name", ["stem.kernel", "layer2.layers.0.conv1.kernel", "head.kernel"])
def test_the_comparison_fails_for_a_kernel_the_wrong_way_round(name):
    theirs, ours = twins()
    module = ours
    for part in name.split(".")[:-1]:
        module = module[int(part)] if part.isdecimal() else getattr(module, part)
    kernel = module.kernel[...]
    module.kernel[...] = kernel.swapaxes(0, 1) if kernel.ndim == 4 else jnp.flip(kernel, 0)
    x = images()
    with pytest.raises(AssertionError):
        assert_close(ours(jnp.asarray(nhwc(x))), theirs(torch.tensor(x)).detach(), "logits float32")
