"""Snapshots written by hand, and reports made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from leaktrace.abi import process as abi
from leaktrace.analysis.builder import ReportBuilder
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.memory import MemoryGrowth, MemoryKinds
from leaktrace.model import RemarkKind, Report, TargetInfo
from leaktrace.options import (
    Filters,
    ObjectChoice,
    ProcessOptions,
    ProcessTarget,
    ReportOptions,
)
from leaktrace.site import Frame, Stack, StackEnd

NOW_NS = 60_000_000_000
MS = 1_000_000
MIB = 1 << 20
TARGET = TargetInfo(4242, "target")
STACKS = {
    1: Stack((Frame(0x1010, "one", 16, "/bin/target", 0x1010),), StackEnd.COMPLETE),
    2: Stack((Frame(0x2010, "two", 16, "/bin/target", 0x2010),), StackEnd.GUESSED),
    3: Stack((Frame(0x3010, "three", 16, "/bin/target", 0x3010),), StackEnd.BROKEN),
}
ENDS = {
    1: abi.StackEndCode.COMPLETE,
    2: abi.StackEndCode.GUESSED,
    3: abi.StackEndCode.BROKEN,
}


@dataclass(frozen=True)
class Held:
    """An outstanding allocation."""

    stack_id: int
    size: int
    age_ms: int = 1000
    address: int = 0x10


@dataclass(frozen=True)
class Counted:
    """The counters of a site: bytes and calls."""

    stack_id: int
    allocated: tuple[int, int]
    freed: tuple[int, int] = (0, 0)
    is_region: bool = False


def snapshot(
    held: Sequence[Held], counted: Sequence[Counted] | None = None, **more: Any
) -> Snapshot:
    """The maps with these contents. Without `counted`, sites have allocated what they hold."""
    if counted is None:
        counted = [
            Counted(
                stack_id,
                (
                    sum(one.size for one in held if one.stack_id == stack_id),
                    sum(one.stack_id == stack_id for one in held),
                ),
            )
            for stack_id in sorted({one.stack_id for one in held} - {0})
        ]
    records = np.zeros(len(held), dtype=abi.ALLOCATION)
    for row, one in enumerate(held):
        records[row] = (one.size, NOW_NS - one.age_ms * MS, one.stack_id)
    sites = np.zeros(len(counted), dtype=abi.SITE)
    for row, site in enumerate(counted):
        end = ENDS.get(site.stack_id, abi.StackEndCode.UNKNOWN)
        sites[["allocated_bytes", "allocated_count"]][row] = site.allocated
        sites[["freed_bytes", "freed_count"]][row] = site.freed
        sites[["generation", "end", "is_region"]][row] = (1, end, site.is_region)
    fields: dict[str, Any] = {
        "time_ns": NOW_NS,
        "generation": 1,
        "addresses": np.array([one.address for one in held], dtype=np.uint64),
        "records": records,
        "site_ids": np.array([site.stack_id for site in counted], dtype=np.uint64),
        "sites": sites,
        "losses": np.zeros(abi.LOSS_COUNTERS, dtype=np.uint64),
    }
    return Snapshot(**{**fields, **more})


def options(report: ReportOptions | None = None, filters: Filters | None = None) -> ProcessOptions:
    return ProcessOptions(
        target=ProcessTarget((4242,)),
        filters=filters or Filters(),
        report=report or ReportOptions(),
    )


def builder(
    report: ReportOptions | None = None,
    filters: Filters | None = None,
    objects: ObjectChoice | None = None,
) -> ReportBuilder:
    no_stack = Stack((), StackEnd.LOST)
    return ReportBuilder(
        options(report, filters),
        describe_losses=lambda _: (),
        stack_of=lambda stack_id: STACKS.get(stack_id, no_stack),
        objects=objects or ObjectChoice(),
    )


def build(
    reports: ReportBuilder, shot: Snapshot, memory: MemoryGrowth | None = None, **more: Any
) -> Report:
    return reports.build(shot, TARGET, memory, **more)


def names(report: Report) -> list[str | None]:
    return [site.stack.frames[0].function if site.stack.frames else None for site in report.sites]


def memory(grown_mib: int) -> MemoryGrowth:
    kinds = MemoryKinds(anonymous=grown_mib * MIB)
    return MemoryGrowth(resident=kinds, since_attach=kinds)


def kinds_of(report: Report) -> list[RemarkKind]:
    return [remark.kind for remark in report.remarks]
