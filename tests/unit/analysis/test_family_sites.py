"""Which stacks of several processes are one site, while processes come and go."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hand_made_families import OF_PROCESS, build, in_slots, lines, locations_of, member, stack_of
from hand_made_snapshots import (
    Held,
    names,
    options,
)

from leaktrace.analysis.family import FamilyBuilder
from leaktrace.analysis.same_sites import SameSites
from leaktrace.options import By, ReportOptions
from leaktrace.site import Frame, ProcessShare, Stack, Total

# -- snapshots with slots --


@pytest.mark.parametrize("has_slots", [False, True])
def test_slots_stay_with_their_sites(has_slots: bool) -> None:
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
