"""Which sites a report shows, with their verdicts and figures, before anything is named."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.idle_sites import IdleTable, with_idle
from leaktrace.analysis.reachability.called_lost import CalledLost
from leaktrace.analysis.reachability.lost_sites import LostTable
from leaktrace.analysis.sampling import Sampling
from leaktrace.analysis.sites import (
    SiteIndex,
    SiteTable,
    combine_counters,
    group_by_site,
    total_of_records,
    weigh,
)
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.analysis.suppressions import SuppressedSites
from leaktrace.analysis.verdicts.growth import lost
from leaktrace.analysis.verdicts.lost import with_lost, without_led
from leaktrace.analysis.verdicts.overall import order_by_verdict, overall
from leaktrace.analysis.verdicts.watch import SiteWatch
from leaktrace.memory import MemoryGrowth
from leaktrace.model import Loss
from leaktrace.options import ReportOptions, SortKey
from leaktrace.site import Total
from leaktrace.verdict import Verdict, VerdictKind

_MOST_JUDGED = 1000  # of the sites that are shown or recorded
_FEW_LOST = 100  # up to one lost allocation in this many, growth is still seen

Verdicts = dict[int, Verdict]  # by stack id


@dataclass(frozen=True)
class Chosen:
    """What a report will contain."""

    snapshot: Snapshot
    table: SiteTable
    outstanding: Total  # of any age
    error: Total | None
    growth: NDArray[np.int64]  # of each row of the table, since the previous report
    losses: tuple[Loss, ...]  # until then
    verdicts: Verdicts  # not on all sites
    verdict: Verdict | None  # on all of them
    order: NDArray[np.intp]  # the rows of the sites that are shown
    stacks: NDArray[np.intp]  # those of sites that create threads, which are apart
    hidden: NDArray[np.intp]  # those of sites that are suppressed
    older_ms: int
    lost: LostTable | None = None  # by site, which blocks nothing points to; None: not known
    idle: IdleTable | None = None  # by site, how much of it is not used; None: not known

    @property
    def stack_ids(self) -> list[int]:
        """The sites that are shown."""
        shown: list[int] = self.table.stack_ids[self.order].tolist()
        return shown

    @property
    def others(self) -> NDArray[np.intp]:
        """The rows of the other sites."""
        apart = np.concatenate([self.order, self.stacks, self.hidden])
        return np.setdiff1d(np.arange(len(self.table)), apart)

    @property
    def creating_threads(self) -> list[int]:
        """The sites that create threads."""
        creating: list[int] = self.table.stack_ids[self.stacks].tolist()
        return creating

    @property
    def suspicious(self) -> list[int]:
        """The sites that may leak, by stack id: those that are shown first."""
        return [
            stack_id
            for stack_id in dict.fromkeys([*self.stack_ids, *self.verdicts])
            if stack_id in self.verdicts and self.verdicts[stack_id].is_suspicious
        ]


class SiteChoice:
    """Chooses the sites of consecutive reports."""

    def __init__(
        self,
        asked: ReportOptions,
        watch: SiteWatch | None,
        suppressed: SuppressedSites,
        confirmed: Callable[[Verdicts, Snapshot], Verdicts],
        *,
        is_combined: bool,
    ) -> None:
        """`watch` judges sites, None: nobody does; `confirmed` returns the verdicts against which
        nothing else speaks; `is_combined`: only totals are known."""
        self._asked = asked
        self._watch = watch
        self._suppressed = suppressed
        self._confirmed = confirmed
        self._is_combined = is_combined
        self._last_bytes: dict[int, int] = {}
        self._memory: MemoryGrowth | None = None
        self._losses: tuple[Loss, ...] = ()
        self._last_lost, self._last_recorded = 0, 0  # allocations, in all
        self._lost = 0  # since the previous report, if they are many
        self.called_lost = CalledLost()

    def forget(self) -> None:
        """Start over after exec."""
        self._last_bytes = {}
        self.called_lost = CalledLost()
        if self._watch is not None:
            self._watch.forget()

    def continue_from(self, other: SiteChoice) -> None:
        """Go on with what another choice has seen."""
        self._last_bytes = dict(other._last_bytes)
        self.called_lost = copy.deepcopy(other.called_lost)
        if self._watch is not None and other._watch is not None:
            self._watch.continue_from(other._watch)

    def rename(self, new_id: Callable[[int], int]) -> None:
        """The stack ids of later reports are other ones, and each may stand for several."""
        renamed: Counter[int] = Counter()
        for stack_id, held_bytes in self._last_bytes.items():
            renamed[new_id(stack_id)] += held_bytes
        self._last_bytes = dict(renamed)
        self.called_lost.rename(new_id)
        if self._watch is not None:
            self._watch.rename(new_id)

    @property
    def last_stack_ids(self) -> Sequence[int]:
        """The sites of the last report, shown or not."""
        return list(self._last_bytes)

    def take_over(self, chosen: Chosen) -> None:
        """A report of this was made: the next one is compared with it."""
        table = chosen.table
        self._last_bytes = dict(zip(table.stack_ids.tolist(), table.bytes.tolist(), strict=True))

    def note(
        self, memory: MemoryGrowth | None, losses: tuple[Loss, ...], snapshot: Snapshot
    ) -> None:
        """What the process holds at the next report, and what was lost until then."""
        if memory is not None:
            self._memory = memory
        lost = sum(loss.count for loss in losses if loss.name == "allocations")
        recorded = int(snapshot.sites["allocated_count"].sum())
        new, more = lost - self._last_lost, recorded - self._last_recorded
        self._lost = new if new * _FEW_LOST > max(more, 0) else 0
        self._last_lost, self._last_recorded = lost, recorded
        self._losses = losses

    def choose(
        self, snapshot: Snapshot, sampling: Sampling, started_ns: int, *, target_ended: bool
    ) -> Chosen:
        """The figures of the next report, and which sites it shows."""
        asked, watch = self._asked, self._watch
        # A process that has ended frees nothing any more, so young allocations count, too.
        ages_matter = not self._is_combined and (asked.older_was_given or not target_ended)
        older_ms = asked.older_ms if ages_matter else 0
        young: Verdicts = {}
        blocks: LostTable | None = None
        idle: IdleTable | None = None
        if self._is_combined:
            table = combine_counters(snapshot, sampling)
            outstanding, error = table.total(), None
            if watch is not None:
                watch.observe(snapshot, started_ns, table, sampling)
        else:
            index = SiteIndex.of(snapshot)
            idle = None if snapshot.idle is None else IdleTable(snapshot, index)
            if watch is not None:
                watch.observe(snapshot, started_ns, index, sampling)
                young = _suspicious(self._judged((), snapshot))
                blocks = self._lost_blocks(snapshot, index, sampling)
            # A buffer that realloc enlarges again and again is always young.
            table = group_by_site(
                snapshot,
                older_ms * 1_000_000,
                sampling,
                index,
                young,
                with_sizes=asked.recorded > 0,
            )
            outstanding, error = total_of_records(snapshot, sampling)
        growth = self._growth(table)
        self._suppressed.begin()
        verdicts: Verdicts = {}
        if watch is not None:
            verdicts = self._judged(self._largest(table, growth), snapshot)
            for stack_id in table.stack_ids[table.is_thread_stack].tolist():
                verdicts.pop(stack_id, None)  # they are kept for other threads
            if blocks is not None:  # what memory says counts more
                verdicts = with_lost(verdicts, blocks, self.called_lost)
            if idle is not None:
                verdicts = with_idle(verdicts, idle)
        shown, stacks = self._rows(table, growth, verdicts)
        judged, verdicts = verdicts, without_led(self._suppressed.allowed(verdicts))
        verdict = None
        if watch is not None:
            unknown = watch.too_early() or (lost(self._lost) if self._lost else None)
            largest = table.stack_ids[shown[: asked.top]].tolist()
            hidden_growing = _growing_in(judged) - _growing_in(verdicts)
            verdict = overall(verdicts, largest, unknown, watch.left_out, hidden_growing)
        hidden = self._suppressed.rows_in(table)
        return Chosen(
            snapshot=snapshot,
            table=table,
            outstanding=outstanding,
            error=error,
            growth=growth,
            losses=self._losses,
            verdicts=verdicts,
            verdict=verdict,
            order=shown,
            stacks=stacks,
            hidden=hidden,
            older_ms=older_ms,
            lost=blocks,
            idle=idle,
        )

    def _lost_blocks(
        self, snapshot: Snapshot, index: SiteIndex, sampling: Sampling
    ) -> LostTable | None:
        """The blocks that nothing points to, if memory was looked at."""
        self.called_lost.observe(snapshot)
        if snapshot.reach is None:
            return None
        return LostTable(snapshot, index, weigh(snapshot, sampling)[0] if sampling.is_on else None)

    def _growth(self, table: SiteTable) -> NDArray[np.int64]:
        last = self._last_bytes
        before = np.array([last.get(s, 0) for s in table.stack_ids.tolist()], dtype=np.int64)
        return table.bytes - before

    def _largest(self, table: SiteTable, growth: NDArray[np.int64]) -> list[int]:
        """The sites that will be shown if nothing grows, by stack id."""
        key, top = self._asked.sort, self._asked.most_sites
        order = table.order(SortKey.SIZE if key is SortKey.GROWTH else key, growth)
        rows = self._suppressed.without(order, table, top)[: min(top, _MOST_JUDGED)]
        largest: list[int] = table.stack_ids[rows].tolist()
        return largest

    def _judged(self, stack_ids: Iterable[int], snapshot: Snapshot) -> Verdicts:
        """The verdicts on these sites, and on those that grow the fastest."""
        assert self._watch is not None
        judged = self._watch.judge_all(stack_ids, snapshot, self._memory, self._lost)
        return self._confirmed(judged, snapshot)

    def _rows(
        self, table: SiteTable, growth: NDArray[np.int64], verdicts: Verdicts
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The rows that are shown, and those of sites that create threads."""
        # memleak knows no regions.
        is_memleak = self._asked.format == "memleak"
        if self._watch is not None and self._asked.sort is SortKey.GROWTH:
            order = order_by_verdict(table, verdicts)
        else:
            order = table.order(self._asked.sort, growth, by_requested=is_memleak)
        is_stack = table.is_thread_stack[order] & (not is_memleak)
        shown, stacks = (
            self._suppressed.without(rows, table, self._asked.most_sites, verdicts)
            for rows in (order[~is_stack], order[is_stack])
        )
        return shown[: self._asked.most_sites], stacks


def _suspicious(verdicts: Verdicts) -> Verdicts:
    return {one: verdict for one, verdict in verdicts.items() if verdict.is_suspicious}


def _growing_in(verdicts: Verdicts) -> int:
    return sum(verdict.kind is VerdictKind.GROWING for verdict in verdicts.values())
