"""A weight of 0 takes nothing, also of what is infinite or nan: not its value, and not its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jax_mix

XENT = optax.softmax_cross_entropy_with_integer_labels
PARTNER = np.array([1, 0, 3, 2])
NOT_FINITE = [np.inf, -np.inf, np.nan]
TRANSFORMS = {"eager": lambda f: f, "jit": jax.jit, "vmap": lambda f: lambda *a: jax.vmap(f)(*_stack(a))}


def _stack(args):
    return jax.tree.map(lambda a: jnp.asarray(a)[None], args)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16, np.float64, np.complex64])
@pytest.mark.parametrize("bad", NOT_FINITE)
def test_a_blend_takes_nothing_of_weight_0(bad, dtype, transform):
    """Samples 0 and 3 are not finite; 1 is kept, and 2 is all its partner's."""
    x = np.array([[bad, bad], [1, -2], [3, 4], [bad, 5]]).astype(dtype)
    lam = np.array([0, 1, 1, 0.5], np.float32)
    with jax.enable_x64(dtype == np.float64):
        mix = jax_mix.Mix(lam, PARTNER)
        got = np.asarray(TRANSFORMS[transform](jax_mix.Mix.blend)(mix, x)).reshape(4, 2)
        targets = np.asarray(TRANSFORMS[transform](jax_mix.Mix.targets)(mix, x)).reshape(4, 2)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got[:3], x[[1, 1, 2]])
    assert not np.isfinite(got[3, 0]), "where both weigh, what is not finite shows"
    assert got[3, 1] == 4.5
    np.testing.assert_array_equal(targets.astype(np.complex128), got.astype(np.complex128))


@pytest.mark.parametrize("lam", [0.0, 1.0, 0, 1, np.float32(0), np.ones(4, np.float16)])
def test_one_weight_for_all(lam):
    x = np.array([np.nan, 1, np.inf, 3], np.float32)
    want = x if np.all(lam == 1) else x[PARTNER]
    np.testing.assert_array_equal(jax_mix.Mix(lam, PARTNER).blend(x), want)


@pytest.mark.parametrize("bad", NOT_FINITE)
def test_gradients_of_a_blend_are_finite_and_right(bad):
    x = jnp.array([bad, 1, 2, 4], jnp.float32)
    lam = jnp.array([0.0, 1.0, 1.0, 0.25])
    scale = jnp.array([1.0, 10.0, 100.0, 1000.0])
    loss = lambda x, lam: jnp.sum(scale * jax_mix.Mix(lam, PARTNER).blend(x))  # noqa: E731
    by_x, by_lam = jax.grad(loss, argnums=(0, 1))(x, lam)
    np.testing.assert_allclose(by_x, [0, 11, 100 + 750, 250])
    np.testing.assert_allclose(by_lam[2:], [100 * (2 - 4), 1000 * (4 - 2)])
    assert np.all(np.isfinite(by_lam))


@pytest.mark.parametrize("bad", NOT_FINITE)
def test_losses_of_weight_0(bad):
    own, partners = np.array([bad, 1, 2, 1], np.float32), np.array([3, bad, bad, 2], np.float32)
    lam = jnp.array([0.0, 1.0, 1.0, 0.75])
    got = jax_mix.Mix(lam, PARTNER).losses(own, partners)
    np.testing.assert_array_equal(got, [3, 1, 2, 1.25])


def of_probabilities(probabilities, labels):
    """Its gradient at a probability of 0 is 1/0, and 0 * inf for a loss that counts for nothing."""
    return -jnp.log(jnp.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0])


def soft_of_probabilities(probabilities, target):
    return -jnp.sum(target * jnp.log(jnp.where(target == 0, 1, probabilities)), axis=-1)


@pytest.mark.parametrize("form", ["class numbers", "one-hot"])
@pytest.mark.parametrize("per_sample", [True, False])
def test_a_label_of_weight_0_is_not_asked_for(form, per_sample):
    """Sample i can be of its own class alone; each keeps its label or takes its partner's."""
    lam = jnp.array([1.0, 1.0, 0.0, 0.0]) if per_sample else jnp.float32(1)
    labels = jnp.array([0, 1, 2, 3])
    kept = labels if not per_sample else jnp.array([0, 1, 3, 2])
    probabilities = jax.nn.one_hot(kept, 4)
    loss_fn, y = (of_probabilities, labels) if form == "class numbers" else (soft_of_probabilities, jnp.eye(4)[labels])

    def loss(probabilities):
        losses = jax_mix.mixed_loss(loss_fn, probabilities, y, jax_mix.Mix(lam, PARTNER))
        return losses.sum(), losses

    gradient, losses = jax.jit(jax.grad(loss, has_aux=True))(probabilities)
    np.testing.assert_array_equal(losses, np.zeros(4))
    np.testing.assert_array_equal(gradient, -np.eye(4)[kept])


