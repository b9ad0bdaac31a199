"""Reports from snapshots written by hand: every figure is known in advance."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hand_made_snapshots import (
    MS,
    STACKS,
    Counted,
    Held,
    build,
    builder,
    memory,
    names,
    options,
    snapshot,
)

from leaktrace.analysis.builder import ReportBuilder
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.model import Loss
from leaktrace.options import (
    Filters,
    ReportOptions,
    SortKey,
    Suppression,
)
from leaktrace.site import Stack, StackEnd, Total

# -- totals and sites --


def test_totals_and_sites_of_one_snapshot() -> None:
    report = build(builder(), snapshot([Held(1, 100), Held(2, 700), Held(1, 50, age_ms=3000)]))
    assert report.outstanding == Total(850, 3)
    assert report.younger == Total(0, 0)
    assert report.site_count == 2
    assert names(report) == ["two", "one"]
    two, one = report.sites
    assert (two.bytes, two.count, one.bytes, one.count) == (700, 1, 150, 2)
    assert (one.oldest_ns, one.newest_ns) == (3000 * MS, 1000 * MS)
    assert report.stack_ends == {StackEnd.COMPLETE: 1, StackEnd.GUESSED: 1}
    assert (report.number, report.final, report.reason) == (1, False, "")


def test_the_largest_sites_are_shown_and_all_are_counted() -> None:
    shot = snapshot([Held(1, 100), Held(2, 700), Held(3, 400)])
    report = build(builder(ReportOptions(top=2)), shot)
    assert names(report) == ["two", "three"]
    assert (report.site_count, report.top) == (3, 2)
    assert report.outstanding == Total(1200, 3)


@pytest.mark.parametrize(
    ("key", "order"),
    [
        (SortKey.SIZE, ["two", "three", "one"]),
        (SortKey.COUNT, ["one", "two", "three"]),
        (SortKey.AGE, ["three", "one", "two"]),
    ],
)
def test_order_of_sites(key: SortKey, order: list[str]) -> None:
    held = [Held(1, 1, 2000), Held(1, 1), Held(1, 1), Held(2, 700), Held(3, 400, 3000)]
    assert names(build(builder(ReportOptions(sort=key)), snapshot(held))) == order


def test_the_stacks_of_a_report_are_prepared_before_they_are_asked_for() -> None:
    calls: list[object] = []

    def stack_of(stack_id: int) -> Stack:
        calls.append(stack_id)
        return STACKS[stack_id]

    reports = ReportBuilder(options(ReportOptions(top=2)), lambda _: (), stack_of, calls.append)
    build(reports, snapshot([Held(1, 100), Held(2, 700), Held(3, 400)]))
    assert calls[0] == [2, 3]
    assert set(calls[1:]) == {2, 3}


def test_losses_are_described() -> None:
    loss = Loss("stacks", 3, "stacks not stored")
    shot = snapshot([Held(1, 100)])
    asked: list[Snapshot] = []

    def describe(one: Snapshot) -> tuple[Loss, ...]:
        asked.append(one)
        return (loss,)

    report = build(ReportBuilder(options(), describe, STACKS.__getitem__), shot)
    assert report.losses == (loss,)
    assert asked == [shot]


# -- ages --


def test_young_allocations_are_left_out_of_the_sites() -> None:
    held = [Held(1, 100), Held(1, 10, age_ms=499), Held(2, 7, age_ms=0), Held(2, 5, age_ms=500)]
    report = build(builder(ReportOptions(older_ms=500)), snapshot(held))
    assert report.outstanding == Total(122, 4)
    assert report.younger == Total(17, 2)
    assert [(site.bytes, site.count) for site in report.sites] == [(100, 1), (5, 1)]
    assert report.older_ms == 500


def test_a_record_from_after_the_snapshot_is_of_age_0() -> None:
    report = build(builder(ReportOptions(older_ms=0)), snapshot([Held(1, 100, age_ms=-5)]))
    assert report.sites[0].oldest_ns == 0


@pytest.mark.parametrize(("given", "shown"), [(False, 2), (True, 1)])
def test_a_process_that_has_ended_frees_nothing_more(given: bool, shown: int) -> None:
    asked = ReportOptions(older_ms=500, older_was_given=given)
    held = [Held(1, 100), Held(2, 10, age_ms=1)]
    report = build(builder(asked), snapshot(held), target_ended=True, final_reason="ended")
    assert report.site_count == shown
    assert report.younger == (Total(10, 1) if given else Total(0, 0))
    assert (report.final, report.reason) == (True, "ended")


# -- growth --


def test_growth_since_the_last_report() -> None:
    reports = builder()
    first = build(reports, snapshot([Held(1, 100), Held(2, 50)]))
    assert first.growth_bytes is None
    assert [site.growth_bytes for site in first.sites] == [None, None]
    second = build(reports, snapshot([Held(1, 100), Held(1, 30), Held(3, 5)]))
    assert second.growth_bytes == 135 - 150
    assert {site.stack.frames[0].function: site.growth_bytes for site in second.sites} == {
        "one": 30,
        "three": 5,  # it held nothing before
    }
    assert second.number == 2


def test_growth_is_measured_for_sites_that_are_not_shown() -> None:
    reports = builder(ReportOptions(top=1))
    build(reports, snapshot([Held(1, 100), Held(2, 50)]))
    second = build(reports, snapshot([Held(1, 100), Held(2, 150)]))
    assert (names(second), second.sites[0].growth_bytes) == (["two"], 100)


def test_sites_sorted_by_growth() -> None:
    reports = builder(ReportOptions(sort=SortKey.GROWTH))
    build(reports, snapshot([Held(1, 100), Held(2, 50)]))
    second = build(reports, snapshot([Held(1, 100), Held(2, 60), Held(3, 1)]))
    assert names(second) == ["two", "three", "one"]


def test_after_exec_nothing_is_compared_with_what_was_before() -> None:
    reports = builder()
    build(reports, snapshot([Held(1, 100)]), memory(64))
    reports.forget()
    after = build(reports, snapshot([Held(1, 30)]), memory(80))
    assert after.growth_bytes is None
    assert after.sites[0].growth_bytes is None
    assert after.resident is not None
    assert after.resident.growth_bytes is None
    assert after.number == 2
    third = build(reports, snapshot([Held(1, 40)]))
    assert (third.growth_bytes, third.sites[0].growth_bytes) == (10, 10)


# -- what sites have freed --


def test_what_was_freed_is_what_was_allocated_and_is_not_held() -> None:
    shot = snapshot([Held(1, 100), Held(1, 20)], [Counted(1, (1000, 10))], freed_is_counted=False)
    (site,) = build(builder(), shot).sites
    assert (site.allocated_bytes, site.allocated_count) == (1000, 10)
    assert (site.freed_bytes, site.freed_count) == (880, 8)


def test_freed_is_never_negative() -> None:
    """The counters were read before the allocations."""
    shot = snapshot([Held(1, 100), Held(1, 20)], [Counted(1, (100, 1))], freed_is_counted=False)
    (site,) = build(builder(), shot).sites
    assert (site.freed_bytes, site.freed_count) == (0, 0)


def test_the_counters_of_regions_contain_what_was_freed() -> None:
    shot = snapshot(
        [Held(1, 8192)],
        [Counted(1, (16384, 2), (4096, 1), is_region=True)],
        freed_is_counted=False,
        region_count=1,
    )
    (site,) = build(builder(), shot).sites
    assert (site.freed_bytes, site.freed_count) == (4096, 1)


def test_a_hole_in_a_region_makes_no_negative_count() -> None:
    freed = (4096, (1 << 64) - 1)  # one call mapped what are two regions now
    shot = snapshot([Held(1, 4096)], [Counted(1, (12288, 1), freed, is_region=True)])
    (site,) = build(builder(), shot).sites
    assert site.freed_count == 0


# -- combined statistics --


def test_combined_statistics_come_from_the_counters_alone() -> None:
    counted = [Counted(1, (1000, 10), (400, 4)), Counted(2, (50, 5), (50, 5))]
    report = build(builder(ReportOptions(combined_only=True)), snapshot([], counted))
    assert report.combined
    assert report.outstanding == Total(600, 6)
    assert report.site_count == 1
    (site,) = report.sites
    assert (site.bytes, site.count, site.oldest_ns, site.newest_ns) == (600, 6, None, None)
    assert (site.freed_bytes, site.freed_count) == (400, 4)
    assert (report.older_ms, report.younger) == (0, Total(0, 0))


# -- single allocations --


def test_allocations_are_listed_by_size_then_address() -> None:
    held = [
        Held(1, 100, 2000, 0x30),
        Held(2, 50, 1000, 0x20),
        Held(1, 50, 3000, 0x10),
        Held(1, 9, 1, 0x40),
    ]
    report = build(builder(ReportOptions(show_allocs=True, older_ms=500)), snapshot(held))
    assert report.allocations is not None
    assert [(one.address, one.size_bytes, one.age_ns) for one in report.allocations] == [
        (0x10, 50, 3000 * MS),
        (0x20, 50, 1000 * MS),
        (0x30, 100, 2000 * MS),
    ]
    ids = {site.stack.frames[0].function: site.id for site in report.sites}
    assert [one.site_id for one in report.allocations] == [ids["one"], ids["two"], ids["one"]]


def test_allocations_are_not_listed_unless_requested() -> None:
    assert build(builder(), snapshot([Held(1, 100)])).allocations is None


# -- lost stacks --


def test_a_lost_stack_is_a_site_whose_id_holds_for_this_run() -> None:
    report = build(
        builder(ReportOptions(show_allocs=True)), snapshot([Held(0, 100), Held(0x77, 50)])
    )
    assert [site.id for site in report.sites] == [f"{0:016x}", f"{0x77:016x}"]
    assert [site.stack.end for site in report.sites] == [StackEnd.LOST, StackEnd.LOST]
    assert report.allocations is not None
    assert {one.site_id for one in report.allocations} == {f"{0:016x}", f"{0x77:016x}"}


def test_a_site_without_counters_has_allocated_what_it_holds() -> None:
    report = build(builder(), snapshot([Held(1, 100), Held(1, 20)], counted=[]))
    (site,) = report.sites
    assert (site.allocated_bytes, site.allocated_count) == (120, 2)
    assert (site.freed_bytes, site.freed_count) == (0, 0)
    assert report.stack_ends == {StackEnd.LOST: 1}
    assert site.stack == STACKS[1]


def test_ids_are_the_same_in_another_run() -> None:
    """The stack ids of the kernel differ, the stacks don't."""
    (one,) = build(builder(), snapshot([Held(1, 100)])).sites
    other = ReportBuilder(options(), lambda _: (), lambda _: STACKS[1])
    (again,) = build(other, snapshot([Held(99, 100)])).sites
    assert one.id == again.id


