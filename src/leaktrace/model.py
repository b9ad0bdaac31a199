"""The values that analysis produces and reports consume: reports, losses, events. (Sites: site.py.)

A `Report` can be built by hand, so every report format is tested without BPF, root or a process.
Sizes are bytes as requested by the program; times are nanoseconds of CLOCK_MONOTONIC.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from leaktrace.contents import ContentsInfo
from leaktrace.go_report import GoHeap, GoSummary
from leaktrace.heap_report import OlderBlocks
from leaktrace.idle import IdleInfo
from leaktrace.memory import (
    Backing,
    Explained,
    RegionBytes,
    ResidentMemory,
    SlabGrowth,
    UntracedGrowth,
)
from leaktrace.reach import ReachInfo
from leaktrace.site import (
    Allocation,
    Frame,
    Site,
    StackEnd,
    Total,
)
from leaktrace.verdict import Verdict


@dataclass(frozen=True)
class ThreadStacks:
    """The stacks that the C library has mapped for threads. A thread that has ended may leave its
    stack mapped: kept for the next thread, or until somebody joins it."""

    regions: RegionBytes
    sites: tuple[Site, ...]  # the call paths that create threads, the most stacks first
    site_count: int
    each_bytes: int | None = None  # if all have the same size
    idle_count: int | None = None  # at least so many belong to no thread; None: not known
    idle_bytes: int = 0  # what these reserve, at least
    is_detailed: bool = False  # the user wants to see the call paths


@dataclass(frozen=True)
class SuppressedByPattern:
    """The sites that one pattern leaves out of a report."""

    pattern: str
    site_count: int
    held: Total


@dataclass(frozen=True)
class Suppressed:
    """What --suppressions leaves out of the sites and the verdict of a report, by pattern. A site
    that several match counts for the first of them."""

    patterns: tuple[SuppressedByPattern, ...]

    @property
    def site_count(self) -> int:
        return sum(one.site_count for one in self.patterns)

    @property
    def held(self) -> Total:
        """All that these sites hold."""
        return Total(
            sum(one.held.bytes for one in self.patterns),
            sum(one.held.count for one in self.patterns),
        )


@dataclass(frozen=True)
class Loss:
    """One kind of loss, how often it happened, and what the user can do."""

    name: str  # key in JSON, e.g. "allocations"
    count: int
    meaning: str  # e.g. "allocations not recorded: the map is full"
    hint: str = ""  # e.g. "raise --max-allocs (now 1,000,000)"
    bytes: int | None = None  # None if the size of what was lost isn't known
    # False: the figures are complete, but callers are unknown (with a hint), or uncertain (without)
    is_lost: bool = True


@dataclass(frozen=True)
class ReportTime:
    """Which report of a recording, and when it was made."""

    number: int
    time: datetime
    elapsed_s: float


@dataclass(frozen=True)
class MissingReports:
    """Reports that are missing in a recording, and the reports between which they are missing."""

    count: int
    after: ReportTime | None  # None: there is none before them
    before: ReportTime | None  # None: there is none after them


class RemarkKind(StrEnum):
    """What a remark says about the figures."""

    # The figures are incomplete:
    UNHOOKED_ALLOCATOR = "unhooked_allocator"  # there is an allocator without probes
    UNSEEN_ALLOCATIONS = "unseen_allocations"  # blocks were released whose allocation was not seen
    UNTRACKED_MEMORY = "untracked_memory"  # memory grew by far more than was allocated
    NOT_IN_PROFILE = "not_in_profile"  # the profile has less than half of what is in use
    # Resident and outstanding memory differ:
    KEPT = "kept_by_allocator"  # freed, but still resident
    KEPT_OR_UNTRACKED = "kept_or_untracked"  # that, or not allocated by hooked functions
    NOT_RESIDENT = "not_resident"  # allocated, but never touched, or returned to the system

    @property
    def is_of_completeness(self) -> bool:
        """Whether it says that the figures are incomplete: not by a loss, but unseen."""
        return self in (
            self.UNHOOKED_ALLOCATOR,
            self.UNSEEN_ALLOCATIONS,
            self.UNTRACKED_MEMORY,
            self.NOT_IN_PROFILE,
        )


@dataclass(frozen=True)
class Remark:
    """A sentence about what the figures don't include, or why two of them differ."""

    kind: RemarkKind
    text: str
    hint: str = ""  # what to try


