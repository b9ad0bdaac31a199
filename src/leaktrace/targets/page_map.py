"""/proc/PID/pagemap: what the kernel knows of single pages of a process.

The ioctl PAGEMAP_SCAN (Linux 6.7) lists ranges of pages and skips what was never touched: 64 MiB
of which little is resident take microseconds. Older kernels are read page by page, 8 bytes each.
Both walk the page tables of the process, and hold its mmap_lock for reading meanwhile. So callers
proceed in steps: a step takes fractions of a millisecond. The process is not stopped, and the
pages are not touched.

Sources: pagemap.rst in the kernel's documentation, ioctl_pagemap_scan(2), include/uapi/linux/fs.h.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

PAGE_BYTES = os.sysconf("SC_PAGESIZE")
# PAGE_IS_…
FILE, PRESENT, SWAPPED, ZERO = 1 << 2, 1 << 3, 1 << 4, 1 << 5

SCAN_STEP_BYTES = 128 << 20
READ_STEP_BYTES = 16 << 20

_PAGEMAP_SCAN = 0xC060_6610  # _IOWR('f', 16, struct pm_scan_arg), whose size is 96
_ARGUMENT = np.dtype(
    [
        ("size", "u8"),
        ("flags", "u8"),
        ("start", "u8"),
        ("end", "u8"),
        ("walk_end", "u8"),
        ("vec", "u8"),
        ("vec_len", "u8"),
        ("max_pages", "u8"),
        ("category_inverted", "u8"),
        ("category_mask", "u8"),
        ("category_anyof_mask", "u8"),
        ("return_mask", "u8"),
    ]
)
PAGES = np.dtype([("start", "u8"), ("end", "u8"), ("categories", "u8")])
_MOST_RANGES = 4096  # of one call
_ENTRY_BYTES = 8
_ENTRY_PRESENT, _ENTRY_SWAPPED = np.uint64(1 << 63), np.uint64(1 << 62)
_ENTRY_FILE = np.uint64(1 << 61)  # or shared memory
_ENTRY_FRAME = (1 << 55) - 1

Range = tuple[int, int]  # [start, end)


class PageMap:
    """The page map of one process. Close it at the end."""

    def __init__(self, pid: int) -> None:
        """Raises OSError when the process has ended, or its page map can't be read."""
        self._descriptor = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        self._buffer = np.zeros(_MOST_RANGES, dtype=PAGES)
        self._argument = np.zeros(1, dtype=_ARGUMENT)

    def has_memory(self) -> bool:
        """Whether the process still has its memory: one that has ended has none, and `scan` would
        find no pages. Raises OSError."""
        return len(os.pread(self._descriptor, _ENTRY_BYTES, 0)) == _ENTRY_BYTES

    def scan(self, start: int, end: int, without: int) -> tuple[NDArray[np.void], int] | None:
        """By one call of PAGEMAP_SCAN: the ranges of pages (PAGES) that are present or swapped out,
        without those of the categories `without`, and up to which address they were looked for.
        The array is valid until the next call. None where the kernel has no such call. Raises
        OSError.
        """
        one = self._argument
        one["size"] = _ARGUMENT.itemsize
        one["vec"], one["vec_len"] = self._buffer.ctypes.data, len(self._buffer)
        one["start"], one["end"] = start, end
        one["category_inverted"] = one["category_mask"] = without
        one["category_anyof_mask"] = one["return_mask"] = PRESENT | SWAPPED
        try:
            count = fcntl.ioctl(self._descriptor, _PAGEMAP_SCAN, one.view(np.uint8).data)
        except OSError as error:
            if error.errno in (errno.ENOTTY, errno.EINVAL):
                return None
            raise
        return self._buffer[:count], int(one["walk_end"][0])

    def read(self, start: int, end: int) -> NDArray[np.uint8]:
        """The categories (FILE, PRESENT, SWAPPED) of each page; fewer at the end of the address
        space. Older kernels don't say which pages are zeros. Raises OSError."""
        size = (end - start) // PAGE_BYTES * _ENTRY_BYTES
        data = os.pread(self._descriptor, size, start // PAGE_BYTES * _ENTRY_BYTES)
        entries = np.frombuffer(data[: len(data) // _ENTRY_BYTES * _ENTRY_BYTES], dtype=np.uint64)
        categories = np.zeros(len(entries), dtype=np.uint8)
        for bit, category in (
            (_ENTRY_PRESENT, PRESENT),
            (_ENTRY_SWAPPED, SWAPPED),
            (_ENTRY_FILE, FILE),
        ):
            categories |= ((entries & bit) != 0) * np.uint8(category)
        return categories

    def frame(self, address: int) -> int:
        """The number of the frame of physical memory that a page is in; 0 if it is in none, or that
        is hidden (CAP_SYS_ADMIN is missing). Raises OSError."""
        data = os.pread(self._descriptor, _ENTRY_BYTES, address // PAGE_BYTES * _ENTRY_BYTES)
        entry = int.from_bytes(data, "little")
        return entry & _ENTRY_FRAME if entry & int(_ENTRY_PRESENT) else 0

    def close(self) -> None:
        os.close(self._descriptor)


def merge(ranges: Iterable[Range], gap_bytes: int) -> list[Range]:
    """Sorted and disjoint; ranges that are at most `gap_bytes` apart are one."""
    merged: list[Range] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1] + gap_bytes:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif end > start:
            merged.append((start, end))
    return merged


def steps(ranges: Iterable[Range], step_bytes: int) -> Iterator[Range]:
    """The ranges in pieces of whole pages."""
    for start, end in ranges:
        for at in range(start // PAGE_BYTES * PAGE_BYTES, end, step_bytes):
            yield at, min(at + step_bytes, -(-end // PAGE_BYTES) * PAGE_BYTES)


def runs(pages: NDArray[np.bool_], start: int) -> list[Range]:
    """The ranges of the pages that are set. `start`: the address of the first one."""
    changes = np.diff(np.concatenate([[0], pages.astype(np.int8), [0]]))
    starts, ends = np.nonzero(changes == 1)[0], np.nonzero(changes == -1)[0]
    return [
        (start + first * PAGE_BYTES, start + last * PAGE_BYTES)
        for first, last in zip(starts.tolist(), ends.tolist(), strict=True)
    ]
