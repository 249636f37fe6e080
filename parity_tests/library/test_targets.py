"""Targets of a mixed batch: of pixels, of a second batch, of any loss, and their accuracy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jax_mix
from jax_mix import CutMix, MixUp, OneOf
from parity_tests.tolerances import assert_close

KEY = jax.random.key(0)
XENT = optax.softmax_cross_entropy_with_integer_labels
SIZE = (8, 6)
RNG = np.random.default_rng(0)
MASKS = RNG.integers(0, 3, (5, *SIZE)).astype(np.int32)
LOGITS = RNG.standard_normal((5, *SIZE, 3)).astype(np.float32)
CUT = CutMix(lam=0.5, per="sample").sample(KEY, (5, *SIZE, 3))
BLEND = MixUp(1.0).sample(KEY, (5, *SIZE, 3))
BOTH = OneOf(MixUp(lam=0.6), CutMix(lam=0.5), per="sample").sample(jax.random.key(3), (5, *SIZE, 3))


def inside(mix):
    """Which pixels are in the box, `[batch, height, width]`."""
    boxes = np.broadcast_to(mix.box, (5, 4))
    rows, columns = np.arange(SIZE[0])[:, None], np.arange(SIZE[1])
    return np.stack([(y1 <= rows) & (rows < y2) & (x1 <= columns) & (columns < x2) for y1, x1, y2, x2 in boxes])


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.bool_, np.float32])
def test_masks_are_pasted_with_the_images_box(dtype):
    masks = MASKS.astype(dtype)
    want = np.where(inside(CUT), masks[CUT.partner], masks)
    assert not np.array_equal(want, masks)
    got = CUT.targets(masks, dense=True)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, want)
    one_hot = np.eye(3, dtype=np.float32)[MASKS]
    np.testing.assert_array_equal(CUT.targets(one_hot, dense=True), np.eye(3)[CUT.targets(MASKS, dense=True)])
    image, mask = jax_mix.cutmix(KEY, one_hot, MASKS, dense=True)
    np.testing.assert_array_equal(image, np.eye(3)[mask])


def test_what_is_meant_by_targets_with_pixels_is_said_or_refused():
    one_hot = np.eye(3, dtype=np.float32)[MASKS]
    for call in (
        lambda: CUT.targets(one_hot),
        lambda: CUT.targets({"label": np.ones((5, 3), np.float32), "mask": MASKS}),
        lambda: jax_mix.cutmix(KEY, one_hot, one_hot),
        lambda: jax_mix.mixed_loss(XENT, LOGITS, MASKS, CUT),
        lambda: BOTH.targets(one_hot),
        lambda: jax_mix.Mix(0.5, CUT.partner, box=CUT.box).targets(one_hot),  # of images of unknown size
    ):
        with pytest.raises(ValueError, match=r"give dense=True to mix it pixel by pixel, .* or dense=False"):
            call()
    lam = np.asarray(CUT.lam)[:, None, None, None]
    assert_close(CUT.targets(one_hot, dense=False), lam * one_hot + (1 - lam) * one_hot[CUT.partner], "same program")
    label = np.eye(5, dtype=np.float32)
    np.testing.assert_array_equal(CUT.targets(label), CUT.targets(label, dense=False))  # no pixels: as ever
    np.testing.assert_array_equal(BLEND.targets(one_hot), BLEND.targets(one_hot, dense=True))  # no box: all the same
    mixed = CUT.targets({"label": label, "mask": MASKS}, dense=True)
    np.testing.assert_array_equal(mixed["label"], CUT.targets(label))
    np.testing.assert_array_equal(mixed["mask"], CUT.targets(MASKS, dense=True))


def test_masks_whose_axes_are_elsewhere_than_the_images():
    """Images NCHW, masks NHW and NKHW."""
    mix = CutMix(lam=0.5, spatial_axes=(2, 3)).sample(KEY, (5, 3, *SIZE))
    want = CutMix(lam=0.5).sample(KEY, (5, *SIZE, 3)).targets(MASKS, dense=True)
    for dense in (True, (1, 2)):
        np.testing.assert_array_equal(mix.targets(MASKS, dense=dense), want)
    stacked = np.moveaxis(np.eye(3, dtype=np.float32)[MASKS], -1, 1)
    np.testing.assert_array_equal(mix.targets(stacked, dense=True), np.moveaxis(np.eye(3)[want], -1, 1))
    turned = CutMix(lam=0.5, spatial_axes=(2, 1)).sample(KEY, (5, *SIZE[::-1], 3))  # columns before rows
    np.testing.assert_array_equal(turned.targets(MASKS.swapaxes(1, 2), dense=True), np.asarray(want).swapaxes(1, 2))


def test_the_loss_of_a_pixel_is_of_the_image_that_it_comes_from():
    own, partners = (np.asarray(XENT(LOGITS, labels)) for labels in (MASKS, MASKS[CUT.partner]))
    got = jax_mix.mixed_loss(XENT, LOGITS, MASKS, CUT, dense=True)
    assert_close(got, np.where(inside(CUT), partners, own), "loss float32")
    lam = np.asarray(BLEND.lam)[:, None, None]
    partners = np.asarray(XENT(LOGITS, MASKS[BLEND.partner]))
    for dense in (None, True, False):
        got = jax_mix.mixed_loss(XENT, LOGITS, MASKS, BLEND, dense=dense)
        assert_close(got, lam * own + (1 - lam) * partners, "loss float32")
    outside = np.asarray(BOTH.outside)[:, None, None]
    assert len(np.unique(outside)) > 1
    weight = np.where(inside(BOTH), 0, outside)
    partners = np.asarray(XENT(LOGITS, MASKS[BOTH.partner]))
    got = jax_mix.mixed_loss(XENT, LOGITS, MASKS, BOTH, dense=True)
    assert_close(got, weight * own + (1 - weight) * partners, "loss float32")
    soft = jax_mix.mixed_loss(optax.softmax_cross_entropy, LOGITS, np.eye(3, dtype=np.float32)[MASKS], BOTH, dense=True)
    assert_close(soft, got, "loss float32")

    def by_image(logits, labels):
        return XENT(logits, labels).mean((1, 2))

    pasted = jax_mix.mixed_loss(by_image, LOGITS, MASKS, CUT, dense=True)
    assert_close(pasted, jax_mix.mixed_loss(XENT, LOGITS, MASKS, CUT, dense=True).mean((1, 2)), "loss float32")
    with pytest.raises(ValueError, match="the loss has not the spatial axes"):
        jax_mix.mixed_loss(by_image, LOGITS, MASKS, BOTH, dense=True)


def test_a_label_and_a_mask_have_one_loss():
    logits = {"label": LOGITS[:, 0, 0], "mask": LOGITS}
    labels = {"label": np.arange(5, dtype=np.int32) % 3, "mask": MASKS}

    def loss(logits, labels):
        return XENT(logits["label"], labels["label"]) + XENT(logits["mask"], labels["mask"]).mean((1, 2))

    got = jax_mix.mixed_loss(loss, logits, labels, CUT, dense=True)
    of_label = jax_mix.mixed_loss(XENT, logits["label"], labels["label"], CUT)
    of_mask = jax_mix.mixed_loss(XENT, LOGITS, MASKS, CUT, dense=True).mean((1, 2))
    assert_close(got, of_label + of_mask, "loss float32")


def test_partners_of_a_second_batch_and_two_draws_on_one():
    x, z = RNG.random((2, 5, *SIZE, 3), np.float32)
    label, other = np.arange(5, dtype=np.int32) % 3, (np.arange(5, dtype=np.int32) + 1) % 3
    partner = np.asarray(BLEND.partner)
    lam = np.asarray(BLEND.lam)
    want = lam[:, None, None, None] * x + (1 - lam)[:, None, None, None] * z[partner]
    np.testing.assert_allclose(BLEND.blend(x, other=z), want, atol=1e-6)
    loss = jax_mix.mixed_loss(XENT, x[:, 0, 0], label, BLEND, other=other)
    own, theirs = (np.asarray(XENT(x[:, 0, 0], labels)) for labels in (label, other[partner]))
    assert_close(loss, lam * own + (1 - lam) * theirs, "loss float32")
    np.testing.assert_array_equal(CUT.blend(x, other=z), np.where(inside(CUT)[..., None], z[CUT.partner], x))
    for bad in (z[:4], z.astype(np.float16), {"image": z}):
        with pytest.raises(ValueError, match="other must be"):
            BLEND.blend(x, other=bad)

    # Two boxes of two partners, both of the batch as it was, as Kornia's num_mix pastes them.
    second = CutMix(lam=0.8, per="sample").sample(jax.random.key(9), x.shape)
    pasted = second.blend(CUT.blend(x), other=x)
    by_hand = np.where(inside(CUT)[..., None], x[CUT.partner], x)
    by_hand = np.where(inside(second)[..., None], x[second.partner], by_hand)
    np.testing.assert_array_equal(pasted, by_hand)
    one_hot = np.eye(3, dtype=np.float32)[label]
    twice = second.targets(CUT.targets(one_hot), other=one_hot)
    assert_close(twice.sum(-1), np.ones(5), "same program")


LABELS = np.arange(5, dtype=np.int32) % 3
ONE_HOT = np.eye(3, dtype=np.float32)[LABELS]
OTHER_LOSSES = {
    "binary cross-entropy": (optax.sigmoid_binary_cross_entropy, ONE_HOT),
    "several labels": (lambda l, y: optax.sigmoid_binary_cross_entropy(l, y).mean(-1), 1 - ONE_HOT),
    "regression": (optax.squared_error, RNG.standard_normal((5, 3)).astype(np.float32)),
    "focal": (lambda l, y: optax.sigmoid_focal_loss(l, y, gamma=2.0), ONE_HOT),
    "class numbers": (XENT, LABELS),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_LOSSES)
def test_any_loss_is_weighed_by_lambda(name):
    loss, labels = OTHER_LOSSES[name]
    logits = LOGITS[:, 0, 0]
    got = np.asarray(jax_mix.mixed_loss(loss, logits, labels, CUT))
    own, partners = np.asarray(loss(logits, labels)), np.asarray(loss(logits, labels[CUT.partner]))
    lam = np.asarray(CUT.lam).reshape(-1, *[1] * (own.ndim - 1))
    assert_close(got, lam * own + (1 - lam) * partners, "another order of summation")


def test_labels_smoothed_as_timm_does():
    """off = s / K and on = 1 - s + off, mixed: optax's smooth_labels before `targets`."""
    smoothing, lam, partner = 0.1, np.asarray(CUT.lam)[:, None], np.asarray(CUT.partner)
    off = smoothing / 3
    smooth = np.where(ONE_HOT == 1, 1 - smoothing + off, off)
    got = CUT.targets(optax.smooth_labels(jnp.asarray(ONE_HOT), smoothing))
    assert_close(got, lam * smooth + (1 - lam) * smooth[partner], "same program")


