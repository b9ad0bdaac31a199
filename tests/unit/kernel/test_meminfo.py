"""The figures of /proc/meminfo for allocators that are not traced, and when a report shows them."""

from __future__ import annotations

import pytest

from leaktrace.abi.kernel import Section
from leaktrace.kernel.meminfo import read_held, untraced_growth

MEMINFO = """\
MemTotal:        8021464 kB
VmallocTotal:   34359738367 kB
VmallocUsed:      121592 kB
VmallocChunk:          0 kB
Percpu:              776 kB
HugePages_Total:       0
"""
MIB = 1 << 20


def test_fields() -> None:
    assert read_held(MEMINFO) == {Section.VMALLOC: 121592 * 1024, Section.PERCPU: 776 * 1024}
    assert read_held("MemTotal: 1 kB\nPercpu: many kB\nVmallocUsed:\n") == {}


@pytest.mark.parametrize(
    ("grown_bytes", "outstanding_bytes", "is_told"),
    [
        (2 * MIB, 0, True),
        (MIB, 0, True),
        (MIB - 1, 0, False),
        (10 * MIB, 99 * MIB, True),
        (10 * MIB, 101 * MIB, False),
        (-10 * MIB, 0, False),
    ],
)
def test_what_matters(grown_bytes: int, outstanding_bytes: int, is_told: bool) -> None:
    first = {Section.VMALLOC: 100 * MIB, Section.PERCPU: MIB}
    now = first | {Section.VMALLOC: 100 * MIB + grown_bytes}
    found = untraced_growth(first, now, {Section.SLAB}, outstanding_bytes)
    assert [one.section for one in found] == (["vmalloc"] if is_told else [])
    assert untraced_growth(first, now, {Section.SLAB, Section.VMALLOC}, outstanding_bytes) == ()


def test_largest_first_and_nothing_that_is_not_reported() -> None:
    first = {Section.VMALLOC: 0, Section.PERCPU: 0}
    now = {Section.VMALLOC: 2 * MIB, Section.PERCPU: 3 * MIB}
    both = untraced_growth(first, now, (), 0)
    assert [(one.option, one.bytes) for one in both] == [
        ("--percpu", 3 * MIB), ("--vmalloc", 2 * MIB),
    ]  # fmt: skip
    assert untraced_growth({}, now, (), 0) == untraced_growth(first, {}, (), 0) == ()
