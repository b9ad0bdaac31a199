"""The BPF program of the user mode: what it is told with knobs, how much its maps hold, and what is
loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any

import numpy as np

from leaktrace.abi import process as abi
from leaktrace.arch.machines import this_machine
from leaktrace.bpf import links, support, syscalls
from leaktrace.bpf.build import ImageRequest
from leaktrace.bpf.events import PAGE_BYTES, event_pages, uses_ring_buffer
from leaktrace.bpf.links import UprobeLinks
from leaktrace.bpf.load import Loaded, ProgramKind, RefusedError, load
from leaktrace.bpf.maps import Map
from leaktrace.errors import EnvironmentUnfitError
from leaktrace.options import CommandTarget, Options, ProcessTarget, StackWalker
from leaktrace.process.ending import exit_status_knobs
from leaktrace.process.probes.allocators import (
    ANY_ENTRY_PROGRAM,
    OBJECTS_PROGRAM,
    POINT_PROGRAM,
    RELEASE_PROGRAM,
    RETURN_PROGRAM,
)
from leaktrace.process.probes.plan import Way, best_way
from leaktrace.process.tables import KernelTables
from leaktrace.unwind.layout import MAX_KNOWN_OBJECTS, Capacity

_COMMON = (
    "shared/types.h",
    "process/types.h",
    "shared/config.h",
    "process/config.h",
    "process/state.h",
    "shared/helpers.bpf.c",
    "process/maps.bpf.c",
    "shared/events.bpf.c",
    "shared/records.bpf.c",
    "process/events.bpf.c",
    "process/known.bpf.c",
    "process/tables.bpf.c",
    "process/step.bpf.c",
    "process/walk.bpf.c",
    "process/frame_pointers.bpf.c",
    "process/records.bpf.c",
    "process/calls.bpf.c",
    "process/unseen.bpf.c",
    "process/track.bpf.c",
)
FRAGMENTS = (
    *_COMMON,
    "process/entries.bpf.c",
    "process/point.bpf.c",
    "process/objects.bpf.c",
    "process/life.bpf.c",
)
FAULT_FRAGMENTS = (*_COMMON, "process/faults.bpf.c", "process/life.bpf.c")

# Where the kernel tells a program which function was hit, one program serves them all.
_BY_COOKIE = (ANY_ENTRY_PROGRAM, RETURN_PROGRAM)
_BY_SHAPE = (
    "enter_size",
    "enter_count_size",
    "enter_alignment_size",
    "enter_posix_memalign",
    "enter_realloc",
    "enter_reallocarray",
    "enter_mmap",
    "enter_munmap",
    "enter_mremap",
    RETURN_PROGRAM,
)
POINT_CAPACITY = 8192
_SUSPENDED_CAPACITY = 4096
# Calls of mmap and its kind are few next to malloc: they get a fourth of what --trace does.
_REGION_SHARE = 4
_PERF_SHARE = 4  # of that in each CPU's perf buffer, where there is no ring
FILE_CAPACITY = 2 * abi.MAX_FILE_MAPPINGS  # two lists
RAW_TRACEPOINTS = ("sched_process_exec", "sched_process_exit", "sched_process_fork")


class Walker(StrEnum):
    """How stacks are walked; in the order in which they are tried."""

    TAIL_CALLS = "unwind tables"
    SINGLE = "unwind tables, 64 frames at most"
    FRAME_POINTERS = "frame pointers"

    @property
    def uses_tables(self) -> bool:
        return self is not Walker.FRAME_POINTERS

    def knobs(self) -> dict[str, int]:
        """Programs of 16 frames each are verified eight times as fast as one of 127, and any kernel
        that takes 64 frames takes them. The first begins at once: a tail call and finding the
        thread again cost as much as four frames. Without tail calls, 64 frames."""
        match self:
            case Walker.TAIL_CALLS:
                return {"WALK_PARTS": 8, "WALK_STEPS": 16}
            case Walker.SINGLE:
                return {"WALK_PARTS": 1, "WALK_STEPS": 64}
            case Walker.FRAME_POINTERS:
                return {"WALK_BY_TABLE": 0}


def walkers_to_try(choice: StackWalker) -> tuple[Walker, ...]:
    """Raises EnvironmentUnfitError when tables are asked for and this is no x86-64 machine."""
    machine = this_machine()
    has_tables = machine is not None and machine.has_unwind_tables
    if choice is StackWalker.EH_FRAME and not has_tables:
        raise EnvironmentUnfitError(
            f"unwind tables are not supported on {os.uname().machine}",
            "use --stack-walker fp, with programs compiled with -fno-omit-frame-pointer",
        )
    if choice is StackWalker.FP or not has_tables:
        return (Walker.FRAME_POINTERS,)
    tables = (Walker.TAIL_CALLS, Walker.SINGLE)
    candidates = tables if choice is StackWalker.EH_FRAME else (*tables, Walker.FRAME_POINTERS)
    left = tuple(w for w in candidates if not support.declined(w.name.lower()))
    if not left:
        raise EnvironmentUnfitError(
            "the kernel refuses every walker by unwind tables", "leave --stack-walker out"
        )
    return left


def knobs_from_options(options: Options) -> dict[str, int]:
    """The -D flags of bpf/shared/config.h, by what was asked and what the running kernel offers."""
    filters = options.filters
    on_demand = support.allocates_map_memory_on_demand()
    knobs = {
        "HASH_FLAGS": 1 if on_demand else 0,
        "SAMPLE_RATE": filters.sample_rate,
        "THROTTLE": int(options.max_overhead_percent is not None),
        "SAMPLE_BYTES": filters.sample_bytes or 0,
        "TRACE": int(options.report.trace),
        "STOP_AT_START": int(isinstance(options.target, CommandTarget)),
        "USE_RING_BUFFER": int(uses_ring_buffer(options.event_buffer)),
        "ENTER_BY_COOKIE": int(support.has_attach_cookie()),
        "POINTS": int(uses_points(options)),
        "COUNT_FREED": int(counts_freed(options)),
        "HAS_TASK_PT_REGS": int(support.has_task_pt_regs()),
    }
    if isinstance(options.target, ProcessTarget):  # a command's is told by wait(2)
        knobs |= exit_status_knobs()
    if filters.min_size_bytes is not None:
        knobs |= {"MIN_SIZE": filters.min_size_bytes, "SIZES_FILTERED": 1}
    if filters.max_size_bytes is not None:
        knobs |= {"MAX_SIZE": filters.max_size_bytes, "SIZES_FILTERED": 1}
    return knobs


def counts_freed(options: Options) -> bool:
    """Whether releases are counted by site in the kernel, which costs each a look-up: only where
    reports don't go by all records, or these stand for more than themselves."""
    filters = options.filters
    is_sampled = filters.sample_rate > 1 or filters.sample_bytes is not None
    may_be_sampled = options.max_overhead_percent is not None
    return options.report.combined_only or options.faults or is_sampled or may_be_sampled


