"""The memory of a process that is alive: it is stopped once, for as long as copying takes.

Without a stop, most walks of a busy heap fail: chunks are split and joined while they are read.
"""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from leaktrace.errors import TargetError
from leaktrace.heap.image import MemoryImage
from leaktrace.heap.memory import HeapMemory, Residence
from leaktrace.targets.address_space import look_at
from leaktrace.targets.dead_stacks import WaitingThread
from leaktrace.targets.instant import Instant, NoInstantError, take_instant
from leaktrace.targets.mappings import read_mappings
from leaktrace.targets.memory import ProcessMemory
from leaktrace.targets.process import Process
from leaktrace.targets.resident_pages import PageRanges, ScanBudget, look_at_pages
from leaktrace.targets.root_pages import root_pages

_BYTES_PER_MS = 4 << 20  # copied by two threads: what a small machine does
_THREADS_PER_MS = 20  # stopped and let go


class LiveHeap:
    """Looks at the heap of one process."""

    def __init__(self, process: Process, most_pause_ms: int) -> None:
        self._process = process
        self._most_ms = most_pause_ms

    def look(self) -> HeapMemory:
        """Stop the process, copy its memory, and let it go.

        Raises TargetError when the process has ended, can't be stopped or would be stopped for too
        long, or when there is no room for the copy.
        """
        process, pid = self._process, self._process.pid
        self._expect_short_stop()
        found: list[Residence] = []
        try:
            instant = take_instant(
                pid,
                self._most_ms,
                process.is_alive,
                also=lambda copy: found.append(self._residence(copy.ranges)),
            )
        except NoInstantError as error:
            raise TargetError(
                f"there is no look at the heap of process {pid}: {error.message}",
                "--max-pause-ms allows a longer stop; or write a core file (gcore) and use --core",
            ) from None
        except OSError:
            raise _ended(pid) from None
        return self._memory(instant, found[0])

    def _expect_short_stop(self) -> None:
        """Don't stop it if that would be for nothing."""
        try:
            ranges = root_pages(self._process.pid, read_mappings(self._process.pid))
            threads = len(os.listdir(f"/proc/{self._process.pid}/task"))  # noqa: PTH208
        except OSError:
            raise _ended(self._process.pid) from None
        takes_ms = int((ranges[:, 1] - ranges[:, 0]).sum()) // _BYTES_PER_MS
        takes_ms += threads // _THREADS_PER_MS
        if takes_ms > self._most_ms:
            raise TargetError(
                f"process {self._process.pid} would be stopped for about {takes_ms:,} ms, more "
                f"than {self._most_ms:,}",
                f"--max-pause-ms {2 * takes_ms} allows it; or write a core file (gcore) and use "
                "--core",
            )

    def _residence(self, ranges: NDArray[np.uint64]) -> Residence:
        pages = look_at_pages(
            self._process.pid, ranges.tolist(), ScanBudget(cpu_s=self._most_ms / 1000)
        )
        resident = PageRanges() if pages is None else pages.resident
        return Residence(look_at(self._process.pid), resident)

    def _memory(self, instant: Instant, residence: Residence) -> HeapMemory:
        pid, threads = instant.pid, instant.threads
        return HeapMemory(
            pid=pid,
            command=self._process.read_name(),
            image=MemoryImage.of_ranges(instant.copy.words, instant.copy.ranges),
            mappings=instant.mappings,
            threads=tuple(
                WaitingThread(one.stack_pointer, one.thread_pointer, is_first=one.tid == pid)
                for one in threads
            ),
            registers=np.concatenate([np.empty(0, np.uint64), *[one.words for one in threads]]),
            read_constant=self._read_constant,
            residence=residence,
            pause_s=instant.paused_s,
            unread_bytes=instant.copy.unread_bytes,
        )

    def _read_constant(self, address: int, size: int) -> bytes:
        """Memory that is as its file has it doesn't change."""
        try:
            with ProcessMemory(self._process.pid) as memory:
                return memory.read(address, size)
        except OSError:
            return b""


def _ended(pid: int) -> TargetError:
    return TargetError(f"process {pid} has ended", "check the process id")
