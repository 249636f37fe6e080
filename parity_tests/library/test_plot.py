"""jax_mix.plot: what a picture shows is what the draw does, and what cannot be drawn is told in a sentence."""

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_mix
from parity_tests.tolerances import assert_close

plt = pytest.importorskip("matplotlib")
KEY = jax.random.key(0)
IMAGES = np.asarray(jax.random.uniform(KEY, (6, 8, 10, 3)))
LABELS = np.array([0, 1, 2, 0, 1, 2])
NAMES = ("cat", "dog", "newt")
PARTNER = np.array([1, 2, 0, 3, 5, 4])
MIXUP = jax_mix.Mix(np.float32([0.7, 1, 0.5, 0.2, 0.999, 0.4]), PARTNER)
CUTMIX = jax_mix.Mix.from_box(PARTNER, np.array([[0, 2, 4, 7], [3, 3, 3, 8]] * 3), (8, 10))


def rows_of(figure, n):
    """Of each row: its name, its images, the words below, and the outlines drawn on it."""
    for start in range(0, len(figure.axes), n):
        line = figure.axes[start : start + n]
        shown = np.stack([np.asarray(axes.images[0].get_array()) for axes in line])
        outlines = [[curve.get_xydata().tolist() for curve in axes.lines] for axes in line]
        yield line[0].get_ylabel(), shown, [axes.get_xlabel() for axes in line], outlines


