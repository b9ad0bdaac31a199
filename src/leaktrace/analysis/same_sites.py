"""Stacks that differ only in their addresses are one site: of a library that was reloaded."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace

import numpy as np

from leaktrace.abi.process import StackEndCode
from leaktrace.analysis.snapshot import Snapshot

LocationsOf = Callable[[int], Hashable | None]
_COUNTERS = ("allocated_bytes", "allocated_count", "freed_bytes", "freed_count")


class SameSites:
    """Which stack ids mean the same site. The first one seen represents the others."""

    def __init__(self) -> None:
        self._first: dict[Hashable, int] = {}
        self._known: dict[int, int] = {}

    def merge(self, snapshot: Snapshot, locations_of: LocationsOf) -> Snapshot:
        """The snapshot with one stack id per site. `locations_of` returns what all stacks of a site
        have in common, and None for an unknown stack."""
        # Complete stacks first, so that one of them represents equal stacks with a guessed frame.
        complete = snapshot.sites["end"] == StackEndCode.COMPLETE
        for stack_id in snapshot.site_ids[complete].tolist():
            self._first_of(stack_id, locations_of)
        stack_ids = np.unique(np.concatenate([snapshot.site_ids, snapshot.records["stack_id"]]))
        firsts = np.array(
            [self._first_of(one, locations_of) for one in stack_ids.tolist()], dtype=np.uint64
        )
        if (firsts == stack_ids).all():
            return snapshot
        records = snapshot.records.copy()
        records["stack_id"] = firsts[np.searchsorted(stack_ids, records["stack_id"])]
        owners = firsts[np.searchsorted(stack_ids, snapshot.site_ids)]
        # The row of the representative first, if it exists: its stack is shown.
        by_owner = np.lexsort((owners != snapshot.site_ids, owners))
        owners, all_sites = owners[by_owner], snapshot.sites[by_owner]
        site_ids, chosen, rows = np.unique(owners, return_index=True, return_inverse=True)
        sites = all_sites[chosen].copy()
        for name in _COUNTERS:
            sums = np.zeros(len(sites), dtype=np.uint64)  # modulo 2**64: freed may be negative
            np.add.at(sums, rows, all_sites[name])
            sites[name] = sums
        return replace(snapshot, records=records, site_ids=site_ids, sites=sites)

    def _first_of(self, stack_id: int, locations_of: LocationsOf) -> int:
        known = self._known.get(stack_id)
        if known is None:
            locations = locations_of(stack_id)
            known = stack_id if locations is None else self._first.setdefault(locations, stack_id)
            self._known[stack_id] = known
        return known
