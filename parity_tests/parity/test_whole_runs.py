"""Whole runs on the digits, fastai against train.py, each with its own random numbers, end alike."""

import pytest

from parity_tests.parity.whole_runs import FASTAI_METHODS, assert_alike, compare, our_run, record


@pytest.mark.long
@pytest.mark.parametrize("mix", FASTAI_METHODS)
def test_results_of_whole_runs_are_alike(mix, digits):
    assert_alike(compare(mix, digits))


def test_the_comparison_tells_methods_apart(digits):
    none, cutmix = ([our_run(mix, seed, digits, 2) for seed in range(4)] for mix in ("none", "cutmix"))
    with pytest.raises(AssertionError):
        assert_alike(record(none, cutmix))
