"""The reference's own reference: ManifoldMixupV2's callback, unmodified, gives what torch_ref's gives, bit for bit.

Run where its file can be imported:
git clone https://github.com/nestordemeure/ManifoldMixupV2 && PYTHONPATH=ManifoldMixupV2 pytest parity_tests/parity
"""

import copy
import importlib.util
import warnings

import numpy as np
import pytest
from fastai.losses import CrossEntropyLossFlat, MSELossFlat

from parity_tests.parity.twins import CLASSES, images, labels, twins
from torch_ref import recording
from torch_ref.manifold_mixup import ManifoldMixup

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("manifold_mixup") is None,
    reason="needs a clone of github.com/nestordemeure/ManifoldMixupV2 on PYTHONPATH",
)
LAYERS = ("stem", "layer1", "layer2.0.conv1", "layer3", "norm", "head")


def record(original, x, y, loss, *, use_input=True, layers=LAYERS, seed=0):
    """One batch under ManifoldMixupV2's callback if `original`, else under torch_ref's."""
    model = copy.deepcopy(twins()[0])
    if original:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of fastai's text and tabular modules, which it imports
            import manifold_mixup
        modules = [model.get_submodule(layer) for layer in layers]
        callback = manifold_mixup.ManifoldMixup(0.4, use_input_mixup=use_input, module_list=modules)
    else:
        callback = ManifoldMixup(0.4, layers=layers, use_input=use_input)
    return recording.run(callback, model, loss, x, y, seed=seed)


def assert_same(ours, theirs):
    for name in ("lam_drawn", "partner", "lam", "x", "y", "logits", "loss"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    for name in ("grads", "statistics"):
        ours_, theirs_ = getattr(ours, name), getattr(theirs, name)
        assert ours_.keys() == theirs_.keys()
        for key in ours_:
            np.testing.assert_array_equal(ours_[key], theirs_[key], err_msg=key)


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_the_same_with_class_numbers(reduction):
    x, y = images(), labels()
    drawn = set()
    for seed in range(20):
        ours, theirs = (
            record(original, x, y, CrossEntropyLossFlat(reduction=reduction), seed=seed) for original in (False, True)
        )
        assert_same(ours, theirs)
        drawn.add(ours.layer)
    assert len(drawn) >= 5, "hardly any layer was drawn"


@pytest.mark.parametrize("layer", LAYERS)
def test_the_same_at_one_layer_and_with_float_targets(layer):
    x, y = images(), np.eye(CLASSES, dtype=np.float32)[labels()]
    ours, theirs = (
        record(original, x, y, MSELossFlat(), use_input=False, layers=[layer]) for original in (False, True)
    )
    assert ours.layer == layer
    assert_same(ours, theirs)


def test_another_layer_is_seen():
    x, y = images(), labels()
    ours = record(False, x, y, CrossEntropyLossFlat(), use_input=False, layers=["layer1"])
    theirs = record(True, x, y, CrossEntropyLossFlat(), use_input=False, layers=["layer3"])
    np.testing.assert_array_equal(ours.lam, theirs.lam)
    with pytest.raises(AssertionError):
        assert_same(ours, theirs)
