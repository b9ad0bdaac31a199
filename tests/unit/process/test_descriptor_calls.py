"""The system calls that open descriptors, against the C headers of this machine."""

from __future__ import annotations

import os
import re
import subprocess

import numpy as np
import pytest

from leaktrace.abi import process as abi
from leaktrace.arch.x86_64_system_calls import NUMBERS
from leaktrace.process.descriptor_calls import Kind, encoded

_NEWER_THAN_HEADERS = {"open_tree_attr"}  # newer than the headers that distributions have


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86-64")
def test_numbers() -> None:
    text = subprocess.run(
        ["cc", "-E", "-dM", "-include", "sys/syscall.h", "-x", "c", "/dev/null"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    known = {name: int(number) for name, number in re.findall(r"__NR_(\w+) (\d+)$", text, re.M)}
    assert NUMBERS.keys() - known.keys() <= _NEWER_THAN_HEADERS
    for name, number in NUMBERS.items():
        assert known.get(name, number) == number, name


def test_each_has_its_entry() -> None:
    entries = dict(encoded())
    assert sorted(entries) == sorted(NUMBERS.values())
    assert max(entries) < abi.SYSTEM_CALLS
    for value in entries.values():
        action = abi.DescriptorAction(int(value["action"][0]))
        assert action is not abi.DescriptorAction.NOTHING
        if action is abi.DescriptorAction.OPENS_TWO or value["condition"][0]:
            assert value["argument"][0] in range(1, 6)


def test_kinds_fit_in_a_record() -> None:
    assert max(Kind) < 1 << 8
    assert np.uint64(max(Kind)) << np.uint64(abi.DESCRIPTOR_KIND_SHIFT) < np.uint64(1 << 63)
    assert Kind.of(int(Kind.SOCKET)) is Kind.SOCKET
    assert Kind.of(255) is Kind.UNKNOWN
    assert Kind.PERF_EVENT.shown == "perf event"
