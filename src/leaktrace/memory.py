"""The memory of a process and of the kernel, as reports compare it with what is outstanding."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True)
class RegionBytes:
    """Mapped regions: how much address space is reserved, and how much of it is in memory."""

    count: int = 0
    reserved: int = 0  # bytes, as the program requested them
    resident: int = 0  # of what was looked at, in whole pages
    swapped: int = 0  # the same: swapped out
    unread: int = 0  # reserved, and not looked at: it is not known how much is in memory
    age_ns: int = 0  # how long before the report that was; more than 0 if the process has ended

    @property
    def is_known(self) -> bool:
        """Whether any of it was looked at."""
        return self.unread < self.reserved or not self.reserved

    @property
    def held(self) -> int:
        """The memory that it takes; what is not known counts in full."""
        return self.resident + self.swapped + self.unread


@dataclass(frozen=True)
class SlabGrowth:
    """The kernel's own slab statistics (/proc/slabinfo), since tracing began."""

    grown_bytes: int  # objects in use, now minus then
    tracked_bytes: int  # outstanding slab objects that were recorded
    older_releases: int  # freed objects that had been allocated before tracing began


@dataclass(frozen=True)
class UntracedGrowth:
    """Growth since tracing began of a kernel allocator that is not traced, from /proc/meminfo."""

    section: str  # "vmalloc", "percpu"
    option: str  # the option that traces it, e.g. "--vmalloc"
    bytes: int


class Backing(StrEnum):
    """What is behind memory that a program takes from the kernel itself."""

    MAPPED = "mapped"  # what mmap returned, and is none of the following; counted with blocks
    SYSV = "sysv"
    SHARED_FILE = "shared_file"
    BREAK = "break"


# Memory of which a report has sections of their own.
OTHER_MEMORY = {
    Backing.SYSV: "shared memory (SysV)",
    Backing.SHARED_FILE: "shared memory (memfd, /dev/shm)",
    Backing.BREAK: "program break (brk, sbrk)",
}


@dataclass(frozen=True)
class MemoryKinds:
    """Resident memory by what backs it, or its change, in bytes."""

    anonymous: int = 0  # heaps, stacks, data
    file: int = 0  # mapped files, programs and libraries among them
    shared: int = 0  # shared memory: shm, memfd, tmpfs, shared anonymous memory

    @property
    def total(self) -> int:
        return self.anonymous + self.file + self.shared

    @property
    def written(self) -> int:
        """Without mapped files."""
        return self.anonymous + self.shared

    def since(self, first: MemoryKinds) -> MemoryKinds:
        """The change since another moment."""
        return MemoryKinds(
            self.anonymous - first.anonymous, self.file - first.file, self.shared - first.shared
        )


@dataclass(frozen=True)
class MemoryGrowth:
    """The memory of a process, and its growth since tracing began, in bytes."""

    resident: MemoryKinds
    since_attach: MemoryKinds
    besides_since_attach: int = 0  # not resident: swapped out, or in huge pages of hugetlbfs
    is_all: bool = False  # the growth is all of it: the process was executed under trace
    is_at_exit: bool = False  # of a process that has ended, read before it gave its memory back
    new_threads: int = 0  # how many more threads it has than at the attach
    huge_pages: HugePages | None = None  # None: not read


@dataclass(frozen=True)
class HugePages:
    """What only the page tables of a process say, in bytes (/proc/PID/smaps_rollup)."""

    huge: int  # of the resident memory in transparent huge pages
    lazily_freed: int  # of the resident memory given back by MADV_FREE, and not yet taken


@dataclass(frozen=True)
class Explained:
    """How much of the change of resident memory since the attach the tracked memory explains, in
    bytes: resident_growth = outstanding_held + other_memory + unexplained."""

    resident_growth: int
    outstanding: int  # as the report has it
    outstanding_held: int  # what of it takes memory (Report.held_bytes)
    other_memory: int  # what takes memory in the sections about other memory
    unexplained: (
        int  # negative: that much of the tracked memory is not resident, or not in addition
    )
    # What of `unexplained` can be free memory that the allocator keeps, at most.
    allocator_at_most: int
    since_attach: MemoryKinds  # the change by kind
    not_resident: int  # change of what is swapped out, or in huge pages of hugetlbfs
    new_threads: int
    huge_pages: HugePages | None = None  # now, not since the attach
    is_all: bool = False  # the process was executed under trace, so that the growth is all it holds


@dataclass(frozen=True)
class ResidentMemory:
    """Resident set size of the target, from /proc/PID/status.

    A process that was executed under trace had none when tracing began.
    """

    bytes: int
    growth_bytes: int | None = None  # since the previous report
    kinds: MemoryKinds | None = None
    since_attach: MemoryKinds | None = None  # changes
    is_at_exit: bool = False  # the target has ended: its memory just before

    @property
    def since_attach_bytes(self) -> int | None:
        return None if self.since_attach is None else self.since_attach.total
