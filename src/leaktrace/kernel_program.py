"""The kernel mode's BPF program: what it is told about the running kernel, and its maps."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leaktrace import abi, kernel
from leaktrace.compilation import CompilerChild
from leaktrace.kernel_abi import (
    CACHE_NAME_BYTES,
    KERNEL_ALLOCATION,
    KERNEL_LOSS_KINDS,
    KERNEL_SITE,
    KERNEL_STACK,
    Context,
    Section,
)
from leaktrace.kernel_slab import WantedCaches
from leaktrace.maps import Map
from leaktrace.options import KernelContext, KernelTarget, Options
from leaktrace.probes.kernel_plan import KernelPlan
from leaktrace.program import event_pages, flags, source_directory, source_text, uses_ring_buffer
from leaktrace.symbols.kallsyms import Kallsyms

KERNEL_FRAGMENTS = ("leaktrace.h", "config.h", "kernel.h", "kernel.bpf.c")

# Where stacks end, by the names of functions that are entered from outside (x86, arm64).
_SOFTIRQ = ("handle_softirqs", "__do_softirq")
_IRQ = r"asm_(?:common_interrupt|sysvec_\w+)|el1h?_64_irq|el1_irq"
_ENTRY_START, _ENTRY_END = "__entry_text_start", "__entry_text_end"
_FORK = ("ret_from_fork_asm", "ret_from_fork")
_CONTEXT_CODES = {
    KernelContext.PROCESS: Context.PROCESS,
    KernelContext.SOFTIRQ: Context.SOFTIRQ,
    KernelContext.IRQ: Context.IRQ,
}
_FRAMES = abi.MAX_FRAMES


@dataclass
class KernelProgram:
    """The loaded program: descriptors of its maps and of its programs."""

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
    descriptors: list[int]

    def want(self, caches: WantedCaches) -> None:
        """Let allocations from these caches pass (with CACHES_FILTERED)."""
        yes = np.ones(1, dtype=np.uint8)
        for name in caches.names:
            self.wanted_caches.update(name.encode()[: CACHE_NAME_BYTES - 1], yes)
        for size in caches.kmalloc_bytes:
            self.wanted_sizes.update(size, yes)

    def recursion_misses(self) -> int:
        """Runs that the kernel skipped, because the program was under way on that CPU. That second
        programs are skipped is no loss: the first ones have run."""
        return sum(
            kernel.program_info(fd).recursion_misses
            for name, fd in self.programs.items()
            if not name.startswith("again_")
        )

    def close(self) -> None:
        """Let go of every descriptor: the kernel frees what nothing else holds."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = []


def code_ranges(symbols: Kallsyms) -> dict[str, int]:
    """Where in the kernel's code stacks end, as knobs. Nothing where its addresses are hidden."""
    knobs: dict[str, int] = {}

    def span(knob: str, pattern: str) -> None:
        """From the first to the last of some symbols that lie side by side."""
        found = [(start, end) for _, start, end in symbols.find(pattern)]
        if found:
            knobs[f"{knob}_START"] = min(start for start, _ in found)
            knobs[f"{knob}_END"] = max(end for _, end in found)

    def one_of(knob: str, names: tuple[str, ...]) -> None:
        """The first name that there is: what was renamed, or has another one at its side."""
        found = {name: (start, end) for name, start, end in symbols.find("|".join(names))}
        for name in names:
            if name in found:
                knobs[f"{knob}_START"], knobs[f"{knob}_END"] = found[name]
                return

    one_of("SOFTIRQ", _SOFTIRQ)
    span("IRQ", _IRQ)
    one_of("FORK", _FORK)
    starts = [start for _, start, _ in symbols.find(_ENTRY_START)]
    ends = [start for _, start, _ in symbols.find(_ENTRY_END)]
    if starts and ends:
        knobs["ENTRY_START"], knobs["ENTRY_END"] = starts[0], ends[0]
    return knobs


