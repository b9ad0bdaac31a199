"""Builds the reports of kernel mode: a section per allocator, slab caches by name, and doubts about
sites whose blocks may have been freed without being seen."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from leaktrace.abi.kernel import CONTEXT_NAMES, SECTION_NAMES, Context, Section
from leaktrace.analysis.builder import ReportBuilder
from leaktrace.analysis.sampling import Sampling
from leaktrace.analysis.site_id import site_id
from leaktrace.analysis.sites import SiteTable
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.analysis.verdicts.watch import SiteWatch
from leaktrace.kernel.losses import describe_kernel_losses
from leaktrace.kernel.meminfo import read_held, untraced_growth
from leaktrace.kernel.probes.plan import KernelPlan
from leaktrace.kernel.slab import (
    LARGE_KMALLOC,
    SlabCache,
    kmalloc_class_name,
    read_slab_caches,
    traced_name,
)
from leaktrace.kernel.snapshot import KernelSnapshot
from leaktrace.kernel.trim import without_allocator
from leaktrace.memory import SlabGrowth, UntracedGrowth
from leaktrace.model import Loss, Report, TargetInfo
from leaktrace.options import KernelOptions
from leaktrace.site import Site, Stack
from leaktrace.verdict import SUSPICIOUS, Verdict, VerdictKind

# Caches whose users usually free in bulk: lib/maple_tree.c (mas_destroy, mt_free_bulk),
# net/core/skbuff.c (napi_skb_cache_put), io_uring. Others (lib/stackdepot) are recognized by their
# counts (`_overcounted`).
_FREED_IN_BULK = ("maple_node", "skbuff_head_cache", "skbuff_fclone_cache", "io_kiocb")
_CONFIRMED = 0.5  # of what a site has gained: the growth of its cache confirms it
_BUCKET = re.compile(r".+-(8|16|32|64|96|128|192|256|512|1k|2k|4k|8k)")


class KernelReportBuilder:
    """Builds reports, and keeps what the next one is compared with."""

    def __init__(
        self, options: KernelOptions, plan: KernelPlan, stack_of: Callable[[int], Stack]
    ) -> None:
        self._options = options
        self._first_caches: dict[str, SlabCache] = {}
        self._first_held: dict[Section, int] = {}
        self._builders = {
            section: _SectionBuilder(options, plan, section, stack_of) for section in plan.sections
        }

    @property
    def sampling(self) -> Sampling:
        return self._builders[Section.SLAB].sampling

    def start_clock(self) -> None:
        """Recording has begun."""
        self._first_caches = read_slab_caches()
        self._first_held = read_held()
        for builder in self._builders.values():
            builder.start_clock()

    def build(
        self, snapshot: KernelSnapshot, target: TargetInfo, final_reason: str | None = None
    ) -> Report:
        """The report of one snapshot. `final_reason`: why it is the last one; None: it isn't."""
        overcounted = _overcounted(snapshot.sections[Section.SLAB], snapshot.slab_caches)
        grown = self._grown_caches(snapshot) if self._is_everything else {}
        reports = []
        for section, builder in self._builders.items():
            builder.prepare(snapshot, overcounted, grown)
            report = builder.build(
                snapshot.sections[section], target, None, final_reason=final_reason
            )
            reports.append(replace(report, section=SECTION_NAMES[section]))
        return replace(
            reports[0],
            sections=tuple(reports[1:]),
            slab=self._growth(snapshot),
            untraced=self._untraced(reports[0].outstanding.bytes),
        )

    def _untraced(self, outstanding_bytes: int) -> tuple[UntracedGrowth, ...]:
        """Reported only if all allocations are traced: otherwise the user asked for a part."""
        if not self._is_of_all:
            return ()
        return untraced_growth(self._first_held, read_held(), self._builders, outstanding_bytes)

    @property
    def _is_of_all(self) -> bool:
        """Whether every cache, module, context and task is traced."""
        target = self._options.target
        return not (
            target.caches or target.modules or target.contexts or target.task_pid is not None
        )

    @property
    def _is_everything(self) -> bool:
        """Whether nothing is filtered out, so that totals can be compared with the kernel's own."""
        filters = self._options.filters
        return self._is_of_all and not (
            filters.min_size_bytes or filters.max_size_bytes is not None or filters.sample_rate > 1
        )

    def _grown_caches(self, snapshot: KernelSnapshot) -> dict[str, int]:
        """How many more objects of each cache are in use than at the start."""
        grown: Counter[str] = Counter()
        for cache in snapshot.slab_caches.values():
            grown[_counted_name(cache.name)] += cache.active
        for cache in self._first_caches.values() if grown else ():
            grown[_counted_name(cache.name)] -= cache.active
        return dict(grown)

    def _growth(self, snapshot: KernelSnapshot) -> SlabGrowth | None:
        if not self._is_everything or not snapshot.slab_caches or not self._first_caches:
            return None
        grown = sum(cache.bytes for cache in snapshot.slab_caches.values()) - sum(
            cache.bytes for cache in self._first_caches.values()
        )
        sites = snapshot.sections[Section.SLAB].sites
        held = (sites["allocated_bytes"] - sites["freed_bytes"]).astype(np.int64)
        in_slabs = ~_is_large(sites)
        return SlabGrowth(
            grown_bytes=grown,
            tracked_bytes=int(held[in_slabs].sum()),
            older_releases=snapshot.older_releases[Section.SLAB],
        )


