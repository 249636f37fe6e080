"""OneOf, and what a draw of rows of CutMix, of MixUp and unmixed ones does; plain draws cost what they did."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jax_mix
from jax_mix import CutMix, ManifoldMixup, MixUp, OneOf, OutputMixup, _lerp, _sampling
from parity_tests.library import models_linen
from parity_tests.tolerances import assert_close, assert_within_ulp

SHAPE = (12, 8, 6, 3)
X = np.random.default_rng(0).random(SHAPE, np.float32)
KEY = jax.random.key(0)
XENT = optax.softmax_cross_entropy_with_integer_labels
P_VALUE = 1e-4


def alone(mix, i):
    """Row `i` of a draw, by hand: its image and the weights of the own target."""
    own, partner = X[i], X[np.asarray(mix.partner)[i]]
    lam = np.asarray(mix.lam)[i]
    weight = lam if mix.outside is None else np.asarray(mix.outside)[i]
    image = weight * own + (1 - weight) * partner
    if mix.box is not None:
        y1, x1, y2, x2 = np.asarray(mix.box if mix.box.ndim == 1 else mix.box[i])
        image[y1:y2, x1:x2] = partner[y1:y2, x1:x2]
    return image


@pytest.mark.parametrize("per", ["batch", "sample", "pair"])
def test_each_row_is_mixed_by_one_of_the_methods(per):
    flip = {"partner": "flip"}
    method = OneOf(MixUp(1.0, **flip), CutMix(1.0, per="sample", **flip), None, per=per)
    mixes = jax.vmap(lambda key: method.sample(key, SHAPE))(jax.random.split(KEY, 60))
    assert mixes.outside.shape == (60, 12)
    box = np.asarray(mixes.box)
    boxed = np.prod(box[..., 2:] - box[..., :2], axis=-1) > 0
    outside, lam = np.asarray(mixes.outside), np.asarray(mixes.lam)
    assert (outside[boxed] == 1).all()
    np.testing.assert_array_equal(outside[~boxed], lam[~boxed])  # MixUp's weight, or 1 of both
    area = np.prod(box[..., 2:] - box[..., :2], axis=-1) / 48
    np.testing.assert_allclose(lam[boxed], 1 - area[boxed], rtol=1e-6)
    kind = np.where(boxed, 1, np.where(lam < 1, 0, 2))
    assert set(kind.ravel()) == {0, 1, 2}
    if per == "sample":
        assert (kind == kind[:, ::-1]).all(1).mean() < 0.1
    elif per == "batch":  # an empty box of CutMix looks unmixed
        assert (np.isin(kind, (1, 2)).all(1) | (kind == 0).all(1)).all()
    else:
        assert (np.isin(kind, (1, 2)) == np.isin(kind[:, ::-1], (1, 2))).all()
    for t in (0, 1):
        mix = jax.tree.map(lambda leaf, t=t: leaf[t], mixes)
        got = np.asarray(mix.blend(X))
        for i in range(12):
            assert_within_ulp(got[i], alone(mix, i), np.ones_like(X[i]))


def test_methods_are_drawn_as_often_as_asked_also_by_traced_probabilities():
    @jax.jit
    def draw(probabilities):
        method = OneOf(MixUp(lam=0.5), None, CutMix(lam=0.5), probabilities=probabilities)
        return jax.vmap(lambda key: method.sample(key, (2, 64, 64)))(jax.random.split(KEY, 3000))

    for probabilities in ((0.2, 0.5, 0.3), (0.0, 0.0, 1.0)):
        mixes = draw(jnp.array(probabilities))
        kind = np.where(mixes.outside < 1, 0, np.where(mixes.lam < 1, 2, 1))[:, 0]
        want = 3000 * np.array(probabilities)
        counts = np.bincount(kind, minlength=3)
        assert (counts[want == 0] == 0).all()
        assert (want > 0).sum() == 1 or scipy.stats.chisquare(counts[want > 0], want[want > 0]).pvalue > P_VALUE
    assert hash(OneOf(MixUp(), None, probabilities=np.array([0.5, 0.5]))) == hash(
        OneOf(MixUp(), None, probabilities=(0.5, 0.5))
    )


def test_a_draw_is_one_structure_whichever_method_was_drawn():
    method = OneOf(CutMix(1.0), OneOf(MixUp(), OutputMixup()), ManifoldMixup(2.0, layers=("a", "b")), None)
    mixes = [method.sample(key, SHAPE) for key in jax.random.split(KEY, 16)]
    assert len({mix.layer_name for mix in mixes}) > 2
    shapes = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), mix) for mix in mixes]
    assert all(jax.tree.structure(mix) == jax.tree.structure(mixes[0]) for mix in mixes)
    assert all(jax.tree.leaves(shape) == jax.tree.leaves(shapes[0]) for shape in shapes)
    one = jax.lax.cond(True, lambda: mixes[0], lambda: mixes[1])
    np.testing.assert_array_equal(one.lam, mixes[0].lam)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *mixes)
    _, means = jax.lax.scan(lambda carry, mix: (carry, mix.blend(X).mean()), None, stacked)
    assert_close(means[3], mixes[3].blend(X).mean(), "same program")


def test_structure_that_is_not_needed_is_not_there():
    both, cut, blend = OneOf(CutMix(), MixUp()), OneOf(CutMix(), None), OneOf(MixUp(), None)
    drawn = [method.sample(KEY, SHAPE) for method in (both, cut, blend)]
    assert [(mix.box is None, mix.outside is None) for mix in drawn] == [(False, False), (False, True), (True, True)]
    assert all(mix.layer == "input" for mix in drawn)
    images = np.arange(np.prod(SHAPE), dtype=np.uint8).reshape(SHAPE)
    assert drawn[1].blend(images).dtype == np.uint8
    with pytest.raises(TypeError, match="must be of a floating type to be mixed, got uint8"):
        drawn[0].blend(images)


class Flat(nnx.Module):
    """Its hidden states have no pixels that a box could cut."""

    def __init__(self, rngs):
        self.first = nnx.Linear(8 * 6 * 3, 8, rngs=rngs)
        self.head = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.first(x.reshape(len(x), -1))))


def test_cutmix_or_manifold_mixup_is_one_step():
    """The input is cut or a hidden layer blended, in one program; `forward` does what the draw's method alone does."""
    model, x = Flat(nnx.Rngs(0)), X
    label = jnp.arange(12) % 2
    method = OneOf(CutMix(1.0), ManifoldMixup(2.0, layers="first"), OutputMixup(1.0)).bind(model, x)
    traced = []

    @jax.jit
    def step(key):
        traced.append(1)
        mix = method.sample(key, x.shape)
        return mix, jax_mix.forward(model, x, mix), jax_mix.mixed_loss(XENT, model(x), label, mix)

    seen = set()
    for key in jax.random.split(KEY, 12):
        mix, logits, losses = step(key)
        seen.add(mix.layer_name)
        plain = jax_mix.Mix(mix.lam, mix.partner, layer=mix.layer_name)
        if mix.layer_name == "input":
            want = model(mix.blend(x))
        else:
            assert (mix.box == 0).all()
            want = jax_mix.forward(model, x, plain) if mix.layer_name == "first" else plain.blend(model(x))
        assert_close(logits, want, "another order of summation")
        assert_close(losses, jax_mix.mixed_loss(XENT, model(x), label, plain), "loss float32")
    assert seen == {"input", "first", "<output>"}
    assert len(traced) == 1


