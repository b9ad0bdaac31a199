"""Makes processors forget which pages they have looked up in page tables.

A processor sets the accessed bit of a page when it looks it up in the page tables, and remembers
the result in its TLB. As long as it does, the page can be used without the bit being set again,
although the kernel has cleared it: in a quiet process for many seconds. (The kernel doesn't flush
the TLB when it clears the bit.) No system call flushes the TLB of another process without changing
it. But the TLB is small, so a thread that uses many pages on the same processor pushes everything
else out, as any other program that is scheduled there does.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable

import numpy as np

# Several times as many as any TLB has entries (2,048 to 4,096). All are the shared page of zeros.
_PAGES = 16_384
_ROUNDS = 2  # a TLB need not replace the oldest entry first


class Translations:
    """What pushes the entries of others out: 64 MiB of addresses, and little memory."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _PAGES * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._memory.madvise(mmap.MADV_NOHUGEPAGE)  # one entry would do for all

    def forget_on(self, processors: Iterable[int]) -> list[int]:
        """Returns the processors on which this thread must not run."""
        refused = []
        before = os.sched_getaffinity(0)
        pages = np.frombuffer(self._memory, dtype=np.uint8)[:: mmap.PAGESIZE]
        try:
            for processor in processors:
                try:
                    os.sched_setaffinity(0, {processor})
                except OSError:
                    refused.append(processor)
                    continue
                for _ in range(_ROUNDS):
                    pages.max()
        finally:
            os.sched_setaffinity(0, before)
        return refused
