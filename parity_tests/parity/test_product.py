"""The ladder once more with the blend as a matrix product, as on a TPU: a batch, a step at each layer, training."""

import numpy as np
import pytest

from jax_mix import _product
from parity_tests.parity import test_cutmix, test_manifold_mixup, test_mixup, test_trajectory
from parity_tests.parity.test_trajectory import float64  # noqa: F401
from parity_tests.parity.twins import nhwc, precision
from parity_tests.tolerances import assert_close


@pytest.fixture(autouse=True)
def product():
    test_manifold_mixup.compiled_step.clear_cache()
    token = _product.FORM.set("product")
    yield
    _product.FORM.reset(token)
    test_manifold_mixup.compiled_step.clear_cache()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_batch_and_its_targets(dtype):
    x, y = test_mixup.data(17, 3, 5, 8, dtype=dtype)
    fastai = test_mixup.record(x, y, alpha=1.0)
    with precision(dtype):
        mix = fastai.mix()
        test_mixup.assert_same_blend(mix.blend(nhwc(x)), nhwc(x), nhwc(fastai.x), mix.partner)
        test_mixup.assert_same_blend(mix.targets(y), y, fastai.y, mix.partner)


def test_a_pasted_batch_bit_for_bit():
    x, y = test_cutmix.data(7, 17, 12)
    fastai = test_cutmix.record(x, y, seed=1)
    assert_close(fastai.mix().blend(nhwc(x)), nhwc(fastai.x), "cutmix batch")


def test_a_step_at_every_layer():
    test_manifold_mixup.test_a_step_is_equal_at_every_layer("PreActResNet", np.float64)


def test_every_step_of_a_training_run(digits, float64):  # noqa: F811
    test_trajectory.check_in_float64(digits, "manifold", "sgd", "one_cycle")
