"""What the tests measured while they ran, kept for `parity_tests.parity.report`."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np
import pytest


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One comparison that held: how far the two sides were apart."""

    test: str  # pytest's name for it: "parity_tests/parity/test_mixup.py::test_...[...]"
    tolerance: str  # its row in the table of tolerances
    dtype: str
    largest_absolute: float
    largest_relative: float | None  # to the largest magnitude of what is wanted; None where that is 0
    ulps: float | None = None


SLOW = (pytest.mark.long, pytest.mark.ladder)  # of a case that the long tests run, and the report
comparisons: list[Comparison] = []
results: dict[str, Any] = {}  # larger things, by name


def compared(actual: Any, desired: Any, tolerance: str, ulps: float | None = None) -> None:
    """Keep a comparison of two arrays that held."""
    actual, desired = np.asarray(actual), np.asarray(desired)
    wide = np.result_type(actual.dtype, np.float64)
    difference = np.abs(actual.astype(wide) - desired.astype(wide))
    largest = float(np.max(difference, initial=0.0))
    magnitude = float(np.max(np.abs(desired), initial=0.0))
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    relative = largest / magnitude if magnitude else None
    comparisons.append(Comparison(test, tolerance, str(actual.dtype), largest, relative, ulps))
