"""Whether a range lies in mapped regions altogether, compared page by page."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from leaktrace.process.regions import RegionLedger

PAGE = os.sysconf("SC_PAGESIZE")
PAGES = st.tuples(st.integers(1, 20), st.integers(1, 8))  # first page, how many


@given(st.lists(st.tuples(st.booleans(), PAGES), max_size=12), PAGES)
def test_covers(steps: list[tuple[bool, tuple[int, int]]], asked: tuple[int, int]) -> None:
    ledger, mapped = RegionLedger(), set[int]()
    for adds, (first, count) in steps:
        pages = set(range(first, first + count))
        if adds:
            ledger.add(first * PAGE, count * PAGE - 7, 0, 0)
            mapped |= pages
        else:
            ledger.release(first * PAGE, count * PAGE)
            mapped -= pages
    first, count = asked
    assert ledger.covers(first * PAGE, count * PAGE) == set(range(first, first + count)).issubset(
        mapped
    )
    assert not ledger.covers(first * PAGE, 0)
