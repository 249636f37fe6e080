"""Whether the network fits its training images, and what else a reader should know before they judge mixing.

Mixing keeps a network from learning its training images by heart. One that has not learned them yet it only slows down.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jax_mix.compare.settings import Comparison
from jax_mix.compare.summary import Claim, Found, find
from jax_mix.compare.sweep import many, told
from jax_mix.training.methods import label

# Of training images wrong without mixing. In the papers' tables next to none are: networks that large, trained that
# long, learn all by heart. One in a hundred is what odd images and augmentation leave of "all". One in twenty is no
# longer odd images: there is something to learn yet, by which methods differ more than by what mixing is for.
_FITS, _NEARLY = 0.01, 0.05
_FEW = 5  # seeds: below, an interval is wide (of 3: 2.5 standard deviations each way; of 5: 1.2), below 3 it is none


def regime(comparison: Comparison, rows: Sequence[Mapping[str, Any]], images: int) -> str:
    """In a sentence, whether the network fits its training images without mixing; "" if that was not measured.

    Args:
      comparison: what was compared.
      rows: of cells.csv.
      images: how many there are to train on.
    """
    measured = [row for row in rows if row["noise"] == 0 and "train_error" in row]
    if not measured:
        return ""
    of_base = [row for row in measured if row["method"] == "none"]
    if not of_base:
        return (
            "Whether the network fits its training images is not known without runs that do not mix: give none among "
            "the --methods."
        )
    error = statistics.fmean(row["train_error"] for row in of_base)
    looked_at = min(int(row["train_images"]) for row in of_base)
    its = "its training images" + (f" (of {looked_at:,} that were looked at)" if looked_at < images else "")
    if error <= _FITS:
        return f"Without mixing the network fits {_share(error)} of {its}: this is where mixing is meant to help."
    if error <= _NEARLY:
        return (
            f"Without mixing the network fits {_share(error)} of {its}, not yet all: mixing is meant to help where it "
            "fits them, so a longer run may say more for mixing than this one."
        )
    return (
        f"Without mixing the network still gets {error:.0%} of {its} wrong: train longer or use a larger network "
        "before you judge."
    )


def fit(comparison: Comparison, rows: Sequence[Mapping[str, Any]]) -> list[list[Found]]:
    """Error and NLL of each method on training images; nothing unless all finished runs have measured them."""
    if any(row["status"] == "finished" and "train_error" not in row for row in rows):
        return []
    return find(
        comparison, rows, [Claim("train_error", "Training error"), Claim("train_nll", "Training NLL", 0, 1, "nats")]
    )


def _share(error: float) -> str:
    """How many are right; never rounded up to all.

    >>> _share(0.002), _share(0.0001), _share(0.0)
    ('99.8%', 'more than 99.9%', 'all')
    """
    if error == 0:
        return "all"
    return f"{1 - error:.1%}" if error >= 0.0005 else "more than 99.9%"


def cautions(comparison: Comparison, error: Sequence[Found], records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What makes the answer less sure than it sounds: few seeds, test curves that still fall, the best of many."""
    warned = []
    seeds = [each.difference.n for each in error if each.difference]
    if seeds and 1 < min(seeds) < 3:  # of one seed the answer itself says so
        warned.append("Two seeds give no interval worth the name: give --seeds 5 or more.")
    elif seeds and 3 <= min(seeds) < _FEW:
        warned.append(
            f"{min(seeds)} seeds are few: the intervals are wide, and undecided says little. Give --seeds 5 or more."
        )
    falls = {method: fall for method in comparison.methods if (fall := still_falls(_histories(records, method)))}
    if falls:
        every = len(falls) == len(comparison.methods)
        ones = "every method" if every else f"{len(falls)} methods" if many(comparison) else told(falls)
        warned.append(
            f"Test error still fell at the end of training, over the last fifth of the epochs by up to "
            f"{100 * max(falls.values()):.1f} points ({ones}): longer runs may end in another order."
        )
    if many(comparison) and any(each.difference.verdict == "better" for each in error if each.difference):
        warned.append(
            f"The best of {len(comparison.methods) - 1} methods was chosen by the test images themselves, which "
            "flatters it: expect a little less of it on other images."
        )
    return warned


def still_falls(histories: Sequence[Sequence[Mapping[str, float]]]) -> float:
    """By how much test error fell in the last fifth of the epochs, if by more than it scatters; else 0.

    The mean of the last fifth is held against that of the fifth before, all seeds together. It scatters as the values
    of the fifth before do, over epochs and seeds. Below five epochs that were evaluated, or with a single value, there
    is nothing to hold it against.

    Args:
      histories: of a method's runs, as `train` gives them.
    """
    length = min((len(history) for history in histories), default=0)
    fifth = length // 5
    if fifth * len(histories) < 2:
        return 0.0
    error = np.array([[1 - epoch["accuracy"] for epoch in history[-2 * fifth :]] for history in histories])
    before, last = error[:, :fifth], error[:, fifth:]
    fall = float(before.mean() - last.mean())
    return fall if fall > before.std(ddof=1) else 0.0


def _histories(records: Sequence[Mapping[str, Any]], method: str) -> list[Any]:
    """Of the runs of a method without wrong labels."""
    finished = [record for record in records if record["status"] == "finished"]
    return [each["history"] for each in finished if (each["method"], each["noise"]) == (method, 0)]


def by_heart(comparison: Comparison, rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """How wrong labels were fitted: for each share of them and method a line of words, if that was measured.

    The share, the method, error on training images against the labels that were given, and against the right ones, and
    the share of the wrong labels that were learned by heart.
    """
    lines = []
    for level in sorted(comparison.noise_levels):
        columns = [Claim(f"train_{name}", "", level) for name in ("error", "true_error", "learned")]
        for line in zip(*find(comparison, rows, columns), strict=True):
            if any(each.values for each in line):
                shares = ["" if math.isnan(each.mean) else f"{each.mean:.1%}" for each in line]
                lines.append([f"{level:.0%}", label(line[0].method), *shares])
    return lines
