"""Reads much memory of another process, without stopping it: process_vm_readv(2) into one buffer
that stays in the cache. A GiB takes some tenths of a second."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaktrace.targets.memory import ProcessMemory
from leaktrace.targets.page_map import PAGE_BYTES, Range
from leaktrace.targets.remote_read import MOST_RANGES, read_into

PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Piece:
    """Words of a process's memory, and the ranges [start, end) that they fill one after the
    other."""

    words: NDArray[np.uint64]
    ranges: NDArray[np.uint64]  # n x 2
    unread_bytes: int  # could not be read: unmapped since, or memory of a device

    def addresses(self, indices: NDArray[np.intp]) -> NDArray[np.uint64]:
        """Where these words are."""
        counts = (self.ranges[:, 1] - self.ranges[:, 0]) >> np.uint64(3)
        ends = np.cumsum(counts)
        at = np.searchsorted(ends, indices, side="right")
        inside = indices.astype(np.uint64) - (ends - counts)[at]
        addresses: NDArray[np.uint64] = self.ranges[at, 0] + inside * np.uint64(8)
        return addresses


class BulkReader:
    """Reads ranges of one process. Its buffer is used again by each read."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        # Present from the start: page faults would take longer than the copy.
        self._memory = mmap.mmap(-1, PIECE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._words = np.frombuffer(self._memory, dtype=np.uint64)
        self._words[:: PAGE_BYTES // 8] = 0
        self._room = self._words.ctypes.data

    def read_all(self, ranges: NDArray[np.uint64]) -> Iterator[Piece]:
        """The ranges [start, end), n x 2, multiples of 8, piece by piece: the words of one are
        valid until the next. Raises OSError as `read`."""
        for some in pieces(ranges, PIECE_BYTES, MOST_RANGES):
            yield self.read(some)

    def read(self, ranges: NDArray[np.uint64]) -> Piece:
        """`ranges`: [start, end), n x 2, at most MOST_RANGES and PIECE_BYTES in all, multiples of
        8. The words are valid until the next call. Raises OSError: ESRCH when the process has
        ended, EPERM when its memory must not be read.
        """
        wanted = int((ranges[:, 1] - ranges[:, 0]).sum())
        if read_into(self._room, self._pid, ranges) < wanted:
            ranges = self._page_by_page(ranges)
        read = int((ranges[:, 1] - ranges[:, 0]).sum())
        return Piece(self._words[: read // 8], ranges, wanted - read)

    def _page_by_page(self, ranges: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Read what can be read, also pages that the process itself can't read at the moment
        (PROT_NONE). Returns the ranges of it."""
        read: list[Range] = []
        filled = 0
        with ExitStack() as stack:
            protected: ProcessMemory | None = None
            with suppress(OSError):
                protected = stack.enter_context(ProcessMemory(self._pid))
            for at, size in pages_of(ranges):
                page = np.array([(at, at + size)], dtype=np.uint64)
                if read_into(self._room + filled, self._pid, page) < size:
                    data = b""
                    with suppress(OSError):
                        data = b"" if protected is None else protected.read(at, size)
                    if len(data) < size:
                        continue
                    self._memory[filled : filled + size] = data
                read.append((at, at + size))
                filled += size
        return np.array(read, dtype=np.uint64).reshape(-1, 2)


def pages_of(ranges: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    """The address and size of each page of the ranges, or part of one at the end of a range."""
    for start, end in ranges.tolist():
        for at in range(start, end, PAGE_BYTES):
            yield at, min(PAGE_BYTES, end - at)


def pieces(ranges: NDArray[np.uint64], most_bytes: int, most: int) -> Iterator[NDArray[np.uint64]]:
    """The ranges in groups of at most `most_bytes` and `most` ranges; long ranges are cut."""
    group: list[Range] = []
    room = most_bytes
    for start, end in ranges.tolist():
        at = start
        while at < end:
            size = min(end - at, room)
            group.append((at, at + size))
            at += size
            room -= size
            if not room or len(group) == most:
                yield np.array(group, dtype=np.uint64)
                group, room = [], most_bytes
    if group:
        yield np.array(group, dtype=np.uint64)
