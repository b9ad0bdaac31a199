"""Outstanding allocations grouped by site, as numpy columns: no Python object per allocation."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.regions import SiteRegions
from leaktrace.analysis.sampling import Sampling
from leaktrace.analysis.size_classes import SizeClasses, size_classes
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.options import SortKey
from leaktrace.site import Total


@dataclass(frozen=True)
class SiteTable:
    """One row per site that holds memory; all columns have the same length.

    Ages are None with combined statistics, which have no single allocations. Variances are None if
    nothing is estimated, and with combined statistics, where they aren't known.
    """

    stack_ids: NDArray[np.uint64]
    bytes: NDArray[np.int64]
    counts: NDArray[np.int64]
    oldest_ns: NDArray[np.int64] | None = None
    newest_ns: NDArray[np.int64] | None = None
    bytes_variance: NDArray[np.float64] | None = None
    counts_variance: NDArray[np.float64] | None = None
    regions: SiteRegions | None = None  # the part that is mapped regions; None: nothing
    sizes: SizeClasses | None = None  # which sizes blocks have; None: not counted

    def sizes_of(self, row: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The blocks and the bytes of a site by size (Site.sizes, Site.size_bytes)."""
        return ((), ()) if self.sizes is None else self.sizes.of(row)

    def __len__(self) -> int:
        return len(self.stack_ids)

    def total(self) -> Total:
        return Total(int(self.bytes.sum()), int(self.counts.sum()))

    def error(self, rows: slice | NDArray[np.intp]) -> Total | None:
        """The standard errors of the sum of some rows; None if nothing is estimated."""
        if self.bytes_variance is None or self.counts_variance is None:
            return None
        return Total(
            round(math.sqrt(self.bytes_variance[rows].sum())),
            round(math.sqrt(self.counts_variance[rows].sum())),
        )

    @property
    def held(self) -> NDArray[np.int64]:
        """What takes memory: blocks, and of regions what is in memory or not known."""
        return self.bytes if self.regions is None else self.regions.held(self.bytes)

    @property
    def is_thread_stack(self) -> NDArray[np.bool_]:
        """Which sites create threads."""
        if self.regions is None:
            return np.zeros(len(self), dtype=bool)
        return self.regions.is_thread_stack

    def order(
        self, key: SortKey, growth: NDArray[np.int64], *, by_requested: bool = False
    ) -> NDArray[np.intp]:
        """Row numbers, largest first; ties in a fixed order (by bytes, then by stack id).

        The size of a site is what takes memory there. `by_requested`: what was requested.
        """
        primary = {
            SortKey.SIZE: self.bytes if by_requested else self.held,
            SortKey.COUNT: self.counts,
            SortKey.GROWTH: growth,
            SortKey.AGE: self.bytes if self.oldest_ns is None else self.oldest_ns,
        }[key]
        return np.lexsort((self.stack_ids, -self.bytes, -primary))


@dataclass(frozen=True)
class SiteIndex:
    """The sites of all records of a snapshot: ascending stack ids, and for each record its row."""

    stack_ids: NDArray[np.uint64]
    rows: NDArray[np.intp]

    @classmethod
    def of(cls, snapshot: Snapshot) -> SiteIndex:
        """Sorts the stack ids of all records: of a million, in a tenth of a second."""
        return cls(*np.unique(snapshot.records["stack_id"], return_inverse=True))


