"""How much is in each group of blocks, in one look at a heap, to compare it with other looks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.reachability.pointers import Blocks
from leaktrace.heap.beginnings import Grouped
from leaktrace.heap.reach import Shares
from leaktrace.heap_report import Amount

Figures = NDArray[np.int64]  # n x 2, by group: blocks, bytes


@dataclass(frozen=True, eq=False)
class Tally:
    """Of the groups by ascending key."""

    keys: NDArray[np.uint64]
    held: Figures
    lost: Figures  # what nothing points to, and what only that leads to

    @classmethod
    def of(cls, blocks: Blocks, grouped: Grouped, shares: Shares) -> Tally:
        count = len(grouped)
        sizes = (blocks.ends - blocks.starts).astype(np.float64)
        held = np.zeros((count, 2), dtype=np.int64)
        held[:, 0] = np.bincount(grouped.group_of, minlength=count)
        held[:, 1] = np.rint(np.bincount(grouped.group_of, sizes, minlength=count))
        return cls(grouped.packed, held, shares.lost()[:count])

    def amount(self, key: np.uint64) -> Amount:
        """Of one group; nothing if there was none."""
        return _amount(self.held, self._row(key))

    def lost_amount(self, key: np.uint64) -> Amount:
        return _amount(self.lost, self._row(key))

    def total(self) -> Amount:
        return Amount(*self.held.sum(axis=0).tolist())

    def lost_total(self) -> Amount:
        return Amount(*self.lost.sum(axis=0).tolist())

    def growth_since(self, before: Tally) -> NDArray[np.int64]:
        """Bytes, by group."""
        grown = self.held[:, 1].copy()
        _, here, there = np.intersect1d(
            self.keys, before.keys, assume_unique=True, return_indices=True
        )
        grown[here] -= before.held[there, 1]
        return grown

    def _row(self, key: np.uint64) -> int | None:
        row = int(np.searchsorted(self.keys, key))
        return row if row < len(self.keys) and self.keys[row] == key else None


def _amount(figures: Figures, row: int | None) -> Amount:
    return Amount() if row is None else Amount(*figures[row].tolist())
