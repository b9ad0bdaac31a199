"""Which pages of another process are in memory, from /proc/PID/pagemap.

The ioctl PAGEMAP_SCAN (Linux 6.7) lists ranges of pages and skips what was never touched: 64 MiB
of which little is resident take microseconds. Older kernels are read page by page, 8 bytes each.
Both walk the page tables of the process, and hold its mmap_lock for reading meanwhile. So they
proceed in steps: a step takes fractions of a millisecond. The process is not stopped, and the
pages are not touched.

A page counts if it is in the page tables of this process, as for its RSS. The shared page of zeros,
which is mapped where memory was only read, is no memory: PAGEMAP_SCAN leaves it out. Older kernels
don't tell it apart, and it counts.

Sources: pagemap.rst in the kernel's documentation, ioctl_pagemap_scan(2), include/uapi/linux/fs.h.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

PAGE_BYTES = os.sysconf("SC_PAGESIZE")

_PAGEMAP_SCAN = 0xC060_6610  # _IOWR('f', 16, struct pm_scan_arg), whose size is 96
_PRESENT, _SWAPPED, _ZERO = 1 << 3, 1 << 4, 1 << 5  # PAGE_IS_…
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
_RANGE = np.dtype([("start", "u8"), ("end", "u8"), ("categories", "u8")])
_MOST_RANGES = 4096  # of one call
_SCAN_STEP_BYTES = 128 << 20
_READ_STEP_BYTES = 16 << 20
_ENTRY_BYTES = 8
_ENTRY_PRESENT, _ENTRY_SWAPPED = np.uint64(1 << 63), np.uint64(1 << 62)
_NEAR_BYTES = 1 << 20  # ranges with less between them are read at once

Range = tuple[int, int]  # [start, end)


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


@dataclass
class _Found:
    looked: list[Range] = field(default_factory=list)
    resident: list[Range] = field(default_factory=list)
    swapped: list[Range] = field(default_factory=list)


def merge(ranges: Iterable[Range], gap_bytes: int) -> list[Range]:
    """Sorted and disjoint; ranges that are at most `gap_bytes` apart are one."""
    merged: list[Range] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1] + gap_bytes:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif end > start:
            merged.append((start, end))
    return merged


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
        descriptor = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # A process that has ended has no memory. The ioctl would find no pages there, so that is
        # asked before and afterwards.
        if not _has_memory(descriptor):
            return None
        found = _scan_all(descriptor, wanted, budget) if scans else None
        if found is None:
            found = _read_all(descriptor, wanted, budget)
        if not _has_memory(descriptor):
            return None
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return PageLook(
        time_ns, PageRanges(found.looked), PageRanges(found.resident), PageRanges(found.swapped)
    )


def _has_memory(descriptor: int) -> bool:
    return len(os.pread(descriptor, _ENTRY_BYTES, 0)) == _ENTRY_BYTES


def _steps(ranges: Iterable[Range], step_bytes: int) -> Iterator[Range]:
    for start, end in ranges:
        for at in range(start // PAGE_BYTES * PAGE_BYTES, end, step_bytes):
            yield at, min(at + step_bytes, -(-end // PAGE_BYTES) * PAGE_BYTES)


def _scan_all(descriptor: int, ranges: Sequence[Range], budget: ScanBudget) -> _Found | None:
    """By PAGEMAP_SCAN; None where the kernel doesn't have it. Raises OSError."""
    found = _Found()
    buffer = np.zeros(_MOST_RANGES, dtype=_RANGE)
    argument = np.zeros(1, dtype=_ARGUMENT)
    argument["size"] = _ARGUMENT.itemsize
    argument["vec"], argument["vec_len"] = buffer.ctypes.data, len(buffer)
    argument["category_inverted"] = argument["category_mask"] = _ZERO
    argument["category_anyof_mask"] = argument["return_mask"] = _PRESENT | _SWAPPED
    used_s = time.thread_time() + budget.cpu_s
    for start, end in _steps(ranges, _SCAN_STEP_BYTES):
        at = start
        while at < end and time.thread_time() < used_s and end - at <= budget.scan_bytes:
            argument["start"], argument["end"] = at, end
            try:
                count = fcntl.ioctl(descriptor, _PAGEMAP_SCAN, argument.view(np.uint8).data)
            except OSError as error:
                if error.errno in (errno.ENOTTY, errno.EINVAL) and not found.looked:
                    return None
                raise
            walked = int(argument["walk_end"][0])
            if walked <= at:
                break
            for one in buffer[:count].tolist():
                (found.resident if one[2] & _PRESENT else found.swapped).append(one[:2])
            found.looked.append((at, walked))
            budget.scan_bytes -= walked - at
            at = walked
    budget.cpu_s = max(used_s - time.thread_time(), 0.0)
    return found


def _read_all(descriptor: int, ranges: Sequence[Range], budget: ScanBudget) -> _Found:
    """Page by page. Raises OSError."""
    found = _Found()
    used_s = time.thread_time() + budget.cpu_s
    for start, end in _steps(ranges, _READ_STEP_BYTES):
        if time.thread_time() >= used_s or end - start > budget.read_bytes:
            break
        size = (end - start) // PAGE_BYTES * _ENTRY_BYTES
        data = os.pread(descriptor, size, start // PAGE_BYTES * _ENTRY_BYTES)
        entries = np.frombuffer(data[: len(data) // _ENTRY_BYTES * _ENTRY_BYTES], dtype=np.uint64)
        is_resident = (entries & _ENTRY_PRESENT) != 0
        found.resident += _runs(is_resident, start)
        found.swapped += _runs(((entries & _ENTRY_SWAPPED) != 0) & ~is_resident, start)
        found.looked.append((start, start + len(entries) * PAGE_BYTES))
        budget.read_bytes -= end - start
    budget.cpu_s = max(used_s - time.thread_time(), 0.0)
    return found


def _runs(pages: NDArray[np.bool_], start: int) -> list[Range]:
    """The ranges of the pages that are set."""
    changes = np.diff(np.concatenate([[0], pages.astype(np.int8), [0]]))
    starts, ends = np.nonzero(changes == 1)[0], np.nonzero(changes == -1)[0]
    return [
        (start + first * PAGE_BYTES, start + last * PAGE_BYTES)
        for first, last in zip(starts.tolist(), ends.tolist(), strict=True)
    ]