def test_output_mixup_blends_what_the_model_puts_out_and_not_its_state():
    model = models_linen.Dense()
    x = np.random.default_rng(0).random((4, 4), np.float32)
    variables = model.init(KEY, x)
    mix = OutputMixup(1.0).sample(KEY, x.shape)
    want = mix.blend(model.apply(variables, x))
    np.testing.assert_array_equal(jax_mix.forward(model, x, mix, variables=variables), want)
    got, state = jax_mix.forward(model, x, mix, variables=variables, mutable=["batch_stats"])
    np.testing.assert_array_equal(got, want)
    assert jax.tree.leaves(state) == []


class Convolutions(nnx.Module):
    def __init__(self, rngs):
        self.half = nnx.Conv(3, 4, (2, 2), strides=2, padding="VALID", rngs=rngs)

    def __call__(self, x):
        return self.half(x)


def test_a_hidden_layer_is_cut_by_the_box_at_its_own_size():
    """Cells that the box covers in part take that part: the mean weight is the target's."""
    model, boxes = Convolutions(nnx.Rngs(0)), [1, 0, 6, 3]
    mix = jax_mix.Mix.from_box(np.arange(12)[::-1].astype(np.int32), np.array(boxes), (8, 6))
    mix = dataclasses.replace(mix, layer=jnp.int32(1), layers=("input", "half"))
    got, hidden = jax_mix.forward(model, X, mix), np.asarray(model(X))
    y1, x1, y2, x2 = boxes
    pixels = np.zeros((8, 6), np.float32)
    pixels[y1:y2, x1:x2] = 1
    covered = pixels.reshape(4, 2, 3, 2).mean((1, 3))[None, :, :, None]
    assert_close(1 - covered.mean(), mix.lam[0], "same program")
    assert_close(got, (1 - covered) * hidden + covered * hidden[::-1], "another order of summation")
    method = CutMix(1.0, layers="half").bind(model, X)
    assert method.layers == ("half",)
    drawn = method.sample(KEY, SHAPE)
    assert (drawn.layers, drawn.layer.shape) == (("input", "half"), ())
    np.testing.assert_array_equal(drawn.box, CutMix(1.0).sample(KEY, SHAPE).box)