def cache_of(counter: np.void) -> str | None:
    """The slab cache of a site (KERNEL_SITE); None where there is none, or it is unknown."""
    if int(counter["section"]) != Section.SLAB:
        return None
    name = bytes(counter["cache"]).split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
    if name:
        return name
    size = int(counter["object_size"])
    return kmalloc_class_name(size) if size else None


def _is_large(sites: NDArray[np.void]) -> NDArray[np.bool_]:
    """Which sites get whole pages from kmalloc, and not an object of a slab."""
    large = [cache_of(site) == LARGE_KMALLOC for site in sites]
    return np.array(large, dtype=np.bool_)


def _counted_name(cache: str) -> str:
    """Like `traced_name`, but the kmalloc caches of a single user (kmem_buckets, Linux 6.11) are
    counted with those of their size."""
    found = _BUCKET.fullmatch(cache)
    return f"kmalloc-{found[1]}" if found else traced_name(cache)


def _overcounted(snapshot: Snapshot, caches: dict[str, SlabCache]) -> dict[str, tuple[int, int]]:
    """Caches with more objects that look outstanding than objects that are in use: both counts, by
    the cache's name."""
    in_use: dict[str, int] = {}
    for cache in caches.values():
        name = _counted_name(cache.name)
        in_use[name] = in_use.get(name, 0) + cache.active
    held = (snapshot.sites["allocated_count"] - snapshot.sites["freed_count"]).astype(np.int64)
    tracked: dict[str, int] = {}
    for site, count in zip(snapshot.sites, held.tolist(), strict=True):
        named = cache_of(site)
        if named is not None:
            tracked[named] = tracked.get(named, 0) + count
    return {
        name: (count, in_use[name])
        for name, count in tracked.items()
        if name in in_use and count > in_use[name]
    }


