"""The contents of the BPF maps at one moment, as numpy arrays. It needs neither BPF nor root:
analysis and reports work on any `Snapshot`, wherever it comes from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.block_classes import SLOT_SHIFT, Reach
from leaktrace.analysis.block_use import BlockUse
from leaktrace.analysis.lifetimes import LifetimeCounts
from leaktrace.analysis.regions import Regions
from leaktrace.verdict import Lifetimes

_FEW_SITES = 64


@dataclass(frozen=True)
class Snapshot:
    """Outstanding allocations and site counters of the program that the target runs.

    `addresses` (u64) and `records` (abi.ALLOCATION) are parallel and unordered; they are empty if
    only combined statistics were requested. `site_ids` (u64, 0: stack unknown) and `sites`
    (abi.SITE) are parallel, too, and so are the rows of `lifetimes`. `losses` is indexed by
    abi.LossKind.

    If several processes are traced, `record_slots` and `site_slots` are parallel to records and
    sites: a slot is the number of a traced process. Stack ids are then unique across processes,
    except for 0.
    """

    time_ns: int
    generation: int
    addresses: NDArray[np.uint64]
    records: NDArray[np.void]
    site_ids: NDArray[np.uint64]
    sites: NDArray[np.void]
    losses: NDArray[np.uint64]
    region_count: int = 0  # the last records are this many mmap'ed regions
    freed_is_counted: bool = True  # in `sites`; False: for regions only
    record_slots: NDArray[np.uint16] | None = None  # None: of one process
    site_slots: NDArray[np.uint16] | None = None
    lifetimes: LifetimeCounts | None = None  # of what was released; None: not measured
    # Blocks that were released and have no record, since tracing began, by the program that runs
    # now: most of them were allocated before. None: not known.
    unseen_releases: int | None = None
    sections: tuple[Snapshot, ...] = ()  # of the functions that the user named, in their order
    other_memory: tuple[Snapshot, ...] = ()  # in the order of model.OTHER_MEMORY
    has_runtime_heap: bool = False  # Go, Java, V8…: a part of what is mapped is a heap of objects
    regions: Regions = field(default_factory=Regions)  # also with combined statistics
    reach: Reach | None = None  # whether anything points to the blocks; None: not known
    idle: BlockUse | None = None  # whether the blocks are used; None: not known

    def with_sites(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> Snapshot:
        """The snapshot with some of the sites; its records stay."""
        return replace(
            self,
            site_ids=self.site_ids[rows],
            sites=self.sites[rows],
            site_slots=None if self.site_slots is None else self.site_slots[rows],
            lifetimes=None if self.lifetimes is None else self.lifetimes.chosen(rows),
        )

    def block_keys(self) -> NDArray[np.uint64]:
        """What distinguishes the records of all processes: address and slot in one number."""
        if self.record_slots is None:
            return self.addresses
        keys: NDArray[np.uint64] = self.record_slots.astype(np.uint64) << SLOT_SHIFT
        return keys | self.addresses

    def lifetimes_of(self, stack_ids: Iterable[int]) -> dict[int, Lifetimes]:
        """How long blocks of these sites lived, without those of which it isn't known."""
        if self.lifetimes is None:
            return {}
        wanted = np.isin(self.site_ids, np.array(list(stack_ids), dtype=np.uint64))
        found = {
            int(self.site_ids[row]): self.lifetimes.of(int(row)) for row in np.nonzero(wanted)[0]
        }
        return {stack_id: one for stack_id, one in found.items() if one is not None}

    def held_by(self, stack_ids: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Bytes and number of the allocations of some sites, without regions."""
        records = self.records[: len(self.records) - self.region_count]
        sizes, counts = np.zeros((2, len(stack_ids)), dtype=np.int64)
        if len(stack_ids) <= _FEW_SITES:  # faster than sorting what may be millions of records
            for row, stack_id in enumerate(stack_ids):
                chosen = records["stack_id"] == stack_id
                counts[row] = np.count_nonzero(chosen)
                sizes[row] = records["size"][chosen].sum()
            return sizes, counts
        known, rows = np.unique(records["stack_id"], return_inverse=True)
        at = np.searchsorted(known, stack_ids).clip(max=max(len(known) - 1, 0))
        found = known[at] == stack_ids if len(known) else np.zeros(len(stack_ids), dtype=bool)
        each = np.bincount(rows, weights=records["size"].astype(np.float64), minlength=len(known))
        counts[found] = np.bincount(rows, minlength=len(known))[at[found]]
        sizes[found] = each[at[found]].astype(np.int64)
        return sizes, counts
