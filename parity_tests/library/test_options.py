"""What a method's options draw: lambda, boxes and partners, with the distribution that they name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx

import jax_mix
from jax_mix import CutMix, ManifoldMixup, MixUp, OneOf, _sampling
from parity_tests.tolerances import assert_close

KEY = jax.random.key(0)
P_VALUE = 1e-4
N = 20_000


def drawn_at_once(method, shape):
    """One program is compiled sooner than dozens of operations."""
    return jax.jit(lambda key: method.sample(key, shape))(KEY)


def lambdas(method, n=N, shape=(64, 64)):
    return np.asarray(drawn_at_once(method, (n, *shape)).lam, np.float64)


def test_a_fixed_lambda_and_a_range():
    assert (lambdas(MixUp(lam=0.7), 9) == np.float32(0.7)).all()
    assert (lambdas(MixUp(lam=0.3, fold=False, per="batch"), 9) == np.float32(0.3)).all()
    drawn = lambdas(MixUp(lam=(0.2, 0.6), fold=False))
    assert scipy.stats.kstest(drawn, "uniform", (0.2, 0.4)).pvalue > P_VALUE
    assert scipy.stats.kstest(drawn, "uniform", (0.2, 0.41)).pvalue < P_VALUE
    folded = lambdas(MixUp(lam=(0.5, 1)))
    assert scipy.stats.kstest(folded, "uniform", (0.5, 0.5)).pvalue > P_VALUE
    traced = jax.jit(lambda lam: MixUp(lam=lam, fold=False).sample(KEY, (4,)).lam)(0.25)
    np.testing.assert_array_equal(traced, [0.25] * 4)
    assert lambdas(CutMix(lam=0.75, box="inside"), 3).tolist() == [0.75] * 3  # 32 of 64 pixels each way


def test_alpha_drawn_from_a_range_is_one_a_batch():
    """The mean of |2 lam - 1| tells alpha; it differs between batches as alpha does, and not within them."""
    keys = jax.random.split(KEY, 400)
    lam = jax.vmap(lambda key: MixUp((0.0, 1.0), fold=False).sample(key, (200,)))(keys).lam
    spread = np.abs(2 * np.asarray(lam, np.float64) - 1).mean(1)
    grid = np.linspace(0.005, 1, 200)
    want = np.interp(np.linspace(0, 1, 400), np.linspace(0, 1, 200), [spread_of(a) for a in grid])
    assert scipy.stats.ks_2samp(spread, want).pvalue > P_VALUE
    assert np.isfinite(lam).all()
    assert MixUp([0.2, 0.4]).alpha == (0.2, 0.4)
    assert hash(MixUp([0.2, 0.4])) == hash(MixUp((0.2, 0.4)))


def spread_of(alpha):
    """E|2B - 1| of Beta(alpha, alpha)."""
    beta = scipy.stats.beta(alpha + 1, alpha)
    return 1 - 2 * beta.cdf(0.5) if alpha > 0 else 1.0


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("n", [8, 10])
def test_pairs_share_their_draw(n, groups):
    size = n // groups
    for method in (MixUp(1.0, per="pair", partner="flip", groups=groups, fold=False),
                   CutMix(1.0, per="pair", partner="flip", groups=groups)):  # fmt: skip
        mix = method.sample(KEY, (n, 64, 64))
        lam = np.asarray(mix.lam).reshape(groups, size)
        np.testing.assert_array_equal(lam, lam[:, ::-1])
        assert len(np.unique(lam)) == groups * ((size + 1) // 2)
        np.testing.assert_array_equal(mix.partner, np.arange(n).reshape(groups, size)[:, ::-1].ravel())
        if mix.box is not None:
            np.testing.assert_array_equal(mix.box, np.asarray(mix.box)[np.asarray(mix.partner)])


def corners(box, size=32, n=N, **options):
    mix = drawn_at_once(CutMix(1.0, per="sample", box=box, **options), (n, size, size))
    return np.asarray(mix.box), np.asarray(mix.lam, np.float64)


def test_timms_box_may_be_odd():
    """`centre - side // 2` to `centre + (side + 1) // 2`, clipped, for each side and centre there is."""
    size = 7
    lam = 1 - (np.arange(size * 200) % size / size + 1e-3) ** 2
    box = np.asarray(
        _sampling.boxes(_sampling.Words(KEY, len(lam)), jnp.asarray(lam, jnp.float32), (size, size), "timm")
    )
    side = np.arange(size * 200) % size
    for start, end in ((box[:, 0], box[:, 2]), (box[:, 1], box[:, 3])):
        possible = {s: {(max(c - s // 2, 0), min(c + (s + 1) // 2, size)) for c in range(size)} for s in range(size)}
        for s in range(size):
            assert set(zip(start[side == s].tolist(), end[side == s].tolist(), strict=True)) == possible[s]
    paper, _ = corners("paper")
    timm, lam = corners("timm")
    assert 0.42 < (paper != timm).any(1).mean() < 0.50
    assert abs(lam.mean() - 0.69) < 0.005


@pytest.mark.parametrize("box", ["inside", "keras"])
def test_boxes_kept_inside_are_as_large_as_they_were_drawn(box):
    size = 16
    side = 5.0
    lam = jnp.full((N,), 1 - (side / size) ** 2, jnp.float32)
    found = np.asarray(_sampling.boxes(_sampling.Words(KEY, N), lam, (size, size), box))
    assert (found[:, :2] >= 0).all()
    assert (found[:, 2:] <= size).all()
    assert abs((found[:, 2:] - found[:, :2]).mean() - side) < 0.02
    if box == "inside":
        counts = np.bincount(found[:, 0], minlength=12)
        assert len(counts) == 12
        assert scipy.stats.chisquare(counts).pvalue > P_VALUE
    drawn, lam = corners(box, correct_lam=False)
    words = _sampling.Words(KEY, N)
    raw = np.asarray(_sampling.lambdas(words, 1.0, (N,), fold=False, probability=1.0), np.float64)
    assert_close(lam, raw, "same program")
    area = np.prod(drawn[:, 2:] - drawn[:, :2], axis=1) / 32**2
    # A cut side is smaller; and a box of fractions has an image's first pixel never, which only the largest feel.
    assert abs((1 - area).mean() - raw.mean()) < (0.005 if box == "keras" else 0.03)


def test_a_box_of_fractions_covers_kerass_pixels():
    """A pixel is inside if it is from start to end, which are fractions; written out."""
    lam = jax.random.uniform(KEY, (500,))
    words = _sampling.Words(jax.random.key(1), 500)
    box = np.asarray(_sampling.boxes(_sampling.Words(jax.random.key(1), 500), lam, (9, 7), "keras"))
    for axis, length in enumerate((9, 7)):
        side = np.sqrt(1 - np.asarray(lam)) * length
        start = np.asarray(words.uniform((500,))) * (length - side)
        pixels = np.arange(length)
        theirs = (pixels >= start[:, None]) & (pixels < (start + side)[:, None])
        ours = (pixels >= box[:, axis, None]) & (pixels < box[:, axis + 2, None])
        assert (theirs == ours).mean() > 0.9995  # the sum's last digit may lie on the other side of a pixel


def test_uniform_sampling_covers_all_pixels_as_often():
    def cover(how):
        lam = jnp.full((N,), 1 - (6 / 16) ** 2, jnp.float32)
        box = np.asarray(_sampling.boxes(_sampling.Words(KEY, N), lam, (16, 16), how))
        return ((np.arange(16) >= box[:, :1]) & (np.arange(16) < box[:, 2:3])).sum(0)

    assert np.ptp(cover("uniform")) < 6 * np.sqrt(N * 0.3)
    assert np.ptp(cover("paper")) > 6 * np.sqrt(N * 0.3)
    assert abs(corners("uniform")[1].mean() - 0.85) < 0.005


def test_sides_as_parts_of_the_image():
    box, lam = corners("inside", side=0.5)
    assert set((box[:, 2:] - box[:, :2]).ravel().tolist()) == {16}
    assert set(lam.tolist()) == {0.75}
    box, lam = corners("inside", side=(0.2, 0.8))
    sides = box[:, 2:] - box[:, :2]
    assert scipy.stats.chisquare(np.bincount(sides[:, 0])[6:]).pvalue > P_VALUE  # np.random.randint(6, 25)
    assert np.bincount(sides[:, 0]).nonzero()[0].tolist() == list(range(6, 25))
    assert abs(np.corrcoef(sides.T)[0, 1]) < 0.03
    np.testing.assert_allclose(lam, 1 - sides.prod(1) / 1024, atol=1e-6)
    sometimes = corners("paper", side=0.5, probability=0.25)[1] < 1
    assert scipy.stats.binomtest(int(sometimes.sum()), N, 0.25).pvalue > P_VALUE


@pytest.mark.parametrize("axes", [(1,), (2,), (1, 2, 3), (2, 3, 4)])
def test_one_and_three_spatial_axes(axes):
    """The box covers 1 - lam of a line and of a volume, and cuts it as an index would."""
    shape = (6, 9, 8, 7, 5)[: max(max(axes) + 1, 3)]
    x = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    mix = CutMix(1.0, per="sample", box="inside", spatial_axes=axes).sample(KEY, shape)
    d = len(axes)
    assert mix.box.shape == (6, 2 * d)
    got = np.asarray(mix.blend(x))
    for i in range(6):
        box = np.asarray(mix.box[i])
        where = [slice(None)] * (len(shape) - 1)
        for k, axis in enumerate(axes):
            where[axis - 1] = slice(box[k], box[d + k])
        want = x[i].copy()
        want[tuple(where)] = x[mix.partner[i]][tuple(where)]
        np.testing.assert_array_equal(got[i], want)
        assert np.isclose(mix.lam[i], (want == x[i]).mean()) or mix.partner[i] == i
    large = CutMix(lam=0.3, box="inside", spatial_axes=axes).sample(KEY, (2, 300, 300, 300, 300))
    assert abs(float(large.lam[0]) - 0.3) < 0.01
    replayed = jax_mix.Mix.from_box(mix.partner, mix.box, mix.image_size, spatial_axes=axes)
    np.testing.assert_array_equal(replayed.lam, mix.lam)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_derangement_is_a_circle(n):
    keys = jax.random.split(KEY, 6000)
    partner = np.asarray(jax.vmap(lambda key: _sampling.partners(_sampling.Words(key, n), n, "derangement"))(keys))
    assert n == 1 or (partner != np.arange(n)).all()
    found = np.unique(partner, axis=0, return_counts=True)[1]
    circles = int(np.prod(np.arange(1, n)))
    assert len(found) == circles
    assert circles == 1 or scipy.stats.chisquare(found).pvalue > P_VALUE


@pytest.mark.parametrize(("how", "groups"), [("permutation", 1), ("derangement", 1), ("roll", 2), ("flip", 1)])
def test_partners_within_classes_and_never_a_padded_row(how, groups):
    label = np.array([3, -1, 3, 7, 3, -1, 7, 3, 7, 3, 3, -1])
    real = np.array([1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 0], bool)
    method = MixUp(1.0, partner=how, groups=groups)
    keys = jax.random.split(KEY, 60 if how in ("permutation", "derangement") and groups == 1 else 1)
    mixes = jax.jit(jax.vmap(lambda key: method.sample(key, (12,), within=label, where=real)))(keys)
    part = np.arange(12) // (12 // groups)
    for partner, lam in zip(np.asarray(mixes.partner), np.asarray(mixes.lam), strict=True):
        assert (label[partner] == label).all()
        assert (part[partner] == part).all()
        assert sorted(partner) == list(range(12))
        assert (partner[~real] == np.arange(12)[~real]).all()
        assert (lam[~real] == 1).all()
    each = [np.unique(np.asarray(mixes.partner)[:, i]).tolist() for i in range(12)]
    if how == "derangement" and groups == 1:
        assert each[0] == [2, 4, 7, 10]
    else:
        assert each[0] == {"permutation": [0, 2, 4, 7, 10], "roll": [4], "flip": [10]}[how]
    np.testing.assert_array_equal(
        method.sample(KEY, (12,), where=np.ones(12, bool)).partner, method.sample(KEY, (12,)).partner
    )


def test_padded_rows_stay_as_they_are_in_every_method():
    x = np.random.default_rng(0).random((6, 8, 8, 1), np.float32)
    x[4:] = np.nan
    real = np.arange(6) < 4
    methods = [MixUp(1.0), CutMix(lam=0.5, fold=False), OneOf(MixUp(1.0), CutMix(lam=0.5, fold=False), per="sample")]
    for method in methods:
        mix = method.sample(KEY, x.shape, where=real)
        got = np.asarray(mix.blend(x))
        assert np.isfinite(got[:4]).all()
        assert not np.array_equal(got[:4], x[:4])
        np.testing.assert_array_equal(got[4:], x[4:])
        assert (mix.lam[4:] == 1).all()


def test_layer_probabilities_are_a_schedule():
    def layers(probabilities):
        method = ManifoldMixup(1.0, layers=("a", "b"), layer_probabilities=probabilities)
        return jax.vmap(lambda key: method.sample(key, (2,)).layer)(jax.random.split(KEY, 4000))

    layers = jax.jit(layers)
    drawn = np.bincount(layers(jnp.array([0.5, 0.3, 0.2])), minlength=3)
    assert scipy.stats.chisquare(drawn, 4000 * np.array([0.5, 0.3, 0.2])).pvalue > P_VALUE
    assert set(layers(jnp.array([0.0, 1.0, 0.0])).tolist()) == {1}
    method = ManifoldMixup(1.0, layers=("a", "b"), layer_probabilities=np.array([0.5, 0.3, 0.2]))
    assert hash(method) == hash(ManifoldMixup(1.0, layers=("a", "b"), layer_probabilities=(0.5, 0.3, 0.2)))


def test_probabilities_stay_with_their_layers_when_these_are_found():
    """`bind` puts layers in running order."""
    mlp = nnx.Sequential(nnx.Linear(4, 4, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(4, 4, rngs=nnx.Rngs(1)))
    x = jax.ShapeDtypeStruct((8, 4), "float32")
    for use_input, probabilities in ((False, (1.0, 0.0)), (True, (0.0, 1.0, 0.0))):

        def drawn(probabilities, use_input=use_input):
            layers = ("layers.2", "layers.0")
            method = ManifoldMixup(1.0, layers=layers, use_input=use_input, layer_probabilities=probabilities)
            bound = method.bind(mlp, x)
            assert bound.layers == layers[::-1]
            mixes = method.sample(KEY, (8, 4)), bound.sample(KEY, (8, 4))
            return [jnp.array([mix.layers.index("layers.2") == mix.layer]) for mix in mixes]

        assert all(map(bool, drawn(probabilities)))
        assert all(map(bool, jax.jit(drawn)(jnp.array(probabilities))))


def test_a_batch_of_none_is_drawn():
    for method in (MixUp(1.0), CutMix(1.0), CutMix(1.0, per="sample")):
        mix = method.sample(KEY, (0, 8, 8, 1))
        assert (mix.lam.shape, mix.partner.shape) == ((0,), (0,))


def test_channels_first_are_told():
    shape = (4, 3, 32, 32)
    with pytest.warns(UserWarning, match=r"seem to have their channels first: spatial_axes=\(2, 3\)"):
        CutMix(1.0).sample(KEY, shape)
    CutMix(1.0, spatial_axes=(2, 3)).sample(KEY, shape)
    CutMix(1.0).sample(KEY, (4, 32, 32, 3))


def test_alpha_may_be_told_by_its_place():
    x, y = jnp.ones((4, 8, 8, 1)), jnp.eye(4)
    for one_line, alpha in ((jax_mix.mixup, 0.3), (jax_mix.cutmix, 0.3)):
        for got, want in zip(one_line(KEY, x, y, alpha), one_line(KEY, x, y, alpha=alpha), strict=True):
            np.testing.assert_array_equal(got, want)
