"""The ledger of mmap'ed regions: what mmap and mremap returned, and munmap has not released.

A heap block is freed whole, by its address, so the kernel side keeps blocks in a hash map. A region
can be unmapped from its start, its end or its middle, several can be unmapped at once, or replaced
by MAP_FIXED. So regions have to be sorted by address: they are kept here, from the events that the
kernel side sends. These calls are rare next to malloc.

A hole leaves two regions. Sizes are the requested ones: mmap(5000) counts 5000 bytes, although the
kernel maps whole pages. Sources: mmap(2), mremap(2).
"""

from __future__ import annotations

import bisect
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaktrace.abi import process as abi

_PAGE_BYTES = os.sysconf("SC_PAGESIZE")


def _page_end(address: int) -> int:
    return -(-address // _PAGE_BYTES) * _PAGE_BYTES


@dataclass(frozen=True)
class Region:
    """[start, end) in whole pages; `requested_end` may be within the last page."""

    start: int
    end: int
    requested_end: int
    time_ns: int
    stack_id: int

    @property
    def size_bytes(self) -> int:
        return min(self.end, self.requested_end) - self.start

    def part(self, start: int, end: int) -> Region:
        return Region(start, end, min(self.requested_end, end), self.time_ns, self.stack_id)


@dataclass
class RegionTotals:
    """Everything that was ever mapped from one stack, in bytes and calls."""

    bytes: int = 0
    count: int = 0


class RegionLedger:
    """The regions that are mapped now, sorted by address."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._by_start: dict[int, Region] = {}
        self._released_last: dict[int, list[Region]] = {}  # by thread
        self._mapped: defaultdict[int, RegionTotals] = defaultdict(RegionTotals)

    def __iter__(self) -> Iterator[Region]:
        return (self._by_start[start] for start in self._starts)

    def __len__(self) -> int:
        return len(self._starts)

    def apply(self, event: np.void) -> None:
        """Apply one region event. Events have to come in the order in which they happened."""
        address, size, tid = int(event["address"]), int(event["size"]), int(event["tid"])
        match int(event["kind"]):
            case abi.EventCode.REGION_ADD:
                self._released_last.pop(tid, None)
                self.add(address, size, int(event["time_ns"]), int(event["stack_id"]))
            case abi.EventCode.REGION_RELEASE:
                released = self.release(address, size)
                if released:
                    self._released_last[tid] = released
                else:
                    self._released_last.pop(tid, None)
            case abi.EventCode.REGION_RESTORE:
                for region in self._released_last.pop(tid, ()):
                    self.release(region.start, region.end - region.start)
                    self._insert(region)

    def add(self, address: int, size_bytes: int, time_ns: int, stack_id: int) -> None:
        """A call mapped [address, address + size), in place of what was there (MAP_FIXED)."""
        end = _page_end(address + size_bytes)
        self.release(address, size_bytes)
        self._insert(Region(address, end, address + size_bytes, time_ns, stack_id))
        totals = self._mapped[stack_id]
        totals.bytes += size_bytes
        totals.count += 1

    def release(self, address: int, size_bytes: int) -> list[Region]:
        """[address, address + size) is unmapped. Returns the parts of regions that were there.

        munmap(2) fails for an unaligned address or a length of 0. Then nothing is released.
        """
        if address % _PAGE_BYTES or size_bytes <= 0:
            return []
        end = _page_end(address + size_bytes)
        first = bisect.bisect_right(self._starts, address) - 1
        if first < 0 or self._by_start[self._starts[first]].end <= address:
            first += 1
        last = bisect.bisect_left(self._starts, end, lo=first)
        touched = [self._by_start[start] for start in self._starts[first:last]]
        for region in touched:
            self._remove(region)
        released = []
        for region in touched:
            start_inside, end_inside = max(region.start, address), min(region.end, end)
            released.append(region.part(start_inside, end_inside))
            if region.start < address:
                self._insert(region.part(region.start, address))
            if end < region.end:
                self._insert(region.part(end, region.end))
        return released

    def covers(self, address: int, size_bytes: int) -> bool:
        """Whether regions cover all of [address, address + size)."""
        end = _page_end(address + size_bytes)
        at = address
        index = bisect.bisect_right(self._starts, at) - 1
        while 0 <= index < len(self._starts) and at < end:
            region = self._by_start[self._starts[index]]
            if not region.start <= at < region.end:
                return False
            at, index = region.end, index + 1
        return at >= end > address

    def clear(self) -> None:
        """The process has executed a program, and has a new address space."""
        self._starts.clear()
        self._by_start.clear()
        self._released_last.clear()
        self._mapped.clear()

    def records(self) -> tuple[NDArray[np.uint64], NDArray[np.void]]:
        """Addresses and records (abi.ALLOCATION), in the form of the map of heap blocks."""
        addresses = np.array(self._starts, dtype=np.uint64)
        records = np.zeros(len(self), dtype=abi.ALLOCATION)
        for index, region in enumerate(self):
            records[index] = (region.size_bytes, region.time_ns, region.stack_id)
        return addresses, records

    def freed(self) -> dict[int, RegionTotals]:
        """By stack id: bytes and regions that are no longer mapped.

        The count is negative while holes leave more regions than calls mapped.
        """
        freed = {
            stack_id: RegionTotals(totals.bytes, totals.count)
            for stack_id, totals in self._mapped.items()
        }
        for region in self:
            totals = freed[region.stack_id]
            totals.bytes -= region.size_bytes
            totals.count -= 1
        return freed

    def _insert(self, region: Region) -> None:
        bisect.insort(self._starts, region.start)
        self._by_start[region.start] = region

    def _remove(self, region: Region) -> None:
        del self._starts[bisect.bisect_left(self._starts, region.start)]
        del self._by_start[region.start]
