"""Whole runs on the digits, fastai against train.py, each with its own random numbers: the results are alike."""

import dataclasses

import numpy as np
import pytest
import scipy.stats

from parity_tests import evidence
from parity_tests.whole_runs import FASTAI_METHODS, fastai_run, our_run

SEEDS, EPOCHS = 20, 20
# Differences of means that would not matter, and that a run must rule out: two of 360 test images, and of NLL and ECE
# less than the methods differ among themselves.
MARGINS = {"accuracy": 2 / 360, "nll": 0.02, "ece": 0.015}


@dataclasses.dataclass(frozen=True)
class Difference:
    """Of two samples' means, ours less fastai's: Welch's interval, and Mann and Whitney's p of no difference."""

    mean: float
    low: float
    high: float
    p: float

    @classmethod
    def of(cls, ours, theirs, confidence):
        interval = scipy.stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(confidence)
        p = scipy.stats.mannwhitneyu(ours, theirs).pvalue
        return cls(float(np.mean(ours) - np.mean(theirs)), float(interval.low), float(interval.high), float(p))


def differences(ours, theirs):
    """For each measure, of two lists of runs."""
    return {m: Difference.of([r[m] for r in ours], [r[m] for r in theirs], 0.9) for m in MARGINS}


def assert_alike(differences):
    for measure, margin in MARGINS.items():
        # Two one-sided t-tests at 5%: the 90% interval lies within the margin, so a larger difference is rejected.
        assert -margin < differences[measure].low < differences[measure].high < margin, measure
        # And none is found: at 1% for all comparisons together.
        assert differences[measure].p > 0.01 / (len(MARGINS) * len(FASTAI_METHODS)), measure


@pytest.mark.long
@pytest.mark.parametrize("mix", FASTAI_METHODS)
def test_results_of_whole_runs_are_alike(mix, digits):
    ours, theirs = ([run(mix, seed, digits, EPOCHS) for seed in range(SEEDS)] for run in (our_run, fastai_run))
    found = differences(ours, theirs)
    evidence.results.setdefault("whole_runs", {})[mix] = {
        "seeds": SEEDS,
        "epochs": EPOCHS,
        "ours": ours,
        "fastai": theirs,
        "ours less fastai's, 90% interval": {measure: dataclasses.asdict(d) for measure, d in found.items()},
    }
    assert_alike(found)


def test_the_comparison_tells_methods_apart(digits):
    none, cutmix = ([our_run(mix, seed, digits, 2) for seed in range(4)] for mix in ("none", "cutmix"))
    with pytest.raises(AssertionError):
        assert_alike(differences(none, cutmix))
