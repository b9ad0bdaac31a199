"""What is known of the pages of regions, also of those that are newer than the last look."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest

from leaktrace.analysis.regions import REGION
from leaktrace.process.region_pages import KnownPages
from leaktrace.targets.mappings import read_mappings
from leaktrace.targets.page_map import PAGE_BYTES
from leaktrace.targets.resident_pages import ScanBudget

MIB = 1 << 20
_CHILD = """
import ctypes, mmap, sys
memory = mmap.mmap(-1, 4 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
memory[:3 * mmap.PAGESIZE] = bytes(3 * mmap.PAGESIZE)
print(ctypes.addressof(ctypes.c_char.from_buffer(memory)), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def child() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process with 4 MiB, of which three pages are written to, and where they are."""
    process = subprocess.Popen(
        [sys.executable, "-c", _CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
        process.kill()


def row_of(pages: KnownPages, start: int, size: int, time_ns: int) -> tuple[int, int]:
    """What is resident, and not known, of a region that was mapped at this time."""
    rows = np.zeros(1, dtype=REGION)
    rows["size"], rows["time_ns"] = size, time_ns
    pages.fill_in(rows, np.array([start]))
    return int(rows["resident"][0]), int(rows["unread"][0])


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def test_nothing_is_known_before_a_look(child: tuple[subprocess.Popen[bytes], int]) -> None:
    process, start = child
    assert row_of(KnownPages(process.pid), start, 4 * MIB, 1) == (0, 4 * MIB)
    assert KnownPages().next_s is None


def test_what_was_seen_stays_known(child: tuple[subprocess.Popen[bytes], int]) -> None:
    process, start = child
    pages, size, before_ns = KnownPages(process.pid), 4 * MIB, time.monotonic_ns()
    pages.look([(start, start + size)], ScanBudget())
    assert row_of(pages, start, size, before_ns) == (3 * PAGE_BYTES, 0)
    assert row_of(pages, start, 5000, before_ns) == (2 * PAGE_BYTES, 0)  # whole pages
    assert pages.age_ns(time.monotonic_ns()) == 0
    end(process)
    pages.look([(start, start + size)], ScanBudget())
    assert row_of(pages, start, size, before_ns) == (3 * PAGE_BYTES, 0)
    assert pages.age_ns(time.monotonic_ns()) > 0
    # What was mapped in its place since is not known, nor what was not looked at.
    assert row_of(pages, start, size, time.monotonic_ns()) == (0, size)
    assert row_of(pages, start + size - PAGE_BYTES, 2 * PAGE_BYTES, 1) == (0, PAGE_BYTES)
    pages.forget()
    assert row_of(pages, start, size, before_ns) == (0, size)


def test_the_look_before_the_exit_counts(child: tuple[subprocess.Popen[bytes], int]) -> None:
    process, start = child
    pages, before_ns = KnownPages(process.pid), time.monotonic_ns()
    pages.keep(read_mappings(process.pid))
    end(process)
    pages.look([(start, start + 4 * MIB)], ScanBudget())
    assert row_of(pages, start, 4 * MIB, before_ns) == (3 * PAGE_BYTES, 0)


def test_looks_are_some_time_apart(child: tuple[subprocess.Popen[bytes], int]) -> None:
    process, start = child
    pages = KnownPages(process.pid)
    pauses = []
    for _ in range(12):
        begun_s = time.monotonic()
        pages.look([(start, start + 4 * MIB)], ScanBudget())
        assert pages.next_s is not None
        pauses.append(pages.next_s - begun_s)
    assert pauses[0] >= 0.02
    assert pauses[-1] >= 1
