"""Compares what is outstanding with the memory of the process, from report to report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from leaktrace.abi.process import ALLOCATION_LOSSES
from leaktrace.analysis.resident import Account, explain, judge
from leaktrace.analysis.sampling import Sampling
from leaktrace.analysis.sites import combine_counters
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.memory import (
    OTHER_MEMORY,
    Backing,
    Explained,
    MemoryGrowth,
    MemoryKinds,
    ResidentMemory,
)
from leaktrace.model import Measure, Remark, RemarkKind, Report
from leaktrace.options import Filters, ObjectChoice
from leaktrace.site import Total

_FEW_LOST = 100  # up to one lost allocation in this many, the figures still hold


class ComparedMemory:
    """The memory of one process, and what was said about it in the last report."""

    def __init__(self, filters: Filters, objects: ObjectChoice, measure: Measure) -> None:
        """The blocks that are recorded, the objects that the user chose to hook, and what is
        measured."""
        self._filters = filters
        self._objects = objects
        self._measure = measure
        self._last_resident: int | None = None
        self._most = Total()  # the most outstanding bytes of any report
        self._remark: Remark | None = None

    def forget(self) -> None:
        """Start over after exec."""
        self._last_resident = None
        self._most = Total()
        self._remark = None

    def continue_from(self, other: ComparedMemory) -> None:
        """Compare the next report with the last one that another object has seen."""
        self._last_resident = other._last_resident
        self._most = other._most
        self._remark = other._remark

    def leave_out(self) -> None:
        """Later reports are about several processes, and nothing is said about their memory."""
        self._last_resident = None
        self._remark = None

    def compared(
        self,
        report: Report,
        snapshot: Snapshot,
        memory: MemoryGrowth | None,
        of_programs: Callable[[], MemoryKinds],
        sampling: Sampling,
    ) -> Report:
        """The report with what explains the growth of the process, and with a remark if the two
        differ much. `memory` is None if it has ended."""
        if memory is not None:
            self._remark = self._judge(report, snapshot, memory, of_programs, sampling)
            report = replace(report, explained=self._explain(report, snapshot, memory))
        elif self._remark is not None and not self._remark.kind.is_of_completeness:
            self._remark = None  # at the end, only incompleteness still matters
        if self._remark is not None:
            report = replace(report, remarks=(*report.remarks, self._remark))
        held = _all_memory(report.outstanding, snapshot)
        self._most = max(self._most, held, key=lambda total: total.bytes)
        return report

    def resident(self, memory: MemoryGrowth | None) -> ResidentMemory | None:
        """What the process holds now, and its change since the previous report."""
        if memory is None:
            return None
        now = memory.resident.total
        last, self._last_resident = self._last_resident, now
        return ResidentMemory(
            now,
            None if last is None else now - last,
            memory.resident,
            memory.since_attach,
            memory.is_at_exit,
        )

    @property
    def _is_comparable(self) -> bool:
        """Whether outstanding memory can be compared with resident memory: not if only blocks of
        some sizes are recorded."""
        filters = self._filters
        is_by_size = (filters.min_size_bytes, filters.max_size_bytes) != (None, None)
        return self._measure is not Measure.FAULTS and not is_by_size

    def _explain(
        self, report: Report, snapshot: Snapshot, memory: MemoryGrowth
    ) -> Explained | None:
        if not self._is_comparable:
            return None
        others = {
            backing: _held(combine_counters(one, Sampling()).total(), one)
            for backing, one in zip(OTHER_MEMORY, snapshot.other_memory, strict=False)
        }
        return explain(
            memory,
            report.outstanding.bytes,
            report.held_bytes,
            sum(others.values()),
            others.get(Backing.BREAK, 0),
        )

    def _judge(
        self,
        report: Report,
        snapshot: Snapshot,
        memory: MemoryGrowth,
        of_programs: Callable[[], MemoryKinds],
        sampling: Sampling,
    ) -> Remark | None:
        """A remark if resident and outstanding memory differ much. None if only blocks of some
        sizes are recorded, because the two can't be compared then. If the user has chosen what to
        hook, only memory from elsewhere is worth a remark."""
        objects = self._objects
        if not self._is_comparable:
            return None
        sites = sampling.scale_sites(snapshot.sites)
        # Resident memory contains the other memory, too.
        counted = [sites, *(other.sites for other in snapshot.other_memory)]
        allocated = Total(
            sum(int(one["allocated_bytes"].sum()) for one in counted),
            sum(int(one["allocated_count"].sum()) for one in counted),
        )
        lost = int(snapshot.losses[list(ALLOCATION_LOSSES)].sum())
        account = Account(
            _all_memory(report.outstanding, snapshot),
            allocated,
            self._most,
            0 if report.error is None else report.error.bytes,
            is_whole=lost * _FEW_LOST <= allocated.count,
            untouched_bytes=sum(
                one.regions.untouched_bytes for one in (snapshot, *snapshot.other_memory)
            ),
        )
        remark = judge(memory, of_programs, account, report.target.pid)
        if remark is None or not (objects.path is not None or objects.symbols_prefix):
            return remark
        if remark.kind is not RemarkKind.UNTRACKED_MEMORY:
            return None
        return replace(
            remark, hint="leave out -O and --symbols-prefix to hook more; --faults needs no symbols"
        )


def _held(total: Total, snapshot: Snapshot) -> int:
    """What takes memory: of regions, what is in memory or not known."""
    regions = snapshot.regions.total()
    return total.bytes if regions is None else total.bytes - regions.reserved + regions.held


def _all_memory(outstanding: Total, snapshot: Snapshot) -> Total:
    """What is outstanding, with the memory that has sections of its own."""
    others = [combine_counters(one, Sampling()).total() for one in snapshot.other_memory]
    return Total(
        outstanding.bytes + sum(one.bytes for one in others),
        outstanding.count + sum(one.count for one in others),
    )
