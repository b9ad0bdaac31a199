"""Reports from consecutive snapshots: totals, growth, the top sites with their stacks."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from leaktrace.abi.process import StackEndCode
from leaktrace.analysis.choice import Chosen, SiteChoice
from leaktrace.analysis.compared_memory import ComparedMemory
from leaktrace.analysis.sampling import Sampling
from leaktrace.analysis.site_id import site_id
from leaktrace.analysis.sites import (
    SiteTable,
)
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.analysis.suppressions import SuppressedSites
from leaktrace.analysis.thread_stacks import thread_stacks
from leaktrace.analysis.trim import readable
from leaktrace.analysis.verdicts.watch import SiteWatch
from leaktrace.memory import MemoryGrowth, MemoryKinds
from leaktrace.model import Loss, Measure, Remark, Report, TargetInfo
from leaktrace.options import CommonOptions, ObjectChoice
from leaktrace.reach import Holder, ReachInfo
from leaktrace.site import Allocation, Releaser, Site, Stack, StackEnd, Total
from leaktrace.verdict import LEAKING, Verdict

STACK_ENDS = {
    StackEndCode.UNKNOWN: StackEnd.UNKNOWN,
    StackEndCode.COMPLETE: StackEnd.COMPLETE,
    StackEndCode.TRUNCATED: StackEnd.TRUNCATED,
    StackEndCode.GUESSED: StackEnd.GUESSED,
    StackEndCode.BROKEN: StackEnd.BROKEN,
    StackEndCode.GO: StackEnd.GO,
}

_ALL_OBJECTS = ObjectChoice()


class ReportBuilder:
    """Builds reports, and keeps what the next report is compared with.

    `describe_losses` puts the losses of a snapshot into words; `stack_of` returns the stack of a
    stack id; `prepare` is called first with the stack ids that a report needs.
    """

    def __init__(
        self,
        options: CommonOptions,
        describe_losses: Callable[[Snapshot], tuple[Loss, ...]],
        stack_of: Callable[[int], Stack],
        prepare: Callable[[Sequence[int]], None] = lambda _: None,
        *,
        measure: Measure = Measure.ALLOCATIONS,
        objects: ObjectChoice = _ALL_OBJECTS,
        watch: SiteWatch | None = None,
    ) -> None:
        """`measure`: what is recorded; `objects`: which objects the user chose to hook; `watch`:
        judges sites, None: nobody does."""
        self._options = options
        self._measure = measure
        self.sampling = Sampling.from_filters(options.filters)  # replaced if it starts later
        self._describe_losses = describe_losses
        self._stack_of = stack_of
        self._prepare = prepare
        self._suppressed = SuppressedSites(options.suppressions, stack_of, prepare)
        self._choice = SiteChoice(
            options.report,
            watch,
            self._suppressed,
            self.confirmed,
            is_combined=options.report.combined_only or measure is Measure.FAULTS,
        )
        self._started_ns = time.monotonic_ns()
        self._number = 0
        self._last_total: int | None = None
        self._memory = ComparedMemory(options.filters, objects, measure)
        self.pids: Mapping[int, int] = {}  # by slot, if several processes are traced
        # Who frees the blocks of a site, by its stack id:
        self.freed_at: Callable[[int], tuple[Releaser, ...]] = lambda _: ()
        # What holds them, likewise:
        self.held_by: Callable[[int], tuple[Holder, ...]] = lambda _: ()
        self.suspicious: Sequence[int] = ()  # sites of the last report, by stack id
        self.shown: Sequence[int] = ()  # the sites that it shows, in their order

    def start_clock(self) -> None:
        """The probes are active from now on."""
        self._started_ns = time.monotonic_ns()

    def forget(self) -> None:
        """Start over after exec: the new program doesn't hold the memory of the old one."""
        self._choice.forget()
        self._last_total = None
        self._memory.forget()

    def continue_from(self, other: ReportBuilder) -> None:
        """Compare the next report with the last one of another builder."""
        self._choice.continue_from(other._choice)
        self._last_total = other._last_total
        self._memory.continue_from(other._memory)

    def rename(self, new_id: Callable[[int], int]) -> None:
        """The stack ids of later reports are other ones, and each may stand for several."""
        self._choice.rename(new_id)

    def leave_memory_out(self) -> None:
        """Later reports are about several processes, and nothing is said about their memory."""
        self._memory.leave_out()

    @property
    def last_stack_ids(self) -> Sequence[int]:
        """The sites of the last report, shown or not."""
        return self._choice.last_stack_ids

    def build(
        self,
        snapshot: Snapshot,
        target: TargetInfo,
        memory: MemoryGrowth | None,
        of_programs: Callable[[], MemoryKinds] = MemoryKinds,
        *,
        remarks: tuple[Remark, ...] = (),
        target_ended: bool = False,
        final_reason: str | None = None,
    ) -> Report:
        """The report of one snapshot; `final_reason` says why it is the last one.

        `memory` is what the process holds, None if it has ended; `of_programs` returns how much of
        it the program and its libraries account for at most (analysis/resident.py).
        """
        chosen = self.choose(snapshot, memory, target_ended=target_ended)
        creating = chosen.creating_threads[: self._options.report.most_sites]
        self._prepare(chosen.stack_ids + creating)
        return self.compose(
            chosen, target, memory, of_programs, remarks=remarks, final_reason=final_reason
        )

    @property
    def _is_combined(self) -> bool:
        return self._options.report.combined_only or self._measure is Measure.FAULTS

    def choose(
        self, snapshot: Snapshot, memory: MemoryGrowth | None, *, target_ended: bool = False
    ) -> Chosen:
        """The figures of the next report, and which sites it shows. `memory`: what the process
        holds; None if that isn't known."""
        self._choice.note(memory, self._describe_losses(snapshot), snapshot)
        return self._choice.choose(
            snapshot, self.sampling, self._started_ns, target_ended=target_ended
        )

    def compose(
        self,
        chosen: Chosen,
        target: TargetInfo,
        memory: MemoryGrowth | None,
        of_programs: Callable[[], MemoryKinds] = MemoryKinds,
        *,
        remarks: tuple[Remark, ...] = (),
        final_reason: str | None = None,
    ) -> Report:
        """The report, with the stacks of the chosen sites."""
        asked, snapshot = self._options.report, chosen.snapshot
        table, outstanding, order = chosen.table, chosen.outstanding, chosen.order
        passed = table.total()
        counters = self._counters(snapshot, table.stack_ids)
        lifetimes = snapshot.lifetimes_of(table.stack_ids[order].tolist())
        if not snapshot.freed_is_counted:
            _fill_in_freed(counters, snapshot, table.stack_ids[order])

        def site_of(row: int) -> Site:
            return self.site(table, row, int(chosen.growth[row]), counters)

        report = Report(
            time=datetime.now().astimezone(),
            elapsed_s=(snapshot.time_ns - self._started_ns) / 1e9,
            number=self._number + 1,
            final=final_reason is not None,
            reason=final_reason or "",
            target=target,
            outstanding=outstanding,
            younger=Total(outstanding.bytes - passed.bytes, outstanding.count - passed.count),
            older_ms=chosen.older_ms,
            site_count=len(table),
            sites=tuple(
                replace(
                    site_of(int(row)),
                    verdict=chosen.verdicts.get(int(table.stack_ids[row])),
                    lifetimes=lifetimes.get(int(table.stack_ids[row])),
                    freed_at=self.freed_at(int(table.stack_ids[row])),
                    holders=self.held_by(int(table.stack_ids[row])),
                    lost=None if chosen.lost is None else chosen.lost.of(int(table.stack_ids[row])),
                    idle=None if chosen.idle is None else chosen.idle.of(int(table.stack_ids[row])),
                )
                for row in order
            ),
            verdict=chosen.verdict,
            # What only lost blocks of others point to counts with those.
            leaking=tuple(
                one
                for one in chosen.verdicts.values()
                if one.kind in LEAKING and one.lost_count != 0
            ),
            reach=self._reach(chosen),
            suppressed=self._suppressed.account(table),
            top=asked.top,
            full_stacks=asked.full_stacks,
            depth=asked.depth,
            combined=self._is_combined,
            sort=str(asked.sort),
            growth_bytes=(
                None if self._last_total is None else outstanding.bytes - self._last_total
            ),
            resident=self._memory.resident(memory),
            losses=chosen.losses,
            remarks=remarks,
            stack_ends=self._stack_ends(table, counters),
            allocations=self._allocations(snapshot, chosen.older_ms) if asked.show_allocs else None,
            sample_rate=self.sampling.rate,
            sample_bytes=self.sampling.mean_bytes,
            error=chosen.error,
            measure=self._measure,
            regions=snapshot.regions.total(),
            thread_stacks=thread_stacks(snapshot.regions, table, chosen.stacks, site_of, asked),
            other_regions=None if table.regions is None else table.regions.of(chosen.others),
        )
        report = self._memory.compared(report, snapshot, memory, of_programs, self.sampling)
        self._number += 1
        self.suspicious, self.shown = chosen.suspicious, chosen.stack_ids
        self._choice.take_over(chosen)
        self._last_total = outstanding.bytes
        return report

    def confirmed(self, verdicts: dict[int, Verdict], snapshot: Snapshot) -> dict[int, Verdict]:
        """The verdicts, as far as nothing else speaks against them."""
        return verdicts

    def _reach(self, chosen: Chosen) -> ReachInfo | None:
        """What the memory says about all blocks; whoever looked at it adds how."""
        if chosen.lost is None:
            return None
        called = self._choice.called_lost
        return ReachInfo(chosen.lost.total(), called.called, called.freed)

    def _counters(self, snapshot: Snapshot, stack_ids: NDArray[np.uint64]) -> dict[int, np.void]:
        wanted = np.isin(snapshot.site_ids, stack_ids)
        sites = self.sampling.scale_sites(snapshot.sites[wanted])
        return dict(zip(snapshot.site_ids[wanted].tolist(), sites, strict=True))

    def site(
        self, table: SiteTable, row: int, growth_bytes: int, counters: dict[int, np.void]
    ) -> Site:
        """The site of one row; `counters` are those of the sites (abi.SITE), by stack id."""
        stack_id = int(table.stack_ids[row])
        stack = self._stack_of(stack_id)
        held = Total(int(table.bytes[row]), int(table.counts[row]))
        sizes, size_bytes = table.sizes_of(row)
        counter = counters.get(stack_id)
        return Site(
            id=self.site_id(stack_id, counter),
            stack=readable(stack, self._options.report),
            bytes=held.bytes,
            count=held.count,
            oldest_ns=None if table.oldest_ns is None else int(table.oldest_ns[row]),
            newest_ns=None if table.newest_ns is None else int(table.newest_ns[row]),
            growth_bytes=None if self._last_total is None else growth_bytes,
            # A site whose counters were lost has allocated at least what it holds.
            allocated_bytes=int(counter["allocated_bytes"]) if counter else held.bytes,
            allocated_count=int(counter["allocated_count"]) if counter else held.count,
            freed_bytes=int(counter["freed_bytes"]) if counter else 0,
            # Negative while an unmapped hole has made more regions than calls to mmap.
            freed_count=max(int(counter["freed_count"].astype(np.int64)), 0) if counter else 0,
            error=table.error(np.array([row])),
            regions=None if table.regions is None else table.regions.of(row),
            sizes=sizes,
            size_bytes=size_bytes,
        )

    def site_id(self, stack_id: int, counter: np.void | None) -> str:
        """The id of a site (analysis/site_id.py); if its stack is lost, valid in this run only."""
        frames = self._stack_of(stack_id).frames
        return site_id(frames) if frames else f"{stack_id:016x}"

    def _stack_ends(self, table: SiteTable, counters: dict[int, np.void]) -> dict[StackEnd, int]:
        ends: Counter[StackEnd] = Counter()
        for stack_id in table.stack_ids.tolist():
            counter = counters.get(stack_id)
            if stack_id == 0 or counter is None:
                ends[StackEnd.LOST] += 1
            else:
                ends[STACK_ENDS[StackEndCode(int(counter["end"]))]] += 1
        return dict(ends)

    def _allocations(self, snapshot: Snapshot, older_ms: int) -> tuple[Allocation, ...]:
        ages_ns = np.maximum(snapshot.time_ns - snapshot.records["time_ns"].astype(np.int64), 0)
        is_hidden = np.isin(snapshot.records["stack_id"], self._suppressed.stack_ids)
        rows = np.nonzero((ages_ns >= older_ms * 1_000_000) & ~is_hidden)[0]
        rows = rows[np.lexsort((snapshot.addresses[rows], snapshot.records["size"][rows]))]
        counters = self._counters(snapshot, np.unique(snapshot.records["stack_id"][rows]))
        ids: dict[int, str] = {}
        slots = snapshot.record_slots
        allocations = []
        for row in rows.tolist():
            stack_id = int(snapshot.records["stack_id"][row])
            if stack_id not in ids:
                ids[stack_id] = self.site_id(stack_id, counters.get(stack_id))
            allocations.append(
                Allocation(
                    address=int(snapshot.addresses[row]),
                    size_bytes=int(snapshot.records["size"][row]),
                    age_ns=int(ages_ns[row]),
                    site_id=ids[stack_id],
                    pid=None if slots is None else self.pids.get(int(slots[row])),
                )
            )
        return tuple(allocations)


def _fill_in_freed(
    counters: dict[int, np.void], snapshot: Snapshot, stack_ids: NDArray[np.uint64]
) -> None:
    """Compute what sites have freed: what they allocated minus what they hold. (For regions, the
    counters contain it.)"""
    sizes, counts = snapshot.held_by(stack_ids)
    regions = set(snapshot.records["stack_id"][-snapshot.region_count or len(snapshot.records) :])
    for row, stack_id in enumerate(stack_ids.tolist()):
        counter = counters.get(stack_id)
        # If heap blocks and regions share a stack, or have none, the counters of regions stay.
        if counter is None or counter["is_region"] or stack_id in regions:
            continue
        # The maps were read one after the other, so the difference could be negative.
        counter["freed_bytes"] = max(int(counter["allocated_bytes"]) - int(sizes[row]), 0)
        counter["freed_count"] = max(int(counter["allocated_count"]) - int(counts[row]), 0)