def test_accuracy_of_mixed_batches():
    metric = nnx.MultiMetric(accuracy=jax_mix.MixedAccuracy(), loss=nnx.metrics.Average("loss"))
    hits, count = 0.0, 0

    @nnx.jit
    def update(metric, logits, mix):
        metric.update(logits=logits, labels=LABELS, mix=mix, loss=logits.mean())

    for mix in (CUT, BLEND, None):
        logits = RNG.standard_normal((5, 3)).astype(np.float32)
        update(metric, logits, mix)
        hit = logits.argmax(1) == LABELS
        lam, partner = (1.0, np.arange(5)) if mix is None else (np.asarray(mix.lam), np.asarray(mix.partner))
        hits += (lam * hit + (1 - lam) * (logits.argmax(1) == LABELS[partner])).sum()
        count += 5
    with jax.numpy_dtype_promotion("standard"):
        assert_close(metric.compute()["accuracy"], hits / count, "same program")
    accuracy = jax_mix.MixedAccuracy()
    accuracy.update(logits=LOGITS, labels=MASKS, mix=CUT, dense=True)
    pasted = np.asarray(CUT.targets(MASKS, dense=True))
    assert_close(accuracy.compute(), (LOGITS.argmax(-1) == pasted).mean(), "same program")
    with pytest.raises(ValueError, match="labels must be class numbers in the shape of logits"):
        accuracy.update(logits=LOGITS, labels=LABELS)
