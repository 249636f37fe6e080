"""The papers' forms: against the authors' formulas, written out in numpy, and torchvision's own transforms."""

import re
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torchvision.transforms import v2

import jax_mix
from parity_tests.parity.test_cutmix import boxes_at
from parity_tests.tolerances import assert_close, assert_within_ulp

XENT = optax.softmax_cross_entropy_with_integer_labels
KEYS = range(8)


def mixed(x, lam, index):
    """`mixup_data` and Manifold Mixup's `mixup_process`, lam one number; in float64."""
    return lam * x.astype(np.float64) + (1 - lam) * x[index].astype(np.float64)


def rand_bbox(height, width, lam, cy, cx):
    """CutMix's `rand_bbox`, for one box or for arrays of them."""
    cut_rat = np.sqrt(1.0 - lam)
    cut_h, cut_w = np.int64(height * cut_rat), np.int64(width * cut_rat)
    y1, y2 = np.clip(cy - cut_h // 2, 0, height), np.clip(cy + cut_h // 2, 0, height)
    x1, x2 = np.clip(cx - cut_w // 2, 0, width), np.clip(cx + cut_w // 2, 0, width)
    return np.stack([y1, x1, y2, x2], axis=-1)


def pasted(x, box, index):
    y1, x1, y2, x2 = box
    x = x.copy()
    x[:, y1:y2, x1:x2] = x[index][:, y1:y2, x1:x2]
    return x, 1 - (y2 - y1) * (x2 - x1) / (x.shape[1] * x.shape[2])


def images(n=9, height=16, width=12):
    return np.random.default_rng(0).normal(size=(n, height, width, 3)).astype(np.float32)


def one_lambda(mix):
    lam = np.unique(np.asarray(mix.lam))
    assert lam.size == 1, "one lambda for the whole batch"
    return float(lam[0])


def assert_same_blend(ours, theirs, x, partner):
    assert_within_ulp(ours, theirs.astype(np.float32), np.maximum(np.abs(x), np.abs(x[partner])))


def test_mixup():
    x, y = images(), np.arange(9)
    one_hot = np.eye(10, dtype=np.float32)[y]
    logits = np.random.default_rng(1).normal(size=(9, 10)).astype(np.float32)
    lams = []
    for seed in KEYS:
        mix = jax_mix.MixUp(1.0, per="batch", fold=False).sample(jax.random.key(seed), x.shape)
        lam, index = one_lambda(mix), np.asarray(mix.partner)
        lams.append(lam)
        assert_same_blend(mix.blend(x), mixed(x, lam, index), x, index)
        assert_same_blend(mix.targets(one_hot), mixed(one_hot, lam, index), one_hot, index)
        losses = lam * XENT(logits, y) + (1 - lam) * XENT(logits, y[index])  # `mixup_criterion`
        assert_close(jax_mix.mixed_loss(XENT, logits, y, mix), losses, "loss float32")
    assert min(lams) < 0.5 < max(lams), "unfolded"


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (16, 12), (224, 224), (1, 9)])
def test_boxes_of_the_cutmix_authors(size):
    height, width = size
    rng = np.random.default_rng(0)
    lam = np.concatenate([np.linspace(0, 1, 100_001), rng.uniform(size=100_000)]).astype(np.float32)
    cy, cx = rng.integers(0, height, lam.shape), rng.integers(0, width, lam.shape)
    theirs = rand_bbox(height, width, lam.astype(np.float64), cy, cx)
    # They compute a side in float64, we in float32: where it is a whole number of pixels up to float32's rounding,
    # the two may fall on different sides of it.
    sides = np.sqrt(1 - lam.astype(np.float64))[:, None] * size
    clear = np.all(np.abs(sides - np.round(sides)) > 1e-6 * np.array(size), axis=-1)
    assert clear.mean() > 0.98
    ours = np.asarray(boxes_at((cy, cx), lam, height, width, "paper"))
    assert_close(ours[clear], theirs[clear], "box")
    assert np.mean(np.any(ours != theirs, axis=-1)) < 1e-4
    if size != (1, 9):  # nothing but a box of no or one pixel in height
        with pytest.raises(AssertionError):
            assert_close(boxes_at((cy, cx), lam, height, width, "fastai")[clear], theirs[clear], "box")


def test_cutmix():
    x = images()
    one_hot = np.eye(10, dtype=np.float32)[:9]
    for seed in KEYS:
        mix = jax_mix.CutMix(1.0, box="paper").sample(jax.random.key(seed), x.shape)
        index = np.asarray(mix.partner)
        theirs, lam = pasted(x, np.asarray(mix.box), index)
        assert_close(mix.blend(x), theirs, "cutmix batch")
        assert one_lambda(mix) == pytest.approx(lam, abs=6e-8)
        with jax.enable_x64(True):
            assert one_lambda(jax_mix.Mix.from_box(index, mix.box, x.shape[1:3])) == lam
        assert_same_blend(mix.targets(one_hot), mixed(one_hot, one_lambda(mix), index), one_hot, index)


