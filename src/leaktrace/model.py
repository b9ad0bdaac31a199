"""Everything after the kernel, as values: what was read, what it means, what is shown.

A `Report` can be built by hand, so every report format is tested without BPF, root or a process.
Sizes are bytes as requested by the program; times are nanoseconds of CLOCK_MONOTONIC.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class StackEnd(StrEnum):
    """How the walk of a stack ended."""

    COMPLETE = "complete"  # reached the outermost frame
    TRUNCATED = "truncated"  # deeper than the walker goes
    GUESSED = "guessed"  # a frame was found by frame pointer where nothing better was known
    GO = "go"  # complete up to Go code, which called C: its stack lies elsewhere
    BROKEN = "broken"  # a frame could not be read or has no rule
    UNKNOWN = "unknown"  # the walker can't tell (frame pointers only)
    LOST = "lost"  # the stack could not be stored; the allocation is counted all the same


@dataclass(frozen=True)
class SourceLine:
    """Where in the source an address lies, as the debug information spells it."""

    file: str
    line: int


@dataclass(frozen=True)
class Frame:
    """One frame of a stack. For a return address, names are those of the calling instruction.

    `address` is what the kernel recorded. `function` is None where no name is known; `unknown`
    then says why. `inlined` frames share the address of the physical frame that follows them.
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
    """One outstanding allocation (listed only on request)."""

    address: int
    size_bytes: int
    age_ns: int
    site_id: str


@dataclass(frozen=True)
class Total:
    """Bytes in allocations."""

    bytes: int = 0
    count: int = 0


@dataclass(frozen=True)
class Site:
    """A call stack that allocates, with what it still holds.

    `bytes` and `count` cover the outstanding allocations that pass the age filter; the
    `allocated_*` and `freed_*` figures cover everything since tracing began.
    """

    id: str  # 16 hex digits; the same in every run of the same binaries
    stack: Stack
    bytes: int
    count: int
    oldest_ns: int | None = None  # ages; None with combined statistics
    newest_ns: int | None = None
    growth_bytes: int | None = None  # since the last report; None in the first one
    allocated_bytes: int = 0
    allocated_count: int = 0
    freed_bytes: int = 0
    freed_count: int = 0
    error: Total | None = None  # standard errors of `bytes` and `count`, where they are estimates
    # Of allocations in the kernel, whose `bytes` are what they take up:
    requested_bytes: int | None = None  # what of that was asked for
    cache: str | None = None  # slab cache
    context: str | None = None  # "process", "softirq", "irq"
    unconfirmed: str | None = None  # why the memory may have been freed all the same


@dataclass(frozen=True)
class SlabGrowth:
    """What the kernel's own account (/proc/slabinfo) says, since tracing began."""

    grown_bytes: int  # objects in use, now minus then
    tracked_bytes: int  # outstanding slab objects that were recorded
    older_releases: int  # objects that were freed and had been allocated before


@dataclass(frozen=True)
class UntracedGrowth:
    """Memory of an allocator of the kernel that is not traced, by /proc/meminfo, since tracing
    began."""

    section: str  # "vmalloc", "percpu"
    option: str  # what traces it, e.g. "--vmalloc"
    bytes: int


@dataclass(frozen=True)
class Loss:
    """One way of losing something, how often it happened, and what the user can do."""

    name: str  # key in JSON, e.g. "allocations"
    count: int
    meaning: str  # e.g. "allocations not recorded: the map is full"
    hint: str = ""  # e.g. "raise --max-allocs (now 1,000,000)"
    bytes: int | None = None  # where the size of what was lost is known
    is_lost: bool = True  # False: nothing is missing, but not all of it is certain


class RemarkKind(StrEnum):
    """What a remark says of the figures."""

    # Something is missing in them:
    UNHOOKED_ALLOCATOR = "unhooked_allocator"  # an allocator is there that has no probes
    UNSEEN_ALLOCATIONS = "unseen_allocations"  # blocks were released that nobody saw allocated
    UNTRACKED_MEMORY = "untracked_memory"  # memory grew by far more than was ever allocated
    # Why resident memory and what is outstanding differ:
    KEPT = "kept_by_allocator"  # freed, but still resident
    KEPT_OR_UNTRACKED = "kept_or_untracked"  # that, or not allocated by what is hooked
    NOT_RESIDENT = "not_resident"  # allocated, but never touched, or given back

    @property
    def is_of_completeness(self) -> bool:
        """Whether it says that figures lack something. Nothing was lost: it was never seen."""
        return self in (self.UNHOOKED_ALLOCATOR, self.UNSEEN_ALLOCATIONS, self.UNTRACKED_MEMORY)


@dataclass(frozen=True)
class Remark:
    """What figures leave out, or how two of them go together, in a sentence."""

    kind: RemarkKind
    text: str
    hint: str = ""  # what to try


@dataclass(frozen=True)
class TargetInfo:
    """Who is traced, as reports name it."""

    pid: int
    command: str  # the process's name
    kind: str = "process"
    allocators: tuple[str, ...] = ()  # e.g. ("libc.so.6: 12 functions",)
    notes: tuple[str, ...] = ()  # what the reader must know, e.g. a fallback in use
    stopped: str = ""  # of the notes the one that says why it doesn't run; "" where it does


