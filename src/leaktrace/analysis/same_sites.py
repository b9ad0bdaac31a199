"""Stacks that differ only in their addresses are one site: of a library that was reloaded, or of
several processes that run the same code."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from leaktrace.abi.process import StackEndCode
from leaktrace.analysis.snapshot import Snapshot

LocationsOf = Callable[[int], Hashable | None]
_COUNTERS = ("allocated_bytes", "allocated_count", "freed_bytes", "freed_count")


class SameSites:
    """Which stack ids mean the same site. The first one seen represents the others."""

    def __init__(self) -> None:
        self._first: dict[Hashable, int] = {}
        self._known: dict[int, int] = {}

    def merge(
        self,
        snapshot: Snapshot,
        locations_of: LocationsOf,
        stack_ids: NDArray[np.uint64] | None = None,
    ) -> Snapshot:
        """The snapshot with one stack id per site. `locations_of` returns what all stacks of a site
        have in common, and None for an unknown stack. `stack_ids`: those of `stack_ids_in`, if they
        are known."""
        # Complete stacks first, so that one of them represents equal stacks with a guessed frame.
        complete = snapshot.sites["end"] == StackEndCode.COMPLETE
        self.see(snapshot.site_ids[complete].tolist(), locations_of)
        if stack_ids is None:
            stack_ids = stack_ids_in(snapshot)
        firsts = np.array(
            [self._first_of(one, locations_of) for one in stack_ids.tolist()], dtype=np.uint64
        )
        if (firsts == stack_ids).all():
            return snapshot
        records = snapshot.records.copy()
        records["stack_id"] = firsts[np.searchsorted(stack_ids, records["stack_id"])]
        owners = firsts[np.searchsorted(stack_ids, snapshot.site_ids)]
        regions = snapshot.regions.renamed(stack_ids, firsts)
        return add_up_sites(replace(snapshot, records=records, regions=regions), owners)

    def keep_only(self, stack_ids: Iterable[int]) -> dict[int, int]:
        """Forget all other stack ids, whose processes have ended. Returns, by stack ids that can no
        longer represent their site, the ones that do from now on."""
        kept = set(stack_ids)
        if self._known.keys() <= kept:
            return {}
        successors: dict[int, int] = {}
        for stack_id, first in self._known.items():
            if stack_id in kept and first not in kept:
                successors.setdefault(first, stack_id)
        self._known = {
            stack_id: successors.get(first, first)
            for stack_id, first in self._known.items()
            if stack_id in kept
        }
        firsts = {
            locations: successors.get(first, first) for locations, first in self._first.items()
        }
        self._first = {locations: first for locations, first in firsts.items() if first in kept}
        return successors

    def see(self, stack_ids: Iterable[int], locations_of: LocationsOf) -> None:
        """From now on, the first of these represents the others of its site."""
        for stack_id in stack_ids:
            self._first_of(stack_id, locations_of)

    def first_of(self, stack_id: int) -> int:
        """The stack id that represents the site of this one, which was seen before."""
        return self._known.get(stack_id, stack_id)

    def all_of(self, first: int) -> list[int]:
        """The stack ids that this one represents."""
        return [one for one, known in self._known.items() if known == first] or [first]

    def _first_of(self, stack_id: int, locations_of: LocationsOf) -> int:
        known = self._known.get(stack_id)
        if known is None:
            locations = locations_of(stack_id)
            known = stack_id if locations is None else self._first.setdefault(locations, stack_id)
            self._known[stack_id] = known
        return known


def stack_ids_in(snapshot: Snapshot) -> NDArray[np.uint64]:
    """All stack ids of a snapshot, ascending."""
    return np.unique(np.concatenate([snapshot.site_ids, snapshot.records["stack_id"]]))


def add_up_sites(snapshot: Snapshot, owners: NDArray[np.uint64]) -> Snapshot:
    """The snapshot with the counters of those sites added up that have the same owner: the stack id
    that represents them. `owners` is parallel to the sites."""
    by_owner = _by_owner(snapshot.site_ids, owners)
    all_sites = snapshot.sites[by_owner]
    site_ids, chosen, rows = np.unique(owners[by_owner], return_index=True, return_inverse=True)
    sites = all_sites[chosen].copy()
    for name in _COUNTERS:
        sums = np.zeros(len(sites), dtype=np.uint64)  # modulo 2**64: freed may be negative
        np.add.at(sums, rows, all_sites[name])
        sites[name] = sums
    slots = snapshot.site_slots  # of several processes, that of the representative
    return replace(
        snapshot,
        site_ids=site_ids,
        sites=sites,
        site_slots=None if slots is None else slots[by_owner][chosen],
        lifetimes=(
            None
            if snapshot.lifetimes is None
            else snapshot.lifetimes.chosen(by_owner).added_up(rows, len(sites))
        ),
    )


def shown_stacks(site_ids: NDArray[np.uint64], owners: NDArray[np.uint64]) -> dict[int, int]:
    """By owner: the stack id whose stack `add_up_sites` keeps."""
    by_owner = _by_owner(site_ids, owners)
    shown, chosen = np.unique(owners[by_owner], return_index=True)
    return dict(zip(shown.tolist(), site_ids[by_owner][chosen].tolist(), strict=True))


def _by_owner(site_ids: NDArray[np.uint64], owners: NDArray[np.uint64]) -> NDArray[np.intp]:
    """The rows by owner, and in front that of the owner itself, if it exists."""
    return np.lexsort((owners != site_ids, owners))