# -- estimates --


def test_estimates_are_scaled_and_regions_are_not() -> None:
    held = [Held(1, 100), Held(1, 100), Held(2, 8192)]
    counted = [Counted(1, (300, 3)), Counted(2, (8192, 1), is_region=True)]
    report = build(
        builder(filters=Filters(sample_rate=10)), snapshot(held, counted, region_count=1)
    )
    assert report.is_estimate
    assert report.outstanding == Total(8192 + 2000, 21)
    figures = {site.stack.frames[0].function: site for site in report.sites}
    assert (figures["one"].bytes, figures["one"].count) == (2000, 20)
    assert (figures["one"].allocated_bytes, figures["one"].allocated_count) == (3000, 30)
    assert (figures["two"].bytes, figures["two"].allocated_bytes) == (8192, 8192)
    # Two allocations with weight 10: the variance is 2 * 10 * 9 of the count.
    assert report.error == Total(round(100 * 180**0.5), round(180**0.5))
    assert figures["two"].error == Total(0, 0)


# -- suppressed sites --


def test_suppressed_sites_are_in_the_totals_alone() -> None:
    shot = snapshot([Held(1, 100), Held(2, 700), Held(3, 400, age_ms=1), Held(2, 7)])
    asked = replace(options(ReportOptions(top=1)), suppressions=(Suppression("tw*", "a file"),))
    report = build(ReportBuilder(asked, lambda _: (), STACKS.__getitem__), shot)
    assert names(report) == ["one"]
    assert (report.outstanding, report.site_count) == (Total(1207, 4), 2)
    assert report.suppressed is not None
    assert (report.suppressed.site_count, report.suppressed.held) == (1, Total(707, 2))
    again = build(ReportBuilder(options(), lambda _: (), STACKS.__getitem__), shot)
    assert again.suppressed is None


def test_suppressed_allocations_are_not_listed() -> None:
    shot = snapshot([Held(1, 100), Held(2, 700)])
    asked = replace(
        options(ReportOptions(show_allocs=True)), suppressions=(Suppression("two", "a file"),)
    )
    report = build(ReportBuilder(asked, lambda _: (), STACKS.__getitem__), shot)
    assert [one.size_bytes for one in report.allocations or ()] == [100]