class _SectionBuilder(ReportBuilder):
    """Reports about one allocator."""

    def __init__(
        self,
        options: KernelOptions,
        plan: KernelPlan,
        section: Section,
        stack_of: Callable[[int], Stack],
    ) -> None:
        super().__init__(options, self._losses_of, stack_of, watch=SiteWatch(may_replace=False))
        self._section = section
        self._plan = plan
        self._limits = options.limits
        self._older_ns = options.report.older_ms * 1_000_000
        self._recursion_misses = 0
        self._overcounted: dict[str, tuple[int, int]] = {}
        self._requested: dict[int, int] = {}
        self._grown: dict[str, int] = {}

    def prepare(
        self,
        snapshot: KernelSnapshot,
        overcounted: dict[str, tuple[int, int]],
        grown: dict[str, int],
    ) -> None:
        """Take over what the next report needs in addition to its snapshot. `grown`: how many more
        objects of each cache are in use than at the start, where that is known."""
        self._grown = grown
        self._recursion_misses = snapshot.recursion_misses
        self._overcounted = overcounted
        own = snapshot.sections[self._section]
        if self._options.report.combined_only:
            held = (own.sites["allocated_requested"] - own.sites["freed_requested"]).tolist()
            self._requested = dict(zip(own.site_ids.tolist(), held, strict=True))
            return
        ages_ns = own.time_ns - own.records["time_ns"].astype(np.int64)
        records = own.records[np.maximum(ages_ns, 0) >= self._older_ns]
        stack_ids, rows = np.unique(records["stack_id"], return_inverse=True)
        requested = np.zeros(len(stack_ids), dtype=np.int64)
        np.add.at(requested, rows, records["requested"].astype(np.int64))
        self._requested = dict(zip(stack_ids.tolist(), requested.tolist(), strict=True))

    def _losses_of(self, snapshot: Snapshot) -> tuple[Loss, ...]:
        if self._section is not Section.SLAB:
            return ()  # losses are counted once, and reported with the first section
        return describe_kernel_losses(snapshot.losses, self._recursion_misses, self._limits)

    def site_id(self, stack_id: int, counter: np.void | None) -> str:
        """Made from the stack and the cache: one stack may allocate from several caches."""
        frames = without_allocator(list(self._stack_of(stack_id).frames))
        if not frames or counter is None:
            return f"{stack_id:016x}"
        cache = cache_of(counter) or SECTION_NAMES[self._section]
        return hashlib.blake2b(
            f"{site_id(frames)} {cache}".encode("utf-8", "surrogateescape"), digest_size=8
        ).hexdigest()

    def site(
        self, table: SiteTable, row: int, growth_bytes: int, counters: dict[int, np.void]
    ) -> Site:
        site = super().site(table, row, growth_bytes, counters)
        stack_id = int(table.stack_ids[row])
        counter = counters.get(stack_id)
        if counter is None:
            return site
        return replace(
            site,
            requested_bytes=self._requested.get(stack_id, 0) * self.sampling.rate,
            cache=cache_of(counter),
            context=CONTEXT_NAMES[Context(int(counter["context"]))],
            unconfirmed=self._doubt(counter) if site.count else None,
        )

    def confirmed(self, verdicts: dict[int, Verdict], snapshot: Snapshot) -> dict[int, Verdict]:
        """No growth is claimed where blocks may have been freed without being seen."""
        grown = [one for one, verdict in verdicts.items() if verdict.kind in SUSPICIOUS]
        confirmed = dict(verdicts)
        for row in np.nonzero(np.isin(snapshot.site_ids, np.array(grown, dtype=np.uint64)))[0]:
            counter = snapshot.sites[row]
            doubt = self._doubt(counter) or self._unconfirmed(counter)
            if doubt is not None:
                confirmed[int(snapshot.site_ids[row])] = Verdict(VerdictKind.TOO_EARLY, doubt)
        return confirmed

    def _unconfirmed(self, counter: np.void) -> str | None:
        """Why a site may only replace objects that are older than the trace: as many of its cache
        are in use as before. None: it has more, or that isn't known."""
        cache = cache_of(counter)
        if cache is None or cache not in self._grown:
            return None
        held = (counter["allocated_count"] - counter["freed_count"]).astype(np.int64)
        grown = self._grown[cache]
        if grown >= _CONFIRMED * int(held):
            return None
        return f"{cache} has {grown:+,} objects in use: older ones may only be replaced"

    def _doubt(self, counter: np.void) -> str | None:
        """Why blocks that look outstanding may have been freed; None: no reason to doubt."""
        unseen, cache = int(counter["unseen_frees"]), cache_of(counter)
        if unseen:
            return (
                f"{unseen:,} of its blocks were freed without being seen "
                "(kfree_rcu or a bulk free?)"
            )
        if cache in self._overcounted:
            look, are = self._overcounted[cache]
            return (
                f"{look:,} objects of {cache} look outstanding, but only {are:,} are in use "
                "(freed by kfree_rcu or in bulk?)"
            )
        if cache in _FREED_IN_BULK and not self._plan.sees_bulk_frees:
            return f"objects of {cache} are often freed in bulk, which can't be seen"
        return None
