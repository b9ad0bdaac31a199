"""What a look at a heap is made from, be it of a process that was stopped or of a core file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaktrace.heap.image import MemoryImage
from leaktrace.memory_map import Look
from leaktrace.targets.dead_stacks import WaitingThread, dead_stacks
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.resident_pages import PageRanges

_PAGE_BYTES = 4096


@dataclass(frozen=True)
class Residence:
    """What of the memory is in RAM, at that instant."""

    look: Look
    pages: PageRanges  # of private memory that is not as in its file


@dataclass(frozen=True)
class HeapMemory:
    """The memory of a process at one instant."""

    pid: int
    command: str
    image: MemoryImage
    mappings: tuple[Mapping, ...]  # by ascending address
    threads: tuple[WaitingThread, ...]
    registers: NDArray[np.uint64]  # words, of all threads
    read_constant: Callable[[int, int], bytes]  # what is not in the image: memory as files have it
    residence: Residence | None = None  # None: not known
    pause_s: float | None = None  # how long the process was stopped
    unread_bytes: int = 0
    notes: tuple[str, ...] = ()

    def read(self, address: int, size: int) -> bytes:
        """At most `size` bytes; fewer if what follows is not there."""
        return self.image.read(address, size) or self.read_constant(address, size)

    def dead_stacks(self) -> NDArray[np.uint64]:
        """The unused parts of stacks: [start, end), n x 2."""
        return dead_stacks(self.threads, self.mappings, self._read_stack)

    def _read_stack(self, address: int, size: int) -> bytes:
        """Pages that are not in the image were never used."""
        parts, end = [], address + size
        while address < end:
            part = self.image.read(address, end - address)
            if not part:
                part = bytes(min(_PAGE_BYTES - address % _PAGE_BYTES, end - address))
            parts.append(part)
            address += len(part)
        return b"".join(parts)

    def file_ranges(self) -> NDArray[np.uint64]:
        """[start, end), n x 2, ascending: mapped files, and data without contents behind them."""
        found: list[tuple[int, int]] = []
        end_of_data = 0  # of a file: what follows is its .bss
        for one in self.mappings:
            is_writable = one.permissions[1] == "w"
            is_behind = one.path == "" and one.start == end_of_data and is_writable
            if one.is_file or is_behind:
                found.append((one.start, one.end))
                end_of_data = one.end if one.is_file and is_writable else 0
        return np.array(found, dtype=np.uint64).reshape(-1, 2)
