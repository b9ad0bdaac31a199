"""The values of `leaktrace go`: what the goroutines of a process wait for, which of them leak, and
what is in its heap.

`leaktrace.runtimes.go` looks, `leaktrace.analysis.goroutine_groups` and `go_heap` compare, and
reports print.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from leaktrace.verdict import Verdict

EXECUTED = "the process executed another program"  # so begins a note of a report, if it did


@dataclass(frozen=True)
class GoLine:
    """A line of source. `file` as the compiler was given it: "" where it is unknown, `line` is 0
    then."""

    function: str
    file: str
    line: int
    is_inlined: bool = False  # into the next one
    # Behind the call, in the process; lines of one physical frame have the same. 0: not known.
    address: int = field(default=0, compare=False)
    # Where the physical function begins, in its file; 0: not known.
    start: int = field(default=0, compare=False)
    # Whether the compiler has made it to call another: Go leaves it out of stacks.
    is_wrapper: bool = field(default=False, compare=False)


class GroupKey(NamedTuple):
    """What the goroutines of a group have in common. Addresses are those in the process."""

    state: str  # what they wait for ("chan receive"), or "running", "syscall"…
    stack: tuple[int, ...]  # where each function goes on, the innermost first; () if unknown
    created_at: int  # behind the `go` statement; 0 for the first goroutine
    start: int  # the function that a goroutine began with


@dataclass(frozen=True)
class SeenGroup:
    """The goroutines of a group in one look."""

    ids: frozenset[int]  # which Go never uses again
    stack_bytes: int
    longest_wait_ns: int | None = None  # at least; None: not known
    # Whether they wait for something of the program: not for a processor, nor for the collector of
    # garbage. On a busy machine these pile up, too, and go on all at once.
    can_leak: bool = True


class Skip(StrEnum):
    """Why a goroutine isn't in a group by its stack."""

    RUNNING = "running"  # its stack changes all the time: it is grouped by its start
    CHANGED = "changed"  # it ran on while it was looked at
    UNREADABLE = "unreadable"  # its memory could not be read, or isn't that of a goroutine
    INCOMPLETE = "incomplete"  # its stack could be followed for a part only


@dataclass(frozen=True)
class GoroutineLook:
    """All goroutines of a process, at about one moment."""

    time_s: float  # CLOCK_MONOTONIC
    took_s: float
    groups: Mapping[GroupKey, SeenGroup]
    # Alive, but on the move: not known to have left the group in which they were.
    moving_ids: frozenset[int]
    alive_count: int
    system_count: int  # the runtime's own among them, which are in no group
    skipped: Mapping[Skip, int] = field(default_factory=dict)  # of those alive


class GoVerdict(StrEnum):
    """Whether the goroutines of a group pile up."""

    LEAKING = "leaking"
    TURNOVER = "turnover"
    STEADY = "steady"
    TOO_EARLY = "too_early"


@dataclass(frozen=True)
class GroupGrowth:
    """One group, compared with earlier looks. `growth_per_s` is None after a single look."""

    key: GroupKey
    count: int
    growth: int  # since the first look that is compared with
    growth_per_s: float | None
    verdict: GoVerdict
    stack_bytes: int
    longest_wait_ns: int | None
    since_s: float  # how long ago the first look was that it is compared with
    look_count: int


@dataclass(frozen=True)
class GoroutineGroup:
    """The same with names."""

    growth: GroupGrowth
    frames: tuple[GoLine, ...]
    created_by: GoLine | None  # None for the first goroutine, or where it is unknown
    started_as: GoLine | None


@dataclass(frozen=True)
class GoroutineSection:
    """What a report says about goroutines."""

    alive_count: int
    growth_per_s: float | None  # of all, since the first look
    system_count: int
    moving_count: int
    stack_bytes: int
    groups: tuple[GoroutineGroup, ...]  # leaking ones first, then by count; at most `top`
    group_count: int
    leaking_count: int  # groups, also those that aren't shown
    verdict: GoVerdict  # of all
    skipped: Mapping[Skip, int]
    took_s: float


