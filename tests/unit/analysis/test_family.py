"""Reports about several processes, from snapshots written by hand: every figure is known in
advance, or counted by plain Python from the list that the snapshot was made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hand_made_snapshots import (
    ENDS,
    MIB,
    STACKS,
    TARGET,
    Counted,
    Held,
    builder,
    kinds_of,
    memory,
    names,
    options,
    snapshot,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from leaktrace.abi.process import StackEndCode
from leaktrace.analysis.family import FamilyBuilder, Member
from leaktrace.analysis.sampling import Sampling
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.model import (
    Ending,
    Frame,
    MemoryKinds,
    ProcessShare,
    RemarkKind,
    Report,
    Stack,
    StackEnd,
    Total,
)
from leaktrace.options import By, Filters, ReportOptions, SortKey

# Process n has the stack ids n * 100 + 1, 2 and 3. They are the stacks 1, 2 and 3 of STACKS, loaded
# at other addresses.
OF_PROCESS = 100


def stack_of(stack_id: int) -> Stack:
    slot, number = divmod(stack_id, OF_PROCESS)
    known = STACKS.get(number)
    if known is None:
        return Stack((), StackEnd.LOST)
    frames = (replace(one, address=one.address + slot * MIB) for one in known.frames)
    return replace(known, frames=tuple(frames))


def locations_of(stack_id: int) -> int | None:
    number = stack_id % OF_PROCESS
    return number if number in STACKS else None


def in_slots(
    held: Sequence[tuple[int, Held]],
    counted: Sequence[tuple[int, Counted]] | None = None,
    **more: Any,
) -> Snapshot:
    """What processes hold, by slot. Each has its own ids for the stacks 1, 2 and 3."""

    def own(slot: int, stack_id: int) -> int:
        return slot * OF_PROCESS + stack_id if stack_id else 0

    shot = snapshot(
        [replace(one, stack_id=own(slot, one.stack_id)) for slot, one in held],
        None
        if counted is None
        else [replace(one, stack_id=own(slot, one.stack_id)) for slot, one in counted],
        **more,
    )
    for row, stack_id in enumerate(shot.site_ids.tolist()):
        shot.sites["end"][row] = ENDS.get(stack_id % OF_PROCESS, StackEndCode.UNKNOWN)
    slots = [slot for slot, _ in counted] if counted else (shot.site_ids // OF_PROCESS).tolist()
    return replace(
        shot,
        record_slots=np.array([slot for slot, _ in held], dtype=np.uint16),
        site_slots=np.array(slots, dtype=np.uint16),
    )


def member(slot: int, **more: Any) -> Member:
    fields: dict[str, Any] = {"parent_pid": 4242 if slot else 1, "command": f"worker{slot}"}
    return Member(slot, 4242 + slot, **{**fields, **more})


def family(
    report: ReportOptions | None = None, filters: Filters | None = None, **more: Any
) -> FamilyBuilder:
    return FamilyBuilder(options(report, filters), lambda _: (), stack_of, locations_of, **more)


def build(reports: FamilyBuilder, shot: Snapshot, members: Sequence[Member], **more: Any) -> Report:
    return reports.build(shot, TARGET, members, None, **more)


def lines(report: Report) -> dict[int, tuple[Total, int | None]]:
    return {line.pid: (line.outstanding, line.growth_bytes) for line in report.processes}


def timeless(report: Report) -> Report:
    return replace(report, time=datetime(2026, 1, 1, tzinfo=UTC), elapsed_s=0)


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


# -- growth --


def test_growth_of_each_process_and_of_all() -> None:
    reports = family()
    first = build(reports, in_slots([(0, Held(1, 100)), (1, Held(1, 50))]), [member(0), member(1)])
    assert first.growth_bytes is None
    assert [line.pid for line in first.processes] == [4242, 4243]  # by what they hold
    held = [(0, Held(1, 90)), (1, Held(1, 75)), (2, Held(1, 20)), (3, Held(1, 30))]
    second = build(reports, in_slots(held), [member(slot) for slot in range(4)])
    # What a new process holds has grown, too.
    assert [(line.pid, line.growth_bytes) for line in second.processes] == [
        (4245, None),
        (4243, 25),
        (4244, None),
        (4242, -10),
    ]
    assert second.growth_bytes == 215 - 150
    assert second.sites[0].growth_bytes == 65


def test_another_process_in_a_slot_is_a_new_one() -> None:
    reports = family()
    held = in_slots([(0, Held(1, 100)), (1, Held(1, 50))])
    build(reports, held, [member(0), member(1)])
    again = build(reports, held, [member(0), replace(member(1), pid=9999)])
    assert lines(again) == {4242: (Total(100, 1), 0), 9999: (Total(50, 1), None)}


def test_after_exec_a_process_is_not_compared_with_what_was_before() -> None:
    reports = family()
    both = [member(0), member(1)]
    build(reports, in_slots([(0, Held(1, 100)), (1, Held(1, 50))]), both)
    reports.forget(1)
    after = build(reports, in_slots([(0, Held(1, 130)), (1, Held(2, 5))]), both)
    assert {pid: growth for pid, (_, growth) in lines(after).items()} == {4242: 30, 4243: None}
    assert after.growth_bytes == 135 - 150


def test_the_first_process_is_compared_with_the_reports_before_it_forked() -> None:
    reports = family(ReportOptions(sort=SortKey.GROWTH))
    alone = build(reports, in_slots([(0, Held(1, 100)), (0, Held(2, 50))]), [member(0)])
    assert alone.processes == ()
    # The child's ids come first in the snapshot: they must not represent the sites now.
    held = [(1, Held(1, 7)), (1, Held(2, 8)), (0, Held(1, 120)), (0, Held(2, 50))]
    shot = in_slots(held)
    shot = replace(
        shot,
        site_ids=np.roll(shot.site_ids, 2),
        sites=np.roll(shot.sites, 2),
        site_slots=np.roll(shot.site_slots if shot.site_slots is not None else [], 2),
    )
    forked = build(reports, shot, [member(0), member(1)])
    assert lines(forked) == {4242: (Total(170, 2), 20), 4243: (Total(15, 2), None)}
    assert [(site.bytes, site.growth_bytes) for site in forked.sites] == [(127, 27), (58, 8)]
    assert (forked.growth_bytes, forked.number) == (35, 2)
    # When the child has ended and is no longer reported, the report keeps its form.
    ended = build(reports, in_slots([(0, Held(1, 121)), (0, Held(2, 50))]), [member(0)])
    assert lines(ended) == {4242: (Total(171, 2), 1)}
    assert ended.growth_bytes == 171 - 185


def test_stacks_that_become_one_site_are_compared_with_their_sum() -> None:
    """While there was one process, its stacks were not merged here."""

    def same(stack_id: int) -> int | None:
        return 1 if stack_id in (1, 2, 101) else None

    reports = FamilyBuilder(options(), lambda _: (), stack_of, same)
    build(reports, in_slots([(0, Held(1, 100)), (0, Held(2, 50))]), [member(0)])
    shot = in_slots([(0, Held(1, 100)), (0, Held(2, 50)), (1, Held(1, 9))])
    (site,) = build(reports, shot, [member(0), member(1)]).sites
    assert (site.bytes, site.growth_bytes) == (159, 9)


# -- memory --


def test_resident_memory_is_that_of_each_process() -> None:
    reports = family()
    shot = in_slots([(0, Held(1, 100)), (1, Held(1, 50))])
    ended = member(1, has_ended=True, ending=Ending(signal=9))
    build(reports, shot, [member(0, memory=memory(3)), member(1, memory=memory(2))])
    report = build(reports, shot, [member(0, memory=memory(4)), ended])
    assert report.resident is None
    one, other = report.processes
    assert one.resident is not None
    assert (one.resident.bytes, one.resident.growth_bytes) == (4 * MIB, MIB)
    assert (other.resident, other.has_ended, other.ending) == (None, True, Ending(signal=9))


def test_memory_of_unknown_origin_is_reported_for_the_process_that_has_most_of_it() -> None:
    shot = in_slots([(slot, Held(1, 100)) for slot in range(4)])
    members = [
        member(slot, memory=memory(grown_mib), of_programs=MemoryKinds)
        for slot, grown_mib in enumerate((64, 640, 1, 128))
    ]
    report = build(family(), shot, members)
    (remark,) = report.remarks
    assert remark.kind is RemarkKind.UNTRACKED_MEMORY
    assert remark.text.startswith("process 4243 (worker1): RSS grew by 640.0 MiB")
    assert remark.text.endswith("(similar in 2 other processes)")


def test_nothing_is_concluded_from_memory_that_the_program_may_account_for() -> None:
    shot = in_slots([(0, Held(1, 100)), (1, Held(1, 100))])
    members = [member(0, memory=memory(640)), member(1, memory=memory(640))]
    assert kinds_of(build(family(), shot, members)) == []


def test_the_memory_of_an_ended_process_explains_nothing() -> None:
    """What the process keeps is compared with its own earlier reports, not with those of all."""
    reports = family()
    one = member(0, memory=memory(64), of_programs=MemoryKinds)
    build(reports, in_slots([(0, Held(1, MIB)), (1, Held(1, 64 * MIB))]), [one, member(1)])
    after = build(reports, in_slots([(0, Held(1, MIB))]), [one, member(1, has_ended=True)])
    assert kinds_of(after) == [RemarkKind.UNTRACKED_MEMORY]


def test_what_was_said_of_the_first_process_alone_is_said_of_it_among_others() -> None:
    reports = family()
    shot = in_slots([(0, Held(1, 100))])
    alone = reports.build(shot, TARGET, [member(0)], memory(64))
    assert kinds_of(alone) == [RemarkKind.UNTRACKED_MEMORY]
    both = in_slots([(0, Held(1, 100)), (1, Held(1, 5))])
    first = member(0, memory=memory(65), of_programs=MemoryKinds)
    report = build(reports, both, [first, member(1, memory=memory(1))])
    (remark,) = report.remarks
    assert remark.text.startswith("process 4242 (worker0): RSS grew by 65.0 MiB")
    resident = {line.pid: line.resident for line in report.processes}[4242]
    assert resident is not None
    assert resident.growth_bytes == MIB
    # It ends, and is still incomplete then. Once it is gone, nothing is said of it.
    ended = build(reports, both, [member(0, has_ended=True), member(1, memory=memory(1))])
    assert kinds_of(ended) == [RemarkKind.UNTRACKED_MEMORY]
    gone = build(reports, in_slots([(1, Held(1, 5))]), [member(1, memory=memory(1))])
    assert gone.remarks == ()


# -- snapshots with slots --


@pytest.mark.parametrize("has_slots", [False, True])
def test_slots_stay_with_their_sites(has_slots: bool) -> None:
    from leaktrace.analysis.same_sites import SameSites

    shot = in_slots([(2, Held(1, 1)), (1, Held(1, 10)), (1, Held(2, 100)), (3, Held(1, 1000))])
    if not has_slots:
        shot = replace(shot, record_slots=None, site_slots=None)
    merged = SameSites().merge(shot, locations_of)
    assert merged.site_ids.tolist() == [101, 102]
    assert merged.sites["allocated_bytes"].tolist() == [1011, 100]
    assert merged.records["stack_id"].tolist() == [101, 101, 102, 101]
    if has_slots:
        assert merged.record_slots is not None
        assert merged.site_slots is not None
        assert merged.record_slots.tolist() == [2, 1, 1, 3]
        assert merged.site_slots.tolist() == [1, 1]  # those of the representatives
    else:
        assert merged.record_slots is merged.site_slots is None


def test_no_frame_of_one_process_is_shown_for_another_without_need() -> None:
    """A frame in no file has a key of its own in each process, so the sites stay apart."""
    generated = {7: Frame(0x7000), 107: Frame(0x7000)}
    reports = FamilyBuilder(
        options(), lambda _: (), lambda one: Stack((generated[one],)), lambda one: one
    )
    report = build(reports, in_slots([(0, Held(7, 1)), (1, Held(7, 2))]), [member(0), member(1)])
    assert [site.processes for site in report.sites] == [
        (ProcessShare(4243, 2, 1),),
        (ProcessShare(4242, 1, 1),),
    ]


# -- processes that end --


def test_a_process_that_is_gone_no_longer_represents_sites() -> None:
    """Its stacks are not asked for again, and the growth of the others is still that since the
    previous report."""
    gone: set[int] = set()

    def known(stack_id: int) -> Stack:
        assert stack_id // OF_PROCESS not in gone
        return stack_of(stack_id)

    reports = FamilyBuilder(
        options(ReportOptions(by=By.PROCESS)), lambda _: (), known, locations_of
    )
    first = in_slots([(0, Held(1, 100)), (1, Held(1, 50)), (2, Held(1, 5)), (0, Held(2, 7))])
    build(reports, first, [member(0), member(1), member(2)])
    gone.add(0)
    second = in_slots([(1, Held(1, 60)), (2, Held(1, 6))])
    report = build(reports, second, [member(1), member(2)])
    (site,) = report.sites
    assert (names(report), site.bytes, site.growth_bytes) == (["one"], 66, 66 - 155)
    assert lines(report) == {4243: (Total(60, 1), 10), 4244: (Total(6, 1), 1)}
    assert [part.sites[0].growth_bytes for part in report.by_process] == [10, 1]
    # The slot is used again. Its stack ids may be the same, with other stacks.
    gone.clear()
    third = in_slots([(1, Held(1, 60)), (2, Held(1, 6)), (0, Held(2, 9))])
    report = build(reports, third, [member(1), member(2), replace(member(0), pid=77)])
    assert [(site.bytes, site.growth_bytes) for site in report.sites] == [(66, 0), (9, 9)]
    assert report.sites[1].processes == (ProcessShare(77, 9, 1),)


def test_a_stack_id_may_mean_other_code_when_its_slot_is_used_again() -> None:
    code = {1: "one", 101: "one"}
    reports = FamilyBuilder(options(), lambda _: (), stack_of, lambda stack_id: code[stack_id])
    shot = in_slots([(0, Held(1, 100)), (1, Held(1, 50))])
    assert build(reports, shot, [member(0), member(1)]).site_count == 1
    assert build(reports, shot, [member(0), member(1)]).site_count == 1
    code[101] = "another"  # not asked for again while it is the same process
    assert build(reports, shot, [member(0), member(1)]).site_count == 1
    assert build(reports, shot, [member(0), replace(member(1), pid=77)]).site_count == 2


def test_stacks_of_processes_that_are_gone_take_no_memory() -> None:
    from leaktrace.analysis.same_sites import SameSites

    same = SameSites()
    same.see(range(1, 1000), lambda stack_id: stack_id % 10 or None)
    assert same.keep_only(range(1, 1000)) == {}
    successors = same.keep_only([7, 500, 512, 522, 533, 999])
    assert successors == {2: 512, 3: 533, 9: 999}
    asked: list[int] = []

    def locations(stack_id: int) -> int | None:
        asked.append(stack_id)
        return stack_id % 10 or None

    same.see([7, 500, 512, 522, 533, 999, 17, 42, 4], locations)
    assert asked == [17, 42, 4]  # the others are known
    assert [same.first_of(one) for one in (7, 500, 512, 522, 17, 42, 4)] == [
        7,
        500,
        512,
        512,
        7,
        512,
        4,
    ]
