"""Copies much memory of another process at once, for the time in which it is stopped.

The room for it is there before: page faults of the own memory would take four times as long as the
copy. Several threads copy, since one is not enough for the bandwidth of the memory.
"""

from __future__ import annotations

import itertools
import mmap
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from leaktrace.targets.bulk_memory import pages_of
from leaktrace.targets.memory import ProcessMemory
from leaktrace.targets.memory_image import MemoryImage
from leaktrace.targets.page_map import PAGE_BYTES
from leaktrace.targets.remote_read import MOST_RANGES, read_into

Ranges = NDArray[np.uint64]

_PART_BYTES = 8 << 20  # of one call: two milliseconds
_MOST_THREADS = 4
_SPARE_BYTES = 64 << 20  # a process may grow until it is stopped; untouched it takes no memory


class NoRoomError(Exception):
    """There is not enough memory, or the process has grown too much meanwhile."""


def room_for(size_bytes: int) -> int:
    """How much memory a copy needs at most, in bytes."""
    return size_bytes + size_bytes // 4 + _SPARE_BYTES


class MemoryCopy:
    """Words of a process's memory, and where they were."""

    def __init__(self, size_bytes: int) -> None:
        """Room for that much, and a part more. Takes 0.2 s per GiB. Raises NoRoomError."""
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        try:
            self._memory = mmap.mmap(-1, room_for(size_bytes), flags=flags)
            with suppress(OSError):  # a kernel without huge pages
                self._memory.madvise(mmap.MADV_HUGEPAGE)
            self._words = np.frombuffer(self._memory, dtype=np.uint64)
            self._words[: size_bytes // 8 : PAGE_BYTES // 8] = 0
        except (OSError, MemoryError, ValueError, OverflowError):
            raise NoRoomError from None
        self.ranges: Ranges = np.empty((0, 2), dtype=np.uint64)  # [start, end), n x 2, ascending
        self.unread_bytes = 0  # are zeros here
        self.size_bytes = 0

    def take(self, pid: int, ranges: Ranges, may_go_on: Callable[[], bool]) -> bool:
        """Copy these ranges [start, end), n x 2, ascending and disjoint, multiples of 8. Returns
        false as soon as `may_go_on` is.

        Raises NoRoomError, and OSError: ESRCH when the process has ended, EPERM when its memory
        must not be read.
        """
        sizes = (ranges[:, 1] - ranges[:, 0]).astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        if offsets[-1] > len(self._memory):
            raise NoRoomError
        self.ranges, self.size_bytes, self.unread_bytes = ranges, int(offsets[-1]), 0
        work = _Work(list(_parts(ranges, offsets)), may_go_on)
        count = min(_MOST_THREADS, len(os.sched_getaffinity(0)), len(work.parts))
        helpers = [
            threading.Thread(target=self._copy_parts, args=(pid, work)) for _ in range(count - 1)
        ]
        started = []
        try:
            for helper in helpers:
                with suppress(RuntimeError):  # no more threads are allowed
                    helper.start()
                    started.append(helper)
            self._copy_parts(pid, work)
        finally:
            work.is_ended = True
            for helper in started:
                helper.join()
        if work.failure is not None:
            raise work.failure
        return work.went_on

    def _copy_parts(self, pid: int, work: _Work) -> None:
        try:
            for ranges, offset in work:
                self._copy(pid, ranges, offset, work)
        except Exception as error:  # of whichever thread: `take` raises it
            work.failure = error
            work.is_ended = True

    def _copy(self, pid: int, ranges: Ranges, offset: int, work: _Work) -> None:
        wanted = int((ranges[:, 1] - ranges[:, 0]).sum())
        if self._read(pid, ranges, offset) == wanted:
            return
        with ProcessMemory(pid) as memory:
            for at, size in pages_of(ranges):
                page = np.array([(at, at + size)], dtype=np.uint64)
                if self._read(pid, page, offset) < size and not self._force(
                    memory, at, size, offset
                ):
                    with work.lock:
                        self.unread_bytes += size
                offset += size

    def _read(self, pid: int, ranges: Ranges, offset: int) -> int:
        return read_into(self._words.ctypes.data + offset, pid, ranges)

    def _force(self, memory: ProcessMemory, address: int, size: int, offset: int) -> bool:
        """Read a page that the process itself can't read at the moment (PROT_NONE)."""
        data = b""
        with suppress(OSError):
            data = memory.read(address, size)
        self._memory[offset : offset + size] = data[:size].ljust(size, b"\0")
        return len(data) == size

    def image(self) -> MemoryImage:
        """What was copied, valid until the next copy."""
        return MemoryImage.of_ranges(self._words[: self.size_bytes // 8], self.ranges)


class _Work:
    """Parts that several threads copy."""

    def __init__(self, parts: list[tuple[Ranges, int]], may_go_on: Callable[[], bool]) -> None:
        self.parts = parts
        self.lock = threading.Lock()
        self.failure: Exception | None = None
        self.went_on = True
        self.is_ended = False
        self._may_go_on = may_go_on
        self._next = itertools.count()

    def __iter__(self) -> Iterator[tuple[Ranges, int]]:
        while not self.is_ended and (number := next(self._next)) < len(self.parts):
            if not self._may_go_on():
                self.went_on, self.is_ended = False, True
                return
            yield self.parts[number]


def _parts(ranges: Ranges, offsets: NDArray[np.int64]) -> Iterator[tuple[Ranges, int]]:
    """Ranges of about as many bytes, with the offset in the copy. Not by `pieces` of
    bulk_memory.py, since every millisecond counts."""
    ends = ranges[:, 1].astype(np.int64)
    row, at, total = 0, 0, int(offsets[-1])
    while at < total:
        until = min(at + _PART_BYTES, total)
        last = min(int(np.searchsorted(offsets, until, side="left")), row + MOST_RANGES)
        until = min(until, int(offsets[last]))
        some = ranges[row:last].copy()
        some[0, 0] += np.uint64(at - int(offsets[row]))
        some[-1, 1] = ends[last - 1] - (int(offsets[last]) - until)
        yield some, at
        at = until
        row = last if until == offsets[last] else last - 1
