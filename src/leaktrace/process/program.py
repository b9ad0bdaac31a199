"""The BPF program of process mode: what it is compiled from, and what is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np

from leaktrace.abi import process as abi
from leaktrace.bpf import links, syscalls
from leaktrace.bpf.build import ImageRequest
from leaktrace.bpf.events import PAGE_BYTES, event_pages
from leaktrace.bpf.links import UprobeLinks
from leaktrace.bpf.load import Loaded, ProgramKind, RefusedError, load
from leaktrace.bpf.maps import Map
from leaktrace.options import ProcessOptions
from leaktrace.process.kernel_tables import KernelTables
from leaktrace.process.knobs import capacities_from_options, knobs_from_options, records_all
from leaktrace.process.lifetimes import SiteLifetimes
from leaktrace.process.probes.allocators import (
    ANY_ENTRY_PROGRAM,
    ENTRY_PROGRAMS,
    EXIT_PROGRAM,
    OBJECTS_PROGRAM,
    POINT_PROGRAM,
    RELEASE_OF_PAIR_PROGRAM,
    RELEASE_PROGRAM,
    RETURN_PROGRAM,
    START_PROGRAM,
)
from leaktrace.process.releases import KEY, WatchedReleases
from leaktrace.process.task_offsets import OOM_TRACEPOINT
from leaktrace.process.walkers import Walker, walkers_to_try
from leaktrace.unwind.placed import MAX_KNOWN_OBJECTS, Capacity

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
    "process/known_stacks.bpf.c",
    "process/tables.bpf.c",
    "process/go.bpf.c",
    "process/step.bpf.c",
    "process/walk.bpf.c",
    "process/frame_pointers.bpf.c",
    "process/lifetimes.bpf.c",
    "process/records.bpf.c",
    "process/calls.bpf.c",
    "process/unseen.bpf.c",
    "process/releases.bpf.c",
    "process/descriptor_records.bpf.c",
    "process/track.bpf.c",
)
FRAGMENTS = (
    *_COMMON,
    "process/entries.bpf.c",
    "process/point.bpf.c",
    "process/objects.bpf.c",
    "process/exit_stop.bpf.c",
    "process/exec_fork_exit.bpf.c",
    "process/descriptors.bpf.c",
)
FAULT_FRAGMENTS = (*_COMMON, "process/faults.bpf.c", "process/exec_fork_exit.bpf.c")

# If a program can find out which function was hit (attach cookies), one serves all functions.
_BY_COOKIE = (ANY_ENTRY_PROGRAM, RETURN_PROGRAM)
_BY_SHAPE = (*ENTRY_PROGRAMS, RETURN_PROGRAM)
_PERF_SHARE = 4  # of the buffer for regions, per CPU, in perf buffers
FAULT_PROGRAM = "on_fault"
RAW_TRACEPOINTS = ("sched_process_exec", "sched_process_exit", "sched_process_fork", OOM_TRACEPOINT)
SYSTEM_CALL_TRACEPOINTS = ("sys_enter", "sys_exit")  # with --fds; of the whole machine


@dataclass(frozen=True)
class FileMaps:
    """The addresses that have files behind them, and the number of faults at those."""

    mappings: Map
    list: Map
    faults: Map


@dataclass
class Program:
    """The loaded BPF programs and their maps."""

    allocations: Map
    sites: Map
    stacks: Map
    lifetimes: SiteLifetimes | None  # where the kernel side measures them
    releases: WatchedReleases | None  # where it can walk the stacks of releases
    sees_all_releases: bool  # of blocks without a record
    session: Map  # by slot
    processes: Map  # by tgid
    losses: Map
    tables: KernelTables | None  # where stacks are walked by unwind tables; of slot 0
    walker: Walker
    throttle: Map | None  # with --max-overhead
    sample_gaps: Map | None  # with sampling by bytes
    sample_weights: Map | None
    files: FileMaps | None  # in page fault mode
    points: Map | None  # where calls are followed by points
    suspended: Map | None  # the same
    region_events_fd: int
    trace_events_fd: int | None
    programs: dict[str, int]
    tallies: Map  # by abi.Tally and CPU
    unseen_releases: Map
    pair_calls: Map | None  # with --pair and --fds, by space
    descriptor_calls: Map | None  # with --fds, by the number of the system call
    closed_ranges: Map | None  # with --fds, abi.CLOSED_RANGES for each slot
    links: UprobeLinks
    ring_buffer: bool
    freed_is_counted: bool  # by site, in the kernel
    knows_break: bool  # where the program break of a process is
    event_pages: int
    region_pages: int  # of a perf buffer
    loaded: Loaded

    def close(self) -> None:
        """Close every descriptor: the kernel frees what nothing else holds."""
        self.loaded.close()


class Compilation:
    """A program that is being compiled in a child process, or was cached by an earlier run.

    `reserve()` room for unwind tables, then take the result with `finish()`. Leaving the context
    before that abandons the compilation.
    """

    def __init__(self, options: ProcessOptions, knobs: Mapping[str, int]) -> None:
        """`knobs` (bpf/*/config.h) take precedence over what follows from the options."""
        self._knobs = knobs_from_options(options) | dict(knobs)
        self._capacities = capacities_from_options(options)
        self._walkers = walkers_to_try(options.stack_walker)
        self._links = links.uprobe_links()
        self._faults = options.faults
        self._image = self._request(self._walkers[0])
        self.cache_problem = ""  # why compiled programs can't be cached

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._image.abandon()  # which does nothing once it has finished

    def _request(self, walker: Walker) -> ImageRequest:
        fragments = FAULT_FRAGMENTS if self._faults else FRAGMENTS
        return ImageRequest(fragments, self._knobs | walker.knobs())

    @property
    def wants_tables(self) -> bool:
        """Whether a walker that needs unwind tables will be tried."""
        return any(walker.uses_tables for walker in self._walkers)

    def reserve(self, capacity: Capacity) -> None:
        """Make room for this many unwind tables."""
        self._capacities |= {
            "unwind_rows": capacity.rows,
            "unwind_pages": capacity.pages,
            "unwind_mappings": capacity.mappings,
        }

    def _program_kinds(self, walker: Walker) -> list[ProgramKind]:
        if self._faults:
            kind, attach_type, names = syscalls.PROG_TYPE_PERF_EVENT, 0, [FAULT_PROGRAM]
        else:
            kind, attach_type = syscalls.PROG_TYPE_KPROBE, self._links.attach_type
            names = [RELEASE_PROGRAM]
            names += _BY_COOKIE if self._knobs["ENTER_BY_COOKIE"] else _BY_SHAPE
            if self._knobs["POINTS"]:
                names.append(POINT_PROGRAM)
            if self._knobs["PAIRS"]:
                names.append(RELEASE_OF_PAIR_PROGRAM)
            if self._has_spaces or self._knobs["STOP_AT_START"]:
                names.append(START_PROGRAM)
            if self._knobs.get("STOP_AT_EXIT"):
                names.append(EXIT_PROGRAM)
            if walker.uses_tables:
                names.append(OBJECTS_PROGRAM)
        programs = [ProgramKind(name, kind, attach_type) for name in names]
        if walker is Walker.TAIL_CALLS:
            programs.append(ProgramKind("walk_part", kind, attach_type, tail_of="walk_parts"))
        if OBJECTS_PROGRAM in names:
            programs.append(ProgramKind("object_part", kind, attach_type, tail_of="object_parts"))
        tracepoint = syscalls.PROG_TYPE_RAW_TRACEPOINT
        traced = [
            name
            for name in RAW_TRACEPOINTS
            if name != OOM_TRACEPOINT or self._knobs.get("OOM_VICTIM")
        ]
        if self._knobs["FD_SPACE"]:
            traced += SYSTEM_CALL_TRACEPOINTS
            if walker is Walker.TAIL_CALLS:
                part, tail_of = "descriptor_walk_part", "descriptor_walk_parts"
                programs.append(ProgramKind(part, tracepoint, tail_of=tail_of))
        return programs + [ProgramKind(f"at_{name}", tracepoint) for name in traced]

    @property
    def _has_spaces(self) -> bool:
        """Whether there are records beside those of the heap."""
        return bool(self._knobs["PAIRS"] or self._knobs["FD_SPACE"])

    def finish(self) -> Program:
        """Load the program with the first walker that the kernel does not refuse.

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
        loaded = load(image, self._program_kinds(walker), self._capacities)
        try:
            return self._program(walker, loaded)
        except BaseException:
            loaded.close()
            raise

    def _program(self, walker: Walker, loaded: Loaded) -> Program:
        knobs, room = self._knobs, self._capacities
        slots = room["session"]

        def map_of(name: str, key: Any, value: Any, capacity: int) -> Map:  # noqa: ANN401
            return Map(name, loaded.maps[name], key, value, capacity)

        def opaque(name: str) -> np.dtype[Any]:
            """A value that user space only copies or clears."""
            return np.dtype(f"V{loaded.value_bytes[name]}")

        per_cpu = np.dtype((np.uint64, (syscalls.possible_cpus(),)))
        throttle = map_of("throttle", abi.U32, abi.THROTTLE, 1) if knobs["THROTTLE"] else None
        sample_gaps = sample_weights = None
        if knobs["SAMPLE_BYTES"]:
            sample_gaps = map_of("sample_gaps", abi.U32, abi.U64, abi.GAP_COUNT + 1)
            sample_weights = map_of("sample_weights", abi.U32, abi.U64, abi.WEIGHT_COUNT + 1)
        files = None
        if self._faults:
            files = FileMaps(
                mappings=map_of("file_mappings", abi.U32, abi.FILE_MAPPING, room["file_mappings"]),
                list=map_of("file_list", abi.U32, abi.U64, slots),
                faults=map_of("file_faults", abi.U32, abi.U64, slots),
            )
        lifetimes = None
        if knobs["LIFETIMES"]:
            counts = map_of("lifetimes", abi.U32, abi.LIFETIMES, abi.LIFETIME_SITES)
            lifetimes = SiteLifetimes(counts)
        tables = None
        if walker.uses_tables:
            tables = KernelTables(
                rows=map_of("unwind_rows", abi.U32, abi.U64, room["unwind_rows"]),
                pages=map_of("unwind_pages", abi.U32, abi.U32, room["unwind_pages"]),
                mappings=map_of(
                    "unwind_mappings", abi.U32, abi.UNWIND_MAPPING, room["unwind_mappings"]
                ),
                list=map_of("unwind_list", abi.U32, abi.UNWIND_LIST, room["unwind_list"]),
                known=map_of("known_objects", abi.U64, abi.UNWIND_MAPPING, MAX_KNOWN_OBJECTS),
                late=map_of("late_objects", abi.U32, opaque("late_objects"), room["late_objects"]),
            )
        return Program(
            allocations=map_of("allocations", abi.U64, abi.ALLOCATION, room["allocations"]),
            sites=map_of("sites", abi.U64, abi.SITE, room["sites"]),
            stacks=map_of("stacks", abi.U64, abi.STACK, room["stacks"]),
            lifetimes=lifetimes,
            releases=(
                WatchedReleases(
                    lifetimes,
                    map_of("watches", abi.U32, abi.WATCH, abi.WATCHES),
                    map_of("releases", KEY, abi.U64, room["releases"]),
                )
                if lifetimes is not None and "releases" in loaded.maps
                else None
            ),
            sees_all_releases=not self._faults and records_all(knobs),
            session=map_of("session", abi.U32, abi.SESSION, slots),
            processes=map_of("processes", abi.U32, abi.PROCESS, room["processes"]),
            losses=map_of("losses", abi.U32, abi.U64, abi.LOSS_COUNTERS),
            tables=tables,
            walker=walker,
            throttle=throttle,
            sample_gaps=sample_gaps,
            sample_weights=sample_weights,
            files=files,
            points=(
                map_of("points", abi.U32, abi.POINT, room["points"]) if knobs["POINTS"] else None
            ),
            suspended=(
                map_of("suspended", abi.U64, opaque("suspended"), room["suspended"])
                if knobs["POINTS"]
                else None
            ),
            region_events_fd=loaded.maps["region_events"],
            trace_events_fd=loaded.maps.get("trace_events"),
            programs=loaded.programs,
            tallies=map_of("tallies", abi.U32, per_cpu, len(abi.Tally)),
            unseen_releases=map_of(
                "unseen_releases", abi.U32, abi.UNSEEN_RELEASE, abi.UNSEEN_RELEASES
            ),
            pair_calls=(
                map_of("pair_calls", abi.U32, abi.PAIR_CALLS, abi.SPACES)
                if self._has_spaces
                else None
            ),
            descriptor_calls=(
                map_of("descriptor_calls", abi.U32, abi.DESCRIPTOR_CALL, abi.SYSTEM_CALLS)
                if knobs["FD_SPACE"]
                else None
            ),
            closed_ranges=(
                map_of("closed_ranges", abi.U32, abi.CLOSED_RANGE, room["closed_ranges"])
                if knobs["FD_SPACE"]
                else None
            ),
            links=self._links,
            ring_buffer=bool(knobs["USE_RING_BUFFER"]),
            freed_is_counted=bool(knobs["COUNT_FREED"]),
            knows_break=bool(knobs.get("MM_BRK_OFFSET")),
            event_pages=room["trace_events"] // PAGE_BYTES,
            region_pages=event_pages(room["region_events"] // _PERF_SHARE),
            loaded=loaded,
        )
