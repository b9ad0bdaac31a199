"""The memory of a process that is alive: it is stopped once, for as long as copying takes.

Without a stop, most walks of a busy heap fail: chunks are split and joined while they are read.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from leaktrace.errors import TargetError
from leaktrace.heap.memory import HeapMemory, Residence
from leaktrace.roots.module_data import ObjectFiles
from leaktrace.targets.address_space import by_kind
from leaktrace.targets.instant import Instant, NoInstantError, take_instant
from leaktrace.targets.mappings import Mapping, read_map_file, read_mappings
from leaktrace.targets.memory import ProcessMemory
from leaktrace.targets.process import Process
from leaktrace.targets.resident_pages import PageLook, ScanBudget, look_at_pages
from leaktrace.targets.root_pages import root_pages
from leaktrace.targets.smaps import parse_smaps
from leaktrace.targets.thread_stacks import Threads

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
        kept: list[tuple[bytes, PageLook | None]] = []

        def keep(ranges: NDArray[np.uint64]) -> None:
            """What else there is only while it is stopped. It is taken apart afterwards."""
            pages = look_at_pages(pid, ranges.tolist(), ScanBudget(cpu_s=self._most_ms / 1000))
            kept.append((read_map_file(pid, "smaps"), pages))

        try:
            instant = take_instant(
                pid, self._most_ms, process.is_alive, also=lambda copy: keep(copy.ranges)
            )
        except NoInstantError as error:
            raise TargetError(
                f"there is no look at the heap of process {pid}: {error.message}",
                "--max-pause-ms allows a longer stop; or write a core file (gcore) and use --core",
            ) from None
        except OSError:
            raise _ended(pid) from None
        return self._memory(instant, *kept[0])

    def _expect_short_stop(self) -> None:
        """Don't stop it if that would be for nothing."""
        try:
            takes_ms = expected_pause_ms(self._process.pid)
        except OSError:
            raise _ended(self._process.pid) from None
        if takes_ms > self._most_ms:
            raise TargetError(
                f"process {self._process.pid} would be stopped for about {takes_ms:,} ms, more "
                f"than {self._most_ms:,}",
                f"--max-pause-ms {2 * takes_ms} allows it; or write a core file (gcore) and use "
                "--core",
            )

    def _memory(self, instant: Instant, smaps: bytes, pages: PageLook | None) -> HeapMemory:
        memory = memory_of(instant, self._process.read_name())
        if pages is None or not pages.covers(instant.copy.ranges):
            why = "which of its memory is in RAM could not be read: RSS is not split"
            return replace(memory, notes=(why,))
        threads = Threads({one.tid: one.stack_pointer for one in instant.threads})
        ranges, _ = by_kind(instant.pid, parse_smaps(smaps), threads, memory.image.read)
        return replace(memory, residence=Residence(ranges, pages.resident))


def expected_pause_ms(pid: int) -> int:
    """About how long a process must be stopped to copy its memory. Raises OSError, TargetError."""
    ranges = root_pages(pid, read_mappings(pid))
    threads = len(os.listdir(f"/proc/{pid}/task"))  # noqa: PTH208
    return int((ranges[:, 1] - ranges[:, 0]).sum()) // _BYTES_PER_MS + threads // _THREADS_PER_MS


def memory_of(instant: Instant, command: str) -> HeapMemory:
    """What was copied, without what of it was in RAM."""
    return HeapMemory(
        pid=instant.pid,
        command=command,
        image=instant.copy.image(),
        mappings=instant.mappings,
        threads=tuple(instant.waiting()),
        registers=instant.registers(),
        read_constant=constants_of(instant).read,
        objects=partial(ObjectFiles.of_copy, instant.pid),
        pause_s=instant.paused_s,
        unread_bytes=instant.copy.unread_bytes,
    )


def constants_of(instant: Instant) -> Constants:
    """What was not copied, because it is as files have it."""
    return Constants(instant.pid, instant.mappings)


class Constants:
    """Memory that is as files have it: it doesn't change while they stay mapped."""

    def __init__(self, pid: int, mappings: Sequence[Mapping]) -> None:
        self._pid = pid
        self._files = _of_files(mappings)

    def read(self, address: int, size: int) -> bytes:
        """b"" if it is gone, or another file is there."""
        if not self._are_mapped:
            return b""
        try:
            with ProcessMemory(self._pid) as memory:
                return memory.read(address, size)
        except OSError:
            return b""

    @cached_property
    def _are_mapped(self) -> bool:
        """Whether all are still there: the process goes on, and may execute another program."""
        try:
            return self._files <= _of_files(read_mappings(self._pid))
        except TargetError:
            return False


def _of_files(mappings: Sequence[Mapping]) -> set[Mapping]:
    return {one for one in mappings if one.is_file}


def _ended(pid: int) -> TargetError:
    return TargetError(f"process {pid} has ended", "check the process id")
