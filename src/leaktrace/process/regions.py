"""The ledger of mmap'ed regions: what mmap and mremap returned, and munmap has not released.

A heap block is freed whole, by its address, so the kernel side keeps blocks in a hash map. A region
can be unmapped from its start, its end or its middle, several can be unmapped at once, or replaced
by MAP_FIXED. So regions have to be sorted by address: they are kept here, from the events that the
kernel side sends (region_account.py). These calls are rare next to malloc.

A hole leaves two regions. Sizes are the requested ones: mmap(5000) counts 5000 bytes, although the
kernel maps whole pages. Sources: mmap(2), mremap(2).
"""

from __future__ import annotations

import bisect
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaktrace.abi import process as abi
from leaktrace.memory import Backing

_PAGE_BYTES = os.sysconf("SC_PAGESIZE")


@dataclass(eq=False)
class MappingCall:
    """One call that mapped memory. What is left of it may be several regions."""

    address: int
    size_bytes: int
    time_ns: int
    stack_id: int
    backing: Backing = Backing.MAPPED
    is_judged: bool = True  # whether it is known what backs it
    is_counted: bool = True  # by the kernel side, in the counters of its site


@dataclass(frozen=True)
class Region:
    """[start, end) in whole pages; `requested_end` may be within the last page."""

    start: int
    end: int
    requested_end: int
    call: MappingCall

    @property
    def size_bytes(self) -> int:
        return min(self.end, self.requested_end) - self.start

    @property
    def time_ns(self) -> int:
        return self.call.time_ns

    @property
    def stack_id(self) -> int:
        return self.call.stack_id

    def part(self, start: int, end: int) -> Region:
        return Region(start, end, min(self.requested_end, end), self.call)


@dataclass
class RegionTotals:
    """Bytes and calls: of everything that was ever mapped from one stack, or is no longer."""

    bytes: int = 0
    count: int = 0


_Totals = defaultdict[tuple[Backing, int], RegionTotals]


class RegionLedger:
    """The regions that are mapped now, sorted by address."""

    def __init__(self, page_bytes: int = _PAGE_BYTES) -> None:
        """`page_bytes`: regions are multiples of it. 1: of the program break, which is not moved by
        whole pages."""
        self._page_bytes = page_bytes
        self._starts: list[int] = []
        self._by_start: dict[int, Region] = {}
        self._mapped: _Totals = defaultdict(RegionTotals)
        self._counted: _Totals = defaultdict(RegionTotals)  # the part in the kernel's counters

    def __iter__(self) -> Iterator[Region]:
        return (self._by_start[start] for start in self._starts)

    def __len__(self) -> int:
        return len(self._starts)

    def _page_end(self, address: int) -> int:
        return -(-address // self._page_bytes) * self._page_bytes

    def add(self, call: MappingCall) -> None:
        """A call mapped [address, address + size), in place of what was there (MAP_FIXED)."""
        self.release(call.address, call.size_bytes)
        requested_end = call.address + call.size_bytes
        self.insert(Region(call.address, self._page_end(requested_end), requested_end, call))
        self._count(call)

    def add_parts(self, call: MappingCall, ranges: Iterable[tuple[int, int]]) -> None:
        """A call mapped memory, and this is left of it: [start, end), in whole pages."""
        for start, end in ranges:
            self.release(start, end - start)
            self.insert(Region(start, end, end, call))
        self._count(call)

    def _count(self, call: MappingCall, sign: int = 1) -> None:
        for totals in (self._mapped, *([self._counted] if call.is_counted else [])):
            of_stack = totals[call.backing, call.stack_id]
            of_stack.bytes += sign * call.size_bytes
            of_stack.count += sign

    def judge(self, call: MappingCall, backing: Backing) -> None:
        """What backs the memory that a call mapped is known now."""
        self._count(call, -1)
        call.backing, call.is_judged = backing, True
        self._count(call)

    def release(self, address: int, size_bytes: int) -> list[Region]:
        """[address, address + size) is unmapped. Returns the parts of regions that were there.

        munmap(2) fails for an unaligned address or a length of 0. Then nothing is released.
        """
        if address % self._page_bytes or size_bytes <= 0:
            return []
        end = self._page_end(address + size_bytes)
        touched = self._touched(address, end)
        for region in touched:
            self._remove(region)
        released = []
        for region in touched:
            start_inside, end_inside = max(region.start, address), min(region.end, end)
            released.append(region.part(start_inside, end_inside))
            if region.start < address:
                self.insert(region.part(region.start, address))
            if end < region.end:
                self.insert(region.part(end, region.end))
        return released

    def _touched(self, address: int, end: int) -> list[Region]:
        """The regions that have a part in [address, end)."""
        first = bisect.bisect_right(self._starts, address) - 1
        if first < 0 or self._by_start[self._starts[first]].end <= address:
            first += 1
        last = bisect.bisect_left(self._starts, end, lo=first)
        return [self._by_start[start] for start in self._starts[first:last]]

    def release_call(self, call: MappingCall) -> list[Region]:
        """What is left of the memory that a call mapped is unmapped: shmdt(2)."""
        touched = self._touched(call.address, self._page_end(call.address + call.size_bytes))
        released = [region for region in touched if region.call is call]
        for region in released:
            self._remove(region)
        return released

    def restore(self, released: Iterable[Region]) -> None:
        """The call that released these has failed."""
        for region in released:
            self.release(region.start, region.end - region.start)
            self.insert(region)

    def covers(self, address: int, size_bytes: int) -> bool:
        """Whether regions cover all of [address, address + size)."""
        end = self._page_end(address + size_bytes)
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
        self._mapped.clear()
        self._counted.clear()

    def records(
        self, backing: Backing = Backing.MAPPED
    ) -> tuple[NDArray[np.uint64], NDArray[np.void]]:
        """Addresses and records (abi.ALLOCATION), in the form of the map of heap blocks."""
        chosen = [region for region in self if region.call.backing is backing]
        addresses = np.array([region.start for region in chosen], dtype=np.uint64)
        records = np.zeros(len(chosen), dtype=abi.ALLOCATION)
        for index, region in enumerate(chosen):
            records[index] = (region.size_bytes, region.time_ns, region.stack_id)
        return addresses, records

    def mapped(self, backing: Backing) -> dict[int, RegionTotals]:
        """By stack id: everything that was ever mapped."""
        return _of(self._mapped, backing)

    def counted(self, backing: Backing) -> dict[int, RegionTotals]:
        """The part of it that the kernel side has counted, too."""
        return _of(self._counted, backing)

    def freed(self, backing: Backing = Backing.MAPPED) -> dict[int, RegionTotals]:
        """By stack id: bytes and regions that are no longer mapped.

        The count is negative while holes leave more regions than calls mapped.
        """
        freed = self.mapped(backing)
        for region in self:
            if region.call.backing is backing:
                totals = freed[region.stack_id]
                totals.bytes -= region.size_bytes
                totals.count -= 1
        return freed

    def insert(self, region: Region) -> None:
        """Add a region at a place where there is none."""
        bisect.insort(self._starts, region.start)
        self._by_start[region.start] = region

    def _remove(self, region: Region) -> None:
        del self._starts[bisect.bisect_left(self._starts, region.start)]
        del self._by_start[region.start]


def _of(totals: _Totals, backing: Backing) -> dict[int, RegionTotals]:
    return {
        stack_id: RegionTotals(one.bytes, one.count)
        for (of, stack_id), one in totals.items()
        if of is backing
    }