def legend_of(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


@pytest.mark.parametrize(
    "mix",
    [
        MIXUP,
        CUTMIX,
        jax_mix.CutMix(1.0, groups=2).sample(KEY, IMAGES.shape),
        jax_mix.OneOf(jax_mix.MixUp(1.0), jax_mix.CutMix(1.0), None, per="sample").sample(KEY, IMAGES.shape),
    ],
    ids=["mixup", "cutmix", "groups", "one of"],
)
def test_the_rows_are_the_samples_their_partners_and_the_mix(mix):
    sample, partner, mixed = rows_of(jax_mix.plot.batch(IMAGES, mix, n=4), 4)
    assert [row[0] for row in (sample, partner, mixed)] == ["sample", "partner", "mixed"]
    np.testing.assert_array_equal(sample[1], IMAGES[:4])
    np.testing.assert_array_equal(partner[1], IMAGES[np.asarray(mix.partner)[:4]])
    np.testing.assert_array_equal(mixed[1], np.asarray(mix.blend(IMAGES))[:4])


def test_words_and_boxes_are_the_draws():
    sample, partner, mixed = rows_of(jax_mix.plot.batch(IMAGES, CUTMIX, LABELS, NAMES, n=2), 2)
    assert sample[2] == ["cat", "dog"]
    assert partner[2] == ["sample 1\ndog", "sample 2\nnewt"]
    assert mixed[2] == ["λ = 0.75\n0.75 cat + 0.25 dog", "λ = 1.00\ndog"]
    box = [[1.5, -0.5], [6.5, -0.5], [6.5, 3.5], [1.5, 3.5], [1.5, -0.5]]  # edges of pixels: x, y
    assert mixed[3] == partner[3] == [[box], []]  # the second is empty
    assert sample[3] == [[], []]


@pytest.mark.parametrize(
    ("labels", "class_names", "expected"),
    [
        (LABELS, None, ["0.70 class 0\n+ 0.30 class 1", "class 1", "0.50 class 2\n+ 0.50 class 0", "class 0"]),
        (np.eye(3, dtype=np.float32)[LABELS], NAMES, ["0.70 cat + 0.30 dog", "dog", "0.50 cat + 0.50 newt", "cat"]),
        (["a", "8", "$c$", "d", "e", "f"], None, ['0.70 a + 0.30 "8"', "8", "0.50 $c$ + 0.50 a", "d"]),
        (np.float32([0, 10, 20, 30, 40, 50]), None, ["3", "10", "10", "30"]),
        (
            jnp.full((6, 5), 0.2, jnp.bfloat16),
            None,
            ["0.20 class 0\n+ 0.20 class 1\n+ 0.20 class 2\n+ 0.40 others"] * 4,
        ),
        (np.eye(3)[LABELS], ("cat", "cat", "newt"), ["cat", "cat", "0.50 cat + 0.50 newt", "cat"]),
        (
            np.full((6, 5), 0.2),
            ("others", "b", "c", "d", "e"),
            ['0.20 "others"\n+ 0.20 b\n+ 0.20 c\n+ 0.40 others'] * 4,
        ),
    ],
    ids=["numbers", "one-hot", "names", "regression", "soft", "one name twice", "a class named others"],
)
def test_targets_are_told(labels, class_names, expected):
    figure = jax_mix.plot.batch(IMAGES, MIXUP, labels, class_names)
    told = [text.partition("\n")[2] for text in list(rows_of(figure, 6))[2][2]]
    assert told[:4] == expected


def test_a_share_is_0_or_1_for_these_alone():
    *_, (_, _, words, _) = rows_of(jax_mix.plot.batch(IMAGES, MIXUP, LABELS, NAMES), 6)
    assert words[4] == "λ = >0.99\n>0.99 dog + <0.01 newt"


def test_at_a_hidden_layer_the_images_go_in_as_they_are():
    mix = jax_mix.ManifoldMixup(1.0, layers=("stem",)).sample(KEY, IMAGES.shape, layer="stem")
    figure = jax_mix.plot.batch(IMAGES, mix, LABELS, NAMES)
    assert "layer 'stem'" in figure.get_suptitle()
    assert [row[0] for row in rows_of(figure, 6)] == ["sample", "partner"]


@pytest.mark.parametrize(
    ("images", "options", "shown", "told"),
    [
        ((255 * IMAGES).astype(np.uint8), {}, (255 * IMAGES).astype(np.uint8) / 255, ""),
        (IMAGES[..., 0] > 0.5, {}, IMAGES[..., 0] > 0.5, ""),
        ((IMAGES - 0.4) / 0.2, {"mean": 0.4, "std": [0.2] * 3}, IMAGES, ""),
        (IMAGES[..., :1] * 16 - 8, {}, None, "is black"),
        (jnp.asarray(IMAGES[..., 0], jnp.bfloat16), {}, None, ""),
    ],
    ids=["uint8", "bool", "normalised", "scaled", "bfloat16 grey"],
)
def test_how_numbers_become_shades(images, options, shown, told):
    figure = jax_mix.plot.batch(images, MIXUP, **options)
    (_, seen, *_), *_ = rows_of(figure, 6)
    assert told in figure.get_suptitle()
    assert ("scaled" in figure.get_suptitle()) == bool(told)
    if shown is not None:
        assert_close(seen, np.asarray(shown, np.float32), "pictures")
    if told:
        assert (seen.min(), seen.max()) == (0, 1)


def test_height_and_width_are_the_axes_that_the_box_names():
    images = IMAGES.transpose(0, 3, 1, 2)
    mix = jax_mix.Mix.from_box(PARTNER, np.array([2, 0, 7, 4]), (10, 8), spatial_axes=(3, 2))
    *_, (_, mixed, _, outlines) = rows_of(jax_mix.plot.batch(images, mix), 6)
    np.testing.assert_array_equal(mixed, np.asarray(mix.blend(images)).transpose(0, 3, 2, 1))
    assert outlines[0][0][0] == [-0.5, 1.5]


METHOD = jax_mix.OneOf(
    jax_mix.CutMix(1.0, per="sample"), jax_mix.ManifoldMixup(1.0, layers=("stem",)), None, probabilities=(0.4, 0.4, 0.2)
)


def test_stacked_draws_and_a_list_of_them_are_the_same_picture():
    draw = jax.jit(lambda key: METHOD.sample(key, IMAGES.shape))
    several = [draw(key) for key in jax.random.split(KEY, 20)]
    stacked = jax.tree.map(lambda *each: np.stack(each), *several)
    several[3:] = [jax.tree.map(lambda a: a[3:], stacked)]
    first, second = map(jax_mix.plot.draws, (stacked, several))
    assert first.get_suptitle() == second.get_suptitle() == "20 draws, 120 samples"
    for one, other in zip(first.axes, second.axes, strict=True):
        assert [p.get_height() for p in one.patches] == [p.get_height() for p in other.patches]
        assert [p.get_width() for p in one.patches] == [p.get_width() for p in other.patches]
    heat = first.axes[1].images[0].get_array()
    np.testing.assert_array_equal(heat, second.axes[1].images[0].get_array())

    covered, kept = np.zeros((8, 10)), np.asarray(stacked.lam)
    for y1, x1, y2, x2 in np.asarray(stacked.box).reshape(-1, 4):
        covered[y1:y2, x1:x2] += 100 / 120
    assert_close(np.asarray(heat), covered, "pictures")
    bars = [patch.get_height() for patch in first.axes[0].patches]
    assert_close(np.float64(sum(bars)), 100 * np.mean(kept < 1), "pictures")
    assert f"mean of all: {kept.mean():.2f}" in legend_of(first.axes[0])
    layer = np.asarray(stacked.layer)
    where = first.axes[2]
    assert [text.get_text() for text in where.get_yticklabels()] == ["input", "stem", "not mixed"]
    mixed = (kept < 1).any(axis=1)
    shares = [100 * np.mean(mixed & (layer == k)) for k in (0, 1)]
    assert 0 < sum(shares) < 100
    assert_close([p.get_width() for p in where.patches], [*shares, 100 * np.mean(~mixed)], "pictures")


def test_a_draw_that_mixes_no_row_is_for_no_layer():
    hidden = jax_mix.ManifoldMixup(1.0, layers=("a", "b"), use_input=False)
    mixes = [jax_mix.OneOf(hidden, None).sample(key, IMAGES.shape) for key in jax.random.split(KEY, 8)]
    unmixed = [bool((np.asarray(mix.lam) == 1).all()) for mix in mixes]
    assert 0 < sum(unmixed) < 8
    for mix, none in zip(mixes, unmixed, strict=True):
        title, *_ = jax_mix.plot.batch(IMAGES, mix, n=1).get_suptitle().split(":")
        assert title == ("one batch, not mixed" if none else f"one batch, mixed at layer '{mix.layer_name}'")
    where = jax_mix.plot.draws(mixes).axes[1]
    assert [text.get_text() for text in where.get_yticklabels()] == ["a", "b", "not mixed"]
    assert where.patches[2].get_width() == 100 * np.mean(unmixed)


def test_a_box_counts_only_where_it_cuts():
    full = np.array([0, 0, 4, 5])
    where = np.array([True, True, True, False, False, False])
    left = jax_mix.CutMix(1.0, lam=0.5).sample(KEY, IMAGES.shape, where=where)
    *_, (_, _, _, outlines) = rows_of(jax_mix.plot.batch(IMAGES, left), 6)
    assert [len(curves) for curves in outlines] == [1, 1, 1, 0, 0, 0]
    lam, covered, _ = jax_mix.plot.draws(left).axes
    assert legend_of(lam)[:2] == ["with a box: 50%", "not mixed, left out: 50%"]
    assert covered.images[0].get_array().max() == 50

    elsewhere = jax_mix.Mix(0.5, PARTNER, full, layers=("input", "a"), image_size=(8, 10), box_layers=("a",))
    _, partner, mixed = rows_of(jax_mix.plot.batch(IMAGES, elsewhere), 6)
    assert partner[3] == mixed[3] == [[]] * 6
    panels = jax_mix.plot.draws(elsewhere).axes
    assert legend_of(panels[0])[0] == "blended: 100%"
    assert len(panels) == 1
    both = [dataclasses.replace(elsewhere, layer=layer) for layer in (np.int32(0), np.int32(1))]
    both = jax.tree.map(lambda *each: np.stack(each), *both)
    lam, covered, *_ = jax_mix.plot.draws(both).axes
    assert legend_of(lam)[:2] == ["with a box: 50%", "blended: 50%"]
    assert covered.images[0].get_array().max() == 50


def test_a_target_that_is_mixed_alone_is_not_called_unmixed():
    mix = jax_mix.Mix(np.full(6, 0.9), PARTNER, np.zeros(4, int), image_size=(8, 10))
    assert "not mixed" not in jax_mix.plot.batch(IMAGES, mix).get_suptitle()
    assert legend_of(jax_mix.plot.draws(mix).axes[0])[0] == "in the target alone: 100%"


def test_samples_with_a_box_blended_and_neither_are_counted_apart():
    alone, both = jax_mix.plot.draws(CUTMIX), jax_mix.plot.draws([CUTMIX, MIXUP])
    assert legend_of(both.axes[0])[:3] == ["with a box: 25%", "blended: 42%", "not mixed, left out: 33%"]
    np.testing.assert_array_equal(both.axes[1].images[0].get_array() * 2, alone.axes[1].images[0].get_array())
    unmixed = jax_mix.plot.draws(jax_mix.Mix(np.ones(6), PARTNER))
    assert not any(bar.get_height() for bar in unmixed.axes[0].patches)


@pytest.mark.parametrize(("axes", "shape"), [((1,), (4, 30, 2)), ((1, 2, 3), (4, 6, 8, 10, 1))], ids=["1-D", "3-D"])
def test_boxes_of_one_and_three_axes_are_counted(axes, shape):
    mixes = [jax_mix.CutMix(1.0, spatial_axes=axes).sample(key, shape) for key in jax.random.split(KEY, 3)]
    panel = jax_mix.plot.draws(mixes).axes[1]
    drawn = panel.images[0].get_array() if len(axes) == 3 else panel.patches[0].get_data().values
    assert_close(np.mean(drawn), 100 * (1 - np.mean([mix.lam for mix in mixes])), "pictures")


def test_a_layer_never_drawn_is_named_and_a_batch_without_layers_has_no_panel():
    mix = jax_mix.ManifoldMixup(1.0, layers=("stem",)).sample(KEY, (4, 2), layer="input")
    mix = jax_mix.Mix(mix.lam, mix.partner, layer=jnp.int32(0), layers=("input", "stem"))
    assert [t.get_text() for t in jax_mix.plot.draws(mix).axes[1].get_yticklabels()] == ["input", "stem"]
    assert len(jax_mix.plot.draws(MIXUP).axes) == 1


STACKED = jax.tree.map(lambda a: np.stack([a, a]), MIXUP)
REFUSED = {
    "no pictures": (lambda: jax_mix.plot.batch(np.ones((6, 5)), MIXUP), "images must be pictures"),
    "volumes": (lambda: jax_mix.plot.batch(np.ones((6, 4, 4, 4, 1)), MIXUP), "images must be pictures"),
    "audio": (
        lambda: jax_mix.plot.batch(IMAGES, jax_mix.CutMix(spatial_axes=(1,)).sample(KEY, IMAGES.shape)),
        "boxes of 1 spatial axes",
    ),
    "channels": (lambda: jax_mix.plot.batch(IMAGES[..., :2], MIXUP), "1 or 3 channels"),
    "NCHW": (lambda: jax_mix.plot.batch(IMAGES.transpose(0, 3, 1, 2), MIXUP), "transpose"),
    "another batch": (lambda: jax_mix.plot.batch(IMAGES[:5], MIXUP), "batch of 6, got 5"),
    "another size": (lambda: jax_mix.plot.batch(IMAGES[:, :7], CUTMIX), "drawn for images of"),
    "nan": (lambda: jax_mix.plot.batch(IMAGES * np.nan, MIXUP), "infinite or nan"),
    "stacked": (lambda: jax_mix.plot.batch(IMAGES, STACKED), "one batch's draw, got 2"),
    "no mix": (lambda: jax_mix.plot.batch(IMAGES, LABELS), "must be a jax_mix.Mix"),
    "n": (lambda: jax_mix.plot.batch(IMAGES, MIXUP, n=0), "n must be"),
    "mean alone": (lambda: jax_mix.plot.batch(IMAGES, MIXUP, mean=0.5), "belong together"),
    "std": (lambda: jax_mix.plot.batch(IMAGES, MIXUP, mean=0.5, std=[1, 2]), "std must be"),
    "labels": (lambda: jax_mix.plot.batch(IMAGES, MIXUP, LABELS[:5]), "labels must be"),
    "masks": (lambda: jax_mix.plot.batch(IMAGES, MIXUP, IMAGES), "labels must be"),
    "names": (lambda: jax_mix.plot.batch(IMAGES, MIXUP, LABELS, NAMES[:2]), "0 to 2, got 2 names"),
    "names alone": (lambda: jax_mix.plot.batch(IMAGES, MIXUP, class_names=NAMES), "come with labels"),
    "names of floats": (lambda: jax_mix.plot.batch(IMAGES, MIXUP, np.ones(6), NAMES), "class numbers or one-hot"),
    "in jit": (lambda: jax.jit(lambda mix: jax_mix.plot.batch(IMAGES, mix))(MIXUP), "outside"),
    "draws in jit": (lambda: jax.jit(jax_mix.plot.draws)(MIXUP), "outside"),
    "images in jit": (lambda: jax.jit(lambda x: jax_mix.plot.batch(x, MIXUP))(IMAGES), "outside"),
    "no draws": (lambda: jax_mix.plot.draws([]), "got none"),
    "methods": (lambda: jax_mix.plot.draws([jax_mix.MixUp()]), "mixes must be a jax_mix.Mix"),
    "a number": (lambda: jax_mix.plot.draws(3), "mixes must be a jax_mix.Mix"),
    "sizes": (lambda: jax_mix.plot.draws([CUTMIX, jax_mix.CutMix().sample(KEY, (4, 9, 9))]), "one known size"),
    "no size": (lambda: jax_mix.plot.draws(jax_mix.Mix(0.5, PARTNER, np.array([0, 0, 2, 2]))), "one known size"),
    "stacked anyhow": (lambda: jax_mix.plot.draws(jax_mix.Mix(np.ones(5), np.stack([PARTNER] * 2))), "lam must be"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_drawn_is_told_in_a_sentence(name):
    call, told = REFUSED[name]
    with pytest.raises((ValueError, TypeError), match=told) as raised:
        call()
    text = str(raised.value)
    assert "\n" not in text
    assert text.endswith(".")


def test_matplotlib_is_imported_when_called_and_missed_in_a_sentence():
    code = (
        "import sys, jax_mix, numpy as np; assert 'matplotlib' not in sys.modules; sys.modules['matplotlib'] = None\n"
        "jax_mix.plot.batch(np.ones((2, 4, 4)), None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: jax_mix.plot needs matplotlib, and there is no matplotlib: pip install matplotlib."
    )


def test_no_global_state_is_left():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    figure = jax_mix.plot.batch(IMAGES, MIXUP, ["$x$"] * 6, n=1)
    assert dict(mpl.rcParams) == before
    assert not figure.axes[0].xaxis.label.get_parse_math()
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