@dataclass(frozen=True)
class Collector:
    """The settings of the garbage collector, and what it has done."""

    percent: int  # GOGC; -1: off
    memory_limit_bytes: int | None  # GOMEMLIMIT; None: no limit
    collections: int  # that have ended
    live_bytes: int  # what the last one found in use; 0 before the first


class SizeKey(NamedTuple):
    """Objects of one size class. A large object has pages of its own, and a size in pages."""

    object_bytes: int
    has_pointers: bool
    is_large: bool


@dataclass(frozen=True)
class SeenObjects:
    """Objects in one look."""

    count: int
    size_bytes: int  # that they take up


@dataclass(frozen=True)
class TypeKey:
    """`name` as Go writes it ("main.Session"). `size_bytes` of one value: an object that takes up
    much more holds several, as a slice does."""

    name: str
    size_bytes: int


@dataclass(frozen=True)
class TypesLook:
    """The types of objects of more than 512 bytes that contain pointers."""

    types: Mapping[TypeKey, SeenObjects]
    unknown: SeenObjects  # whose type isn't known
    not_read_count: int  # of objects: there are more than are looked at


class ProfileKey(NamedTuple):
    """A stack without the runtime's functions that allocate. Each address stands for one function:
    an inlined one has its own."""

    stack: tuple[int, ...]


@dataclass(frozen=True)
class SizedObjects:
    """The part of a site that are objects of one size, scaled up."""

    size_bytes: int
    in_use_count: int
    in_use_bytes: int
    allocated_count: int
    allocated_bytes: int


@dataclass(frozen=True)
class SeenSite:
    """What was allocated with one stack, as the runtime's profile has it: estimates, as it records
    one allocation in some hundred KiB."""

    in_use_count: int
    in_use_bytes: int
    allocated_count: int
    allocated_bytes: int
    sizes: tuple[SizedObjects, ...] = ()


@dataclass(frozen=True)
class ProfileLook:
    """The runtime's own profile of the heap, as of the last but one collection."""

    rate_bytes: int  # one allocation in so many bytes is recorded
    sites: Mapping[ProfileKey, SeenSite]
    record_count: int
    skipped_count: int  # records that could not be read


class RefillKey(NamedTuple):
    """Whose refills are counted together. Addresses are those in the process."""

    stack: tuple[int, ...]  # return addresses, the innermost first; () if it could not be read
    object_bytes: int  # 0: large objects, of any size
    is_complete: bool  # the stack is, up to where the goroutine began


@dataclass(frozen=True)
class SeenRefills:
    """What was allocated since sampling began, as refills of the allocator show it."""

    seen_count: int  # samples
    allocated_count: int  # objects
    allocated_bytes: int


@dataclass(frozen=True)
class RefillLook:
    """Refills of the allocator since sampling began."""

    elapsed_s: float
    sites: Mapping[RefillKey, SeenRefills]
    runtime_bytes: int  # the runtime's own account of the same time
    thinned_count: int  # samples above the limit, for which others stand
    unknown_count: int  # refills that made no sense
    lost_count: int  # samples for whose stacks there was no room
    lost_bytes: int


@dataclass(frozen=True)
class HeapLook:
    """The heap of a process, at about one moment."""

    time_s: float  # CLOCK_MONOTONIC
    took_s: float
    collector: Collector
    in_use_bytes: int  # by objects, also by those that the collector has not freed yet
    object_count: int
    spans_bytes: int  # that have objects
    idle_bytes: int  # kept for later
    released_bytes: int  # given back to the system; addresses are kept
    stacks_bytes: int  # of goroutines, and buffers of the collector
    allocated_bytes: int  # since the program began
    resident_bytes: int | None  # RSS of the process
    sizes: Mapping[SizeKey, SeenObjects]
    types: TypesLook | None  # None before Go 1.22
    skipped_span_count: int  # changed each time they were read, or make no sense
    moved_bytes: int  # by how much the spans changed while they were read
    profile: ProfileLook | None = None
    profile_problem: str = ""  # why there is no profile
    refills: RefillLook | None = None  # if it was asked for


