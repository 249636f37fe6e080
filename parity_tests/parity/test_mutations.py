"""Tests of the tests: the library broken on purpose, and the check that has to turn red for it."""

from unittest import mock

import jax.numpy as jnp
import pytest

from jax_mix import _mix, _sampling
from jax_mix.training import optimizers
from parity_tests.library import test_sampling
from parity_tests.parity import test_cutmix, test_draws, test_loss, test_manifold_mixup, test_mixup, test_optimizer

lerp, inside, take = _mix._lerp, _mix._inside, _mix.Mix._take
lambdas, boxes, area_left = _sampling.lambdas, _sampling.boxes, _sampling.area_left


def injected(name):
    def check():
        run = test_draws.test_our_draws_given_to_fastai_make_the_same_batch.hypothesis.inner_test
        run(n=8, channels=3, size=(5, 8), alpha=1.0, seed=0, name=name)

    return check


def a_mixup_batch():
    run = test_mixup.test_batch_and_targets_equal_fastai_within_one_ulp.hypothesis.inner_test
    run(n=8, channels=3, size=(5, 8), alpha=1.0, seed=0, dtype=jnp.float32, target="soft")


def a_cutmix_batch():
    test_cutmix.test_batch_box_and_lambda_equal_fastai_bit_for_bit((17, 33), 1)


def a_loss():
    test_loss.test_mixed_loss_of_class_numbers_equals_fastai("mixup", "cross-entropy", "mean", jnp.float32)


def every_layer():
    test_manifold_mixup.test_a_step_is_equal_at_every_layer("MLP", jnp.float32)


def the_boxes():
    test_cutmix.test_boxes_round_as_fastai_rounds((28, 28), lambda f: f)


def the_optimizer():
    optimizers.make.cache_clear()  # what is broken on purpose has to be made anew, and not to stay for others
    try:
        test_optimizer.test_losses_and_parameters_equal_fastai_step_by_step("sgd", "one_cycle")
    finally:
        optimizers.make.cache_clear()


MUTATIONS = {
    # what is broken: (where, what, how, the check)
    "the partner's weight": (_mix, "_lerp", lambda own, other, lam: lerp(own, other, 1 - jnp.asarray(lam)), [a_mixup_batch, a_loss, every_layer]),
    "a blend in half precision": (_mix, "_lerp", lambda own, other, lam: lerp(own.astype(jnp.bfloat16), other.astype(jnp.bfloat16), lam).astype(own.dtype), [a_mixup_batch, a_loss, every_layer]),
    "each sample its own partner": (_mix.Mix, "_take", lambda self, x: jnp.asarray(x), [a_mixup_batch, a_cutmix_batch, a_loss, every_layer]),
    "the partner after": (_mix.Mix, "_take", lambda self, x: jnp.roll(take(self, x), 1, axis=0), [a_mixup_batch, a_cutmix_batch, a_loss, every_layer]),
    "the permutation the other way round": (_mix.Mix, "_take", lambda self, x: jnp.asarray(x)[jnp.argsort(jnp.asarray(self.partner))], [a_mixup_batch, a_loss]),
    "lambda a hundred-thousandth off": (_mix, "_lerp", lambda own, other, lam: lerp(own, other, jnp.asarray(lam) * (1 - 1e-5)), [a_mixup_batch]),
    "the box's end inside it": (_mix, "_inside", lambda start, stop, length: inside(start, stop + 1, length), [a_cutmix_batch]),
    "the area of a taller image": (_sampling, "area_left", lambda box, size: area_left(box, (size[0] + 1, size[1])), [a_cutmix_batch]),
    "an unfolded lambda": (_sampling, "lambdas", lambda *a, fold, **k: lambdas(*a, fold=False, **k), [injected("mixup"), injected("manifold")]),
    "a folded lambda": (_sampling, "lambdas", lambda *a, fold, **k: lambdas(*a, fold=True, **k), [test_sampling.test_what_surprises_people_about_cutmix]),
    "a box off by one": (_sampling, "boxes", lambda *a: boxes(*a).at[..., 3].add(1), [the_boxes]),
    "rows for columns": (_sampling, "boxes", lambda *a: boxes(*a)[..., jnp.array([1, 0, 3, 2])], [the_boxes]),
    "a box rounded down": (_sampling, "boxes", lambda words, lam, size, how: boxes(words, lam, size, "paper"), [the_boxes]),
    "Beta's lambda for the area's": (_sampling, "area_left", lambda box, size: area_left(box, size) * 0.999, [a_cutmix_batch]),
    "momentum kept at 0.9": (optimizers, "one_cycle", lambda steps, start, peak, end: optimizers.optax.constant_schedule(peak), [the_optimizer]),
}  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_check_turns_red(mutation):
    where, name, broken, checks = MUTATIONS[mutation]
    for check in checks:
        with mock.patch.object(where, name, broken), pytest.raises(AssertionError):
            check()


def test_the_checks_are_green_otherwise():
    for check in dict.fromkeys(check for *_, checks in MUTATIONS.values() for check in checks):
        check()
