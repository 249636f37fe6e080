"""The torch twin of a Flax model: the same weights give the same logits and BatchNorm statistics."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from parity_tests.tolerances import assert_close
from torch_ref import convert, models
from training.models import PreActResNet


def twins(seed=0):
    """The two models with the same weights, none of them at its initial zeros or ones."""
    torch.manual_seed(seed)
    theirs, ours = models.PreActResNet(3, 10, width=8), PreActResNet(3, 10, width=8, rngs=nnx.Rngs(seed))
    with torch.no_grad():
        for value in theirs.state_dict().values():
            if value.ndim == 1:
                value.uniform_(0.5, 1.5)
    convert.copy_to_flax(theirs, ours)
    return theirs, ours


def images(n=16, height=16, width=12, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 3, height, width)).astype(np.float32)


def nhwc(x):
    return np.moveaxis(x, 1, -1)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [(16, 12), (15, 9)])
def test_logits_equal(training, size):
    theirs, ours = twins()
    theirs.train(training)
    ours.train() if training else ours.eval()
    x = images(16, *size)
    assert_close(ours(jnp.asarray(nhwc(x))), theirs(torch.tensor(x)).detach(), "logits float32")


def test_batch_statistics_equal_but_for_the_unbiased_running_variance():
    theirs, ours = twins()
    before = convert.flax_arrays(ours)
    x = images(n=16, height=16, width=12)
    theirs(torch.tensor(x))
    ours(jnp.asarray(nhwc(x)))
    torch_after, flax_after = convert.flax_from_torch(convert.torch_arrays(theirs)), convert.flax_arrays(ours)
    # Values per channel in each norm's input: 16 images of 16 x 12, halved in layer2 and layer3.
    full, half, quarter = 16 * 16 * 12, 16 * 8 * 6, 16 * 4 * 3
    values = {"layer1.norm1": full, "layer1.norm2": full, "layer2.norm1": full, "layer2.norm2": half}
    values |= {"layer3.norm1": half, "layer3.norm2": quarter, "norm": quarter}
    for name, n in values.items():
        mean, var = f"{name}.mean", f"{name}.var"
        assert_close(flax_after[mean], torch_after[mean], "batch statistics")
        unbiased = 0.9 * before[var] + (flax_after[var] - 0.9 * before[var]) * n / (n - 1)
        assert_close(unbiased, torch_after[var], "batch statistics")
    with pytest.raises(AssertionError):
        assert_close(flax_after["norm.var"], torch_after["norm.var"], "batch statistics")


def test_weights_survive_the_way_there_and_back():
    theirs, ours = twins(seed=1)
    back = models.PreActResNet(3, 10, width=8)
    convert.copy_to_torch(ours, back)
    for name, value in theirs.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert_close(back.state_dict()[name], value, "recorded draw")


def test_weights_without_counterpart_are_refused():
    theirs, ours = models.PreActResNet(3, 7, width=8), twins()[1]
    with pytest.raises(ValueError, match=r"head\.kernel"):
        convert.copy_to_flax(theirs, ours)
    with pytest.raises(ValueError, match=r"head\.weight"):
        convert.copy_to_torch(ours, theirs)


@pytest.mark.parametrize("name", ["stem.kernel", "layer2.conv1.kernel", "head.kernel"])
def test_the_comparison_fails_for_a_kernel_the_wrong_way_round(name):
    theirs, ours = twins()
    module = ours
    for part in name.split(".")[:-1]:
        module = getattr(module, part)
    kernel = module.kernel[...]
    module.kernel[...] = kernel.swapaxes(0, 1) if kernel.ndim == 4 else jnp.flip(kernel, 0)
    x = images()
    with pytest.raises(AssertionError):
        assert_close(ours(jnp.asarray(nhwc(x))), theirs(torch.tensor(x)).detach(), "logits float32")
