"""How many blocks of each site nothing points to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.block_classes import SLOT_SHIFT, BlockClass, Reach
from leaktrace.analysis.sites import SiteIndex
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.reach import LostShare

_DEFINITE, _INDIRECT, _POSSIBLE, _REACHABLE, _SCANNED = range(5)
_ROUNDING = 0.5  # of sums of weights
_COLUMN_OF = (
    (BlockClass.DEFINITE, _DEFINITE),
    (BlockClass.POSSIBLE, _POSSIBLE),
    (BlockClass.REACHABLE, _REACHABLE),
)


class LostTable:
    """The classes of all blocks, added up by site."""

    def __init__(
        self, snapshot: Snapshot, index: SiteIndex, weights: NDArray[np.float64] | None = None
    ) -> None:
        """`snapshot`: one whose blocks were looked at; `index`: its sites; `weights`: how many
        blocks each record stands for, None: for one."""
        reach = snapshot.reach
        assert reach is not None
        self._stack_ids, rows = index.stack_ids, index.rows
        count = len(self._stack_ids)
        bytes_each = snapshot.records["size"].astype(np.float64)
        weights = np.ones(len(bytes_each)) if weights is None else weights
        self._counts, self._bytes = np.zeros((2, count, 5))

        def add(column: int, records: NDArray[np.intp], sites: NDArray[np.intp]) -> None:
            each = weights[records]
            sums = (each, self._counts), (each * bytes_each[records], self._bytes)
            for values, table in sums:
                table[:, column] = np.bincount(sites, values, minlength=count)

        for kind, column in _COLUMN_OF:
            records = np.nonzero(reach.classes == kind)[0]
            add(column, records, rows[records])
        records = np.nonzero(reach.classes != BlockClass.UNKNOWN)[0]
        add(_SCANNED, records, rows[records])
        led = np.nonzero(reach.classes == BlockClass.INDIRECT)[0]
        keys = snapshot.block_keys()
        leaders = _rows_of(
            keys, reach.classes == BlockClass.DEFINITE, _leader_keys(keys, reach, led)
        )
        add(_INDIRECT, led[leaders >= 0], rows[leaders[leaders >= 0]])

    def total(self) -> LostShare:
        """Of all sites together."""
        return _share(self._counts.sum(axis=0), self._bytes.sum(axis=0))

    def of(self, stack_id: int) -> LostShare | None:
        """Of one site; None if none of its blocks was looked at."""
        row = int(np.searchsorted(self._stack_ids, np.uint64(stack_id)))
        if row == len(self._stack_ids) or int(self._stack_ids[row]) != stack_id:
            return None
        share = _share(self._counts[row], self._bytes[row])
        return share if share.scanned_count else None

    def leaking(self, most: int) -> list[int]:
        """The sites with lost blocks, by stack id: those that hold the most lost ones first."""
        own = self._counts[:, [_DEFINITE, _POSSIBLE, _REACHABLE]].sum(axis=1)
        is_lost = (self._counts[:, _DEFINITE] > 0) | (self._counts[:, _SCANNED] - own > _ROUNDING)
        rows = np.nonzero(is_lost)[0]
        lost = self._bytes[rows, _DEFINITE] + self._bytes[rows, _INDIRECT]
        chosen: list[int] = self._stack_ids[rows[np.argsort(-lost, kind="stable")]].tolist()
        return chosen[:most]


def _share(counts: NDArray[np.float64], sizes: NDArray[np.float64]) -> LostShare:
    count, size = np.rint(counts).astype(int).tolist(), np.rint(sizes).astype(int).tolist()
    return LostShare(
        definite_bytes=size[_DEFINITE],
        definite_count=count[_DEFINITE],
        indirect_bytes=size[_INDIRECT],
        indirect_count=count[_INDIRECT],
        possible_bytes=size[_POSSIBLE],
        possible_count=count[_POSSIBLE],
        reachable_bytes=size[_REACHABLE],
        reachable_count=count[_REACHABLE],
        scanned_count=count[_SCANNED],
    )


def _leader_keys(
    keys: NDArray[np.uint64], reach: Reach, led: NDArray[np.intp]
) -> NDArray[np.uint64]:
    """A block and its leader are of the same process."""
    slots: NDArray[np.uint64] = keys[led] >> SLOT_SHIFT << SLOT_SHIFT
    return slots | reach.leaders[led]


def _rows_of(
    keys: NDArray[np.uint64], among: NDArray[np.bool_], wanted: NDArray[np.uint64]
) -> NDArray[np.intp]:
    """The rows of `wanted` in `keys`, -1 for those that aren't among the chosen ones."""
    rows = np.nonzero(among)[0]
    if not len(rows):
        return np.full(len(wanted), -1)
    rows = rows[np.argsort(keys[rows])]
    at = np.searchsorted(keys[rows], wanted).clip(max=len(rows) - 1)
    return np.where(keys[rows[at]] == wanted, rows[at], -1)
