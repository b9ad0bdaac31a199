"""The kernel traced: its probes, its program, and the names of what they find.

Has the shape of `tracer.Tracer`, as session/run.py needs it (tracing/protocol.py).
"""

from __future__ import annotations

import os
import platform
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from leaktrace.abi.common import StackEndCode
from leaktrace.abi.kernel import SECTION_NAMES, KernelFunction, Section
from leaktrace.analysis.builder import STACK_ENDS
from leaktrace.analysis.trim import readable
from leaktrace.bpf import links
from leaktrace.bpf.events import EventStream
from leaktrace.errors import AS_ROOT, EnvironmentUnfitError, ProgramError, TargetError
from leaktrace.kernel.probes.functions import BY_RCU, IN_BULK
from leaktrace.kernel.probes.plan import FunctionProbe, plan_kernel
from leaktrace.kernel.program import KernelCompilation, KernelProgram
from leaktrace.kernel.report import KernelReportBuilder
from leaktrace.kernel.slab import choose_caches
from leaktrace.kernel.snapshot import KernelSnapshot, take_kernel_snapshot
from leaktrace.model import Event, Stack, StackEnd, TargetInfo
from leaktrace.notices import tell
from leaktrace.options import KernelTarget, Options
from leaktrace.symbols.kallsyms import Kallsyms, without_allocator, without_probe
from leaktrace.tracing.calls import TracedCalls, decode, name_call, take_messages
from leaktrace.tracing.cost import KernelCostMeter

_FUNCTION_NAMES = {
    KernelFunction.KMALLOC: "kmalloc",
    KernelFunction.KMEM_CACHE_ALLOC: "kmem_cache_alloc",
    KernelFunction.KFREE: "kfree",
    KernelFunction.KMEM_CACHE_FREE: "kmem_cache_free",
    KernelFunction.PAGE_ALLOC: "alloc_pages",
    KernelFunction.PAGE_FREE: "free_pages",
    KernelFunction.PERCPU_ALLOC: "alloc_percpu",
    KernelFunction.PERCPU_FREE: "free_percpu",
    KernelFunction.VMALLOC: "vmalloc",
    KernelFunction.VFREE: "vfree",
    KernelFunction.KFREE_RCU: "kfree_rcu",
    KernelFunction.FREE_BULK: "kmem_cache_free_bulk",
}


