"""How long the blocks of sites lived that were released: rows of counts, one for each site."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaktrace.verdict import Lifetimes


@dataclass(frozen=True)
class LifetimeCounts:
    """`counts` has a row for each site, and in each a column for each power of two, as
    `verdict.Lifetimes` has them. Where `known` is False the site has no such counts, and its row is
    all zeros."""

    counts: NDArray[np.uint64]
    known: NDArray[np.bool_]

    def chosen(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> LifetimeCounts:
        """Those of some sites."""
        return LifetimeCounts(self.counts[rows], self.known[rows])

    def added_up(self, rows: NDArray[np.intp], length: int) -> LifetimeCounts:
        """The counts of `length` sites, each the sum of those whose entry in `rows` is its number.
        If one of them is not known, neither is the sum."""
        counts = np.zeros((length, self.counts.shape[1]), dtype=np.uint64)
        np.add.at(counts, rows, self.counts)
        known = np.ones(length, dtype=np.bool_)
        known[rows[~self.known]] = False
        counts[~known] = 0
        return LifetimeCounts(counts, known)

    def of(self, row: int) -> Lifetimes | None:
        """Those of one site; None if they are not known."""
        if not self.known[row]:
            return None
        return Lifetimes(tuple(np.trim_zeros(self.counts[row], "b").tolist()))
