"""The list of planted.py can be used: each fault has its place, and each test is there."""

import re

import pytest

from parity_tests.faults import ROOT
from parity_tests.planted import FAULTS


@pytest.mark.parametrize("file", sorted({fault.file for fault in FAULTS}))
def test_each_text_stands_once_in_its_file(file):
    text = (ROOT / "jax_mix" / file).read_text(encoding="utf-8")
    for fault in FAULTS:
        if fault.file == file:
            assert text.count(fault.old) == 1, fault.old
            assert fault.new != fault.old


def test_each_test_is_there():
    for path, name in {tuple(fault.test.split("::")) for fault in FAULTS}:
        text = (ROOT / "parity_tests" / path).read_text(encoding="utf-8")
        assert re.search(rf"^def {name}\(", text, re.MULTILINE), f"{path}::{name}"


def test_no_fault_is_there_twice():
    assert len(set(FAULTS)) == len(FAULTS) > 60
