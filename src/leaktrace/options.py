"""What the user asked for. The command line checks it once; names contain the units."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class SortKey(StrEnum):
    """What the sites of a report are ordered by, largest first."""

    SIZE = "size"  # outstanding bytes
    COUNT = "count"  # outstanding allocations
    GROWTH = "growth"  # what keeps growing, the fastest first, then the others by size
    AGE = "age"  # the oldest outstanding allocation


class By(StrEnum):
    """What a report about several processes is divided by."""

    SITE = "site"  # the sites of all processes, with the part of each
    PROCESS = "process"  # each process with its own sites


class EventBuffer(StrEnum):
    """How events travel from the kernel: a BPF ring buffer, or perf buffers before Linux 5.8."""

    AUTO = "auto"
    RING = "ring"
    PERF = "perf"


class StackWalker(StrEnum):
    """How stacks are walked."""

    AUTO = "auto"  # by unwind tables; by frame pointers where the kernel refuses that
    EH_FRAME = "eh_frame"  # only by unwind tables
    FP = "fp"  # by frame pointers: only right for programs that were compiled to keep them


MAX_PROCESSES = 4096  # slots: MAX_SLOTS in bpf/process/types.h


@dataclass(frozen=True)
class ProcessTarget:
    """Processes that are already running."""

    pids: tuple[int, ...]

    @property
    def pid(self) -> int:
        """The first one."""
        return self.pids[0]


@dataclass(frozen=True)
class CommandTarget:
    """A command that leaktrace starts, and probes before its first instruction."""

    argv: tuple[str, ...]
    pass_exit_code: bool = False


class KernelProbes(StrEnum):
    """How the kernel's allocators are probed."""

    AUTO = "auto"  # tracepoints where the kernel has them
    TRACEPOINT = "tracepoint"
    KPROBE = "kprobe"


class KernelContext(StrEnum):
    """The context in which kernel code runs."""

    PROCESS = "process"
    SOFTIRQ = "softirq"
    IRQ = "irq"


@dataclass(frozen=True)
class KernelTarget:
    """The kernel itself. Slab allocations are always traced, other allocators on request.

    A filter that is empty or None lets everything pass.
    """

    probes: KernelProbes = KernelProbes.AUTO
    pages: bool = False
    percpu: bool = False
    vmalloc: bool = False
    caches: tuple[str, ...] = ()  # shell patterns of slab caches
    modules: tuple[str, ...] = ()  # shell patterns; a function of such a module is on the stack
    contexts: tuple[KernelContext, ...] = ()
    task_pid: int | None = None  # only what this process allocates, in its own context
    include_self: bool = False  # leaktrace's own allocations


Target = ProcessTarget | CommandTarget | KernelTarget


@dataclass(frozen=True)
class Filters:
    """Which allocations are recorded. The kernel side decides, before it does anything else."""

    min_size_bytes: int | None = None  # inclusive
    max_size_bytes: int | None = None  # inclusive
    sample_rate: int = 1  # one allocation in this many, at random
    sample_bytes: int | None = None  # the allocation of one byte in this many, at random


@dataclass(frozen=True)
class Limits:
    """Capacities of the BPF maps. What doesn't fit is counted as lost."""

    max_allocs: int = 1_000_000
    max_stacks: int = 131_072
    max_threads: int = 16_384
    max_processes: int = 128
    event_buffer_bytes: int = 4 << 20


@dataclass(frozen=True)
class ObjectChoice:
    """Which object's allocator functions are hooked, and how their names begin."""

    path: str | None = None  # None: every object of the target that has an allocator
    symbols_prefix: str = ""


MOST_PAIRS = 15  # the kernel side numbers them with four bits; 0 is malloc
MOST_ARGUMENTS = 6  # that are passed in registers


@dataclass(frozen=True)
class Pair:
    """Two functions of the target: one returns something that the other one releases.

    Arguments are numbered from 1.
    """

    allocate: str
    release: str
    size_argument: int = 0  # of `allocate`; 0: what it returns has no size
    handle_argument: int = 1  # of `release`: what `allocate` returned
    object: str | None = None  # as in `ObjectChoice`; None: every object that defines them

    @property
    def is_sized(self) -> bool:
        return self.size_argument > 0

    @property
    def name(self) -> str:
        """What its section in a report is called."""
        return self.allocate if self.object is None else f"{self.object}:{self.allocate}"


