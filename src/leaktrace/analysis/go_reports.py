"""Builds reports of `leaktrace go` from looks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from leaktrace.analysis.go_heap import GoHeapHistory
from leaktrace.analysis.goroutine_groups import GoroutineGroups, verdict_of_all
from leaktrace.go_report import (
    GoLine,
    GoReport,
    GoroutineGroup,
    GoroutineLook,
    GoroutineSection,
    GoSummary,
    GoVerdict,
    GroupGrowth,
    HeapLook,
    LeakingGoroutines,
)

# The lines of an address; whether it is that of an instruction behind a call.
Lines = Callable[[int, bool], tuple[GoLine, ...]]

_FIRST_FUNCTION = "runtime.main"  # of the program's first goroutine, which no `go` statement made


class GoReports:
    """The reports about one Go program. `lines` names addresses in it."""

    def __init__(self, pid: int, path: str, version: str, top: int, lines: Lines) -> None:
        self._pid, self._path, self._version, self._top = pid, path, version, top
        self._lines = lines
        self._groups = GoroutineGroups()
        self._heap = GoHeapHistory(top, self._named_logical_stack)
        self._first_s: float | None = None
        self._last: tuple[GoroutineLook, tuple[GroupGrowth, ...]] | None = None

    def look(self, look: GoroutineLook) -> None:
        """Take in a look."""
        self._first_s = look.time_s if self._first_s is None else self._first_s
        self._last = look, self._groups.add(look)

    def look_at_heap(self, look: HeapLook) -> None:
        """Take in a look at the heap."""
        self._heap.add(look)

    def build(
        self,
        *,
        number: int,
        command: str,
        reason: str | None,
        look_age_s: float = 0.0,
        notes: Sequence[str] = (),
    ) -> GoReport:
        """A report about the last look. `reason`: why it is the last report; None: it isn't."""
        assert self._last is not None and self._first_s is not None  # callers have looked
        look, groups = self._last
        return GoReport(
            time=datetime.now().astimezone(),
            elapsed_s=look.time_s - self._first_s,
            number=number,
            final=reason is not None,
            reason=reason or "",
            pid=self._pid,
            command=command,
            path=self._path,
            version=self._version,
            top=self._top,
            goroutines=self._section_of(look, groups),
            look_age_s=look_age_s,
            notes=tuple(notes),
            heap=self._heap.figures(),
        )

    def _section_of(self, look: GoroutineLook, groups: tuple[GroupGrowth, ...]) -> GoroutineSection:
        return GoroutineSection(
            alive_count=look.alive_count,
            growth_per_s=self._groups.growth_per_s(),
            system_count=look.system_count,
            moving_count=len(look.moving_ids),
            stack_bytes=sum(group.stack_bytes for group in groups),
            groups=tuple(self._named(group) for group in groups[: self._top]),
            group_count=len(groups),
            leaking_count=sum(group.verdict is GoVerdict.LEAKING for group in groups),
            verdict=verdict_of_all(groups),
            skipped=look.skipped,
            took_s=look.took_s,
        )

    def _named(self, group: GroupGrowth) -> GoroutineGroup:
        key = group.key
        started = self._lines(key.start, False)
        is_first = bool(started) and started[-1].function == _FIRST_FUNCTION
        created = self._lines(key.created_at, True) if key.created_at and not is_first else ()
        return GoroutineGroup(
            growth=group,
            frames=self._named_stack(key.stack),
            created_by=created[0] if created else None,
            started_as=started[-1] if started else None,
        )

    def _named_stack(self, stack: tuple[int, ...]) -> tuple[GoLine, ...]:
        return tuple(line for address in stack for line in self._named_address(address))

    def _named_logical_stack(self, stack: tuple[int, ...]) -> tuple[GoLine, ...]:
        """Of a stack in which inlined functions have their own addresses."""
        return tuple(self._named_address(address)[0] for address in stack)

    def _named_address(self, address: int) -> tuple[GoLine, ...]:
        return self._lines(address, True) or (GoLine(f"[{address:#x}]", "", 0),)


def summary_of(report: GoReport) -> GoSummary:
    """A report in short."""
    section, heap = report.goroutines, report.heap
    leaking = [one for one in section.groups if one.growth.verdict is GoVerdict.LEAKING]
    return GoSummary(
        pid=report.pid,
        version=report.version,
        goroutine_count=section.alive_count - section.system_count,
        growth_per_s=section.growth_per_s,
        verdict=section.verdict,
        leaking_group_count=section.leaking_count,
        leaking=tuple(
            LeakingGoroutines(
                count=one.growth.count,
                growth_per_s=one.growth.growth_per_s,
                wait_reason=one.growth.key.state,
                created_by=one.created_by,
                started_as=one.started_as,
            )
            for one in leaking
        ),
        collector=None if heap is None else heap.look.collector,
        heap_bytes=None if heap is None else heap.look.in_use_bytes,
        heap_change=None if heap is None else heap.change,
        notes=report.notes,
    )
