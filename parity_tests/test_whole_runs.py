"""Whole runs on the digits, fastai against train.py, each with its own random numbers: the results are alike."""

import dataclasses

import numpy as np
import pytest
import scipy.stats

from parity_tests import evidence
from parity_tests.whole_runs import FASTAI_METHODS, fastai_run, our_run
from training import data

SEEDS, EPOCHS = 20, 20
MARGIN = 0.005  # of accuracy: two of 360 test images
MEASURES = ("accuracy", "nll", "ece")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return data.load("digits", str(tmp_path_factory.mktemp("tfds")))


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


@pytest.mark.long
@pytest.mark.parametrize("mix", FASTAI_METHODS)
def test_results_of_whole_runs_are_indistinguishable(mix, digits):
    ours, theirs = ([run(mix, seed, digits, EPOCHS) for seed in range(SEEDS)] for run in (our_run, fastai_run))
    values = {
        side: {m: [r[m] for r in runs] for m in MEASURES} for side, runs in {"ours": ours, "fastai": theirs}.items()
    }
    differences = {m: Difference.of(values["ours"][m], values["fastai"][m], 0.9) for m in MEASURES}
    evidence.results.setdefault("whole_runs", {})[mix] = {
        "seeds": SEEDS,
        "epochs": EPOCHS,
        "values": values,
        "difference, 90% interval": {m: dataclasses.asdict(d) for m, d in differences.items()},
    }
    # Two one-sided t-tests at 5%: the 90% interval lies within the margin, so a larger difference is rejected.
    assert -MARGIN < differences["accuracy"].low < differences["accuracy"].high < MARGIN
    # And none is found: at 1% for the twelve comparisons together.
    assert all(d.p > 0.01 / (len(MEASURES) * len(FASTAI_METHODS)) for d in differences.values()), differences


def test_the_comparison_tells_methods_apart(digits):
    """It can fail: CutMix's runs are not MixUp's."""
    few = {mix: [our_run(mix, seed, digits, 2)["nll"] for seed in range(4)] for mix in ("none", "cutmix")}
    assert Difference.of(few["none"], few["cutmix"], 0.9).p < 0.05
