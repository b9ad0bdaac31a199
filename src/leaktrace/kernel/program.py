"""The BPF program of kernel mode: its knobs (-D flags), which describe the running kernel, and its
maps."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from leaktrace.abi import common as abi
from leaktrace.abi.kernel import (
    CACHE_NAME_BYTES,
    KERNEL_ALLOCATION,
    KERNEL_LOSS_KINDS,
    KERNEL_SITE,
    KERNEL_STACK,
    SETTINGS,
    WANTED_CACHES,
    WANTED_SIZES,
    Context,
    Section,
)
from leaktrace.arch.machines import (
    KERNEL_ENTRY_END,
    KERNEL_ENTRY_START,
    KERNEL_FORK,
    KERNEL_INTERRUPTS,
    KERNEL_SOFTIRQ,
)
from leaktrace.bpf import syscalls
from leaktrace.bpf.build import ImageRequest
from leaktrace.bpf.events import PAGE_BYTES, event_pages, uses_ring_buffer
from leaktrace.bpf.load import Loaded, ProgramKind, load
from leaktrace.bpf.maps import Map
from leaktrace.kernel.probes.plan import KernelPlan
from leaktrace.kernel.slab import WantedCaches
from leaktrace.options import KernelContext, KernelOptions
from leaktrace.symbols.kallsyms import Kallsyms

KERNEL_FRAGMENTS = (
    "shared/types.h",
    "kernel/types.h",
    "shared/config.h",
    "kernel/config.h",
    "shared/helpers.bpf.c",
    "kernel/maps.bpf.c",
    "shared/events.bpf.c",
    "shared/records.bpf.c",
    "kernel/walk.bpf.c",
    "kernel/records.bpf.c",
    "kernel/tracepoints.bpf.c",
    "kernel/kprobes.bpf.c",
)

_CONTEXT_CODES = {
    KernelContext.PROCESS: Context.PROCESS,
    KernelContext.SOFTIRQ: Context.SOFTIRQ,
    KernelContext.IRQ: Context.IRQ,
}
_FRAMES = abi.MAX_FRAMES


@dataclass
class KernelProgram:
    """The loaded BPF programs and their maps."""

    allocations: Map
    sites: Map
    stacks: Map
    losses: Map
    older_releases: Map
    wanted_caches: Map
    wanted_sizes: Map
    trace_events_fd: int | None
    programs: dict[str, int]
    ring_buffer: bool
    event_pages: int
    loaded: Loaded

    def want(self, caches: WantedCaches) -> None:
        """Let allocations from these caches pass (with CACHES_FILTERED)."""
        yes = np.ones(1, dtype=np.uint8)
        for name in caches.names:
            self.wanted_caches.update(os.fsencode(name)[: CACHE_NAME_BYTES - 1], yes)
        for size in caches.kmalloc_bytes:
            self.wanted_sizes.update(size, yes)

    def recursion_misses(self) -> int:
        """The number of runs that the kernel skipped, because the program was already running on
        that CPU. Skipped second programs are not counted: the first ones have run."""
        return sum(
            syscalls.program_info(fd).recursion_misses
            for name, fd in self.programs.items()
            if not name.startswith("again_")
        )

    def close(self) -> None:
        """Close every descriptor: the kernel frees what nothing else holds."""
        self.loaded.close()


def code_ranges(symbols: Kallsyms) -> dict[str, int]:
    """The knobs for the ranges of kernel code where stacks end; none where the kernel hides its
    addresses."""
    knobs: dict[str, int] = {}

    def span(knob: str, pattern: str) -> None:
        """From the first to the last of some adjacent symbols."""
        found = [(start, end) for _, start, end in symbols.find(pattern)]
        if found:
            knobs[f"{knob}_START"] = min(start for start, _ in found)
            knobs[f"{knob}_END"] = max(end for _, end in found)

    def one_of(knob: str, names: tuple[str, ...]) -> None:
        """The first of these names that exists: some were renamed, some have an alias."""
        found = {name: (start, end) for name, start, end in symbols.find("|".join(names))}
        for name in names:
            if name in found:
                knobs[f"{knob}_START"], knobs[f"{knob}_END"] = found[name]
                return

    one_of("SOFTIRQ", KERNEL_SOFTIRQ)
    span("IRQ", KERNEL_INTERRUPTS)
    one_of("FORK", KERNEL_FORK)
    starts = [start for _, start, _ in symbols.find(KERNEL_ENTRY_START)]
    ends = [start for _, start, _ in symbols.find(KERNEL_ENTRY_END)]
    if starts and ends:
        knobs["ENTRY_START"], knobs["ENTRY_END"] = starts[0], ends[0]
    return knobs


def knobs_from_options(
    options: KernelOptions, plan: KernelPlan, symbols: Kallsyms
) -> dict[str, int]:
    """The -D flags of bpf/kernel/config.h."""
    target = options.target
    filters = options.filters
    contexts = target.contexts or tuple(KernelContext)
    knobs = {
        "SAMPLE_RATE": filters.sample_rate,
        "TRACE": int(options.report.trace),
        "USE_RING_BUFFER": int(uses_ring_buffer(options.event_buffer)),
        "ONE_TASK": int(target.task_pid is not None),
        "CONTEXTS": sum(1 << _CONTEXT_CODES[context] for context in contexts),
        "CACHES_FILTERED": int(bool(target.caches)),
        "PAGE_BYTES": PAGE_BYTES,
        "POSSIBLE_CPUS": syscalls.possible_cpus(),
        "STACK_LIMIT": _stack_limit(),
    }
    if filters.min_size_bytes is not None:
        knobs["MIN_SIZE"] = filters.min_size_bytes
    if filters.max_size_bytes is not None:
        knobs["MAX_SIZE"] = filters.max_size_bytes
    return knobs | plan.knobs | code_ranges(symbols)


def _stack_limit() -> int:
    try:
        limit = int(Path("/proc/sys/kernel/perf_event_max_stack").read_text())
    except (OSError, ValueError):
        limit = _FRAMES
    return max(min(limit, _FRAMES), 1)


class KernelCompilation:
    """A program that is being compiled in a child process, or was cached by an earlier run. Leaving
    the context before `finish()` abandons the compilation."""

    def __init__(self, options: KernelOptions, plan: KernelPlan, symbols: Kallsyms) -> None:
        self._options, self._target = options, options.target
        self._knobs = knobs_from_options(options, plan, symbols)
        self._programs = [ProgramKind(name, kind) for name, kind in plan.programs()]
        self._image = ImageRequest(KERNEL_FRAGMENTS, self._knobs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._image.abandon()  # which does nothing once it has finished

    def finish(self) -> KernelProgram:
        """Load the program, which may have to be compiled first.

        Raises EnvironmentUnfitError when bcc is missing or loading isn't permitted, ProgramError
        when the program doesn't compile or load.
        """
        limits = self._options.limits
        room = {
            "allocations": limits.max_allocs,
            "sites": limits.max_stacks,
            "stacks": limits.max_stacks,
            "trace_events": event_pages(limits.event_buffer_bytes) * PAGE_BYTES,
        }
        loaded = load(self._image.finish(), self._programs, room)
        try:
            return self._program(loaded, room)
        except BaseException:
            loaded.close()
            raise

    def _program(self, loaded: Loaded, room: Mapping[str, int]) -> KernelProgram:
        settings = np.zeros(1, dtype=SETTINGS)
        settings["own_tgid"] = 0 if self._target.include_self else os.getpid()
        settings["task_tgid"] = self._target.task_pid or 0
        Map("settings", loaded.maps["settings"], abi.U32, SETTINGS, 1).update(0, settings)

        def map_of(name: str, key: Any, value: Any, capacity: int) -> Map:  # noqa: ANN401
            return Map(name, loaded.maps[name], key, value, capacity)

        name_type = np.dtype(f"S{CACHE_NAME_BYTES}")
        per_cpu = np.dtype((np.uint64, (self._knobs["POSSIBLE_CPUS"],)))
        flag = np.dtype(np.uint8)
        return KernelProgram(
            allocations=map_of("allocations", abi.U64, KERNEL_ALLOCATION, room["allocations"]),
            sites=map_of("sites", abi.U64, KERNEL_SITE, room["sites"]),
            stacks=map_of("stacks", abi.U64, KERNEL_STACK, room["stacks"]),
            losses=map_of("losses", abi.U32, abi.U64, KERNEL_LOSS_KINDS),
            older_releases=map_of("older_releases", abi.U32, per_cpu, len(Section)),
            wanted_caches=map_of("wanted_caches", name_type, flag, WANTED_CACHES),
            wanted_sizes=map_of("wanted_sizes", abi.U64, flag, WANTED_SIZES),
            trace_events_fd=loaded.maps.get("trace_events"),
            programs=loaded.programs,
            ring_buffer=bool(self._knobs["USE_RING_BUFFER"]),
            event_pages=room["trace_events"] // PAGE_BYTES,
            loaded=loaded,
        )
