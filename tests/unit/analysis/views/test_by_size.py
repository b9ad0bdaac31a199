"""A report by the sizes of its blocks: each block is in one row, with its bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_reports import BUSY, PARSE_SITE
from sample_sizes import SIZED, WITHOUT_BYTES, sized

from leaktrace.analysis.quantities import Quantity
from leaktrace.analysis.views.by_size import refuse_without_sizes
from leaktrace.analysis.views.filters import site_filter
from leaktrace.analysis.views.groups import View, select, view
from leaktrace.analysis.views.places import UNKNOWN, Grouping, Place
from leaktrace.errors import UsageError
from leaktrace.model import PairInfo, Report

block_sizes = st.one_of(st.integers(0, 70), st.integers(0, 1 << 40))
lists_of_blocks = st.lists(st.lists(block_sizes, max_size=20), max_size=5)
quantities = st.sampled_from([Quantity.IN_USE, Quantity.IN_USE_BLOCKS])


def report_of(blocks: list[list[int]]) -> Report:
    """A site for each list of blocks."""
    sites = [
        sized(replace(PARSE_SITE, id=f"{number:016x}"), one) for number, one in enumerate(blocks)
    ]
    return replace(BUSY, sites=tuple(sites), site_count=len(sites))


def by_size(report: Report, quantity: Quantity = Quantity.IN_USE) -> View:
    return view(select(report, quantity), Grouping.SIZE)


@given(lists_of_blocks, quantities)
def test_every_block_is_in_the_row_of_its_size(blocks: list[list[int]], quantity: Quantity) -> None:
    shown = by_size(report_of(blocks), quantity)
    assert shown.notes == ()
    for row in shown.rows:
        assert row.place.below_bytes is not None
        low, high = row.place.below_bytes // 2, row.place.below_bytes
        each = [[size for size in one if low <= size < high] for one in blocks]
        assert row.held is not None
        assert (row.held.bytes, row.held.blocks) == (sum(map(sum, each)), sum(map(len, each)))
        assert row.own == (row.held.bytes if quantity is Quantity.IN_USE else row.held.blocks)
        assert sorted((one.site.id, one.held.bytes, one.held.blocks) for one in row.shares) == [
            (f"{number:016x}", sum(one), len(one)) for number, one in enumerate(each) if one
        ]
    everything = [size for one in blocks for size in one]
    whole = sum(everything) if quantity is Quantity.IN_USE else len(everything)
    assert sum(row.own for row in shown.rows) == whole


@given(lists_of_blocks)
def test_without_bytes_blocks_are_still_known(blocks: list[list[int]]) -> None:
    """Recordings of older versions: of sites with several sizes only the blocks are known."""
    report = report_of(blocks)
    older = replace(report, sites=tuple(replace(one, size_bytes=()) for one in report.sites))
    for quantity in (Quantity.IN_USE, Quantity.IN_USE_BLOCKS):
        rows = by_size(older, quantity).rows
        assert sum(row.own for row in rows) == sum(map(quantity.of, report.sites))
    exact = {row.place: row.own for row in by_size(report, Quantity.IN_USE_BLOCKS).rows}
    assert {row.place: row.own for row in rows} == exact
    # No number is shown for bytes that are not known.
    known = {row.place: row.held for row in by_size(report, Quantity.IN_USE_BLOCKS).rows}
    for row in rows:
        assert row.held is not None
        assert row.held.bytes is None or row.held == known[row.place]


def test_what_is_not_known_is_one_row() -> None:
    shown = by_size(WITHOUT_BYTES)
    (note,) = shown.notes
    assert "older" in note
    assert "in-use-blocks" in note
    rows = {row.place: row.own for row in shown.rows}
    parse, cache, lost = WITHOUT_BYTES.sites
    assert rows == {UNKNOWN: parse.bytes + lost.bytes, Place(below_bytes=1 << 22): cache.bytes}


def test_filters_work_as_in_other_views() -> None:
    selection = select(SIZED, Quantity.IN_USE, site_filter(focus="copy_token"))
    rows = view(selection, Grouping.SIZE).rows
    assert sum(row.own for row in rows) == PARSE_SITE.bytes == selection.shown
    assert [row.place.below_bytes for row in rows] == [2048, 128]


def test_objects_without_sizes() -> None:
    pair = PairInfo("open_session", "close_session")
    counted = replace(SIZED, pair=pair, section="sessions", sections=())
    shown = by_size(counted, Quantity.IN_USE_BLOCKS)
    (row,) = shown.rows
    assert row.place == UNKNOWN
    assert row.held is not None
    assert row.held.bytes is None
    assert shown.notes
    with pytest.raises(UsageError, match="have no sizes"):
        refuse_without_sizes(counted)
    refuse_without_sizes(replace(SIZED, sections=(counted,)))


def test_reports_without_sizes_are_refused() -> None:
    refuse_without_sizes(SIZED)
    refuse_without_sizes(replace(BUSY, sites=()))  # nothing to show
    with pytest.raises(UsageError, match="--record") as caught:
        refuse_without_sizes(BUSY)
    assert caught.value.hint
    with pytest.raises(UsageError, match="--combined-only"):
        refuse_without_sizes(replace(BUSY, combined=True))