def knobs_from_options(options: Options, plan: KernelPlan, symbols: Kallsyms) -> dict[str, int]:
    """The -D flags of bpf/kernel.bpf.c."""
    target = options.target
    assert isinstance(target, KernelTarget)
    limits, filters = options.limits, options.filters
    contexts = target.contexts or tuple(KernelContext)
    knobs = {
        "MAX_ALLOCS": limits.max_allocs,
        "MAX_STACKS": limits.max_stacks,
        "SAMPLE_RATE": filters.sample_rate,
        "TRACE": int(options.report.trace),
        "USE_RING_BUFFER": int(uses_ring_buffer(options.event_buffer)),
        "EVENT_PAGES": event_pages(limits.event_buffer_bytes),
        "OWN_TGID": 0 if target.include_self else os.getpid(),
        "TASK_TGID": target.task_pid or 0,
        "CONTEXTS": sum(1 << _CONTEXT_CODES[context] for context in contexts),
        "CACHES_FILTERED": int(bool(target.caches)),
        "PAGE_BYTES": os.sysconf("SC_PAGESIZE"),
        "POSSIBLE_CPUS": possible_cpus(),
        "STACK_LIMIT": _stack_limit(),
    }
    if filters.min_size_bytes is not None:
        knobs["MIN_SIZE"] = filters.min_size_bytes
    if filters.max_size_bytes is not None:
        knobs["MAX_SIZE"] = filters.max_size_bytes
    return knobs | plan.knobs | code_ranges(symbols)


def possible_cpus() -> int:
    """The CPUs that the kernel keeps per-CPU memory for: "0-3" or "0,2-5"."""
    text = Path("/sys/devices/system/cpu/possible").read_text().strip()
    return max(int(part.rpartition("-")[2]) for part in text.split(",")) + 1


def _stack_limit() -> int:
    try:
        limit = int(Path("/proc/sys/kernel/perf_event_max_stack").read_text())
    except (OSError, ValueError):
        limit = _FRAMES
    return max(min(limit, _FRAMES), 1)


class KernelCompilation:
    """A compilation in a child process; see `program.Compilation`."""

    def __init__(self) -> None:
        self._child = CompilerChild.take()

    def request(self, options: Options, plan: KernelPlan, symbols: Kallsyms) -> None:
        """Say what to compile."""
        self._knobs = knobs_from_options(options, plan, symbols)
        maps = ["allocations", "sites", "stacks", "losses", "older_releases"]
        maps += ["wanted_caches", "wanted_sizes"]
        if options.report.trace:
            maps.append("trace_events")
        self._child.request(
            {
                "source": source_text(KERNEL_FRAGMENTS),
                "kernel_source": str(source_directory()),
                "variants": [
                    {
                        "name": "kernel",
                        "flags": flags(self._knobs),
                        "maps": maps,
                        "programs": [
                            {"name": name, "kind": kind, "attach_type": -1, "tail_of": ""}
                            for name, kind in plan.programs()
                        ],
                    }
                ],
            }
        )

    def finish(self) -> KernelProgram:
        """Wait for the child and take over its descriptors.

        Raises EnvironmentUnfitError when bcc is missing or loading isn't permitted, ProgramError
        when the program doesn't compile or load.
        """
        manifest, by_name = self._child.finish()
        return _program(manifest["programs"], by_name, self._knobs)

    def abandon(self) -> None:
        """Give the compilation up: something else failed meanwhile."""
        self._child.abandon()


def _program(
    names: list[str], by_name: Mapping[str, int], knobs: Mapping[str, int]
) -> KernelProgram:
    name_type = np.dtype(f"S{CACHE_NAME_BYTES}")
    per_cpu = np.dtype((np.uint64, (knobs["POSSIBLE_CPUS"],)))
    return KernelProgram(
        allocations=Map(
            "allocations", by_name["allocations"], abi.U64, KERNEL_ALLOCATION, knobs["MAX_ALLOCS"]
        ),
        sites=Map("sites", by_name["sites"], abi.U64, KERNEL_SITE, knobs["MAX_STACKS"]),
        stacks=Map("stacks", by_name["stacks"], abi.U64, KERNEL_STACK, knobs["MAX_STACKS"]),
        losses=Map("losses", by_name["losses"], abi.U32, abi.U64, KERNEL_LOSS_KINDS),
        older_releases=Map(
            "older_releases", by_name["older_releases"], abi.U32, per_cpu, len(Section)
        ),
        wanted_caches=Map(
            "wanted_caches", by_name["wanted_caches"], name_type, np.dtype(np.uint8), 4096
        ),
        wanted_sizes=Map("wanted_sizes", by_name["wanted_sizes"], abi.U64, np.dtype(np.uint8), 64),
        trace_events_fd=by_name.get("trace_events"),
        programs={name: by_name[name] for name in names},
        ring_buffer=bool(knobs["USE_RING_BUFFER"]),
        event_pages=knobs["EVENT_PAGES"],
        descriptors=list(by_name.values()),
    )