class KernelTracer:
    """Traces the kernel from `arm()` to `close()`."""

    def __init__(self, options: Options) -> None:
        """Compile and load; nothing is attached yet.

        Raises LeaktraceError; whatever was begun is undone then.
        """
        target = options.target
        assert isinstance(target, KernelTarget)
        self._options, self._target = options, target
        self._program: KernelProgram | None = None
        self._stream: EventStream | None = None
        self._links: list[int] = []
        self._attached: dict[Section, int] = {}
        self._stacks: dict[int, Stack] = {}
        self._verdicts: dict[int, bool] = {}
        self._symbols_are_fresh = True
        compilation: KernelCompilation | None = None
        try:
            self._symbols = _read_symbols()
            self._check(target)
            self._plan = plan_kernel(target, self._symbols)
            self._notes = [*self._plan.notes]
            self._explain()
            wanted = choose_caches(target.caches) if target.caches else None
            if wanted is not None and wanted.names and not self._plan.names_caches:
                raise EnvironmentUnfitError(
                    "this kernel's events don't tell the cache that an object is from",
                    "choose kmalloc caches only, or filter by size: -z, -Z",
                )
            compilation = KernelCompilation(options, self._plan, self._symbols)
            self._program = compilation.finish()
            compilation = None
            if wanted is not None:
                self._program.want(wanted)
            if self._program.trace_events_fd is not None:
                self._stream = EventStream(
                    self._program.trace_events_fd,
                    is_ring=self._program.ring_buffer,
                    pages=self._program.event_pages,
                )
        except BaseException:
            if compilation is not None:
                compilation.abandon()
            self.close()
            raise

    @property
    def _loaded(self) -> KernelProgram:
        assert self._program is not None
        return self._program

    # --- setting up ------------------------------------------------------------------------

    def _check(self, target: KernelTarget) -> None:
        if target.modules and not Path("/proc/modules").exists():
            raise EnvironmentUnfitError("this kernel has no modules", "leave --module out")
        if target.task_pid is not None and not Path(f"/proc/{target.task_pid}").exists():
            raise TargetError(
                f"no process has the id {target.task_pid}", "choose another one for --task"
            )
        if self._symbols.is_hidden and (
            target.modules or target.contexts or target.task_pid is not None
        ):
            raise EnvironmentUnfitError(
                "--module, --context and --task need the kernel's symbols, which it hides",
                f"sysctl kernel.kptr_restrict=1, and {AS_ROOT}",
            )

    def _explain(self) -> None:
        if self._symbols.is_hidden:
            self._notes.append(
                "kernel functions are shown as addresses: the sysctl kernel.kptr_restrict hides "
                "their names (set it to 1 or 0)"
            )
        if self._plan.by_kprobe:
            self._notes.append(
                "the kernel skips a kprobe that hits during another BPF program on its CPU, and "
                "doesn't count that before Linux 6.7: some blocks may look outstanding"
            )
        missing = [p for p in self._target.modules if not _is_loaded(p, self._symbols)]
        if missing:
            self._notes.append(f"not loaded so far: module {', '.join(missing)}")
        unseen = []
        if not any(p.program == BY_RCU.entry for p in self._plan.probes):
            unseen.append("kfree_rcu")
        if not any(p.program == IN_BULK.entry for p in self._plan.probes):
            unseen.append("kmem_cache_free_bulk")
        if unseen:
            self._notes.append(
                f"frees by {' and '.join(unseen)} can't be seen without kprobes: "
                "where they show, sites are marked unconfirmed"
            )

    def arm(self) -> None:
        """Put the probes on, releases first. Raises ProgramError if an allocator can't be probed
        at all."""
        programs = self._loaded.programs
        for tracepoint in self._plan.tracepoints:
            try:
                self._links += [
                    links.attach_raw_tracepoint(programs[program], tracepoint.name)
                    for program in tracepoint.programs
                ]
            except OSError as error:
                raise ProgramError(
                    f"can't attach to the tracepoint {tracepoint.name}: {error.strerror}",
                    "try --kernel-probes kprobe",
                ) from None
            self._count(tracepoint.section)
        refused = [probe for probe in self._plan.probes if not self._attach(probe)]
        if refused:
            names = dict.fromkeys(probe.function for probe in refused)
            self._notes.append(f"the kernel refuses a kprobe on {', '.join(names)}")
        self._plan.sees_rcu_frees = self._sees(BY_RCU.entry, refused)
        self._plan.sees_bulk_frees = self._sees(IN_BULK.entry, refused)
        silent = [section for section in self._plan.sections if section not in self._attached]
        if silent:
            raise ProgramError(
                f"nothing could be probed for {SECTION_NAMES[silent[0]]}",
                "try --kernel-probes tracepoint" if self._plan.by_kprobe else "leave it out",
            )
        if self._options.report.verbose:
            tell(self._describe())

    def _attach(self, probe: FunctionProbe) -> bool:
        program = self._loaded.programs[probe.program]
        try:
            self._links += links.attach_kprobe_event(
                program, probe.function, is_return=probe.is_return
            )
        except OSError:
            return False
        if probe.is_return:
            self._count(probe.section)
        return True

    def _count(self, section: Section) -> None:
        self._attached[section] = self._attached.get(section, 0) + 1

    def _sees(self, program: str, refused: list[FunctionProbe]) -> bool:
        wanted = [probe for probe in self._plan.probes if probe.program == program]
        return any(probe not in refused for probe in wanted)

    def _describe(self) -> str:
        tracepoints = [tracepoint.name for tracepoint in self._plan.tracepoints]
        functions = dict.fromkeys(probe.function for probe in self._plan.probes)
        parts = []
        if tracepoints:
            parts.append(f"tracepoints: {', '.join(tracepoints)}")
        if functions:
            parts.append(f"kprobes: {', '.join(functions)}")
        return "; ".join(parts)

    # --- while it runs ---------------------------------------------------------------------

    def builder(self) -> KernelReportBuilder:
        """What makes reports of this tracer's snapshots."""
        return KernelReportBuilder(self._options, self._plan, self.stack_of)

    def cost_meter(self) -> KernelCostMeter:
        """Measures what tracing costs, from now on."""
        return KernelCostMeter(self._loaded.programs, measure_programs=self._options.report.verbose)

    def next_look_s(self) -> None:
        """There is nothing to look for: new modules are found when they are on a stack."""
        return

    def look_again(self) -> None:
        """See `next_look_s`."""

    def streams(self) -> list[EventStream]:
        """What becomes readable when there is something to `pump`."""
        return [] if self._stream is None else [self._stream]

    def pump(self, most_calls: int | None = None) -> tuple[TracedCalls, bool]:
        """Take in what the kernel side sent. Returns traced calls, at most so many where that is
        given; a kernel never execs."""
        messages, left_out = take_messages(self._stream, most_calls)
        return TracedCalls(decode(messages), self._name_event, left_out), False

    def snapshot(self) -> KernelSnapshot:
        """Read the maps."""
        self._symbols_are_fresh = False
        return take_kernel_snapshot(
            self._loaded,
            self._plan.sections,
            self._is_wanted if self._target.modules else None,
            combined_only=self._options.report.combined_only,
        )

    def info(self) -> TargetInfo:
        """The kernel as reports name it."""
        by_kprobe = {probe.section for probe in self._plan.probes if probe.is_return}
        return TargetInfo(
            pid=0,
            command=f"kernel {platform.release()}",
            kind="kernel",
            allocators=tuple(
                f"{SECTION_NAMES[section]}: {count} "
                + ("kprobe" if section in by_kprobe else "tracepoint")
                + ("" if count == 1 else "s")
                for section, count in self._attached.items()
            ),
            notes=tuple(dict.fromkeys(self._notes)),
        )

    # --- names -----------------------------------------------------------------------------

    def stack_of(self, stack_id: int) -> Stack:
        """The stack behind an id, with names; looked up once. Always without the tracer's own
        frames, and without the allocator's unless they are asked for."""
        known = self._stacks.get(stack_id)
        if known is None:
            known = self._stacks[stack_id] = self._read_stack(stack_id)
        return known

    def _read_stack(self, stack_id: int) -> Stack:
        stored = self._loaded.stacks.lookup(stack_id) if stack_id else None
        if stored is None:
            return Stack((), StackEnd.LOST)
        count, skipped = int(stored["frame_count"]), int(stored["skipped"])
        addresses = stored["pc"][:count].tolist()
        frames = [self._symbols.frame(a, is_return_address=True) for a in addresses]
        if any(frame.function is None for frame in frames) and not self._symbols_are_fresh:
            # A module, or a BPF program, that came later.
            self._symbols = _read_symbols()
            self._symbols_are_fresh = True
            frames = [self._symbols.frame(a, is_return_address=True) for a in addresses]
        if self._options.report.full_stacks:
            frames = without_probe(frames)
        elif skipped:
            frames = frames[skipped:]
        else:
            frames = without_allocator(without_probe(frames))
        return Stack(tuple(frames), STACK_ENDS[StackEndCode(int(stored["end"]))])

    def _is_wanted(self, stack_id: int) -> bool:
        """Whether one of the modules asked for is on the stack."""
        verdict = self._verdicts.get(stack_id)
        if verdict is None:
            modules = {frame.module for frame in self.stack_of(stack_id).frames} - {None}
            verdict = any(
                fnmatchcase(str(name), pattern)
                for name in modules
                for pattern in self._target.modules
            )
            self._verdicts[stack_id] = verdict
        return verdict

    def _name_event(self, event: np.void) -> Event:
        function = _FUNCTION_NAMES[KernelFunction(int(event["function"]))]
        stack_id = int(event["stack_id"])
        stack = readable(self.stack_of(stack_id), self._options.report) if stack_id else None
        return name_call(event, function, stack)

    # --- the end ---------------------------------------------------------------------------

    def detach(self) -> None:
        """Take the probes off; what was recorded stays readable."""
        for link in reversed(self._links):
            os.close(link)
        self._links = []

    def close(self) -> None:
        """Take the probes off and let go of every map."""
        self.detach()
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        if self._program is not None:
            self._program.close()
            self._program = None


def _read_symbols() -> Kallsyms:
    try:
        return Kallsyms.read()
    except OSError as error:
        raise EnvironmentUnfitError(
            f"/proc/kallsyms can't be read: {error.strerror}",
            "it needs CONFIG_KALLSYMS=y, and root",
        ) from None


def _is_loaded(pattern: str, symbols: Kallsyms) -> bool:
    return any(fnmatchcase(name, pattern) for name in symbols.modules)