@dataclass(frozen=True)
class ReportOptions:
    """What a report shows."""

    format: str = "text"
    output: Path | None = None  # None: standard output; may be a pattern of a time
    live: bool = False  # shown in place, with keys
    keep: int | None = None  # how many files of such a pattern remain; None: all
    quantity: str = "in-use"  # what a format of one quantity shows (analysis/quantities.py)
    interval_s: float = 5.0
    count: int | None = None  # None: until interrupted
    top: int = 10
    recorded: int = 0  # sites that a recording gets, at most; 0: there is none
    sort: SortKey = SortKey.SIZE
    by: By = By.SITE
    older_ms: int = 500
    older_was_given: bool = False
    show_allocs: bool = False
    combined_only: bool = False
    trace: bool = False
    verbose: bool = False
    full_stacks: bool = False  # all frames, also those of wrappers and runtimes
    depth: int | None = None  # frames used of each stack; None: all
    lines: bool = True  # source file and line
    inlines: bool = True  # inlined functions as separate frames

    @property
    def most_sites(self) -> int:
        """How many sites a report has, those included that are only recorded."""
        return max(self.top, self.recorded)


# Sites of a list that a recording gets, at most: the suspicious ones and the largest.
MOST_SITES = 20_000


@dataclass(frozen=True)
class RecordOptions:
    """Where reports are recorded, beside where they are shown."""

    path: Path
    contents: bool = False  # what is in blocks, too (--contents)


@dataclass(frozen=True)
class Suppression:
    """A pattern of LeakSanitizer: stacks that it matches are known and left out of reports."""

    pattern: str
    origin: str  # "FILE, line 3"


@dataclass(frozen=True)
class LeakExit:
    """The exit status if a site grows, and how fast it must: in bytes, or objects without sizes."""

    status: int = 23  # as LeakSanitizer's
    threshold_per_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """One run of leaktrace, as far as both modes have the same options."""

    filters: Filters = field(default_factory=Filters)
    limits: Limits = field(default_factory=Limits)
    report: ReportOptions = field(default_factory=ReportOptions)
    event_buffer: EventBuffer = EventBuffer.AUTO
    suppressions: tuple[Suppression, ...] = ()
    leak_exit: LeakExit | None = None  # None: verdicts have no effect on the exit status
    record: RecordOptions | None = None  # None: reports are only shown


class Lost(StrEnum):
    """When the memory of a process is read, to find blocks that nothing points to."""

    EVERY = "every"  # at every report
    LAST = "last"  # at the final one


class HeapLooks(StrEnum):
    """At which reports the heap of a traced process is walked (--heap)."""

    ENDS = "first-and-last"
    EVERY = "every"
    LAST = "last"


@dataclass(frozen=True, kw_only=True)
class ProcessOptions(CommonOptions):
    """A run that traces a process."""

    target: ProcessTarget | CommandTarget
    objects: ObjectChoice = field(default_factory=ObjectChoice)
    faults: bool = False  # page faults instead of allocation calls
    max_overhead_percent: float | None = None  # of the target's CPU time
    stack_walker: StackWalker = StackWalker.AUTO
    probe_returns: bool = False  # return probes instead of points within functions
    follow: bool = False  # trace the children of traced processes, too
    pairs: tuple[Pair, ...] = ()  # further functions that are traced
    fds: bool = False  # trace file descriptors, too
    malloc: bool = True  # False: only `pairs` and `fds`
    lost: Lost | None = None  # None: memory is not read for that
    max_pause_ms: int | None = None  # the process is stopped for it, at most so long; None: not
    heap: HeapLooks | None = None  # None: blocks from before the trace are not looked for
    heap_pause_ms: int = 1000  # the process is stopped for that, at most so long
    holders: bool = False  # of blocks that are not lost, tell what holds them
    contents: bool = False  # show what is in blocks
    idle_s: float | None = None  # pages not touched for so long are reported; None: not watched

    @property
    def command(self) -> CommandTarget | None:
        """The command that leaktrace starts, if it starts one."""
        return self.target if isinstance(self.target, CommandTarget) else None

    @property
    def space_count(self) -> int:
        """How many kinds of records there are beside those of the heap."""
        return len(self.pairs) + self.fds

    @property
    def descriptor_space(self) -> int:
        """The number of the file descriptors' records, after those of pairs; 0: not traced."""
        return self.space_count if self.fds else 0

    @property
    def may_be_several(self) -> bool:
        """Whether more than one process may be traced."""
        return self.follow or (isinstance(self.target, ProcessTarget) and len(self.target.pids) > 1)


