"""How much of the memory of each site is not used (--idle)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from leaktrace import units
from leaktrace.analysis.sites import SiteIndex
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.idle import IdleShare
from leaktrace.verdict import Verdict, VerdictKind

_FEWEST_PAGES = 16  # fewer say little about a site
_NEARLY_ALL = 0.9


class IdleTable:
    """The use of all blocks, added up by site."""

    def __init__(self, snapshot: Snapshot, index: SiteIndex) -> None:
        """`snapshot`: one whose pages were watched; `index`: its sites."""
        idle = snapshot.idle
        assert idle is not None
        self.for_s = idle.for_s
        self._stack_ids = index.stack_ids
        rows = np.nonzero(idle.use["looked_pages"])[0]
        self._sums = {
            name: _sums(index.rows[rows], idle.use[name][rows], len(index.stack_ids))
            for name in idle.use.dtype.names or ()
        }

    def of(self, stack_id: int) -> IdleShare | None:
        """Of one site; None if none of its pages has been watched long enough."""
        row = int(np.searchsorted(self._stack_ids, np.uint64(stack_id)))
        if row == len(self._stack_ids) or int(self._stack_ids[row]) != stack_id:
            return None
        share = IdleShare(**{name: round(float(sums[row])) for name, sums in self._sums.items()})
        return share if share.looked_pages else None


def with_idle(verdicts: dict[int, Verdict], table: IdleTable) -> dict[int, Verdict]:
    """The verdicts by stack id. Those on sites that grow and are hardly used say so; none changes,
    because what is not used now may be kept for later."""
    return {one: _with_use(verdict, table.of(one), table) for one, verdict in verdicts.items()}


def _with_use(verdict: Verdict, share: IdleShare | None, table: IdleTable) -> Verdict:
    if verdict.kind is not VerdictKind.GROWING or share is None:
        return verdict
    if share.looked_pages < _FEWEST_PAGES or share.idle_bytes < _NEARLY_ALL * share.looked_bytes:
        return verdict
    period = units.period(table.for_s)
    pages = f"{share.idle_pages:,} of {share.looked_pages:,} pages"
    return replace(verdict, reason=f"{verdict.reason}; not used for {period} ({pages})")


def _sums(rows: NDArray[np.intp], values: NDArray[np.generic], count: int) -> NDArray[np.float64]:
    return np.bincount(rows, values.astype(np.float64), minlength=count).astype(np.float64)