def test_manifold_mixup():
    x = images()
    hidden = {"input": x, "layer1": x.mean(1), "layer2": x.mean((1, 2))}
    one_hot = np.eye(10, dtype=np.float32)[:9]
    logits = np.random.default_rng(1).normal(size=(9, 10))
    method = jax_mix.ManifoldMixup(2.0, per="batch", fold=False, layers=("layer1", "layer2"))
    drawn = set()
    for seed in range(16):
        mix = method.sample(jax.random.key(seed), x.shape)
        lam, index, h = one_lambda(mix), np.asarray(mix.partner), hidden[mix.layer_name]
        drawn.add(mix.layer_name)
        assert_same_blend(mix.blend(h), mixed(h, lam, index), h, index)
        target = mixed(one_hot, lam, index)
        assert_same_blend(mix.targets(one_hot), target, one_hot, index)
        p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)  # their loss: BCE of the softmax
        theirs = -(target * np.log(p) + (1 - target) * np.log(1 - p))
        q = jax.nn.softmax(jnp.asarray(logits, jnp.float32))
        ours = -(mix.targets(one_hot) * jnp.log(q) + (1 - mix.targets(one_hot)) * jnp.log1p(-q))
        assert_close(ours, theirs, "loss float32")
    assert drawn == {"input", "layer1", "layer2"}


@pytest.mark.parametrize("seed", KEYS)
def test_torchvisions_mixup(seed):
    x, labels = images(), np.arange(9)
    one_hot = np.eye(10, dtype=np.float32)[labels]
    drawn = []

    class Recorded(v2.MixUp):
        def make_params(self, inputs):
            drawn.append(super().make_params(inputs))
            return drawn[0]

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        theirs_x, theirs_y = Recorded(alpha=1.0, num_classes=10)(
            torch.tensor(x.transpose(0, 3, 1, 2)), torch.tensor(labels)
        )
    mix = jax_mix.MixUp(1.0, per="batch", fold=False, partner="roll").sample(jax.random.key(0), x.shape)
    mix = jax_mix.Mix(np.float32(drawn[0]["lam"]), mix.partner)
    for ours, theirs, own in (
        (mix.blend(x), theirs_x.numpy().transpose(0, 2, 3, 1), x),
        (mix.targets(one_hot), theirs_y.numpy(), one_hot),
    ):
        scale = np.maximum(np.abs(own), np.abs(own[np.asarray(mix.partner)]))
        assert_within_ulp(ours, theirs, scale, ulps=2)  # it rounds both products and their sum, we once less


@pytest.mark.parametrize("size", [(32, 32), (17, 33), (16, 12)])
@pytest.mark.parametrize("seed", KEYS)
def test_torchvisions_cutmix(seed, size):
    x, labels = images(9, *size), np.arange(9)
    drawn = {}

    class Recorded(v2.CutMix):
        def make_params(self, inputs):
            sample, randint = self._dist.sample, torch.randint

            def keep(name, value):
                drawn.setdefault(name, []).append(float(value))
                return value

            with (
                mock.patch.object(self._dist, "sample", lambda *a: keep("lam", sample(*a))),
                mock.patch("torch.randint", lambda *a, **k: keep("centre", randint(*a, **k))),
            ):
                params = super().make_params(inputs)
            drawn["box"], drawn["lam_adjusted"] = params["box"], params["lam_adjusted"]
            return params

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transform = Recorded(alpha=1.0, num_classes=10)
        theirs_x, theirs_y = transform(torch.tensor(x.transpose(0, 3, 1, 2)), torch.tensor(labels))
    x1, y1, x2, y2 = drawn["box"]
    column, row = (int(at) for at in drawn["centre"])
    box = boxes_at((row, column), np.float32(drawn["lam"][0]), *size, "paper")
    assert_close(box, [y1, x1, y2, x2], "box")
    partner = jax_mix.CutMix(1.0, partner="roll").sample(jax.random.key(0), x.shape).partner
    mix = jax_mix.Mix.from_box(partner, box, size)
    assert_close(mix.blend(x), theirs_x.numpy().transpose(0, 2, 3, 1), "cutmix batch")
    assert one_lambda(mix) == pytest.approx(drawn["lam_adjusted"], abs=6e-8)
    with jax.enable_x64(True):
        assert one_lambda(jax_mix.Mix.from_box(partner, box, size)) == drawn["lam_adjusted"]
    one_hot = np.eye(10, dtype=np.float32)[labels]
    assert_within_ulp(mix.targets(one_hot), theirs_y.numpy(), np.ones_like(one_hot), ulps=2)


def test_the_authors_loss_has_torchs_gradient():
    """The one in docs/recipes.md, also where a class wins so clearly that its probability rounds to 1."""
    text = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()
    page = {}
    exec(next(block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "def bce" in block), page)
    logits = np.array([[1.0, 2.0, -1.0], [17.0, 0.0, 0.0], [110.0, 0.0, -30.0]], np.float32)
    target = np.array([[0.7, 0.3, 0.0], [1.0, 0.0, 0.0], [0.4, 0.6, 0.0]], np.float32)
    theirs = torch.tensor(logits, requires_grad=True)
    torch_losses = torch.nn.BCELoss(reduction="none")(torch.softmax(theirs, -1), torch.tensor(target)).mean(-1)
    torch_losses.sum().backward()
    losses = page["bce_of_softmax"](jnp.asarray(logits), jnp.asarray(target))
    assert_close(losses, torch_losses.detach(), "loss of large logits")
    gradient = jax.grad(lambda o: page["bce_of_softmax"](o, jnp.asarray(target)).sum())(jnp.asarray(logits))
    assert_close(gradient[:1], theirs.grad[:1], "loss of large logits")
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("size", [(32, 32), (16, 12)])
def test_the_comparison_fails_for_a_box_off_by_one(size):
    lam = np.linspace(0.1, 0.9, 50, dtype=np.float32)
    centre = np.full(50, size[0] // 2), np.full(50, size[1] // 2)
    theirs = rand_bbox(*size, lam.astype(np.float64), *centre)
    with pytest.raises(AssertionError):
        assert_close(boxes_at((centre[0] + 1, centre[1]), lam, *size, "paper"), theirs, "box")
