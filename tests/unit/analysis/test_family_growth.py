"""What grows from report to report, where there are several processes: what they hold, and their
memory. Every figure is known in advance."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from hand_made_families import build, family, in_slots, lines, member, stack_of
from hand_made_snapshots import (
    MIB,
    TARGET,
    Held,
    kinds_of,
    memory,
    options,
)

from leaktrace.analysis.family import FamilyBuilder
from leaktrace.analysis.verdicts.watch import SiteWatch
from leaktrace.memory import MemoryGrowth, MemoryKinds
from leaktrace.model import Ending, RemarkKind
from leaktrace.options import ReportOptions, SortKey
from leaktrace.site import Total
from leaktrace.verdict import VerdictKind

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


@pytest.mark.parametrize(
    ("held_mib", "kind"), [(1, VerdictKind.GROWING), (50, VerdictKind.TOO_EARLY)]
)
def test_growth_is_slow_or_not_for_all_processes_together(held_mib: int, kind: VerdictKind) -> None:
    """Two processes that grow by 50 bytes a second each: 4 MiB in half a day."""
    reports = family(new_watch=SiteWatch)
    start_ns, interval_ns = time.monotonic_ns(), 5_000_000_000
    each = MemoryGrowth(MemoryKinds(anonymous=held_mib * MIB), MemoryKinds())
    members = [member(slot, memory=each) for slot in (0, 1)]
    for number in range(1, 13):
        born_ns = [start_ns + at * 2_000_000_000 for at in range(1, number * 5 // 2)]
        held = [(slot, Held(1, 100)) for slot in (0, 1) for _ in born_ns]
        shot = replace(in_slots(held, unseen_releases=0), time_ns=start_ns + number * interval_ns)
        shot.records["time_ns"] = born_ns * 2
        report = build(reports, shot, members)
    assert report.verdict is not None
    assert report.verdict.kind is kind


def test_pages_that_forked_processes_share_count_once() -> None:
    """Eight workers of a server with 3 MiB, which grow by 100 bytes a second together."""
    reports = family(new_watch=SiteWatch)
    start_ns, interval_ns = time.monotonic_ns(), 5_000_000_000
    each = MemoryGrowth(MemoryKinds(anonymous=3 * MIB), MemoryKinds())
    members = [member(slot, memory=each) for slot in range(8)]
    for number in range(1, 13):
        born_ns = [start_ns + at * 1_000_000_000 for at in range(1, number * 5)]
        held = [(0, Held(1, 100)) for _ in born_ns]
        shot = replace(in_slots(held, unseen_releases=0), time_ns=start_ns + number * interval_ns)
        shot.records["time_ns"] = born_ns
        report = build(reports, shot, members)
    assert report.verdict is not None
    assert report.verdict.kind is VerdictKind.GROWING
