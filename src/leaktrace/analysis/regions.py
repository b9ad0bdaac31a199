"""The mapped regions of a snapshot: how much of them is in memory, by site and in all."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from leaktrace.memory import RegionBytes

# One row per region. `resident` and `swapped` are bytes of what was looked at, in whole pages;
# `unread` are bytes that were not looked at.
REGION = np.dtype(
    [
        ("stack_id", "u8"),
        ("size", "i8"),
        ("time_ns", "i8"),
        ("resident", "i8"),
        ("swapped", "i8"),
        ("unread", "i8"),
        ("slot", "u2"),
        ("is_thread_stack", "?"),
    ]
)
_SUMS = ("size", "resident", "swapped", "unread")


def no_regions() -> NDArray[np.void]:
    """Rows of no region."""
    return np.empty(0, dtype=REGION)


@dataclass(frozen=True)
class SiteRegions:
    """The regions of sites: columns that are parallel to those of the sites."""

    counts: NDArray[np.int64]
    size: NDArray[np.int64]
    resident: NDArray[np.int64]
    swapped: NDArray[np.int64]
    unread: NDArray[np.int64]
    is_thread_stack: NDArray[np.bool_]
    age_ns: int

    def held(self, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        """What takes memory at sites that have these bytes outstanding."""
        held: NDArray[np.int64] = sizes - self.size + self.resident + self.swapped + self.unread
        return held

    def of(self, rows: int | slice | NDArray[np.intp]) -> RegionBytes | None:
        """Those of some sites together; None if they have none."""
        found = RegionBytes(
            count=int(np.sum(self.counts[rows])),
            reserved=int(np.sum(self.size[rows])),
            resident=int(np.sum(self.resident[rows])),
            swapped=int(np.sum(self.swapped[rows])),
            unread=int(np.sum(self.unread[rows])),
            age_ns=self.age_ns,
        )
        return found if found.count else None


@dataclass(frozen=True)
class Regions:
    """The regions that are mapped. `idle_stacks` are stacks of threads that have ended, at least;
    None: not known."""

    rows: NDArray[np.void] = field(default_factory=no_regions)
    age_ns: int = 0  # how long before the snapshot it was seen what is in memory
    idle_stacks: int | None = None
    idle_bytes: int = 0

    def total(self) -> RegionBytes | None:
        """All of them; None if there are none."""
        if not len(self.rows):
            return None
        size, resident, swapped, unread = (int(self.rows[name].sum()) for name in _SUMS)
        return RegionBytes(len(self.rows), size, resident, swapped, unread, self.age_ns)

    @property
    def untouched_bytes(self) -> int:
        """What they reserve, and was seen not to be in memory."""
        found = self.total()
        return 0 if found is None else max(found.reserved - found.held, 0)

    def by_site(
        self, stack_ids: NDArray[np.uint64], until_ns: int | None = None
    ) -> SiteRegions | None:
        """Those of the sites with these stack ids, ascending; None if there are none. `until_ns`:
        only those that were mapped until then."""
        rows = self.rows
        if until_ns is not None:
            rows = rows[rows["time_ns"] <= until_ns]
        at = np.searchsorted(stack_ids, rows["stack_id"]).clip(max=max(len(stack_ids) - 1, 0))
        known = stack_ids[at] == rows["stack_id"] if len(stack_ids) else np.zeros(len(rows), bool)
        rows, at = rows[known], at[known]
        if not len(rows):
            return None
        sums = {name: np.zeros(len(stack_ids), dtype=np.int64) for name in _SUMS}
        for name, of_site in sums.items():
            np.add.at(of_site, at, rows[name])
        is_stack = np.zeros(len(stack_ids), dtype=bool)
        is_stack[at] = rows["is_thread_stack"]
        counts = np.bincount(at, minlength=len(stack_ids)).astype(np.int64)
        return SiteRegions(counts, **sums, is_thread_stack=is_stack, age_ns=self.age_ns)

    def of_slot(self, slot: int) -> Regions:
        """Those of one process."""
        return replace(
            self, rows=self.rows[self.rows["slot"] == slot], idle_stacks=None, idle_bytes=0
        )

    def renamed(self, old: NDArray[np.uint64], new: NDArray[np.uint64]) -> Regions:
        """With other stack ids: `new` by the position of theirs in `old`, which is ascending."""
        rows = self.rows.copy()
        at = np.searchsorted(old, rows["stack_id"]).clip(max=max(len(old) - 1, 0))
        known = old[at] == rows["stack_id"] if len(old) else np.zeros(len(rows), dtype=bool)
        rows["stack_id"][known] = new[at[known]]
        return replace(self, rows=rows)