@dataclass(frozen=True)
class MemoryKinds:
    """Resident memory by what lies behind it, in bytes, or changes of it."""

    anonymous: int = 0  # heaps, stacks, data
    file: int = 0  # mapped files, programs and libraries among them
    shared: int = 0  # shared memory: shm, memfd, tmpfs, shared anonymous memory

    @property
    def total(self) -> int:
        return self.anonymous + self.file + self.shared


@dataclass(frozen=True)
class MemoryGrowth:
    """What a process holds, and by how much that has grown since tracing began, in bytes."""

    resident: MemoryKinds
    since_attach: MemoryKinds
    besides_since_attach: int = 0  # swapped out, or in huge pages of hugetlbfs: not resident
    is_all: bool = False  # nothing predates: it was executed under trace


@dataclass(frozen=True)
class ResidentMemory:
    """Resident set size of the target, from /proc/PID/status.

    A process that was executed under trace had none when tracing began.
    """

    bytes: int
    growth_bytes: int | None = None  # since the last report
    kinds: MemoryKinds | None = None
    since_attach: MemoryKinds | None = None  # changes

    @property
    def since_attach_bytes(self) -> int | None:
        return None if self.since_attach is None else self.since_attach.total


@dataclass(frozen=True)
class Cost:
    """What tracing costs, since the last report. Shares are of one CPU, in CPU seconds a second.

    The figures of the traced process are None where the kernel was not asked to measure.
    """

    own_cpu_share: float  # leaktrace itself
    own_resident_bytes: int
    events_per_s: float | None = None  # entries and returns of hooked functions
    programs_s_per_s: float | None = None  # in BPF programs
    traps_s_per_s: float | None = None  # in the traps that lead there, as measured at the start
    target_share: float | None = None  # both, of the CPU time that the target used (0 to 1)
    known_stack_share: float | None = None  # of stacks that needed no walk (0 to 1)


@dataclass(frozen=True)
class Ending:
    """How a process has ended. Where neither is known, the kernel didn't tell."""

    status: int | None = None  # what it exited with
    signal: int | None = None  # what killed it

    @classmethod
    def from_wait_status(cls, wait_status: int) -> Ending:
        """From what wait(2) gives."""
        code = os.waitstatus_to_exitcode(wait_status)
        return cls(status=code) if code >= 0 else cls(signal=-code)


TARGET_ENDED = "the target has ended"  # a reason for a final report


class Measure(StrEnum):
    """What bytes and counts of a report are of."""

    ALLOCATIONS = "allocations"  # that are outstanding
    FAULTS = "faults"  # pages that became resident, whether or not they still are


@dataclass(frozen=True)
class Report:
    """One report: what every format is made from."""

    time: datetime
    elapsed_s: float  # since the probes were armed
    number: int  # 1 for the first
    final: bool
    reason: str  # why a final report is the last one, e.g. TARGET_ENDED; "" otherwise
    target: TargetInfo
    outstanding: Total  # everything, whatever its age
    younger: Total  # the part of it that the age filter leaves out of `sites`
    older_ms: int  # the age filter in force; 0: none
    site_count: int  # sites that hold something and pass the filters
    sites: tuple[Site, ...]  # the top ones, most first
    top: int  # how many were asked for
    combined: bool = False
    sort: str = "size"
    growth_bytes: int | None = None  # of `outstanding` since the last report
    resident: ResidentMemory | None = None
    losses: tuple[Loss, ...] = ()  # all kinds, also those that are zero
    remarks: tuple[Remark, ...] = ()
    stack_ends: dict[StackEnd, int] = field(default_factory=dict)  # of the sites that hold memory
    allocations: tuple[Allocation, ...] | None = None  # with --show-allocs
    sample_rate: int = 1  # above 1, figures are estimates from one call in this many
    sample_bytes: int | None = None  # not None: estimates, from one byte in this many
    error: Total | None = None  # standard errors of `outstanding`, where it is an estimate
    cost: Cost | None = None
    measure: Measure = Measure.ALLOCATIONS
    ending: Ending | None = None  # of the target, once it has ended

    # Of the kernel: who hands the memory out, and reports about others of those, which are never
    # added to this one (the page allocator also serves the slabs).
    section: str | None = None  # "slab", "pages", "percpu", "vmalloc"
    sections: tuple[Report, ...] = ()
    slab: SlabGrowth | None = None
    untraced: tuple[UntracedGrowth, ...] = ()  # that matters beside what is outstanding

    @property
    def is_estimate(self) -> bool:
        """Whether figures are scaled up from a sample."""
        return self.sample_rate > 1 or self.sample_bytes is not None


class EventKind(StrEnum):
    """What a traced event did."""

    ALLOCATE = "alloc"
    RELEASE = "free"
    FAIL = "fail"


@dataclass(frozen=True)
class Event:
    """One call of an allocation or release function (--trace)."""

    time_ns: int
    tid: int
    kind: EventKind
    function: str
    size_bytes: int | None  # None where the size of what was freed isn't known
    address: int
    frames: tuple[Frame, ...] = ()
