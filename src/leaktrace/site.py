"""A call site with all that is known of it: its stack, what it holds, and what became of the rest.

Sizes are bytes as requested by the program; times are nanoseconds of CLOCK_MONOTONIC.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from leaktrace.contents import SiteContents
from leaktrace.go_report import SizedObjects
from leaktrace.idle import IdleShare
from leaktrace.memory import (
    RegionBytes,
)
from leaktrace.reach import Holder, LostShare
from leaktrace.verdict import Lifetimes, Verdict


class StackEnd(StrEnum):
    """How the walk of a stack ended."""

    COMPLETE = "complete"  # reached the outermost frame
    TRUNCATED = "truncated"  # deeper than the walker goes
    GUESSED = "guessed"  # a frame was found by frame pointer because there was no unwind rule
    GO = "go"  # complete up to a switch of stacks by Go that can't be followed
    BROKEN = "broken"  # a frame could not be read or has no rule
    UNKNOWN = "unknown"  # the walker can't know (frame pointers only)
    LOST = "lost"  # the stack could not be stored; the allocation is still counted


@dataclass(frozen=True)
class SourceLine:
    """The source position of an address, as the debug information gives it."""

    file: str
    line: int


@dataclass(frozen=True)
class Frame:
    """One frame of a stack. For a return address, names are those of the calling instruction.

    `address` is what the kernel recorded. `function` is None if no name is known, and `unknown`
    says why. `inlined` frames share the address of the physical frame that follows them.
    """

    address: int
    function: str | None = None
    offset: int = 0  # from the start of the function to `address`
    module: str | None = None  # path as the target sees it, "[vdso]", "[heap]"…
    module_offset: int | None = None  # virtual address within the module's file
    build_id: str | None = None
    source: SourceLine | None = None
    inlined: bool = False
    unknown: str | None = None


@dataclass(frozen=True)
class Stack:
    """A call stack, leaf first, starting at the caller of the allocation function."""

    frames: tuple[Frame, ...]
    end: StackEnd = StackEnd.UNKNOWN


@dataclass(frozen=True)
class Allocation:
    """One outstanding allocation (--show-allocs)."""

    address: int
    size_bytes: int
    age_ns: int
    site_id: str
    pid: int | None = None  # None if one process is traced


@dataclass(frozen=True)
class Total:
    """Bytes and number of allocations."""

    bytes: int = 0
    count: int = 0


@dataclass(frozen=True)
class ProcessShare:
    """The part of a site that one of several processes holds."""

    pid: int
    bytes: int
    count: int


@dataclass(frozen=True)
class OpenDescriptor:
    """A file descriptor that is not closed."""

    number: int
    kind: str  # by the system call that opened it: "file", "socket", "pipe"…
    age_ns: int
    target: str | None = None  # what it leads to now; None: not known, or the process has ended
    pid: int | None = None  # None if one process is traced


@dataclass(frozen=True)
class Releaser:
    """A call stack that frees blocks of a site."""

    stack: Stack
    count: int  # of releases since the site is watched; estimated if there are many
    of_count: int = 0  # the same of all stacks


@dataclass(frozen=True)
class Site:
    """A call stack that allocates, and the memory it still holds.

    `bytes` and `count` cover the outstanding allocations that pass the age filter; the
    `allocated_*` and `freed_*` figures cover everything since tracing began.
    """

    id: str  # 16 hex digits; the same in every run of the same binaries
    stack: Stack
    bytes: int
    count: int
    oldest_ns: int | None = None  # ages; None with combined statistics
    newest_ns: int | None = None
    growth_bytes: int | None = None  # since the previous report; None in the first one
    allocated_bytes: int = 0
    allocated_count: int = 0
    freed_bytes: int = 0
    freed_count: int = 0
    error: Total | None = None  # standard errors of `bytes` and `count` if they are estimates
    processes: tuple[ProcessShare, ...] = ()  # if several are traced: who holds it, largest first
    # For allocations of the kernel, whose `bytes` are the size they take up:
    requested_bytes: int | None = None  # the size that was requested
    cache: str | None = None  # slab cache
    context: str | None = None  # "process", "softirq", "irq"
    unconfirmed: str | None = None  # why the memory may have been freed without being seen
    # For file descriptors:
    kinds: tuple[tuple[str, int], ...] = ()  # how many of each kind, the most frequent first
    examples: tuple[OpenDescriptor, ...] = ()  # the oldest ones
    verdict: Verdict | None = None  # None if there can be none, as for page faults
    lifetimes: Lifetimes | None = None  # of what was freed; None if they are not measured
    freed_at: tuple[Releaser, ...] = ()  # who frees its blocks, the most frequent first
    lost: LostShare | None = None  # whether something points to them; None: not known
    holders: tuple[Holder, ...] = ()  # what does, the most common first; empty if not asked
    idle: IdleShare | None = None  # whether they are used; None: not known
    regions: RegionBytes | None = None  # the part of it that is mapped regions
    contents: SiteContents | None = None  # of its oldest blocks; None: not read
    # Of the Go runtime's profile of its heap: the same figures by size of the objects.
    object_sizes: tuple[SizedObjects, ...] = ()
    state: str | None = None  # of goroutines: what they wait for
    # How many blocks of `count` have a size of 2**(k - 1) up to 2**k bytes, by k; the first: of
    # 0 bytes. Empty: not counted, which is only done for recordings.
    sizes: tuple[int, ...] = ()
    # How many of `bytes` these blocks have, likewise. Empty: not known, as in older recordings.
    size_bytes: tuple[int, ...] = ()

    @property
    def is_region(self) -> bool:
        """Whether all of it is mapped regions."""
        return self.regions is not None and self.regions.count == self.count

    @property
    def held_bytes(self) -> int:
        """What takes memory: blocks, and of regions what is in memory or not known."""
        regions = self.regions
        return self.bytes if regions is None else self.bytes - regions.reserved + regions.held