@dataclass(frozen=True)
class TargetInfo:
    """The target, as reports name it."""

    pid: int
    command: str  # the process's name
    kind: str = "process"
    allocators: tuple[str, ...] = ()  # e.g. ("libc.so.6: 12 functions",)
    notes: tuple[str, ...] = ()  # what the reader must know, e.g. that a fallback is in use
    stopped: str = ""  # the note that says why it is stopped; "" if it runs
    pids: tuple[int, ...] = ()  # all traced processes, if there are several


@dataclass(frozen=True)
class Cost:
    """What tracing costs, since the previous report. Shares are CPU seconds per second of one CPU.

    The figures of the traced process are None unless they are measured (--verbose).
    """

    own_cpu_share: float  # leaktrace itself
    own_resident_bytes: int
    events_per_s: float | None = None  # entries and returns of hooked functions
    programs_s_per_s: float | None = None  # in BPF programs
    traps_s_per_s: float | None = None  # in the traps that run them
    target_share: float | None = None  # both, as a share of the target's CPU time (0 to 1)
    known_stack_share: float | None = None  # share of the stacks that needed no walk (0 to 1)


@dataclass(frozen=True)
class Ending:
    """How a process ended. Both are None if the kernel didn't report it."""

    status: int | None = None  # its exit status
    signal: int | None = None  # the signal that killed it
    by_oom_killer: bool = False  # who sent that signal, because memory had run out

    @classmethod
    def from_wait_status(cls, wait_status: int) -> Ending:
        """From the status of wait(2)."""
        code = os.waitstatus_to_exitcode(wait_status)
        return cls(status=code) if code >= 0 else cls(signal=-code)


@dataclass(frozen=True)
class ProcessLine:
    """What one of several traced processes holds."""

    pid: int
    parent_pid: int | None
    command: str  # the process's name
    outstanding: Total  # of any age
    growth_bytes: int | None  # since the previous report; None if it was not in that one
    resident: ResidentMemory | None  # None if it has ended
    site_count: int  # sites at which it holds memory, and that pass the filters
    traced_s: float  # how long it has been traced
    ending: Ending | None = None
    has_ended: bool = False
    # Forked or executed under trace, so that what it allocated is known from its beginning:
    started_under_trace: bool = False


@dataclass(frozen=True)
class PairInfo:
    """Two functions that the user named: what one returns, the other releases."""

    allocate: str
    release: str
    objects: tuple[str, ...] = ()  # that define `allocate`; empty: none is loaded
    is_sized: bool = False  # otherwise all bytes of its report are counts of objects
    other_releases: int = 0  # of what was not seen allocated
    returned_again: int = 0  # objects that were outstanding: their release was not seen


@dataclass(frozen=True)
class DescriptorUse:
    """How many file descriptors a process has open, by what it says itself (proc(5))."""

    pid: int
    open_count: int
    limit: int | None  # how many it may have (RLIMIT_NOFILE, soft); None: unlimited, or not known
    older: int = 0  # of those open: from before tracing began, or before its last exec
    unexplained: int = 0  # opened since, in a way that is not traced
    has_executed: bool = False  # under trace: `older` means before that

    @property
    def is_near_limit(self) -> bool:
        """Whether nine of ten are used."""
        return self.limit is not None and self.open_count * 10 >= self.limit * 9


@dataclass(frozen=True)
class DescriptorInfo:
    """What a section about file descriptors says of all of them."""

    use: tuple[DescriptorUse, ...] = ()  # of each process that runs
    unseen_closes: int = 0  # opened again without having been closed as far as was seen


TARGET_ENDED = "the target has ended"  # a reason for a final report


class Measure(StrEnum):
    """What a report measures."""

    ALLOCATIONS = "allocations"  # outstanding ones
    FAULTS = "faults"  # pages that became resident, even if they no longer are
    GO_HEAP = "go_heap"  # the Go runtime's own profile of its heap
    GOROUTINES = "goroutines"  # how many there are, by stack; nothing has a size

    @property
    def is_of_go(self) -> bool:
        """Whether the program was looked at, and nothing was traced."""
        return self in (self.GO_HEAP, self.GOROUTINES)


