"""Which pages of another process are in memory, within a budget.

A page counts if it is in the page tables of this process, as for its RSS. The shared page of zeros,
which is mapped where memory was only read, is no memory: PAGEMAP_SCAN leaves it out. Older kernels
don't tell it apart, and it counts.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from leaktrace.targets.page_map import (
    PAGE_BYTES,
    PRESENT,
    READ_STEP_BYTES,
    SCAN_STEP_BYTES,
    SWAPPED,
    ZERO,
    PageMap,
    Range,
    merge,
    runs,
    steps,
)

_NEAR_BYTES = 1 << 20  # ranges with less between them are read at once


@dataclass
class ScanBudget:
    """What looking at pages may take. What is left of it is in the fields."""

    scan_bytes: int = 1 << 40  # of address space, by PAGEMAP_SCAN
    read_bytes: int = 4 << 30  # of address space, page by page
    cpu_s: float = 0.1  # of leaktrace's own thread

    def share(self, of: int) -> ScanBudget:
        """An equal part of what is left, for one of so many processes."""
        return ScanBudget(self.scan_bytes // of, self.read_bytes // of, self.cpu_s / of)

    def take(self, used: ScanBudget, given: ScanBudget) -> None:
        """A part was given away, and this is left of it."""
        self.scan_bytes -= given.scan_bytes - used.scan_bytes
        self.read_bytes -= given.read_bytes - used.read_bytes
        self.cpu_s -= given.cpu_s - used.cpu_s


class PageRanges:
    """Disjoint ranges of addresses, and how much of other ranges they cover."""

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        merged = np.array(merge(ranges, 0), dtype=np.int64).reshape(-1, 2)
        self._starts = merged[:, 0]
        self._sizes = merged[:, 1] - merged[:, 0]
        self._before = np.concatenate([[0], np.cumsum(self._sizes)])

    def __bool__(self) -> bool:
        return len(self._starts) > 0

    def covered(self, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many bytes of each [start, end) are in these ranges."""
        return self._below(ends) - self._below(starts)

    def _below(self, addresses: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many bytes of these ranges are below each address."""
        if not len(self._starts):
            return np.zeros(len(addresses), dtype=np.int64)
        index = np.searchsorted(self._starts, addresses, side="right") - 1
        inside = np.minimum(addresses - self._starts[index], self._sizes[index])
        return np.where(index < 0, 0, self._before[index] + inside)


@dataclass(frozen=True)
class PageLook:
    """What was found in some ranges, at one moment."""

    time_ns: int  # CLOCK_MONOTONIC
    looked: PageRanges  # what was looked at; the rest is unknown
    resident: PageRanges
    swapped: PageRanges

    def covers(self, ranges: NDArray[np.uint64]) -> bool:
        """Whether all of these [start, end), n x 2, were looked at."""
        starts, ends = ranges[:, 0].astype(np.int64), ranges[:, 1].astype(np.int64)
        return int(self.looked.covered(starts, ends).sum()) == int((ends - starts).sum())


@dataclass
class _Found:
    looked: list[Range] = field(default_factory=list)
    resident: list[Range] = field(default_factory=list)
    swapped: list[Range] = field(default_factory=list)


def look_at_pages(
    pid: int, ranges: Iterable[Range], budget: ScanBudget, *, scans: bool = True
) -> PageLook | None:
    """Find out which pages of these ranges are in memory, the smallest ranges first, until `budget`
    is used up. None when the process has ended or its page map can't be read.

    `scans`: use PAGEMAP_SCAN where the kernel has it.
    """
    wanted = sorted(merge(ranges, _NEAR_BYTES), key=lambda one: one[1] - one[0])
    time_ns = time.monotonic_ns()
    try:
        with closing(PageMap(pid)) as pages:
            # A process that has ended has no memory. Scanning would find no pages there, so that is
            # asked before and afterwards.
            if not pages.has_memory():
                return None
            found = _scan_all(pages, wanted, budget) if scans else None
            if found is None:
                found = _read_all(pages, wanted, budget)
            if not pages.has_memory():
                return None
    except OSError:
        return None
    return PageLook(
        time_ns, PageRanges(found.looked), PageRanges(found.resident), PageRanges(found.swapped)
    )


def _scan_all(pages: PageMap, ranges: Sequence[Range], budget: ScanBudget) -> _Found | None:
    """By PAGEMAP_SCAN; None where the kernel doesn't have it. Raises OSError."""
    found = _Found()
    used_s = time.thread_time() + budget.cpu_s
    for start, end in steps(ranges, SCAN_STEP_BYTES):
        at = start
        while at < end and time.thread_time() < used_s and end - at <= budget.scan_bytes:
            scanned = pages.scan(at, end, ZERO)
            if scanned is None:
                return None
            in_memory, walked = scanned
            if walked <= at:
                break
            for one in in_memory.tolist():
                (found.resident if one[2] & PRESENT else found.swapped).append(one[:2])
            found.looked.append((at, walked))
            budget.scan_bytes -= walked - at
            at = walked
    budget.cpu_s = max(used_s - time.thread_time(), 0.0)
    return found


def _read_all(pages: PageMap, ranges: Sequence[Range], budget: ScanBudget) -> _Found:
    """Page by page. Raises OSError."""
    found = _Found()
    used_s = time.thread_time() + budget.cpu_s
    for start, end in steps(ranges, READ_STEP_BYTES):
        if time.thread_time() >= used_s or end - start > budget.read_bytes:
            break
        categories = pages.read(start, end)
        is_resident = (categories & PRESENT) != 0
        found.resident += runs(is_resident, start)
        found.swapped += runs(((categories & SWAPPED) != 0) & ~is_resident, start)
        found.looked.append((start, start + len(categories) * PAGE_BYTES))
        budget.read_bytes -= end - start
    budget.cpu_s = max(used_s - time.thread_time(), 0.0)
    return found