@dataclass(frozen=True)
class Change:
    """What has changed since the first look. None after a single look."""

    count: int
    size_bytes: int
    bytes_per_s: float


@dataclass(frozen=True)
class SizeFigures:
    """Objects of one size class."""

    key: SizeKey
    now: SeenObjects
    change: Change | None


@dataclass(frozen=True)
class TypeFigures:
    """Objects of one type."""

    key: TypeKey
    now: SeenObjects
    change: Change | None


@dataclass(frozen=True)
class SiteFigures:
    """Where memory was allocated. `change` is that of what is in use."""

    now: SeenSite
    change: Change | None
    frames: tuple[GoLine, ...]


@dataclass(frozen=True)
class RefillSite:
    """Where memory is allocated. Rates are in bytes per second."""

    now: SeenRefills
    bytes_per_s: float  # since sampling began
    recent_bytes_per_s: float | None  # since the last report; None in the first one
    object_bytes: int | None  # 0: large objects; None: of several sizes
    is_complete: bool
    frames: tuple[GoLine, ...]  # () if the stack could not be read


@dataclass(frozen=True)
class RefillSection:
    """What a report says about refills. Sites that allocate most come first, at most `top`."""

    look: RefillLook
    allocated_bytes: int  # of all sites
    bytes_per_s: float
    sites: tuple[RefillSite, ...]
    site_count: int


@dataclass(frozen=True)
class GrownPart:
    """The part of a heap that has grown most since the first look: an allocation site where the
    runtime keeps a profile; otherwise a type, or a size of objects, which may be garbage in part.
    """

    change: Change
    allocated_at: GoLine | None = None
    type_name: str = ""
    object_bytes: int | None = None


@dataclass(frozen=True)
class GoHeap:
    """What a report says about the heap. Lists have what grew most first, then what is largest, and
    at most `top` entries."""

    look: HeapLook
    change: Change | None  # of what is in use
    collections_since: int  # since the first look
    live_change_bytes: int | None  # of what collections found in use; None: none has ended since
    sizes: tuple[SizeFigures, ...]
    size_count: int
    types: tuple[TypeFigures, ...] = ()
    type_count: int = 0
    sites: tuple[SiteFigures, ...] = ()
    site_count: int = 0
    refills: RefillSection | None = None
    # On what stays in use; None: recorded by a version that had none.
    verdict: Verdict | None = None
    grown_most: GrownPart | None = None  # of a heap that grows


@dataclass(frozen=True)
class GoReport:
    """One report of `leaktrace go`."""

    time: datetime
    elapsed_s: float  # since the first look
    number: int  # 1 for the first
    final: bool
    reason: str  # why a final report is the last one; "" otherwise
    pid: int
    command: str
    path: str  # the program or library that contains the Go code
    version: str  # "go1.22.3"
    top: int
    goroutines: GoroutineSection
    look_age_s: float = 0.0  # above 0: the process has ended, and the figures are of before
    notes: tuple[str, ...] = ()
    heap: GoHeap | None = None  # None where it can't be read: a note says why
    bias: int = 0  # what addresses in the process are more than in the file `path`
    build_id: str | None = None  # of that file


@dataclass(frozen=True)
class LeakingGoroutines:
    """A group that only grows."""

    count: int
    growth_per_s: float | None
    wait_reason: str
    created_by: GoLine | None
    started_as: GoLine | None


@dataclass(frozen=True)
class GoSummary:
    """What the report of a trace says about the Go code of a process."""

    pid: int
    version: str
    goroutine_count: int  # without the runtime's own
    growth_per_s: float | None  # since the first report; None: there was one look
    verdict: GoVerdict
    leaking_group_count: int
    leaking: tuple[LeakingGoroutines, ...]  # the first of these
    collector: Collector | None = None  # None: the heap can't be read, and a note says why
    heap_bytes: int | None = None  # in use
    heap_change: Change | None = None  # since the first report
    heap_verdict: Verdict | None = None  # on what stays in use
    heap_grown_most: GrownPart | None = None  # of a heap that grows
    notes: tuple[str, ...] = ()
    problem: str = ""  # why the figures are older than the report