@dataclass(frozen=True)
class Report:
    """One report, the input of every format."""

    time: datetime
    elapsed_s: float  # since the probes are active
    number: int  # 1 for the first
    final: bool
    reason: str  # why a final report is the last one, e.g. TARGET_ENDED; "" otherwise
    target: TargetInfo
    outstanding: Total  # of any age
    younger: Total  # the part that the age filter leaves out of `sites`
    older_ms: int  # the age filter in force; 0: none
    site_count: int  # sites that hold memory and pass the filters
    sites: tuple[Site, ...]  # the top ones, largest first
    top: int  # how many were requested
    full_stacks: bool = False  # whether all frames of their stacks were requested
    depth: int | None = None  # to how many frames the user limited them
    combined: bool = False
    sort: str = "size"
    growth_bytes: int | None = None  # of `outstanding` since the previous report
    resident: ResidentMemory | None = None
    losses: tuple[Loss, ...] = ()  # all kinds, including those with a count of 0
    remarks: tuple[Remark, ...] = ()
    stack_ends: dict[StackEnd, int] = field(default_factory=dict)  # of the sites that hold memory
    allocations: tuple[Allocation, ...] | None = None  # with --show-allocs
    sample_rate: int = 1  # above 1: figures are estimates from one call in this many
    sample_bytes: int | None = None  # not None: figures are estimates from one byte in this many
    error: Total | None = None  # standard errors of `outstanding` if it is an estimate
    cost: Cost | None = None
    measure: Measure = Measure.ALLOCATIONS
    verdict: Verdict | None = None  # of all sites together
    leaking: tuple[Verdict, ...] = ()  # of each site that leaks, also of those that are not shown
    reach: ReachInfo | None = None  # what its memory says; None: that was not asked
    go: tuple[GoSummary, ...] = ()  # of each process that is a Go program
    go_heap: GoHeap | None = None  # all of it, of what `leaktrace go` has reported
    older_blocks: tuple[OlderBlocks, ...] = ()  # of each process; empty: not looked at this time
    contents: ContentsInfo | None = None  # how blocks were read; None: that was not asked
    idle: IdleInfo | None = None  # which memory is not used; None: that was not asked
    regions: RegionBytes | None = None  # the part of `outstanding` that is mapped; None: nothing
    thread_stacks: ThreadStacks | None = None  # at sites that are not among `sites`
    other_regions: RegionBytes | None = None  # at the sites that are in neither
    explained: Explained | None = None  # None if the two can't be compared
    suppressed: Suppressed | None = None  # part of the totals, not of `sites`; None: no patterns
    ending: Ending | None = None  # of the target, once it has ended

    # Of a recording: reports that could not be written, before this one or after it. Each is told
    # with one of the reports that are shown.
    missing_reports: tuple[MissingReports, ...] = ()

    # If several processes are traced. `resident` is None then: what they share would be counted
    # several times.
    processes: tuple[ProcessLine, ...] = ()  # the most growing first
    by_process: tuple[Report, ...] = ()  # with --by process: a report about each, in that order

    # For the kernel: the allocator, and reports about other allocators. For processes: about pairs
    # of functions, and file descriptors. The figures of two are never added up (the page allocator
    # also supplies the slabs, and an object of a pool is part of a block).
    # "slab", "pages", "percpu", "vmalloc"; what a pair is called; "file descriptors"
    section: str | None = None
    sections: tuple[Report, ...] = ()
    pair: PairInfo | None = None
    # Of processes: a report about each of OTHER_MEMORY, which is no part of `outstanding`. Empty if
    # none of its functions is hooked.
    other_memory: tuple[Report, ...] = ()
    backing: Backing | None = None  # of such a report
    descriptors: DescriptorInfo | None = None
    slab: SlabGrowth | None = None
    untraced: tuple[UntracedGrowth, ...] = ()  # large in comparison with what is outstanding

    @property
    def held_bytes(self) -> int:
        """What takes memory: blocks, and of regions what is in memory or not known."""
        regions, held = self.regions, self.outstanding.bytes
        return held if regions is None else held - regions.reserved + regions.held

    @property
    def is_counted(self) -> bool:
        """Whether it is about objects without sizes: all bytes are counts, too."""
        is_unsized = self.pair is not None and not self.pair.is_sized
        is_unsized |= self.measure is Measure.GOROUTINES
        return is_unsized or self.descriptors is not None

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
    size_bytes: int | None  # None if the size of a freed block isn't known
    address: int
    frames: tuple[Frame, ...] = ()