def uses_points(options: Options) -> bool:
    """Whether calls are followed by points within functions."""
    return way_of(options) is Way.POINTS and not options.faults


def way_of(options: Options) -> Way:
    """How calls are followed."""
    return Way.RETURNS if options.probe_returns else best_way()


def capacities_from_options(options: Options) -> dict[str, int]:
    """How much each map holds, by its name."""
    limits = options.limits
    return {
        "allocations": limits.max_allocs,
        "sites": limits.max_stacks,
        "stacks": limits.max_stacks,
        "threads": limits.max_threads,
        "trace_events": event_pages(limits.event_buffer_bytes) * PAGE_BYTES,
        "region_events": event_pages(limits.event_buffer_bytes // _REGION_SHARE) * PAGE_BYTES,
        "file_mappings": FILE_CAPACITY,
        "points": POINT_CAPACITY,
        "suspended": _SUSPENDED_CAPACITY,
        "known_objects": MAX_KNOWN_OBJECTS,
    }


@dataclass(frozen=True)
class FileMaps:
    """Which addresses have files behind them, and how many faults met those."""

    mappings: Map
    list: Map
    faults: Map


@dataclass
class Program:
    """The loaded program: descriptors of its maps and of its programs."""

    allocations: Map
    sites: Map
    stacks: Map
    session: Map
    losses: Map
    tables: KernelTables | None  # of a walker by unwind tables
    walker: Walker
    throttle: Map | None  # with a bound on the overhead
    sample_gaps: Map | None  # with sampling by bytes
    sample_weights: Map | None
    files: FileMaps | None  # in page fault mode
    points: Map | None  # where calls are followed by points
    region_events_fd: int
    trace_events_fd: int | None
    programs: dict[str, int]
    tallies: Map  # by abi.Tally, and by CPU
    unseen_releases: Map
    links: UprobeLinks
    ring_buffer: bool
    freed_is_counted: bool  # at sites, by the programs
    event_pages: int
    region_pages: int  # of a perf buffer
    loaded: Loaded

    def close(self) -> None:
        """Let go of every descriptor: the kernel frees what nothing else holds."""
        self.loaded.close()


class Compilation:
    """The program being made: kept from an earlier run, or compiled in a child.

    Say what room unwind tables take with `reserve()`, and take the result with `finish()`.
    """

    def __init__(self, options: Options, knobs: Mapping[str, int]) -> None:
        """`knobs` of bpf/shared/config.h take precedence over what follows from the options."""
        self._knobs = knobs_from_options(options) | dict(knobs)
        self._capacities = capacities_from_options(options)
        self._walkers = walkers_to_try(options.stack_walker)
        self._links = links.uprobe_links()
        self._faults = options.faults
        self._image = self._request(self._walkers[0])
        self.cache_problem = ""  # why compiled programs can't be kept

    def _request(self, walker: Walker) -> ImageRequest:
        fragments = FAULT_FRAGMENTS if self._faults else FRAGMENTS
        return ImageRequest(fragments, self._knobs | walker.knobs())

    @property
    def wants_tables(self) -> bool:
        """Whether a walker by unwind tables is going to be tried."""
        return any(walker.uses_tables for walker in self._walkers)

    def reserve(self, capacity: Capacity) -> None:
        """Make this much room for unwind tables."""
        self._capacities |= {
            "unwind_rows": capacity.rows,
            "unwind_pages": capacity.pages,
            "unwind_mappings": capacity.mappings,
        }

    def _program_kinds(self, walker: Walker) -> list[ProgramKind]:
        if self._faults:
            kind, attach_type, names = syscalls.PROG_TYPE_PERF_EVENT, 0, ["on_fault"]
        else:
            kind, attach_type = syscalls.PROG_TYPE_KPROBE, self._links.attach_type
            names = [RELEASE_PROGRAM]
            names += _BY_COOKIE if self._knobs["ENTER_BY_COOKIE"] else _BY_SHAPE
            if self._knobs["POINTS"]:
                names.append(POINT_PROGRAM)
            if walker.uses_tables:
                names.append(OBJECTS_PROGRAM)
        programs = [ProgramKind(name, kind, attach_type) for name in names]
        if walker is Walker.TAIL_CALLS:
            programs.append(ProgramKind("walk_part", kind, attach_type, tail_of="walk_parts"))
        return programs + [
            ProgramKind(f"at_{name}", syscalls.PROG_TYPE_RAW_TRACEPOINT) for name in RAW_TRACEPOINTS
        ]

    def finish(self) -> Program:
        """Load what the kernel takes: the first walker that it does not refuse.

        Raises EnvironmentUnfitError when bcc is missing or loading isn't permitted, ProgramError
        when the program doesn't compile or load.
        """
        for walker, next_walker in pairwise(self._walkers):
            try:
                return self._load(walker)
            except RefusedError:
                self._image = self._request(next_walker)
        return self._load(self._walkers[-1])

    def _load(self, walker: Walker) -> Program:
        image = self._image.finish()
        self.cache_problem = self._image.problem
        return self._program(walker, load(image, self._program_kinds(walker), self._capacities))

    def _program(self, walker: Walker, loaded: Loaded) -> Program:
        knobs, room = self._knobs, self._capacities

        def map_of(name: str, key: Any, value: Any, capacity: int) -> Map:  # noqa: ANN401
            return Map(name, loaded.maps[name], key, value, capacity)

        per_cpu = np.dtype((np.uint64, (syscalls.possible_cpus(),)))
        throttle = map_of("throttle", abi.U32, abi.THROTTLE, 1) if knobs["THROTTLE"] else None
        sample_gaps = sample_weights = None
        if knobs["SAMPLE_BYTES"]:
            sample_gaps = map_of("sample_gaps", abi.U32, abi.U64, abi.GAP_COUNT + 1)
            sample_weights = map_of("sample_weights", abi.U32, abi.U64, abi.WEIGHT_COUNT + 1)
        files = None
        if self._faults:
            files = FileMaps(
                mappings=map_of("file_mappings", abi.U32, abi.FILE_MAPPING, FILE_CAPACITY),
                list=map_of("file_list", abi.U32, abi.U64, 1),
                faults=map_of("file_faults", abi.U32, abi.U64, 1),
            )
        tables = None
        if walker.uses_tables:
            tables = KernelTables(
                rows=map_of("unwind_rows", abi.U32, abi.U64, room["unwind_rows"]),
                pages=map_of("unwind_pages", abi.U32, abi.U32, room["unwind_pages"]),
                mappings=map_of(
                    "unwind_mappings", abi.U32, abi.UNWIND_MAPPING, room["unwind_mappings"]
                ),
                list=map_of("unwind_list", abi.U32, abi.UNWIND_LIST, abi.UNWIND_LISTS),
                known=map_of("known_objects", abi.U64, abi.UNWIND_MAPPING, MAX_KNOWN_OBJECTS),
            )
        return Program(
            allocations=map_of("allocations", abi.U64, abi.ALLOCATION, room["allocations"]),
            sites=map_of("sites", abi.U64, abi.SITE, room["sites"]),
            stacks=map_of("stacks", abi.U64, abi.STACK, room["stacks"]),
            session=map_of("session", abi.U32, abi.SESSION, 1),
            losses=map_of("losses", abi.U32, abi.U64, abi.LOSS_COUNTERS),
            tables=tables,
            walker=walker,
            throttle=throttle,
            sample_gaps=sample_gaps,
            sample_weights=sample_weights,
            files=files,
            points=(
                map_of("points", abi.U32, abi.POINT, POINT_CAPACITY) if knobs["POINTS"] else None
            ),
            region_events_fd=loaded.maps["region_events"],
            trace_events_fd=loaded.maps.get("trace_events"),
            programs=loaded.programs,
            tallies=map_of("tallies", abi.U32, per_cpu, len(abi.Tally)),
            unseen_releases=map_of(
                "unseen_releases", abi.U32, abi.UNSEEN_RELEASE, abi.UNSEEN_RELEASES
            ),
            links=self._links,
            ring_buffer=bool(knobs["USE_RING_BUFFER"]),
            freed_is_counted=bool(knobs["COUNT_FREED"]),
            event_pages=room["trace_events"] // PAGE_BYTES,
            region_pages=event_pages(room["region_events"] // _PERF_SHARE),
            loaded=loaded,
        )

    def abandon(self) -> None:
        """Give the compilation up: something else failed meanwhile."""
        self._image.abandon()
