"""Reports about several processes, from snapshots written by hand: every figure is known in
advance, or counted by plain Python from the list that the snapshot was made of."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hand_made_families import (
    OF_PROCESS,
    build,
    family,
    in_slots,
    lines,
    locations_of,
    member,
    stack_of,
    timeless,
)
from hand_made_snapshots import (
    MIB,
    STACKS,
    TARGET,
    Counted,
    Held,
    builder,
    memory,
    names,
    options,
    snapshot,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from leaktrace.analysis.family import FamilyBuilder
from leaktrace.analysis.sampling import Sampling
from leaktrace.options import By, Filters, ReportOptions
from leaktrace.reach import Holder
from leaktrace.site import ProcessShare, StackEnd, Total

HELD = st.builds(
    Held,
    stack_id=st.sampled_from([0, 1, 2, 3, 77]),
    size=st.integers(0, 1 << 40),
    age_ms=st.integers(0, 2000),
)

# -- one process --


@settings(max_examples=50)
@given(
    shots=st.lists(st.lists(HELD, max_size=8), min_size=1, max_size=3),
    rate=st.sampled_from([1, 10]),
    has_slots=st.booleans(),
)
def test_reports_about_one_process_are_those_of_the_plain_builder(
    shots: list[list[Held]], rate: int, has_slots: bool
) -> None:
    filters = Filters(sample_rate=rate)
    asked = ReportOptions(show_allocs=True, by=By.PROCESS)
    alone, expected = family(asked, filters), builder(asked, filters)
    for held in shots:
        shot = snapshot(held)
        of_family = in_slots([(0, one) for one in held]) if has_slots else shot
        grown = memory(64)
        remarks: dict[str, Any] = {"final_reason": "why", "target_ended": True}
        one = alone.build(of_family, TARGET, [member(0)], grown, **remarks)
        other = expected.build(shot, TARGET, grown, **remarks)
        assert timeless(one) == timeless(other)
        assert (one.processes, one.by_process, one.target.pids) == ((), (), ())


# -- sites of several processes --


def test_a_call_path_of_several_processes_is_one_site() -> None:
    shot = in_slots(
        [(0, Held(1, 100)), (1, Held(1, 300)), (1, Held(1, 50)), (2, Held(2, 7)), (1, Held(2, 5))]
    )
    report = build(family(), shot, [member(0), member(1), member(2)])
    assert (report.outstanding, report.site_count) == (Total(462, 5), 2)
    assert names(report) == ["one", "two"]
    one, two = report.sites
    assert (one.bytes, one.count, one.allocated_bytes) == (450, 3, 450)
    assert one.processes == (ProcessShare(4243, 350, 2), ProcessShare(4242, 100, 1))
    assert two.processes == (ProcessShare(4244, 7, 1), ProcessShare(4243, 5, 1))
    assert report.target.pids == (4242, 4243, 4244)
    assert [line.site_count for line in report.processes] == [2, 1, 1]
    assert report.stack_ends == {StackEnd.COMPLETE: 1, StackEnd.GUESSED: 1}


@settings(max_examples=100)
@given(
    held=st.lists(st.tuples(st.integers(0, 4), HELD), max_size=30),
    by=st.sampled_from(By),
    older_ms=st.sampled_from([0, 500]),
)
def test_figures_are_those_of_the_list(held: list[tuple[int, Held]], by: By, older_ms: int) -> None:
    members = [member(slot) for slot in range(5)]
    asked = ReportOptions(by=by, older_ms=older_ms, show_allocs=True)
    report = build(family(asked), in_slots(held), members)
    old = [(slot, one) for slot, one in held if one.age_ms >= older_ms]

    for each in members:
        sizes = [one.size for slot, one in held if slot == each.slot]
        outstanding, growth = lines(report)[each.pid]
        assert (outstanding, growth) == (Total(sum(sizes), len(sizes)), None)
    assert report.outstanding.bytes == sum(one.size for _, one in held)
    assert report.outstanding.count == len(held)

    # A stack that was lost is the same site for all; one that isn't stored is one of a process.
    def site_of(slot: int, one: Held) -> str:
        lost = 0 if one.stack_id == 0 else slot * OF_PROCESS + one.stack_id
        known = STACKS.get(one.stack_id)
        return str(known.frames[0].function) if known is not None else f"{lost:016x}"

    expected: dict[str, Counter[int]] = {}
    for slot, one in old:
        expected.setdefault(site_of(slot, one), Counter())[4242 + slot] += one.size
    actual = {
        site.stack.frames[0].function if site.stack.frames else site.id: site
        for site in report.sites
    }
    if report.site_count <= report.top:
        assert actual.keys() == expected.keys()
    for name, site in actual.items():
        assert {share.pid: share.bytes for share in site.processes} == expected[str(name)]
        assert site.count == sum(share.count for share in site.processes)
        assert site.bytes == sum(share.bytes for share in site.processes)
    assert report.allocations is not None
    assert Counter((one.pid, one.size_bytes) for one in report.allocations) == Counter(
        (4242 + slot, one.size) for slot, one in old
    )
    assert len(report.by_process) == (5 if by is By.PROCESS else 0)
    for part in report.by_process:
        own = Counter(site_of(slot, one) for slot, one in old if 4242 + slot == part.target.pid)
        assert part.site_count == len(own)
        assert sum(site.count for site in part.sites) == sum(own.values())


def test_a_report_by_process_shows_the_sites_and_addresses_of_each() -> None:
    shot = in_slots([(0, Held(1, 100)), (1, Held(1, 300)), (1, Held(2, 5))])
    asked = ReportOptions(by=By.PROCESS, top=1, show_allocs=True)
    prepared: list[list[int]] = []
    reports = family(asked, prepare=lambda ids: prepared.append(list(ids)))
    report = build(reports, shot, [member(0, traced_s=9.5), member(1)])
    one, other = report.by_process
    assert (one.target.pid, one.target.command, one.outstanding) == (4243, "worker1", Total(305, 2))
    assert (other.target.pid, other.elapsed_s, other.number) == (4242, 9.5, 1)
    assert [(names(part), part.site_count) for part in (one, other)] == [(["one"], 2), (["one"], 1)]
    assert one.sites[0].stack.frames[0].address == 0x1010 + MIB
    assert other.sites[0].stack.frames[0].address == 0x1010
    assert one.sites[0].id == other.sites[0].id == report.sites[0].id
    assert [share.pid for share in report.sites[0].processes] == [4243, 4242]
    assert one.allocations is not None
    assert [(a.size_bytes, a.pid) for a in one.allocations] == [(5, None), (300, None)]
    assert [set(ids) for ids in prepared] == [{1, 101}]  # once, and all that are shown


def test_a_library_that_a_process_loaded_again_is_one_site_of_it() -> None:
    def same(stack_id: int) -> int | None:
        return 1 if stack_id in (101, 102) else locations_of(stack_id)

    shot = in_slots(
        [(0, Held(1, 1)), (1, Held(1, 10)), (1, Held(2, 100)), (1, Held(3, 1000))],
        [
            (0, Counted(1, (2, 2))),
            (1, Counted(1, (20, 2))),
            (1, Counted(2, (200, 2))),
            (1, Counted(3, (1000, 1))),
        ],
        freed_is_counted=False,
    )
    reports = FamilyBuilder(options(ReportOptions(by=By.PROCESS)), lambda _: (), stack_of, same)
    report = build(reports, shot, [member(0), member(1)])
    assert report.sites[1].processes == (ProcessShare(4243, 110, 2), ProcessShare(4242, 1, 1))
    assert (report.sites[1].allocated_bytes, report.sites[1].freed_bytes) == (222, 111)
    (_, site) = report.by_process[0].sites
    assert (site.bytes, site.allocated_bytes, site.freed_bytes, site.freed_count) == (
        110,
        220,
        110,
        2,
    )


def test_lost_stacks_of_several_processes_are_told_apart() -> None:
    """Stack id 0 is the same in all of them, and so are its counters."""
    shot = in_slots(
        [(0, Held(0, 100)), (1, Held(0, 300))],
        [(0, Counted(0, (1000, 10)))],
        freed_is_counted=False,
    )
    report = build(family(ReportOptions(by=By.PROCESS)), shot, [member(0), member(1)])
    (site,) = report.sites
    assert site.processes == (ProcessShare(4243, 300, 1), ProcessShare(4242, 100, 1))
    assert (site.allocated_bytes, site.freed_bytes) == (1000, 600)
    for part, held in zip(report.by_process, (300, 100), strict=True):
        (own,) = part.sites
        assert (own.bytes, own.allocated_bytes, own.freed_bytes) == (held, held, 0)


def test_combined_statistics_of_several_processes() -> None:
    counted = [
        (0, Counted(1, (1000, 10), (400, 4))),
        (1, Counted(1, (50, 5), (10, 1))),
        (1, Counted(2, (8, 8), (8, 8))),
        (0, Counted(0, (7, 7))),
    ]
    asked = ReportOptions(combined_only=True)
    report = build(family(asked), in_slots([], counted), [member(0), member(1)])
    assert report.outstanding == Total(647, 17)
    assert lines(report) == {4242: (Total(607, 13), None), 4243: (Total(40, 4), None)}
    assert report.sites[0].processes == (ProcessShare(4242, 600, 6), ProcessShare(4243, 40, 4))


# -- estimates --


def test_regions_of_each_process_are_not_scaled() -> None:
    """They are the last records, whichever slots they have."""
    shot = in_slots(
        [(1, Held(1, 100)), (0, Held(1, 10)), (0, Held(2, 4096)), (1, Held(2, 8192))],
        region_count=2,
    )
    report = build(family(filters=Filters(sample_rate=10)), shot, [member(0), member(1)])
    assert lines(report) == {
        4242: (Total(4096 + 100, 11), None),
        4243: (Total(8192 + 1000, 11), None),
    }
    assert report.outstanding == Total(4196 + 9192, 22)


def test_sampling_that_starts_later_holds_for_all() -> None:
    reports = family()
    shot = in_slots([(0, Held(1, 10)), (1, Held(1, 100))])
    build(reports, shot, [member(0), member(1)])
    reports.sampling = Sampling(rate=10)
    shot = in_slots([(0, Held(1, 10)), (1, Held(1, 100)), (2, Held(1, 1000))])
    report = build(reports, shot, [member(0), member(1), member(2)])
    assert report.is_estimate
    assert [line.outstanding for line in report.processes] == [
        Total(10_000, 10),
        Total(1000, 10),
        Total(100, 10),
    ]


def test_who_holds_the_blocks_is_asked_for_each_process() -> None:
    """For the sites of all, and with --by process for those of each."""
    asked: list[tuple[int, int | None]] = []

    def held_by(stack_id: int, slot: int | None) -> tuple[Holder, ...]:
        asked.append((stack_id, slot))
        return (Holder((), 1 if slot is None else 10 + slot, 1),)

    reports = family(ReportOptions(by=By.PROCESS))
    reports.held_by = held_by
    held = [(slot, Held(stack_id=1, size=100, age_ms=1000)) for slot in (0, 1)]
    members = [member(0), member(1)]
    report = build(reports, in_slots(held), members)
    assert [one.count for site in report.sites for one in site.holders] == [1]
    found = {
        part.target.pid: [one.count for site in part.sites for one in site.holders]
        for part in report.by_process
    }
    assert found == {4242: [10], 4243: [11]}
    assert {slot for _, slot in asked} == {None, 0, 1}
    assert len({stack_id for stack_id, _ in asked}) == 1
