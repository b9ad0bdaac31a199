"""Regions beside blocks: what sites hold, their order, and the group of the threads' stacks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hand_made_snapshots import MS, NOW_NS, Held, build, builder, names, snapshot

from leaktrace.analysis.regions import REGION, Regions
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.memory import RegionBytes
from leaktrace.model import Report
from leaktrace.options import ReportOptions, SortKey

MIB = 1 << 20


class Mapped(NamedTuple):
    """A mapped region, and what is known of it."""

    stack_id: int
    size: int
    resident: int = 0
    unread: int = 0
    is_stack: bool = False
    age_ms: int = 1000
    slot: int = 0


def with_regions(blocks: list[Held], mapped: list[Mapped], idle: int | None = None) -> Snapshot:
    """A snapshot, in which regions come last."""
    rows = np.zeros(len(mapped), dtype=REGION)
    for row, one in enumerate(mapped):
        rows[row] = (
            *(one.stack_id, one.size, NOW_NS - one.age_ms * MS),
            *(one.resident, 0, one.unread, one.slot, one.is_stack),
        )
    held = [*blocks, *(Held(one.stack_id, one.size, one.age_ms) for one in mapped)]
    return snapshot(held, region_count=len(mapped), regions=Regions(rows, idle_stacks=idle))


def held_at(report: Report) -> list[int]:
    return [site.held_bytes for site in report.sites]


def test_a_reservation_does_not_stand_on_top() -> None:
    shot = with_regions([Held(1, 1000)], [Mapped(2, 64 * MIB, 500), Mapped(3, 8 * MIB, 2000)])
    report = build(builder(), shot)
    assert names(report) == ["three", "one", "two"]
    assert held_at(report) == [2000, 1000, 500]
    assert [site.bytes for site in report.sites] == [8 * MIB, 1000, 64 * MIB]
    assert [site.is_region for site in report.sites] == [True, False, True]
    assert report.outstanding.bytes == 72 * MIB + 1000
    assert report.held_bytes == 3500
    assert report.regions == RegionBytes(2, 72 * MIB, 2500)


def test_what_is_not_known_counts_in_full() -> None:
    shot = with_regions([Held(1, 1000)], [Mapped(2, 2000, unread=2000), Mapped(3, 4000, 100, 500)])
    report = build(builder(), shot)
    assert names(report) == ["two", "one", "three"]
    two, _, three = (site.regions for site in report.sites)
    assert two is not None
    assert three is not None
    assert (two.is_known, three.is_known) == (False, True)
    assert report.regions == RegionBytes(2, 6000, 100, 0, 2500)


def test_a_site_of_blocks_and_regions() -> None:
    report = build(builder(), with_regions([Held(1, 1000)], [Mapped(1, 64 * MIB, 4096)]))
    (site,) = report.sites
    assert (site.bytes, site.held_bytes, site.is_region) == (64 * MIB + 1000, 5096, False)


def test_other_orders_are_not_changed() -> None:
    shot = with_regions([Held(1, 1000, 2000)], [Mapped(2, 64 * MIB, 500), Mapped(2, 4096, 0)])
    for key, order in ((SortKey.COUNT, ["two", "one"]), (SortKey.AGE, ["one", "two"])):
        assert names(build(builder(ReportOptions(sort=key)), shot)) == order


def test_memleak_knows_no_regions() -> None:
    """Its format stays what it is: by requested size, with the stacks of threads."""
    shot = with_regions([Held(1, 1000)], [Mapped(2, 64 * MIB, 500), Mapped(3, 9000, is_stack=True)])
    report = build(builder(ReportOptions(format="memleak")), shot)
    assert names(report) == ["two", "three", "one"]
    assert report.thread_stacks is None


def test_stacks_of_threads_are_a_group() -> None:
    stacks = [Mapped(site, 8 * MIB, 8192, is_stack=True) for site in (2, 3, 3)]
    report = build(builder(), with_regions([Held(1, 1000)], stacks, idle=2))
    assert names(report) == ["one"]
    assert report.site_count == 3
    group = report.thread_stacks
    assert group is not None
    assert group.regions == RegionBytes(3, 24 * MIB, 3 * 8192)
    assert (group.site_count, group.each_bytes, group.idle_count) == (2, 8 * MIB, 2)
    assert [site.count for site in group.sites] == [2, 1]  # the most stacks first
    # The sums add up with them.
    shown = sum(site.bytes for site in (*report.sites, *group.sites))
    assert report.outstanding.bytes == report.younger.bytes + shown


def test_young_regions_are_left_out_of_sites_only() -> None:
    mapped = [Mapped(2, 4 * MIB, 100), Mapped(2, MIB, 50, age_ms=10)]
    report = build(builder(), with_regions([], mapped))
    (site,) = report.sites
    assert site.regions == RegionBytes(1, 4 * MIB, 100)
    assert report.regions == RegionBytes(2, 5 * MIB, 150)
    assert report.younger.bytes == MIB


def test_counters_alone_have_regions_too() -> None:
    shot = with_regions([Held(1, 1000)], [Mapped(2, 64 * MIB, 500)])
    report = build(builder(ReportOptions(combined_only=True)), shot)
    assert names(report) == ["one", "two"]
    assert held_at(report) == [1000, 500]


@pytest.mark.parametrize(("slot", "resident"), [(0, 100), (1, 50)])
def test_of_one_process(slot: int, resident: int) -> None:
    regions = with_regions([], [Mapped(2, MIB, 100), Mapped(2, MIB, 50, slot=1)]).regions
    assert regions.of_slot(slot).total() == RegionBytes(1, MIB, resident)


def test_other_stack_ids() -> None:
    regions = with_regions([], [Mapped(2, MIB), Mapped(3, MIB), Mapped(9, MIB)]).regions
    old, new = np.array([2, 3], dtype=np.uint64), np.array([7, 7], dtype=np.uint64)
    assert regions.renamed(old, new).rows["stack_id"].tolist() == [7, 7, 9]