def test_a_batch_split_over_devices():
    """Of rows of every kind, with padding and classes, targets of pixels, weights, and boxes at another size."""
    shape = (16, 8, 6, 3)
    image, mask = np.random.default_rng(0).random(shape, np.float32), np.arange(16 * 48).reshape(shape[:3]) % 5
    label, real = np.arange(16) % 3, np.arange(16) < 14
    method = OneOf(MixUp(1.0), CutMix(1.0), None, per="sample")
    mix = method.sample(KEY, shape, within=label, where=real)

    def loss(x, y):
        return optax.squared_error(x.mean(-1), y.astype(jnp.float32))

    def apply(mix, image, mask, label):
        return (
            mix.blend(image),
            mix._blend_at("hidden", image[:, ::2, ::2]),
            jax_mix.mixed_loss(loss, image, mask, mix, dense=True),
            jax_mix.mixed_loss(loss, image[:, 0, 0], label, mix, class_weights=jnp.ones(3)),
        )

    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        place = NamedSharding(mesh, PartitionSpec("batch"))
        placed = [jax.device_put(jnp.asarray(a), place) for a in (image, mask, label, real)]
        drawn = jax.jit(lambda label, real: method.sample(KEY, shape, within=label, where=real))(*placed[2:])
        got = jax.jit(apply)(mix, *placed[:3])
    assert_close(drawn.lam, mix.lam, "same program")
    np.testing.assert_array_equal(drawn.partner, mix.partner)
    for ours, want in zip(got, apply(mix, image, jnp.asarray(mask), jnp.asarray(label)), strict=True):
        assert_close(ours, want, "another order of summation")


@pytest.mark.parametrize("method", [
    OneOf(MixUp((0.2, 1.0)), CutMix(side=(0.2, 0.8), probability=0.5), OneOf(ManifoldMixup(layers="a"), None)),
    MixUp(lam=(0.5, 1.0), partner="derangement"),
    CutMix(box="keras", layers=("a", "b")),
], ids=["one of", "mixup", "cutmix"])  # fmt: skip
def test_no_key_is_used_twice(method):
    with jax.debug_key_reuse(True):
        jax.jit(lambda key: method.sample(key, SHAPE))(jax.random.key(0))


def test_plain_methods_are_the_programs_written_out():
    """What a draw may hold and does not costs nothing: no operation is there but those of the method."""

    def mixup(key, x):
        words = _sampling.Words(key, 12)
        lam = jnp.broadcast_to(_sampling.lambdas(words, 1.0, (12,), fold=True, probability=1.0), (12,))
        return _lerp.lerp(x, x.at[_sampling.partners(words, 12, "permutation")].get(), lam)

    def cutmix(key, x):
        words = _sampling.Words(key, 12)
        box = _sampling.boxes(words, _sampling.lambdas(words, 1.0, (), fold=False, probability=1.0), (8, 6), "fastai")
        partner = _sampling.partners(words, 12, "permutation")
        y1, x1, y2, x2 = (jnp.broadcast_to(box, (12, 4))[:, i] for i in range(4))
        rows = (jnp.arange(8)[None] >= y1[:, None]) & (jnp.arange(8)[None] < y2[:, None])
        columns = (jnp.arange(6)[None] >= x1[:, None]) & (jnp.arange(6)[None] < x2[:, None])
        return jnp.where((rows[:, :, None] & columns[:, None])[..., None], x.at[partner].get(), x)

    def compiled(function):
        program = jax.jit(function).lower(KEY, jnp.asarray(X)).compile()
        analysis = program.cost_analysis()
        return program(KEY, jnp.asarray(X)), [analysis["flops"], analysis["bytes accessed"]]

    def ours(method):
        return compiled(lambda key, x: method.sample(key, SHAPE).blend(x))

    for method, written in ((MixUp(1.0), mixup), (CutMix(1.0), cutmix)):
        (got, cost), (want, least) = ours(method), compiled(written)
        assert_within_ulp(got, want, np.ones_like(X))
        np.testing.assert_allclose(cost, least, rtol=0.01)
    assert ours(OneOf(CutMix(), MixUp()))[1][0] > 1.05 * least[0]  # the comparison above can tell