@pytest.mark.parametrize("name", ["mixup", "cutmix", "manifold"])
def test_masked_logits_of_rows_that_are_not_mixed(name):
    """Each row may be of the classes of its own half only: logits of the others are -inf."""
    method = {
        "mixup": jax_mix.MixUp(1.0, probability=0.5),
        "cutmix": jax_mix.CutMix(1.0, per="sample", probability=0.5),
        "manifold": jax_mix.ManifoldMixup(1.0, layers=("head",), probability=0.5),
    }[name]
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 64)
    mask = (labels[:, None] < 2) == (np.arange(4) < 2)
    logits = np.where(mask, rng.standard_normal((64, 4)), -np.inf).astype(np.float32)
    mix = method.sample(jax.random.key(0), (64, 8, 8, 1))
    alone, other = np.asarray(mix.lam == 1), labels[np.asarray(mix.partner)]
    meets = alone | ((labels < 2) == (other < 2))  # its partner's label is not masked
    assert 16 < alone.sum() < 48
    assert (~meets).sum() > 0

    def loss(row, i):
        return jax_mix.mixed_loss(lambda row, y: XENT(jnp.broadcast_to(row, (64, 4)), y), row, labels, mix)[i]

    losses, gradient = jax.jit(jax.vmap(jax.value_and_grad(loss)))(logits, jnp.arange(64))
    np.testing.assert_allclose(losses[alone], XENT(logits, labels)[alone], rtol=1e-6)
    assert np.all(np.isfinite(losses[meets]))
    assert np.all(np.isposinf(losses[~meets]))
    assert np.all(np.isfinite(gradient[meets]))
    targets = mix.targets(logits)
    np.testing.assert_array_equal(targets[alone], logits[alone])
    np.testing.assert_array_equal(
        mix.losses(XENT(logits, labels), np.full(64, np.inf))[alone], XENT(logits, labels)[alone]
    )


class Doubling(nnx.Module):
    def __init__(self):
        self.layer = nnx.Linear(3, 3, use_bias=False, rngs=nnx.Rngs(0))
        self.layer.kernel[...] = 2 * jnp.eye(3)

    def __call__(self, x):
        return self.layer(x)


@pytest.mark.parametrize("layer", ["input", "layer"])
@pytest.mark.parametrize("traced", [True, False])
def test_unmixed_rows_of_a_hidden_layer(layer, traced):
    model = Doubling()
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3)), jnp.float32)
    x = x.at[0].set(3e38)  # finite, and past float32 where it is doubled
    layers = ("input", "layer")
    at = jnp.int32(layers.index(layer)) if traced else layer
    mix = jax_mix.Mix(jnp.array([0.0, 1.0, 1.0, 0.0]), PARTNER, layer=at, layers=layers)
    out, gradient = jax.value_and_grad(lambda x: jax_mix.forward(model, x, mix).sum())(x)
    got = jax_mix.forward(model, x, mix)
    np.testing.assert_array_equal(got, 2 * x[np.array([1, 1, 2, 2])])
    assert np.isfinite(out)
    np.testing.assert_array_equal(gradient[0], np.zeros(3))
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("box", [[0, 0, 0, 0], [2, 1, 2, 3], [0, 0, 4, 4]])
def test_a_box_of_nothing_and_of_all(box):
    x = np.stack([np.full((4, 4, 1), v, np.float32) for v in (np.nan, 1, np.inf, -np.inf)])
    mix = jax_mix.Mix.from_box(PARTNER, np.array(box), (4, 4))
    whole = box[2] == 4 and box[0] == 0
    np.testing.assert_array_equal(mix.lam, np.zeros(4) if whole else np.ones(4))
    np.testing.assert_array_equal(mix.blend(x), x[PARTNER] if whole else x)
    y = x[:, 0, 0]
    np.testing.assert_array_equal(mix.targets(y), y[PARTNER] if whole else y)


def test_differences_past_float32_at_weight_0():
    x = np.array([3e38, -3e38, 1, 2], np.float32)
    np.testing.assert_array_equal(jax_mix.Mix(np.array([1, 0, 1, 0]), PARTNER).blend(x), x[[0, 0, 2, 2]])


def test_what_is_infinite_at_other_weights_is_as_the_formula_has_it():
    """Of torch.lerp's two forms one or the other gives nan there: inf - inf."""
    inf, nan = np.inf, np.nan
    own, partner = np.array([[inf, 1, -inf, inf, 2, nan], [1, inf, -inf, -inf, nan, inf]], np.float32)
    for lam in (0.25, 0.75):
        got = jax_mix.Mix(lam, np.array([1, 0])).blend(np.stack([own, partner]))[0]
        np.testing.assert_array_equal(got, [inf, inf, -inf, nan, nan, nan])
        gradient = jax.jacobian(lambda x, lam=lam: jax_mix.Mix(lam, np.array([1, 0])).blend(x)[0])(
            jnp.array([inf, 1.0])
        )
        np.testing.assert_allclose(gradient, [lam, 1 - lam])


def test_complex_numbers_are_blended():
    x = np.array([1 + 2j, 3 - 4j, 0, 1j], np.complex64)
    got = jax_mix.Mix(0.25, PARTNER).blend(x)
    assert got.dtype == np.complex64
    np.testing.assert_allclose(got, 0.25 * x + 0.75 * x[PARTNER], rtol=1e-6)
    bad = np.array([complex(1, np.inf), 1, complex(np.nan, 0), 2], np.complex64)
    np.testing.assert_array_equal(jax_mix.Mix(np.array([0, 1, 0, 1]), PARTNER).blend(bad), bad[[1, 1, 3, 3]])


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, bool])
def test_what_is_pasted_may_be_of_any_type(dtype):
    x = (
        np.arange(4 * 16).reshape(4, 4, 4).astype(dtype)
        if dtype is not bool
        else np.eye(4)[:, :, None] + np.zeros(4) > 0
    )
    mix = jax_mix.Mix.from_box(PARTNER, np.array([0, 1, 2, 4]), (4, 4))
    want = x.copy()
    want[:, 0:2, 1:4] = x[PARTNER, 0:2, 1:4]
    got = mix.blend(x)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, want)
