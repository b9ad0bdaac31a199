"""Remarks about resident memory, in reports from snapshots written by hand."""

from __future__ import annotations

from dataclasses import replace

from hand_made_snapshots import (
    MIB,
    Counted,
    Held,
    build,
    builder,
    kinds_of,
    memory,
    snapshot,
)

from leaktrace.abi import process as abi
from leaktrace.memory import MemoryKinds
from leaktrace.model import Remark, RemarkKind
from leaktrace.options import (
    Filters,
    ObjectChoice,
)


def test_resident_memory_and_its_growth() -> None:
    reports = builder()
    shot = snapshot([Held(1, 70 * MIB)])
    first, second = build(reports, shot, memory(64)), build(reports, shot, memory(80))
    assert first.resident is not None
    assert second.resident is not None
    assert (first.resident.bytes, first.resident.growth_bytes) == (64 * MIB, None)
    assert (second.resident.bytes, second.resident.growth_bytes) == (80 * MIB, 16 * MIB)
    assert kinds_of(first) == kinds_of(second) == []


def test_memory_that_no_hooked_function_allocated() -> None:
    report = build(builder(), snapshot([Held(1, 1000)]), memory(64))
    assert kinds_of(report) == [RemarkKind.UNTRACKED_MEMORY]


def test_the_remarks_of_the_caller_come_first() -> None:
    other = Remark(RemarkKind.UNHOOKED_ALLOCATOR, "an allocator isn't hooked")
    report = build(builder(), snapshot([Held(1, 1000)]), memory(64), remarks=(other,))
    assert kinds_of(report) == [RemarkKind.UNHOOKED_ALLOCATOR, RemarkKind.UNTRACKED_MEMORY]


def test_memory_of_the_program_itself_is_no_remark() -> None:
    report = build(
        builder(), snapshot([Held(1, 1000)]), memory(64), of_programs=lambda: MemoryKinds(64 * MIB)
    )
    assert kinds_of(report) == []


def test_memory_that_was_outstanding_before_is_kept_by_the_allocator() -> None:
    reports = builder()
    counted = [Counted(1, (70 * MIB, 1))]
    assert kinds_of(build(reports, snapshot([Held(1, 70 * MIB)], counted), memory(70))) == []
    report = build(reports, snapshot([Held(1, 1000)], counted), memory(70))
    assert kinds_of(report) == [RemarkKind.KEPT]
    reports.forget()  # what was outstanding before exec explains nothing
    report = build(reports, snapshot([Held(1, 1000)], counted), memory(70))
    assert kinds_of(report) == [RemarkKind.KEPT_OR_UNTRACKED]


def test_no_remark_if_only_some_sizes_are_recorded() -> None:
    for filters in (Filters(min_size_bytes=1), Filters(max_size_bytes=1000)):
        assert kinds_of(build(builder(filters=filters), snapshot([]), memory(64))) == []


def test_no_remark_if_many_allocations_were_lost() -> None:
    shot = snapshot([Held(1, 1000)])
    losses = shot.losses.copy()
    losses[abi.ALLOCATION_LOSSES[0]] = 1
    assert kinds_of(build(builder(), replace(shot, losses=losses), memory(64))) == []


def test_a_chosen_object_leaves_only_memory_from_elsewhere() -> None:
    chosen = builder(objects=ObjectChoice("libc.so.6"))
    report = build(chosen, snapshot([Held(1, 1000)]), memory(64))
    assert kinds_of(report) == [RemarkKind.UNTRACKED_MEMORY]
    assert "-O" in report.remarks[0].hint
    report = build(chosen, snapshot([Held(1, 70 * MIB)]), memory(1))
    assert kinds_of(report) == []


def test_at_the_end_only_incompleteness_is_still_remarked() -> None:
    """The memory of a process that has ended can't be read."""
    reports = builder()
    build(reports, snapshot([Held(1, 1000)]), memory(64))
    last = build(reports, snapshot([Held(1, 1000)]), None, target_ended=True, final_reason="ended")
    assert kinds_of(last) == [RemarkKind.UNTRACKED_MEMORY]
    assert last.resident is None
    reports = builder()
    assert kinds_of(build(reports, snapshot([Held(1, 70 * MIB)]), memory(1))) == [
        RemarkKind.NOT_RESIDENT
    ]
    last = build(reports, snapshot([Held(1, 1000)]), None, target_ended=True, final_reason="ended")
    assert kinds_of(last) == []


def test_what_is_explained_of_the_growth() -> None:
    report = build(builder(), snapshot([Held(1, 60 * MIB)]), memory(64))
    assert report.explained is not None
    assert report.explained.outstanding == report.outstanding.bytes == 60 * MIB
    assert report.explained.unexplained == 4 * MIB
    assert report.explained.allocator_at_most == 4 * MIB


def test_nothing_is_explained_where_not_all_sizes_are_recorded() -> None:
    shot = snapshot([Held(1, 60 * MIB)])
    assert build(builder(filters=Filters(min_size_bytes=100)), shot, memory(64)).explained is None
    assert build(builder(), shot, None).explained is None