def group_by_site(
    snapshot: Snapshot,
    older_ns: int,
    sampling: Sampling,
    index: SiteIndex | None = None,
    whole: Collection[int] = (),
    *,
    with_sizes: bool = False,
) -> SiteTable:
    """Group the records that are at least `older_ns` old by their stack. `index`: that of the
    snapshot, if it is known. `whole`: of these sites, younger records count, too. `with_sizes`:
    also count which sizes blocks have."""
    if index is None:
        index = SiteIndex.of(snapshot)
    # Views, not copies: of a million records, copies would take most of a report's memory.
    records = snapshot.records
    ages_ns = snapshot.time_ns - records["time_ns"].view(np.int64)
    # A record made while the map was being read is a little younger than the snapshot.
    np.maximum(ages_ns, 0, out=ages_ns)
    old_enough = ages_ns >= older_ns
    if whole:
        old_enough |= np.isin(index.stack_ids, np.array(list(whole), dtype=np.uint64))[index.rows]
    stack_ids, rows = index.stack_ids, index.rows
    if not old_enough.all():
        records, ages_ns, rows = records[old_enough], ages_ns[old_enough], rows[old_enough]
        is_left = np.bincount(rows, minlength=len(stack_ids)) > 0
        stack_ids, rows = stack_ids[is_left], (np.cumsum(is_left) - 1)[rows]
    length = len(stack_ids)
    regions = snapshot.regions.by_site(stack_ids, snapshot.time_ns - older_ns)
    oldest = np.zeros(length, dtype=np.int64)
    np.maximum.at(oldest, rows, ages_ns)
    newest = np.full(length, np.iinfo(np.int64).max)
    np.minimum.at(newest, rows, ages_ns)
    if not sampling.is_on:
        sizes = np.zeros(length, dtype=np.int64)
        np.add.at(sizes, rows, records["size"].view(np.int64))
        counts = np.bincount(rows, minlength=length).astype(np.int64)
        classes = size_classes(records["size"], rows, counts, sizes) if with_sizes else None
        return SiteTable(stack_ids, sizes, counts, oldest, newest, regions=regions, sizes=classes)

    weights, variances = weigh(snapshot, sampling)
    weights, variances = weights[old_enough], variances[old_enough]
    sizes_each = records["size"].astype(np.float64)

    def summed(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(rows, weights=values, minlength=length).astype(np.float64)

    held = np.rint(summed(sizes_each * weights)).astype(np.int64)
    counts = np.rint(summed(weights)).astype(np.int64)
    return SiteTable(
        stack_ids=stack_ids,
        bytes=held,
        counts=counts,
        oldest_ns=oldest,
        newest_ns=newest,
        bytes_variance=summed(sizes_each**2 * variances),
        counts_variance=summed(variances),
        regions=regions,
        sizes=size_classes(records["size"], rows, counts, held, weights) if with_sizes else None,
    )


def total_of_records(snapshot: Snapshot, sampling: Sampling) -> tuple[Total, Total | None]:
    """Everything outstanding, of any age, and its standard error if it is an estimate."""
    sizes = snapshot.records["size"]
    if not sampling.is_on:
        return Total(int(sizes.sum()), len(sizes)), None
    weights, variances = weigh(snapshot, sampling)
    each = sizes.astype(np.float64)
    estimate = Total(round((each * weights).sum()), round(weights.sum()))
    error = Total(round(math.sqrt((each**2 * variances).sum())), round(math.sqrt(variances.sum())))
    return estimate, error


def weigh(
    snapshot: Snapshot, sampling: Sampling
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights and variances of all records. Regions, which come last, are never sampled."""
    weights, variances = sampling.weights_and_variances(snapshot.records)
    first_region = len(weights) - snapshot.region_count
    weights[first_region:], variances[first_region:] = 1, 0
    return weights, variances


def combine_counters(snapshot: Snapshot, sampling: Sampling) -> SiteTable:
    """The same from the sites' counters alone: allocated minus freed, without ages."""
    sites = sampling.scale_sites(snapshot.sites)
    held = (sites["allocated_bytes"] - sites["freed_bytes"]).astype(np.int64)
    counts = (sites["allocated_count"] - sites["freed_count"]).astype(np.int64)
    holds = counts > 0
    stack_ids, held, counts = snapshot.site_ids[holds], held[holds], counts[holds]
    ascending = np.argsort(stack_ids)
    stack_ids, held, counts = stack_ids[ascending], held[ascending], counts[ascending]
    return SiteTable(stack_ids, held, counts, regions=snapshot.regions.by_site(stack_ids))
