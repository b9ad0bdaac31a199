"""Which pages are in memory: compared with mincore(2) in this process, and with its smaps."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from leaktrace.targets.page_map import PAGE_BYTES, merge
from leaktrace.targets.resident_pages import (
    PageLook,
    PageRanges,
    ScanBudget,
    look_at_pages,
)

MIB = 1 << 20
SIZE = 64 * MIB
_LIBC = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def memory() -> Iterator[tuple[mmap.mmap, int]]:
    """64 MiB without huge pages, and where they are."""
    mapped = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapped.madvise(mmap.MADV_NOHUGEPAGE)
    anchor = ctypes.c_char.from_buffer(mapped)
    address = ctypes.addressof(anchor)
    yield mapped, address
    del anchor
    mapped.close()


def mincore(address: int, size: int) -> int:
    pages = (ctypes.c_ubyte * (size // PAGE_BYTES))()
    assert _LIBC.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), pages) == 0
    return sum(page & 1 for page in pages) * PAGE_BYTES


def of(look: PageLook | None, start: int, size: int) -> tuple[int, int]:
    """How much of a range was looked at, and is resident."""
    assert look is not None
    starts, ends = np.array([start]), np.array([start + size])
    return int(look.looked.covered(starts, ends)[0]), int(look.resident.covered(starts, ends)[0])


@pytest.mark.parametrize("scans", [True, False], ids=["scan", "read"])
def test_what_was_written_is_resident(memory: tuple[mmap.mmap, int], scans: bool) -> None:
    mapped, at = memory
    for page in (*range(100), *range(5000, 5003), SIZE // PAGE_BYTES - 1):
        mapped[page * PAGE_BYTES] = 1
    look = look_at_pages(os.getpid(), [(at, at + SIZE)], ScanBudget(), scans=scans)
    assert of(look, at, SIZE) == (SIZE, 104 * PAGE_BYTES) == (SIZE, mincore(at, SIZE))
    assert of(look, at, 50 * PAGE_BYTES)[1] == 50 * PAGE_BYTES
    assert of(look, at + 100 * PAGE_BYTES, PAGE_BYTES)[1] == 0
    mapped.madvise(mmap.MADV_DONTNEED, 0, 40 * PAGE_BYTES)
    look = look_at_pages(os.getpid(), [(at, at + SIZE)], ScanBudget(), scans=scans)
    assert of(look, at, SIZE) == (SIZE, 64 * PAGE_BYTES)


def test_many_separate_pages(memory: tuple[mmap.mmap, int]) -> None:
    """More ranges than one call returns."""
    mapped, at = memory
    for page in range(0, SIZE // PAGE_BYTES, 2):
        mapped[page * PAGE_BYTES] = 1
    look = look_at_pages(os.getpid(), [(at, at + SIZE)], ScanBudget(cpu_s=60))
    assert of(look, at, SIZE) == (SIZE, SIZE // 2)


def test_the_page_of_zeros_is_no_memory(memory: tuple[mmap.mmap, int]) -> None:
    mapped, at = memory
    assert sum(mapped[page * PAGE_BYTES] for page in range(256)) == 0  # only read
    mapped[SIZE - 1] = 1
    look = look_at_pages(os.getpid(), [(at, at + SIZE)], ScanBudget())
    smaps = Path("/proc/self/smaps").read_text()
    entry = re.search(rf"^[0-9a-f]+-{at + SIZE:x} .*?^Rss: +(\d+) kB", smaps, re.M | re.S)
    assert entry is not None
    assert of(look, at, SIZE)[1] == int(entry[1]) * 1024 == PAGE_BYTES


@pytest.mark.parametrize("scans", [True, False], ids=["scan", "read"])
def test_a_budget(memory: tuple[mmap.mmap, int], scans: bool) -> None:
    """What is beyond it is not looked at; small ranges come first."""
    mapped, at = memory
    mapped[SIZE - 1] = 1
    small, large = (at + 60 * MIB, at + SIZE), (at, at + 32 * MIB)
    budget = ScanBudget(scan_bytes=8 * MIB, read_bytes=8 * MIB)
    look = look_at_pages(os.getpid(), [large, small], budget, scans=scans)
    assert of(look, small[0], 4 * MIB) == (4 * MIB, PAGE_BYTES)
    assert of(look, large[0], 32 * MIB) == (0, 0)
    assert (budget.scan_bytes if scans else budget.read_bytes) == 4 * MIB
    spent = ScanBudget(cpu_s=0)
    assert of(look_at_pages(os.getpid(), [small], spent, scans=scans), small[0], 4 * MIB) == (0, 0)


def test_parts_of_a_budget() -> None:
    budget = ScanBudget(1000, 100, 1.0)
    given, used = budget.share(2), budget.share(2)
    used.scan_bytes -= 300
    budget.take(used, given)
    assert (budget.scan_bytes, budget.read_bytes) == (700, 100)


def test_a_process_that_has_ended() -> None:
    """Also one that nobody has waited for: unknown, and not nothing."""
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.DEVNULL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert look_at_pages(child.pid, [(MIB, 2 * MIB)], ScanBudget()) is None
    child.wait()
    assert look_at_pages(child.pid, [(MIB, 2 * MIB)], ScanBudget()) is None


def test_ranges() -> None:
    assert merge([(5, 7), (1, 3), (3, 4), (6, 9), (20, 20)], 0) == [(1, 4), (5, 9)]
    assert merge([(5, 7), (1, 3)], 2) == [(1, 7)]
    ranges = PageRanges([(10, 20), (30, 40)])
    starts, ends = np.array([0, 0, 15, 35, 40, 12]), np.array([10, 100, 35, 36, 50, 18])
    assert ranges.covered(starts, ends).tolist() == [0, 20, 10, 1, 0, 6]
    assert PageRanges().covered(starts, ends).tolist() == [0] * 6
