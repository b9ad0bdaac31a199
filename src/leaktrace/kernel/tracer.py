"""Traces the kernel: attaches the probes, and reads what was recorded.

kernel/setup.py opens a tracer. session/loop.py drives it.
"""

from __future__ import annotations

import os
import platform
from contextlib import ExitStack
from fnmatch import fnmatchcase

from leaktrace.abi.kernel import SECTION_NAMES, KernelFunction, Section
from leaktrace.bpf import links
from leaktrace.bpf.events import EventStream
from leaktrace.errors import ProgramError
from leaktrace.kernel.probes.functions import IN_BULK
from leaktrace.kernel.probes.plan import FunctionProbe, KernelPlan
from leaktrace.kernel.program import KernelProgram
from leaktrace.kernel.snapshot import KernelSnapshot, take_kernel_snapshot
from leaktrace.kernel.stacks import KernelStacks
from leaktrace.model import TargetInfo
from leaktrace.notices import notify
from leaktrace.options import KernelOptions
from leaktrace.tracing.calls import CallNamer, TracedCalls
from leaktrace.tracing.events import decode, take_messages
from leaktrace.tracing.program_cost import ProgramCostMeter

_FUNCTION_NAMES: dict[int, str] = {
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

    def __init__(
        self,
        options: KernelOptions,
        *,
        plan: KernelPlan,
        notes: list[str],
        program: KernelProgram,
        stacks: KernelStacks,
        stream: EventStream | None,
        resources: ExitStack,
    ) -> None:
        """`notes`: what reports say about the kernel; `stream`: its traced calls, with --trace;
        `resources` closes all that is given here."""
        self._options = options
        self._notes = [*notes]
        self._program = program
        self._stream = stream
        self._resources = resources
        self._links = resources.enter_context(ExitStack())
        self._attached: dict[Section, int] = {}
        self._verdicts: dict[int, bool] = {}
        self._name_call = CallNamer(_FUNCTION_NAMES, stacks.stack_of, options.report)
        self.plan = plan
        self.stacks = stacks

    # --- attaching -------------------------------------------------------------------------

    def arm(self) -> None:
        """Attach the probes, releases first: recording begins.

        Raises ProgramError if none of an allocator's functions can be probed.
        """
        for tracepoint in self.plan.tracepoints:
            try:
                for program in tracepoint.programs:
                    self._keep(
                        links.attach_raw_tracepoint(
                            self._program.programs[program], tracepoint.name
                        )
                    )
            except OSError as error:
                raise ProgramError(
                    f"can't attach to the tracepoint {tracepoint.name}: {error.strerror}",
                    "try --kernel-probes kprobe",
                ) from None
            self._count(tracepoint.section)
        refused = [probe for probe in self.plan.probes if not self._attach(probe)]
        if refused:
            names = dict.fromkeys(probe.function for probe in refused)
            self._notes.append(f"the kernel refuses a kprobe on {', '.join(names)}")
        self.plan.sees_bulk_frees = self._sees(IN_BULK.entry, refused)
        silent = [section for section in self.plan.sections if section not in self._attached]
        if silent:
            raise ProgramError(
                f"no probe could be attached for {SECTION_NAMES[silent[0]]}",
                "try --kernel-probes tracepoint" if self.plan.by_kprobe else "leave it out",
            )
        if self._options.report.verbose:
            notify(self._describe())

    def _attach(self, probe: FunctionProbe) -> bool:
        """Returns False when the kernel refuses the probe."""
        program = self._program.programs[probe.program]
        try:
            attached = links.attach_kprobe_event(program, probe.function, is_return=probe.is_return)
        except OSError:
            return False
        self._keep(*attached)
        if probe.is_return:
            self._count(probe.section)
        return True

    def _keep(self, *attached: int) -> None:
        for link in attached:
            self._links.callback(os.close, link)

    def _count(self, section: Section) -> None:
        self._attached[section] = self._attached.get(section, 0) + 1

    def _sees(self, program: str, refused: list[FunctionProbe]) -> bool:
        planned = [probe for probe in self.plan.probes if probe.program == program]
        return any(probe not in refused for probe in planned)

    def _describe(self) -> str:
        tracepoints = [tracepoint.name for tracepoint in self.plan.tracepoints]
        functions = dict.fromkeys(probe.function for probe in self.plan.probes)
        parts = []
        if tracepoints:
            parts.append(f"tracepoints: {', '.join(tracepoints)}")
        if functions:
            parts.append(f"kprobes: {', '.join(functions)}")
        return "; ".join(parts)

    # --- while it runs ---------------------------------------------------------------------

    def cost_meter(self) -> ProgramCostMeter:
        """Measures what tracing costs, from now on."""
        is_needed = self._options.report.verbose
        return ProgramCostMeter(self._program.programs, measure_programs=is_needed)

    def streams(self) -> list[EventStream]:
        """Readable when there is something to `pump`."""
        return [] if self._stream is None else [self._stream]

    def has_ended(self) -> bool:
        """The kernel has no end."""
        return False

    def end_fileno(self) -> None:
        """The kernel does not end."""
        return

    def probes_fileno(self) -> None:
        """leaktrace itself holds the probes: they can't be lost while it runs."""
        return

    def check_probes(self) -> None:
        """See `probes_fileno`."""

    def pump(self, most_calls: int | None = None) -> tuple[TracedCalls, bool]:
        """Take in what the kernel side sent. Returns traced calls, at most `most_calls` if given,
        and False: the kernel never executes another program."""
        messages, left_out = take_messages(self._stream, most_calls)
        return TracedCalls(decode(messages), self._name_call, left_out), False

    def next_look_s(self) -> None:
        """No look is needed: new modules are found when they are on a stack."""
        return

    def look_again(self) -> None:
        """See `next_look_s`."""

    # --- results ---------------------------------------------------------------------------

    def snapshot(self) -> KernelSnapshot:
        """Read the maps."""
        self.stacks.expect_new_symbols()
        return take_kernel_snapshot(
            self._program,
            self.plan.sections,
            self._is_of_module if self._options.target.modules else None,
            combined_only=self._options.report.combined_only,
        )

    def _is_of_module(self, stack_id: int) -> bool:
        """Whether a function of one of the requested modules is on the stack."""
        verdict = self._verdicts.get(stack_id)
        if verdict is None:
            frames = self.stacks.stack_of(stack_id).frames
            verdict = any(
                fnmatchcase(name, pattern)
                for name in {frame.module for frame in frames if frame.module is not None}
                for pattern in self._options.target.modules
            )
            self._verdicts[stack_id] = verdict
        return verdict

    def info(self) -> TargetInfo:
        """The kernel as reports describe it."""
        by_kprobe = {probe.section for probe in self.plan.probes if probe.is_return}
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

    def close(self) -> None:
        """Detach the probes and close every map."""
        self._resources.close()
