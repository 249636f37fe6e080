"""What the papers report, for a reader to hold beside it."""

from __future__ import annotations

from typing import NamedTuple


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
