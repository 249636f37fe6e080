"""Runs of a comparison made by hand, of which every number is known, and no two are equal that could be taken for each
other."""

import numpy as np

from jax_mix.compare.settings import Comparison
from jax_mix.training.data import Dataset, Examples, Normalize

METHODS = ("none", "mixup:0.4", "manifold", "cutmix")
NAMES = {"none": "no mixing", "mixup:0.4": "MixUp, alpha 0.4", "manifold": "Manifold Mixup", "cutmix": "CutMix"}
SEEDS = 3
COMPARISON = Comparison(methods=METHODS, seeds=SEEDS, noise_levels=(0.5,), radii=(0.2, 0.1), attacked=100)

# Of the baseline, by seed, as column of cells.csv and share of random labels.
BASE = {
    ("last_error", 0.0): (0.1, 0.12, 0.08),
    ("best_error", 0.0): (0.045, 0.05, 0.04),
    ("last_nll", 0.0): (0.51, 0.62, 0.4),
    ("last_ece", 0.0): (0.052, 0.06, 0.044),
    ("last_error", 0.5): (0.3, 0.32, 0.28),
    ("fgsm_0.1", 0.0): (0.41, 0.45, 0.4),
    ("fgsm_0.2", 0.0): (0.51, 0.55, 0.5),
    ("pgd_0.1", 0.0): (0.61, 0.65, 0.6),
    ("pgd_0.2", 0.0): (0.71, 0.75, 0.7),
    ("corrupted", 0.0): (0.35, 0.36, 0.37),
}
# What the other methods add to it, seed by seed.
CHANGES = {
    "better": (-0.04, -0.045, -0.035),
    "worse": (0.1, 0.105, 0.095),
    "undecided": (-0.02, 0.03, 0.005),
}
# Of MixUp, Manifold Mixup and CutMix.
VERDICTS = {
    ("last_error", 0.0): ("better", "undecided", "worse"),
    ("best_error", 0.0): ("better", "undecided", "undecided"),
    ("last_nll", 0.0): ("worse", "better", "undecided"),
    ("last_ece", 0.0): ("undecided", "worse", "better"),
    ("last_error", 0.5): ("worse", "better", "better"),
    ("fgsm_0.1", 0.0): ("better", "better", "undecided"),
    ("fgsm_0.2", 0.0): ("better", "undecided", "undecided"),
    ("pgd_0.1", 0.0): ("worse", "undecided", "undecided"),
    ("pgd_0.2", 0.0): ("worse", "worse", "undecided"),
    ("corrupted", 0.0): ("undecided", "undecided", "better"),
}
# Of the four: added to the mean over all corruptions, so that it stays the mean of three errors, not of two kinds.
CORRUPTED = {"noise": {0.1: -0.2, 0.2: -0.1}, "blur": {0.02: 0.3}}


def value(column, method, seed, noise=0.0):
    """What a run has in a column of cells.csv."""
    base = BASE[column, noise][seed]
    if method == "none":
        return base
    return base + CHANGES[VERDICTS[column, noise][METHODS.index(method) - 1]][seed]


def record(method, seed, noise=0.0):
    """A run that finished: four epochs, of which the second is the best, and the third as good."""
    last = value("last_error", method, seed, noise)
    best = value("best_error", method, seed) if noise == 0 else last - 0.03
    nll, ece = (value(f"last_{name}", method, seed) for name in ("nll", "ece"))
    errors = (0.7, best, best, last)
    history = [
        {
            "epoch": epoch,
            "step": 10 * epoch,
            "loss": 2.0 / epoch + 0.01 * seed,
            "accuracy": 1 - error,
            "nll": nll + 0.1 * (4 - epoch),
            "ece": ece + 0.01 * (4 - epoch),
        }
        for epoch, error in enumerate(errors, 1)
    ]
    made = {
        "method": method,
        "noise": noise,
        "seed": seed,
        "status": "finished",
        "history": history,
        "seconds": 10.0 + seed + 100 * noise,
        "reliability": {
            "number": [0.0, 10.0 * (seed + 1), 30.0],
            "confidence": [0.0, 0.5 + 0.02 * seed, 0.9],
            "accuracy": [0.0, 0.3, 0.8 + 0.02 * seed],
        },
        "environment": {"device": "cpu, 1 device(s)", "cores": 2, "python": "3.11.9", "versions": {"jax": "0.1"}},
    }
    if noise == 0:
        made["adversarial"] = {
            "radius": [0.0, 0.2, 0.1],
            "images": 100,
            **{
                attack: [last + 0.01, *(value(f"{attack}_{radius}", method, seed) for radius in (0.2, 0.1))]
                for attack in ("fgsm", "pgd")
            },
        }
        mean = value("corrupted", method, seed)
        made["corrupted"] = {
            kind: {"strength": list(of), "error": [mean + more for more in of.values()]}
            for kind, of in CORRUPTED.items()
        }
    return made


def failed(method, seed, noise=0.0, reason="the loss became nan"):
    environment = record("none", 0)["environment"]
    told = {"method": method, "noise": noise, "seed": seed, "status": "failed", "reason": reason, "seconds": 1.0}
    return told | {"environment": environment}


def records():
    return [record(method, seed, noise) for noise in (0.0, 0.5) for seed in range(SEEDS) for method in METHODS]


def dataset():
    """Three training and 1,200 test images of two classes."""
    images = {3: np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1), 1200: np.zeros((1200, 2, 2, 1), np.uint8)}
    train, test = (Examples(image, np.zeros(n, np.int32)) for n, image in images.items())
    return Dataset(train, test, Normalize(np.zeros(1), np.ones(1)), "pets", ("cat", "dog"))


PLANE = {
    "spirals": {
        "none": {"unsure": [0.1, 0.12, 0.11], "error": [0.04, 0.05, 0.06], "probability": [0.0, 0.25, 0.5, 1.0]},
        "mixup": {"unsure": [0.3, 0.32, 0.31], "error": [0.01, 0.021, 0.029], "probability": [0.5] * 4},
        "manifold": {"unsure": [0.1, 0.32, 0.01], "error": [0.14, 0.151, 0.159], "probability": [0.5] * 4},
    }
}
