"""What the papers report, for a reader to hold beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jax_mix.compare.summary import Found
from jax_mix.compare.sweep import family, told


class Table(NamedTuple):
    """Test errors in %, a row of them for each setting."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


TABLES = (
    Table(
        "Manifold Mixup (arXiv:1806.05236), PreActResNet-18, 1,200 epochs: test error, %",
        ("data", "no mixing", "MixUp", "Manifold Mixup"),
        (
            ("CIFAR-10", "4.83", "3.82", "2.95"),
            ("CIFAR-100", "24.01", "22.11", "20.34"),
            ("SVHN", "2.89", "2.76", "2.27"),
        ),
    ),
    Table(
        "mixup (arXiv:1710.09412), CIFAR-10 with random labels, best epoch: test error, %",
        ("random labels", "no mixing", "MixUp"),
        (("20%", "12.7", "5.9"), ("50%", "18.8", "11.3"), ("80%", "36.5", "25.3")),
    ),
)
ORDER = ("manifold", "mixup", "none")  # from the lowest test error, in all three rows of the first table


class Said(NamedTuple):
    """What the papers say of mixing, and the numbers that tell whether it is so."""

    text: str
    key: str  # that the columns of cells.csv begin with
    wrong_labels: bool = False


SAID = (
    Said("Test error is lower", "last_error"),
    Said("Likelihood is better (NLL)", "last_nll"),
    Said("Confidence is better calibrated (ECE)", "last_ece"),
    Said("Wrong labels hurt less", "last_error", wrong_labels=True),
    Said("One-step attacks fool it less (FGSM)", "fgsm"),
)


def held(found: Sequence[Sequence[Found]]) -> list[tuple[str, str]]:
    """Each of `SAID`, and for which methods it holds: at every level or radius, or in part."""
    lines = []
    for said in SAID:
        about = [
            line
            for line in found
            if line[0].claim.key.startswith(said.key) and (line[0].claim.noise > 0) == said.wrong_labels
        ]
        verdicts: dict[str, list[str]] = {}
        for of_method in zip(*about, strict=True):
            seen = {each.difference.verdict for each in of_method if each.difference}
            if seen:
                verdicts.setdefault(_in_a_word(seen), []).append(of_method[0].method)
        words = [f"{word} {told(verdicts[word])}" for word in _WORDS if word in verdicts]
        lines.append((said.text, "; ".join(words) if words else "not known"))
    return lines


_WORDS = ("holds for", "holds in part for", "does not hold for", "undecided for")


def _in_a_word(verdicts: set[str]) -> str:
    if verdicts == {"undecided"}:
        return "undecided for"
    if "better" not in verdicts:
        return "does not hold for"
    return "holds for" if verdicts == {"better"} else "holds in part for"


def order(error: Sequence[Found]) -> tuple[list[Found], bool | None]:
    """The methods from the lowest test error, each at its best alpha; and whether that is `ORDER`, if all are there."""
    best: dict[str, Found] = {}
    for each in sorted((each for each in error if each.values), key=lambda each: each.mean):
        best.setdefault(family(each.method), each)
    ours = tuple(name for name in best if name in ORDER)
    return list(best.values()), ours == ORDER if len(ours) == len(ORDER) else None
