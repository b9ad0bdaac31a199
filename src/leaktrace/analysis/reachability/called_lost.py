"""Whether what reports called lost was lost: a block that is released later was not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.block_classes import SLOT_SHIFT, BlockClass
from leaktrace.analysis.snapshot import Snapshot

_RARE = 100  # a site is believed if at most one in so many of its lost blocks was released later


class CalledLost:
    """The blocks that reports called lost: how many of them were released later. Each of them was
    a mistake."""

    def __init__(self) -> None:
        self._keys = np.empty(0, dtype=np.uint64)  # sorted
        self._times_ns = np.empty(0, dtype=np.uint64)
        self._stack_ids = np.empty(0, dtype=np.uint64)
        self._called: Counter[int] = Counter()  # by stack id
        self._freed: Counter[int] = Counter()

    @property
    def called(self) -> int:
        """How many blocks were called lost."""
        return self._called.total()

    @property
    def freed(self) -> int:
        """How many of them were released later."""
        return self._freed.total()

    def is_believed(self, stack_id: int) -> bool:
        """Whether mistakes about blocks of this site were rare."""
        return self._freed[stack_id] * _RARE <= self._called[stack_id]

    def rename(self, new_id: Callable[[int], int]) -> None:
        """Stack ids have changed."""
        for counter in (self._called, self._freed):
            renamed: Counter[int] = Counter()
            for stack_id, count in counter.items():
                renamed[new_id(stack_id)] += count
            counter.clear()
            counter.update(renamed)
        ids = [new_id(one) for one in self._stack_ids.tolist()]
        self._stack_ids = np.array(ids, dtype=np.uint64)

    def observe(self, snapshot: Snapshot) -> None:
        """Take in a report. The blocks of a process that is gone were not released."""
        records, reach = snapshot.records, snapshot.reach
        if reach is None and not len(self._keys):
            return
        keys = snapshot.block_keys()
        if len(self._keys):
            order = np.argsort(keys)
            at = np.searchsorted(keys[order], self._keys).clip(max=max(len(keys) - 1, 0))
            is_there = np.zeros(len(self._keys), dtype=bool)
            if len(keys):
                found = order[at]
                is_there = (keys[found] == self._keys) & (
                    records["time_ns"][found] == self._times_ns
                )
            is_gone = ~is_there
            if snapshot.site_slots is not None:
                slots = snapshot.site_slots.astype(np.uint64)
                is_gone &= np.isin(self._keys >> SLOT_SHIFT, slots)
            self._freed.update(self._stack_ids[is_gone].tolist())
            self._keep(is_there)
        if reach is None:
            return
        lost = np.nonzero(reach.classes >= BlockClass.INDIRECT)[0]
        lost = lost[~np.isin(keys[lost], self._keys)]
        self._called.update(records["stack_id"][lost].tolist())
        self._keys = np.concatenate([self._keys, keys[lost]])
        self._times_ns = np.concatenate([self._times_ns, records["time_ns"][lost]])
        self._stack_ids = np.concatenate([self._stack_ids, records["stack_id"][lost]])
        self._keep(np.argsort(self._keys))

    def _keep(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> None:
        self._keys, self._times_ns = self._keys[rows], self._times_ns[rows]
        self._stack_ids = self._stack_ids[rows]
