"""How much of the mapped regions of one process is in memory, at the last look at its pages.

Each report looks. In between there is a look every second, more often at first, so that something
is known when the process has ended. At most a hundredth of the time goes into these.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from leaktrace.targets.mappings import Mapping
from leaktrace.targets.page_map import PAGE_BYTES
from leaktrace.targets.resident_pages import PageLook, ScanBudget, look_at_pages

_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 1.0
_PAUSE = 100  # times as long as the last look took
_MOST_ADDRESS = 1 << 62  # above are pages of the kernel's, such as [vsyscall]


class KnownPages:
    """Which pages of one process are in memory, at the last look."""

    def __init__(self, pid: int | None = None) -> None:
        """None: nothing is known."""
        self._pid = pid
        self._last: PageLook | None = None
        self._at_exit: PageLook | None = None
        self._is_current = False
        self._pause_s = _SHORTEST_PAUSE_S
        self._next_s = 0.0

    @property
    def next_s(self) -> float | None:
        """When another look is due, on the clock of time.monotonic(); None: there is none."""
        return None if self._pid is None else self._next_s

    def forget(self) -> None:
        """The process has executed a program, and has a new address space."""
        self._last = None
        self._is_current = False
        self._pause_s = _SHORTEST_PAUSE_S

    def look(self, ranges: Sequence[tuple[int, int]], budget: ScanBudget) -> None:
        """Look at these ranges. What is known stays if the process has ended."""
        if self._pid is None or not ranges:
            return
        begun_s = time.monotonic()
        found = look_at_pages(self._pid, ranges, budget)
        self._is_current = found is not None
        self._last = found or self._at_exit or self._last
        now_s = time.monotonic()
        self._next_s = now_s + max(self._pause_s, _PAUSE * (now_s - begun_s))
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def keep(self, mappings: Sequence[Mapping]) -> None:
        """The process is stopped before it exits: this is what is known when it has ended. May be
        called by another thread."""
        if self._pid is not None:
            ranges = [(one.start, one.end) for one in mappings if one.end < _MOST_ADDRESS]
            self._at_exit = look_at_pages(self._pid, ranges, ScanBudget())

    def age_ns(self, now_ns: int) -> int:
        """How old what is known is; 0 as long as the process lives."""
        if self._last is None or self._is_current:
            return 0
        return max(now_ns - self._last.time_ns, 0)

    def fill_in(
        self, rows: NDArray[np.void], starts: NDArray[np.int64], page_bytes: int = PAGE_BYTES
    ) -> None:
        """Fill in what is in memory of regions (analysis.regions.REGION) that start there."""
        rows["unread"] = rows["size"]
        if self._last is None:
            return
        ends = -(-(starts + rows["size"]) // page_bytes) * page_bytes
        unread = ends - starts - self._last.looked.covered(starts, ends)
        is_older = (rows["time_ns"] <= self._last.time_ns) & (unread < rows["size"])
        rows["unread"][is_older] = unread[is_older]
        for name, ranges in (("resident", self._last.resident), ("swapped", self._last.swapped)):
            rows[name][is_older] = ranges.covered(starts, ends)[is_older]
