"""In which frames pages are, compared with /proc/self/pagemap (pagemap.rst in the kernel's
documentation)."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np

from leaktrace.targets.page_frames import NO_FRAME, Frames

PAGE = mmap.PAGESIZE
PAGES = 1024  # of which every second one is touched
HUGE_BYTES = 2 << 20


def numbers(first: int, count: int) -> np.ndarray:
    """The frames of pages of this process; 0 for those that are not present."""
    with Path("/proc/self/pagemap").open("rb", buffering=0) as file:
        entries = np.frombuffer(os.pread(file.fileno(), count * 8, first // PAGE * 8), np.uint64)
    is_present = entries >> np.uint64(63) != 0
    return np.where(is_present, entries & np.uint64((1 << 55) - 1), np.uint64(0))


def found_and_known(pages: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the same moment: the kernel may move a page to another frame at any time."""
    with Frames() as frames:
        while True:
            before = numbers(int(pages[0]), len(pages))
            found = frames.of_pages(os.getpid(), pages)
            if (numbers(int(pages[0]), len(pages)) == before).all():
                return found, before


def memory(size: int, advice: int) -> tuple[np.ndarray, np.ndarray]:
    """Bytes, and the addresses of their pages."""
    mapped = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapped.madvise(advice)
    data = np.frombuffer(mapped, dtype=np.uint8)
    at = data.ctypes.data
    return data, np.arange(at, at + size, PAGE, dtype=np.uint64)


def test_single_pages(require_root: None) -> None:
    data, pages = memory(PAGES * PAGE, mmap.MADV_NOHUGEPAGE)
    data[:: 2 * PAGE] = 1
    found, known = found_and_known(pages)
    assert (found == known).all()
    assert (found[::2] != NO_FRAME).all()
    assert (found[1::2] == NO_FRAME).all()


def test_a_huge_page_is_its_first_frame(require_root: None) -> None:
    data, pages = memory(2 * HUGE_BYTES, mmap.MADV_HUGEPAGE)
    data[::PAGE] = 1
    found, known = found_and_known(pages)
    assert (found <= known).all()
    assert (known - found < HUGE_BYTES // PAGE).all()
    # All pages of a folio have the same; whether there is one is up to the kernel.
    for frame in np.unique(found):
        assert known[found == frame].min() == frame
