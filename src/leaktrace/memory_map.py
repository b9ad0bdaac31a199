"""The values of `leaktrace maps`: what each mapping of a process holds, by kind, and its growth.

`leaktrace.targets` looks, `leaktrace.analysis.map_growth` compares, and reports print. Sizes are
bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class MapKind(StrEnum):
    """What a mapping is for. Every mapping has one kind, so that the kinds add up to the whole."""

    HEAP = "heap"
    ARENA = "arena"
    ANONYMOUS = "anonymous"
    MAIN_STACK = "main_stack"
    THREAD_STACK = "thread_stack"
    CODE = "code"
    PRIVATE_FILE = "private_file"
    SHARED_FILE = "shared_file"
    SHARED_MEMORY = "shared_memory"
    HUGETLB = "hugetlb"
    INACCESSIBLE = "inaccessible"
    OTHER = "other"


# As reports name them, in the order of reports.
KIND_NAMES = {
    MapKind.HEAP: "heap (brk)",
    MapKind.ARENA: "allocator arenas",
    MapKind.ANONYMOUS: "anonymous",
    MapKind.MAIN_STACK: "main stack",
    MapKind.THREAD_STACK: "thread stacks",
    MapKind.CODE: "files: code",
    MapKind.PRIVATE_FILE: "files: private",
    MapKind.SHARED_FILE: "files: shared",
    MapKind.SHARED_MEMORY: "shared memory",
    MapKind.HUGETLB: "hugetlb pages",
    MapKind.INACCESSIBLE: "no access",
    MapKind.OTHER: "vdso, devices",
}


@dataclass(frozen=True, slots=True)
class Figures:
    """What some mappings hold, or its change, in bytes (proc_pid_smaps(5))."""

    reserved: int = 0  # size of the address range
    resident: int = 0  # Rss
    proportional: int = 0  # Pss: a page that n processes map counts as an n-th here
    swapped: int = 0  # Swap
    huge: int = 0  # AnonHugePages, ShmemPmdMapped, FilePmdMapped: a part of `resident`
    hugetlb: int = 0  # Shared_Hugetlb, Private_Hugetlb: no part of `resident`
    lazily_freed: int = 0  # LazyFree: a part of `resident` that the program has given back

    @property
    def held(self) -> int:
        """In RAM or swapped out: swapping doesn't change it."""
        return self.resident + self.swapped + self.hugetlb

    def plus(self, other: Figures) -> Figures:
        return Figures(
            self.reserved + other.reserved,
            self.resident + other.resident,
            self.proportional + other.proportional,
            self.swapped + other.swapped,
            self.huge + other.huge,
            self.hugetlb + other.hugetlb,
            self.lazily_freed + other.lazily_freed,
        )

    def since(self, first: Figures) -> Figures:
        """The change since another moment."""
        return Figures(
            self.reserved - first.reserved,
            self.resident - first.resident,
            self.proportional - first.proportional,
            self.swapped - first.swapped,
            self.huge - first.huge,
            self.hugetlb - first.hugetlb,
            self.lazily_freed - first.lazily_freed,
        )


@dataclass(frozen=True, slots=True)
class MemoryRange:
    """One mapping. `end` is exclusive."""

    start: int
    end: int
    permissions: str  # "rw-p"
    name: str  # a path as the process sees it, "[heap]", "[anon:…]"; "" for most anonymous memory
    kind: MapKind
    figures: Figures
    file: tuple[str, int] | None = None  # device and inode of a mapped file
    deleted: bool = False  # the file was removed or replaced after it was mapped


@dataclass(frozen=True)
class Look:
    """All mappings of a process, at about one moment."""

    time_s: float  # CLOCK_MONOTONIC
    ranges: tuple[MemoryRange, ...]  # by ascending address
    thread_count: int
    program: tuple[int, ...]  # differs after the process has executed a program
    notes: tuple[str, ...] = ()  # what could not be told apart, and why


@dataclass(frozen=True)
class KindLine:
    """The mappings of one kind. Changes are None in a report about a single look."""

    kind: MapKind
    count: int
    figures: Figures
    since_first: Figures | None = None
    since_previous: Figures | None = None


@dataclass(frozen=True)
class RangeGrowth:
    """One mapping, with those of earlier looks that were in its place. Where mappings were split or
    joined between two looks, it is all of them together."""

    range: MemoryRange  # of several: from the first to the last, with the kind that holds most
    growth: int  # of Figures.held since the first look
    since_previous: int
    is_new: bool  # nothing was in its place in the first look


@dataclass(frozen=True)
class MapsReport:
    """One report of `leaktrace maps`."""

    time: datetime
    elapsed_s: float  # since the first look
    number: int  # 1 for the first
    final: bool
    reason: str  # why a final report is the last one; "" otherwise
    pid: int
    command: str
    mapping_count: int
    thread_count: int
    total: Figures
    kinds: tuple[KindLine, ...]  # those with at least one mapping, now or in an earlier look
    largest: tuple[MemoryRange, ...]  # by Figures.held
    top: int  # how many mappings were requested
    since_first: Figures | None = None  # None: a single look
    since_previous: Figures | None = None
    grown: tuple[RangeGrowth, ...] = ()  # the most growing first; without those that shrank
    look_age_s: float = 0.0  # above 0: the process has ended, and the figures are of before
    notes: tuple[str, ...] = field(default=())
