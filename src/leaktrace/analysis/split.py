"""The parts of a snapshot that belong to single processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.same_sites import add_up_sites, shown_stacks
from leaktrace.analysis.snapshot import Snapshot


@dataclass(frozen=True)
class Part:
    """What a snapshot contains of one process. Sites have the stack ids that represent them, which
    may be those of another process."""

    snapshot: Snapshot
    site_ids: NDArray[np.uint64]  # its own
    owners: NDArray[np.uint64]  # the stack ids that represent them

    def own_stacks(self) -> dict[int, int]:
        """Its own stack ids by those that represent them."""
        return shown_stacks(self.site_ids, self.owners)


def split(
    snapshot: Snapshot, merged: Snapshot, owners: NDArray[np.uint64], slots: Iterable[int]
) -> Iterator[Part]:
    """One part for each slot. `merged` is the snapshot with one stack id per site; `owners` are
    those of the sites of `snapshot`."""
    of_records, of_sites = _Rows(merged.record_slots), _Rows(snapshot.site_slots)
    first_region = len(merged.records) - merged.region_count
    are_counted = len(merged.records) > 0
    for slot in slots:
        records, sites = of_records.of(slot), of_sites.of(slot)
        if are_counted:
            # Lost stacks have the same id in all processes, so these counters aren't its own.
            sites = sites[snapshot.site_ids[sites] != 0]
        own = replace(
            snapshot.with_sites(sites),
            addresses=merged.addresses[records],
            records=merged.records[records],
            region_count=int(np.count_nonzero(records >= first_region)),
            record_slots=None,
            reach=None if merged.reach is None else merged.reach.chosen(records),
            idle=None if merged.idle is None else merged.idle.chosen(records),
            site_slots=None,
            regions=merged.regions.of_slot(slot),
            unseen_releases=None,  # only known of all processes together
            other_memory=tuple(_of_process(one, slot) for one in snapshot.other_memory),
        )
        yield Part(add_up_sites(own, owners[sites]), own.site_ids, owners[sites])


def _of_process(snapshot: Snapshot, slot: int) -> Snapshot:
    """The sites of one process, which are all that is needed of its other memory."""
    assert snapshot.site_slots is not None  # it is of several processes
    return snapshot.with_sites(snapshot.site_slots == slot)


class _Rows:
    """Row numbers by slot, each in the order of the rows: regions stay last."""

    def __init__(self, slots: NDArray[np.uint16] | None) -> None:
        if slots is None:
            slots = np.zeros(0, dtype=np.uint16)
        self._order = np.argsort(slots, kind="stable")  # of 16 bits, this is fast
        counts = np.bincount(slots)
        self._ends = np.cumsum(counts)
        self._starts = self._ends - counts

    def of(self, slot: int) -> NDArray[np.intp]:
        if slot >= len(self._ends):
            return self._order[:0]
        return self._order[self._starts[slot] : self._ends[slot]]
