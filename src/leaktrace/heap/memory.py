"""What a look at a heap is made from, be it of a process that was stopped or of a core file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaktrace.memory_map import MemoryRange
from leaktrace.roots.module_data import ObjectFiles
from leaktrace.targets.dead_stacks import WaitingThread
from leaktrace.targets.ended_stacks import all_dead_stacks
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.memory_image import MemoryImage
from leaktrace.targets.resident_pages import PageRanges
from leaktrace.targets.thread_registers import Registers


@dataclass(frozen=True)
class Residence:
    """What of the memory is in RAM, at that instant."""

    ranges: Sequence[MemoryRange]  # by ascending address
    pages: PageRanges  # of private memory that is not as in its file


@dataclass(frozen=True)
class HeapMemory:
    """The memory of a process at one instant."""

    pid: int
    command: str
    image: MemoryImage
    mappings: tuple[Mapping, ...]  # by ascending address
    threads: tuple[WaitingThread, ...]
    registers: Registers  # of all threads
    read_constant: Callable[[int, int], bytes]  # what is not in the image: memory as files have it
    objects: Callable[[], ObjectFiles]
    residence: Residence | None = None  # None: not known
    pause_s: float | None = None  # how long the process was stopped
    unread_bytes: int = 0
    notes: tuple[str, ...] = ()

    def read(self, address: int, size: int) -> bytes:
        """At most `size` bytes; fewer if what follows is not there."""
        return self.image.read(address, size) or self.read_constant(address, size)

    def dead_stacks(self) -> NDArray[np.uint64]:
        """The unused parts of stacks, and those of threads that have ended: [start, end), n x 2."""
        return all_dead_stacks(self.threads, self.mappings, self.image.read_filled)
