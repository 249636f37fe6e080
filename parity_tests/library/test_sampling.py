"""The random numbers have the distributions they claim."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jax_mix
from jax_mix import _sampling

N = 100_000
P_VALUE = 1e-4  # keys are fixed, so a passing test stays passing; a wrong distribution gives p < 1e-30 at this N


def words(n, seed=0):
    return _sampling.Words(jax.random.key(seed), n)


def kolmogorov_smirnov(sample, alpha):
    """The p-value of one-sample KS against scipy's Beta, on the distance to the nearer end.

    Beta(a, a) is symmetric, and min(B, 1-B) keeps the digits that float32 loses near 1.
    """
    folded = np.minimum(sample, 1 - sample)
    return scipy.stats.kstest(folded, lambda x: 2 * scipy.stats.beta.cdf(x, alpha, alpha)).pvalue


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.4, 1.0, 2.0, 8.0, 32.0])
@pytest.mark.parametrize("traced", [False, True])
def test_symmetric_beta_is_scipys_beta(alpha, traced):
    key = jax.random.key(int(alpha * 10))
    sample = lambda alpha: _sampling.symmetric_beta(_sampling.Words(key, N), alpha, (N,))  # noqa: E731
    drawn = np.asarray(jax.jit(sample)(alpha) if traced else sample(alpha))
    assert drawn.dtype == np.float32
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    smaller = drawn[drawn < 0.5]  # the half that was not computed as 1 - x: exact to the last digit
    assert kolmogorov_smirnov(smaller.astype(np.float64), alpha) > P_VALUE
    larger = drawn[drawn >= 0.5].astype(np.float64)
    assert scipy.stats.binomtest(len(smaller), N).pvalue > P_VALUE
    quantiles = np.linspace(0.05, 0.95, 19)
    want = scipy.stats.beta.ppf(0.5 + quantiles / 2, alpha, alpha)
    share = np.array([(larger <= w).mean() for w in want])
    visible = want < 1 - 1e-6  # float32 rounds what is nearer to 1
    np.testing.assert_allclose(share[visible], quantiles[visible], atol=5 * np.sqrt(0.25 / len(larger)))


def test_the_test_of_beta_can_fail():
    sample = np.asarray(_sampling.symmetric_beta(words(N), 0.4, (N,)), np.float64)
    assert kolmogorov_smirnov(sample, 0.41) < P_VALUE


def test_draws_are_independent_and_follow_the_key():
    lam = _sampling.symmetric_beta(words(2 * N), 1.0, (2, N))
    assert abs(np.corrcoef(np.asarray(lam))[0, 1]) < 0.02
    np.testing.assert_array_equal(lam, _sampling.symmetric_beta(words(2 * N), 1.0, (2, N)))
    assert not np.array_equal(lam, _sampling.symmetric_beta(words(2 * N, 1), 1.0, (2, N)))


def test_lambda_and_partner_are_independent():
    keys = jax.random.split(jax.random.key(0), 5000)
    mix = jax.vmap(lambda key: jax_mix.MixUp(1.0, fold=False).sample(key, (4,)))(keys)
    lam, partner = np.asarray(mix.lam[:, 0]), np.asarray(mix.partner[:, 0])
    groups = [lam[partner == j] for j in range(4)]
    assert scipy.stats.kruskal(*groups).pvalue > P_VALUE


def test_partners_are_uniform_permutations():
    keys = jax.random.split(jax.random.key(0), 24_000)
    partner = np.asarray(jax.vmap(lambda key: _sampling.partners(_sampling.Words(key, 4), 4, "permutation"))(keys))
    assert (np.sort(partner, axis=1) == np.arange(4)).all()
    _, counts = np.unique(partner, axis=0, return_counts=True)
    assert len(counts) == 24
    assert scipy.stats.chisquare(counts).pvalue > P_VALUE


def test_roll_and_flip():
    assert _sampling.partners(words(4), 4, "roll").tolist() == [3, 0, 1, 2]  # torch's x.roll(1)
    assert _sampling.partners(words(4), 4, "flip").tolist() == [3, 2, 1, 0]


def test_partners_in_groups():
    assert _sampling.partners(words(6), 6, "roll", 2).tolist() == [2, 0, 1, 5, 3, 4]
    assert _sampling.partners(words(6), 6, "flip", 3).tolist() == [1, 0, 3, 2, 5, 4]
    keys = jax.random.split(jax.random.key(0), 24_000)
    partner = np.asarray(jax.vmap(lambda key: _sampling.partners(_sampling.Words(key, 6), 6, "permutation", 2))(keys))
    assert (np.sort(partner.reshape(-1, 2, 3), axis=2) == [[0, 1, 2], [3, 4, 5]]).all()
    _, counts = np.unique(partner, axis=0, return_counts=True)
    assert len(counts) == 36  # each group's permutation whatever the other's
    assert scipy.stats.chisquare(counts).pvalue > P_VALUE


def test_box_centres_are_uniform_pixels():
    """A box of side 2 is not clipped away anywhere, so its corners tell its centre."""
    height, width = 5, 7
    lam = jnp.full((35_000,), 1 - 0.3**2, jnp.float32)  # sides: int(5 * 0.3) and round(7 * 0.3)
    box = np.asarray(_sampling.boxes(words(len(lam)), jnp.full_like(lam, 1 - 0.45**2), (height, width), "paper"))
    centre_y, centre_x = box[:, 2] - 1, box[:, 3] - 1
    counts = np.zeros((height, width))
    np.add.at(counts, (np.minimum(centre_y, height - 1), np.minimum(centre_x, width - 1)), 1)
    # The end is clipped at the border, where the last two centres look alike: compare those together.
    expected = np.full((height, width), len(box) / 35)
    counts[-2] += counts[-1]
    counts[:, -2] += counts[:, -1]
    expected[-2] *= 2
    expected[:, -2] *= 2
    assert scipy.stats.chisquare(counts[:-1, :-1].ravel(), expected[:-1, :-1].ravel()).pvalue > P_VALUE


@pytest.mark.parametrize(("how", "side"), [("fastai", np.round), ("paper", np.floor)])
def test_box_sides(how, side):
    lam = np.linspace(0, 1, 1001, dtype=np.float32)
    height, width = 31, 48
    box = np.asarray(_sampling.boxes(words(len(lam)), jnp.asarray(lam), (height, width), how))
    y1, x1, y2, x2 = box.T
    half = side(height * np.sqrt(1 - lam)).astype(int) // 2
    inside = (y1 > 0) & (y2 < height)
    assert inside.sum() > 100
    np.testing.assert_array_equal((y2 - y1)[inside], 2 * half[inside])
    assert (box >= 0).all()
    assert (y2 <= height).all()
    assert (x2 <= width).all()
    area = ((y2 - y1) * (x2 - x1)).astype(np.float32)
    left = np.float32(1) - area / np.float32(height * width)
    np.testing.assert_array_equal(jax.jit(_sampling.area_left, static_argnums=1)(box, (height, width)), left)


@pytest.mark.parametrize("how", _sampling.BOXES)
@pytest.mark.parametrize("fold", [False, True])
def test_images_too_small_for_any_box_are_refused_and_no_others(how, fold):
    """With lambda as near to 0 as float32 comes without being lost in 1 - lambda."""
    lam = np.linspace(0.5 if fold else 2**-22, 1, 1001, dtype=np.float32)
    method = jax_mix.CutMix(1.0, box=how, fold=fold)
    for length in range(1, 7):
        box = np.asarray(_sampling.boxes(words(len(lam)), jnp.asarray(lam), (length, 9), how))
        possible = bool(np.any(box[:, 2] > box[:, 0]))
        assert possible == (length >= _sampling.shortest_side(how, fold=fold))
        for size in ((length, 9), (9, length), (length, length)):
            if possible:
                method.sample(jax.random.key(0), (2, *size))
            else:
                with pytest.raises(ValueError, match=f"no box .*{size[0]}, {size[1]}. pixels"):
                    method.sample(jax.random.key(0), (2, *size))


def test_layers_are_uniform():
    method = jax_mix.ManifoldMixup(1.0, layers=("a", "b", "c"))
    keys = jax.random.split(jax.random.key(0), 20_000)
    layer = np.asarray(jax.vmap(lambda key: method.sample(key, (2,)))(keys).layer)
    assert scipy.stats.chisquare(np.bincount(layer, minlength=4)).pvalue > P_VALUE
    without = jax_mix.ManifoldMixup(1.0, layers=("a", "b"), use_input=False)
    drawn = jax.vmap(lambda key: without.sample(key, (2,)))(keys)
    assert drawn.layers == ("a", "b")
    assert scipy.stats.chisquare(np.bincount(np.asarray(drawn.layer), minlength=2)).pvalue > P_VALUE


def test_what_surprises_people_about_cutmix():
    """At 32 pixels and alpha 1 the mean of the area left is about 0.7, not 0.5, and some boxes are empty."""
    empty = {}
    for box, mean in (("fastai", 0.689), ("paper", 0.700)):
        mix = jax_mix.CutMix(1.0, per="sample", box=box).sample(jax.random.key(0), (N, 32, 32, 3))
        assert abs(float(mix.lam.mean()) - mean) < 0.003
        empty[box] = float((mix.lam == 1).mean())
    assert abs(empty["paper"] - 0.004) < 0.001  # sides below 2 pixels: lam > 1 - (2/32)^2
    assert abs(empty["fastai"] - 0.0022) < 0.001  # sides below 1.5 pixels


@pytest.mark.parametrize("method", [jax_mix.MixUp, jax_mix.CutMix])
def test_probability(method):
    keys = jax.random.split(jax.random.key(0), 4000)
    shape = (2, 64, 64, 1)
    mixed = jax.vmap(lambda key: method(32.0, per="batch", probability=0.25).sample(key, shape))(keys).lam < 1
    assert (mixed[:, 0] == mixed[:, 1]).all()
    assert scipy.stats.binomtest(int(mixed[:, 0].sum()), 4000, 0.25).pvalue > P_VALUE
    never = method(1.0, probability=0.0).sample(jax.random.key(0), shape)
    assert (never.lam == 1).all()


def test_a_schedule_that_ends_a_rounding_below_zero_is_at_zero():
    """As `1 - step / 1000` does inside jit at step 1000."""

    @jax.jit
    def layer(step, key):
        progress = step / 1000
        probabilities = jnp.array([1 - progress, progress / 2, progress / 2])
        return _sampling.choices(_sampling.Words(key, 64), 3, (64,), probabilities)

    assert set(np.asarray(layer(1000, jax.random.key(0))).tolist()) == {1, 2}