@dataclass(frozen=True)
class SymbolOptions:
    """What is looked up for an address in addition to the function that contains it."""

    lines: bool = True  # source file and line, from debug information
    inlines: bool = True  # the inlined functions at an address, each as a separate frame
    debug_timeout_s: float = 60.0  # for reading the debug information of one object
    download_timeout_s: float = 15.0  # without a byte from a debuginfod server
    download_deadline_s: float = 300.0  # for a whole answer


@dataclass(frozen=True, kw_only=True)
class KernelOptions(CommonOptions):
    """A run that traces the kernel."""

    target: KernelTarget


@dataclass(frozen=True, kw_only=True)
class RankingOptions:
    """A run that ranks all processes of the machine."""

    report: ReportOptions = field(default_factory=ReportOptions)


@dataclass(frozen=True, kw_only=True)
class MapsOptions:
    """A run that looks at the mappings of a process (leaktrace maps)."""

    pid: int
    interval_s: float | None = None  # None: one look
    count: int | None = None  # None: until interrupted
    top: int = 5
    format: str = "text"
    output: Path | None = None  # None: standard output


class GoProfile(StrEnum):
    """Which profile of a Go program a file has. The words are Go's (runtime/pprof)."""

    HEAP = "heap"
    GOROUTINE = "goroutine"


@dataclass(frozen=True, kw_only=True)
class GoOptions:
    """A run that looks at the goroutines and the heap of a process (leaktrace go)."""

    pid: int
    interval_s: float | None = None  # None: one look
    count: int | None = None  # None: until interrupted
    top: int = 10
    format: str = "text"
    output: Path | None = None  # None: standard output
    profile_rate_bytes: int | None = None  # switch the runtime's profile on
    sample_refills: bool = False  # sample allocations by probes
    profile: GoProfile | None = None  # what is exported; None: the format is one of reports
    quantity: str = "in-use"  # of a format that has one figure
    record: Path | None = None  # also write all of each report to this file
    leak_exit: LeakExit | None = None  # None: verdicts have no effect on the exit status


@dataclass(frozen=True)
class HeapOptions:
    """A run that looks at the heap of a process (leaktrace heap)."""

    pid: int | None = None
    core: Path | None = None  # one of the two is given
    interval_s: float | None = None  # None: one look
    count: int | None = None  # of looks after the first; None: until interrupted
    max_pause_ms: int = 1000
    top: int = 10
    holders: bool = False  # tell what holds the blocks of the groups that are shown
    format: str = "text"
    output: Path | None = None  # None: standard output


@dataclass(frozen=True, kw_only=True)
class DumpOptions:
    """A run that writes out memory of a process (leaktrace dump)."""

    pid: int
    what: int | str  # an address, or the name of a mapping
    size: int | None = None  # bytes; None: the whole mapping
    takes_all: bool = False  # all mappings of this name
    is_hex: bool | None = None  # in hexadecimal; None: to a terminal
    output: Path | None = None  # None: standard output


@dataclass(frozen=True)
class LateNamesOptions:
    """Where names are looked up that were missing when a recording was made."""

    sysroots: tuple[Path, ...] = ()  # directories with the files of the recorded machine
    debuginfod: bool = False  # servers are asked, also without these

    @property
    def are_wanted(self) -> bool:
        return self.debuginfod or bool(self.sysroots)


@dataclass(frozen=True, kw_only=True)
class ShowOptions:
    """Which reports of a recording are shown, and how (leaktrace show)."""

    recording: Path
    at: str = "last"
    first: str | None = None  # --from; with it or `last`, all reports between them
    last: str | None = None  # --to
    marks: bool = False  # list them instead
    top: int | None = None  # None: as many sites as were shown when it was recorded
    full_stacks: bool = False
    format: str = "text"
    output: Path | None = None  # None: standard output
    late_names: LateNamesOptions = field(default_factory=LateNamesOptions)
    site: str | None = None  # only the site whose id begins with this


Options = ProcessOptions | KernelOptions | RankingOptions
