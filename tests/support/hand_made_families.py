"""Snapshots of several processes, written by hand, and reports made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from hand_made_snapshots import (
    ENDS,
    MIB,
    STACKS,
    TARGET,
    Counted,
    Held,
    options,
    snapshot,
)

from leaktrace.abi.process import StackEndCode
from leaktrace.analysis.family import FamilyBuilder, Member
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.model import Report
from leaktrace.options import Filters, ReportOptions
from leaktrace.site import Stack, StackEnd, Total

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
