"""Page faults as the source of events: they show where resident memory grows, and cost nothing per
malloc.

A software perf event with a period of 1 runs a program at each page that a thread of the target
touches for the first time (perf_event_open(2), PERF_COUNT_SW_PAGE_FAULTS). Pages of mapped files
belong to the page cache and are not counted: the program looks their addresses up in a list of file
mappings.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from leaktrace.abi import process as abi
from leaktrace.bpf import links
from leaktrace.errors import AS_ROOT_OR_DOCTOR, EnvironmentUnfitError, TargetError
from leaktrace.process.knobs import FILE_CAPACITY
from leaktrace.process.program import FAULT_PROGRAM, FileMaps
from leaktrace.process.slot import Slot
from leaktrace.targets.mappings import Mapping

_HALF = FILE_CAPACITY // 2
# Memory that has an inode but no file: its pages belong to the process.
_SHARED_MEMORY = ("/memfd:", "/dev/shm/", "/dev/zero", "/SYSV", "/[aio]", "/anon_hugepage")


class PageFaults:
    """The page fault events of one process, and the list of its file mappings."""

    def __init__(self, slot: Slot, files: FileMaps, pid: int) -> None:
        self._program = slot.program.programs[FAULT_PROGRAM]
        self._slot = slot.number
        self._files = files
        self._pid = pid
        self._descriptors: list[int] = []
        self._listed: tuple[tuple[int, int], ...] | None = None
        self._updates = 0

    def attach(self) -> None:
        """Follow every thread that runs now. The kernel follows the threads that they start.

        Raises EnvironmentUnfitError or TargetError.
        """
        attached: set[int] = set()
        while new := self._threads() - attached:
            for tid in new:
                self._attach_thread(tid)
            attached |= new
        if not self._descriptors:
            raise TargetError(
                f"process {self._pid} ended before it could be traced", "check its pid"
            )

    def _threads(self) -> set[int]:
        try:
            return {int(entry.name) for entry in Path(f"/proc/{self._pid}/task").iterdir()}
        except OSError:
            return set()

    def _attach_thread(self, tid: int) -> None:
        try:
            self._descriptors += links.attach_page_faults(self._program, tid)
        except OSError as error:
            if error.errno == errno.ESRCH:
                return  # the thread has ended
            if error.errno in (errno.EPERM, errno.EACCES):
                raise EnvironmentUnfitError(
                    "the kernel does not permit page fault events of this process",
                    AS_ROOT_OR_DOCTOR,
                ) from None
            if error.errno == errno.EMFILE:
                raise EnvironmentUnfitError(
                    "too many open files: --faults needs one per thread of the process",
                    "raise the limit: ulimit -n 65536",
                ) from None
            raise

    def follow(self, mappings: Sequence[Mapping]) -> None:
        """Take over the current mappings of the process."""
        files = self._files
        listed = tuple((m.start, m.end) for m in mappings if _is_page_cache(m))[:_HALF]
        if listed == self._listed:
            return
        start = FILE_CAPACITY * self._slot + _HALF * (self._updates % 2)
        value = np.zeros(1, dtype=abi.FILE_MAPPING)
        for index, (value["start"], value["end"]) in enumerate(listed):
            files.mappings.update(start + index, value)
        files.list.update(self._slot, np.array([start | len(listed) << 32], dtype=np.uint64))
        self._listed = listed
        self._updates += 1

    def notes(self) -> tuple[str, ...]:
        """What the figures do not include."""
        notes = []
        count = self._files.faults.lookup(self._slot)
        if count:
            notes.append("page faults in mapped files are left out")
        huge_bytes = _anonymous_huge_bytes(self._pid)
        if huge_bytes:
            notes.append(
                f"{huge_bytes >> 20:,} MiB of the process are in huge pages, "
                "each of which counts as one page of 4 KiB here"
            )
        return tuple(notes)

    def close(self) -> None:
        """Detach from every thread."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []


def _is_page_cache(mapping: Mapping) -> bool:
    return mapping.is_file and not mapping.path.startswith(_SHARED_MEMORY)


def _anonymous_huge_bytes(pid: int) -> int:
    """AnonHugePages of /proc/PID/smaps_rollup (proc(5)); 0 when it can't be read."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if name == "AnonHugePages":
            return int(rest.split()[0]) * 1024
    return 0
