"""Reads much memory of another process, without stopping it: process_vm_readv(2) into one buffer
that stays in the cache. A GiB takes some tenths of a second."""

from __future__ import annotations

import ctypes
import errno
import mmap
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaktrace.errors import system_error
from leaktrace.targets.memory import ProcessMemory
from leaktrace.targets.page_map import PAGE_BYTES

PIECE_BYTES = 1 << 20
MOST_RANGES = 1024  # IOV_MAX


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
        self._readv = ctypes.CDLL(None, use_errno=True).process_vm_readv
        self._readv.restype = ctypes.c_ssize_t
        self._readv.argtypes = (
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_ulong,
            ctypes.c_void_p,
            ctypes.c_ulong,
            ctypes.c_ulong,
        )

    def read(self, ranges: NDArray[np.uint64]) -> Piece:
        """`ranges`: [start, end), n x 2, at most MOST_RANGES and PIECE_BYTES in all, multiples of
        8. The words are valid until the next call. Raises OSError: ESRCH when the process has
        ended, EPERM when its memory must not be read.
        """
        wanted = int((ranges[:, 1] - ranges[:, 0]).sum())
        if self._read_into(0, wanted, ranges) < wanted:
            ranges = self._page_by_page(ranges)
        read = int((ranges[:, 1] - ranges[:, 0]).sum())
        return Piece(self._words[: read // 8], ranges, wanted - read)

    def _page_by_page(self, ranges: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Read what can be read. Returns the ranges of it."""
        read: list[tuple[int, int]] = []
        filled = 0
        for start, end in ranges.tolist():
            for at in range(start, end, PAGE_BYTES):
                page = np.array([(at, min(at + PAGE_BYTES, end))], dtype=np.uint64)
                size = int(page[0, 1]) - at
                if self._read_into(filled, size, page) == size or self._read_protected(
                    filled, at, size
                ):
                    read.append((at, at + size))
                    filled += size
        return np.array(read, dtype=np.uint64).reshape(-1, 2)

    def _read_protected(self, offset: int, address: int, size: int) -> bool:
        """Read a page that the process itself can't read at the moment (PROT_NONE). Returns whether
        that was possible."""
        with suppress(OSError), ProcessMemory(self._pid) as memory:
            data = memory.read(address, size)
            if len(data) == size:
                self._memory[offset : offset + size] = data
                return True
        return False

    def _read_into(self, offset: int, size: int, ranges: NDArray[np.uint64]) -> int:
        """Returns how many bytes were read before something could not be."""
        ours = np.array([self._words.ctypes.data + offset, size], dtype=np.uint64)
        theirs = ranges.copy()
        theirs[:, 1] -= theirs[:, 0]
        got = int(self._readv(self._pid, ours.ctypes.data, 1, theirs.ctypes.data, len(theirs), 0))
        if got >= 0:
            return got
        code = ctypes.get_errno()
        if code in (errno.EFAULT, errno.EIO, errno.ENOMEM):
            return 0
        raise system_error(code or errno.ESRCH)
