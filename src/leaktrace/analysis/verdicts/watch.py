"""Watches all sites of a report's subject, and says of each what it does."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable

import numpy as np

from leaktrace.analysis.sampling import Sampling
from leaktrace.analysis.sites import SiteIndex, SiteTable, weigh
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.analysis.verdicts.bounded import thinned
from leaktrace.analysis.verdicts.cohorts import Cohorts, Floats, Survivors
from leaktrace.analysis.verdicts.growth import AWAITS_COLLECTION, Evidence, judge, too_early
from leaktrace.analysis.verdicts.slow_growth import held_back
from leaktrace.memory import MemoryGrowth
from leaktrace.verdict import Verdict, VerdictKind

# Of each report, so many of the sites that have gained the most bytes, or blocks, are judged, even
# if they are not among the largest. One judgement takes 0.2 ms.
_FASTEST = 256
_MOST_POINTS = 256
_ALIKE = 0.2  # the share of the blocks of two sites that may have come at different times


class SiteWatch:
    """The history of the sites, from the start of a trace, and the verdicts of the last report."""

    def __init__(
        self, noun: str = "block", *, is_counted: bool = False, may_replace: bool = True
    ) -> None:
        """`noun`: what is outstanding; `is_counted`: it has no size; `may_replace`: what was
        allocated before the trace may be replaced, as far as can be known."""
        self._noun = noun
        self._is_counted = is_counted
        self._may_replace = may_replace
        self._cohorts: Cohorts | None = None
        self._totals_only = False
        self._begin_ns: int | None = None  # of the program, if it was executed under trace
        self._reports = 0
        self._unseen: list[tuple[int, int]] = []  # time in ns, releases of older blocks until then
        self._judged: dict[int, Verdict] = {}  # of the last report, each site by itself
        self._verdicts: dict[int, Verdict] = {}  # of the last report
        self._growing: set[int] = set()  # in the report before the last
        self._sampling = Sampling()
        self.left_out = 0  # sites that may grow, and were not judged in the last report

    def forget(self) -> None:
        """The process has executed another program, which starts with nothing."""
        self._cohorts, self._reports, self._begin_ns = None, 0, time.monotonic_ns()
        self._unseen, self._judged, self._verdicts = [], {}, {}

    def continue_from(self, other: SiteWatch) -> None:
        """Go on with the history of another watch."""
        self._cohorts = copy.deepcopy(other._cohorts)
        self._reports = other._reports
        self._unseen = list(other._unseen)
        self._judged, self._verdicts = dict(other._judged), dict(other._verdicts)

    def rename(self, new_id: Callable[[int], int]) -> None:
        """Stack ids have changed."""
        if self._cohorts is not None:
            self._cohorts.rename(new_id)
        self._judged = {new_id(one): verdict for one, verdict in self._judged.items()}
        self._verdicts = {new_id(one): verdict for one, verdict in self._verdicts.items()}

    def observe(
        self,
        snapshot: Snapshot,
        start_ns: int,
        sites: SiteIndex | SiteTable,
        sampling: Sampling,
    ) -> None:
        """Take in a report. `sites`: those of all records; or their totals, if only these are
        known."""
        if self._cohorts is None:
            begin_ns = start_ns if self._begin_ns is None else self._begin_ns
            self._cohorts = Cohorts(min(begin_ns, snapshot.time_ns - 1))
        self._growing = {
            one for one, known in self._verdicts.items() if known.kind is VerdictKind.GROWING
        }
        self._judged, self._verdicts = {}, {}
        self._reports += 1
        self._sampling = sampling
        self._totals_only = isinstance(sites, SiteTable)
        if isinstance(sites, SiteTable):
            self._cohorts.add_totals(
                snapshot.time_ns,
                sites.stack_ids,
                sites.bytes.astype(np.float64),
                sites.counts.astype(np.float64),
            )
        else:
            weights = weigh(snapshot, sampling)[0] if sampling.is_on else None
            self._cohorts.add_blocks(
                snapshot.time_ns,
                sites.stack_ids,
                Survivors(
                    sites.rows,
                    snapshot.records["time_ns"].view(np.int64),
                    weights,
                    _sizes(snapshot),
                ),
            )
        if snapshot.unseen_releases is not None:
            self._unseen.append((snapshot.time_ns, snapshot.unseen_releases))
            kept = thinned(np.array([time_ns for time_ns, _ in self._unseen]), _MOST_POINTS)
            self._unseen = [self._unseen[index] for index in kept.tolist()]
        allocated = sampling.scale_sites(snapshot.sites)["allocated_count"].astype(np.int64)
        self._cohorts.note_allocated(snapshot.site_ids, allocated)

    def judge_all(
        self,
        stack_ids: Iterable[int],
        snapshot: Snapshot,
        memory: MemoryGrowth | None = None,
        lost_count: int = 0,
    ) -> dict[int, Verdict]:
        """The verdicts on these sites, and on those that grow the fastest, by stack id.

        `snapshot`: the one that was taken in last; `memory`: of the process, None: not known;
        `lost_count`: allocations that were lost since the previous report.
        """
        assert self._cohorts is not None  # there was a report
        fastest, self.left_out = self._cohorts.fastest(_FASTEST)
        asked = dict.fromkeys([*fastest.tolist(), *stack_ids])
        wanted = [one for one in asked if one not in self._judged]
        sites = self._sampling.scale_sites(snapshot.sites)["allocated_count"].tolist()
        allocated = dict(zip(snapshot.site_ids.tolist(), sites, strict=True))
        lifetimes, unseen_per_s = snapshot.lifetimes_of(wanted), self._unseen_per_s()
        regions = set(snapshot.regions.rows["stack_id"].tolist())
        for stack_id in wanted:
            history = self._cohorts.history(stack_id)
            if history is None:
                continue
            evidence = Evidence(
                history,
                self._reports,
                allocated.get(stack_id, 0),
                lifetimes.get(stack_id),
                unseen_per_s,
                None if memory is None else memory.since_attach.written,
                lost_count,
                totals_only=self._totals_only,
                is_region=stack_id in regions,
                has_runtime_heap=snapshot.has_runtime_heap,
                was_growing=stack_id in self._growing,
                noun=self._noun,
                is_counted=self._is_counted,
            )
            self._judged[stack_id] = judge(evidence)
        if snapshot.has_runtime_heap:
            self._see_what_comes_with_pages(regions)
        self._verdicts = dict(self._judged)
        if memory is not None and not self._is_counted:
            new = {one: self._judged[one] for one in self._judged if one not in self._growing}
            self._verdicts |= held_back(new, self._cohorts.history, memory.resident.total)
        return dict(self._verdicts)

    def _see_what_comes_with_pages(self, regions: set[int]) -> None:
        """A runtime allocates some blocks for each page of its heap. What comes only when pages do
        goes with them, too: when garbage is collected for the first time."""
        assert self._cohorts is not None
        known = {one: self._cohorts.history(one) for one in self._judged}
        kept = {
            one: history.counts / history.counts.sum()
            for one, history in known.items()
            if history is not None and history.counts.any() and not history.gone.any()
        }
        pages = [shares for one, shares in kept.items() if one in regions]
        for one, shares in kept.items():
            if one in regions or self._judged[one].kind is not VerdictKind.GROWING:
                continue
            if any(np.abs(shares - of_pages).sum() <= _ALIKE for of_pages in pages):
                self._judged[one] = AWAITS_COLLECTION

    def too_early(self) -> Verdict | None:
        """The verdict on any site as long as it has been watched for too short a time."""
        assert self._cohorts is not None  # there was a report
        return too_early(self._cohorts.elapsed_s, self._reports)

    def _unseen_per_s(self) -> float | None:
        """Releases of blocks from before the trace, per second, in the last quarter of the time."""
        if self._begin_ns is not None or not self._may_replace:
            return 0.0  # a program that was executed under trace has nothing older
        if not self._unseen or self._cohorts is None:
            return None
        last_ns, last = self._unseen[-1]
        begin_ns = last_ns - int(self._cohorts.elapsed_s * 1e9 / 4)
        earlier = [one for one in self._unseen[:-1] if one[0] <= begin_ns]
        first_ns, first = earlier[-1] if earlier else (self._cohorts.start_ns, 0)
        return max(last - first, 0) / ((last_ns - first_ns) / 1e9)


def _sizes(snapshot: Snapshot) -> Floats:
    """The bytes that each record holds: of regions those in memory, as far as that is known."""
    sizes: Floats = snapshot.records["size"].astype(np.float64)
    regions, first = snapshot.regions.rows, len(sizes) - snapshot.region_count
    if len(regions) and np.array_equal(regions["time_ns"], snapshot.records["time_ns"][first:]):
        sizes[first:] = regions["resident"] + regions["swapped"] + regions["unread"]
    return sizes
