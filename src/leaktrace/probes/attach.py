"""Probes on: links between functions of the target and the loaded programs.

Where the kernel has uprobe_multi links (Linux 6.6, with a pid that means a process since 6.10),
one link carries all probes of an object that share a program; elsewhere each probe is a perf
event. Either way they are file descriptors: the kernel removes them when leaktrace ends, however
it ends.
"""

from __future__ import annotations

import errno
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from leaktrace import kernel
from leaktrace.errors import EnvironmentUnfitError, LeaktraceError, ProgramError, TargetError
from leaktrace.probes.allocators import ANY_ENTRY_PROGRAM, REQUIRED, RETURN_PROGRAM
from leaktrace.probes.plan import ObjectPlan, Probe
from leaktrace.program import Program


@dataclass(frozen=True)
class HookedObject:
    """What was hooked in one object, for the report's header and for --verbose."""

    name: str
    path: str
    functions: tuple[str, ...]
    missing: tuple[str, ...]  # not defined by the object
    refused: tuple[str, ...]  # the kernel can't probe them


class Attachments:
    """Every probe of one session."""

    def __init__(self, program: Program, pid: int) -> None:
        self._program = program
        self._pid = pid
        self._lifecycle: list[int] = []
        self._descriptors: list[int] = []
        self.objects: list[HookedObject] = []

    def attach_lifecycle(self) -> None:
        """Follow exec and the end of threads."""
        for name in ("sched_process_exec", "sched_process_exit"):
            program = self._program.programs[f"at_{name}"]
            try:
                self._lifecycle.append(kernel.attach_raw_tracepoint(program, name))
            except OSError as error:
                raise _explain(error, f"the tracepoint {name}") from None

    def attach(self, plan: ObjectPlan) -> HookedObject:
        """Put all probes of an object on; its file may be closed afterwards.

        A function that the kernel can't probe is left out and named, unless it is malloc or free.
        Raises EnvironmentUnfitError, TargetError or ProgramError.
        """
        # Releases first, beginnings last: what is hooked while the process runs must never see a
        # block come that it can't see go.
        groups: defaultdict[tuple[str, bool], list[Probe]] = defaultdict(list)
        for probe in plan.probes:
            if not probe.hook.has_return:
                groups[self._entry_program(probe), False].append(probe)
        for probe in plan.probes:
            if probe.hook.has_return:
                groups[RETURN_PROGRAM, True].append(probe)
        for probe in plan.probes:
            if probe.hook.has_return:
                groups[self._entry_program(probe), False].append(probe)
        refused: set[str] = set()
        for (program, is_return), probes in groups.items():
            wanted = [probe for probe in probes if probe.hook.symbol not in refused]
            refused |= self._attach_group(plan, program, wanted, is_return=is_return)
        hooked = HookedObject(
            name=plan.name,
            path=plan.path,
            functions=tuple(p.hook.symbol for p in plan.probes if p.hook.symbol not in refused),
            missing=plan.missing,
            refused=tuple(sorted(refused)),
        )
        self.objects.append(hooked)
        return hooked

    def _entry_program(self, probe: Probe) -> str:
        by_shape = probe.hook.program
        return by_shape if by_shape in self._program.programs else ANY_ENTRY_PROGRAM

    def _attach_group(
        self, plan: ObjectPlan, program: str, probes: Iterable[Probe], *, is_return: bool
    ) -> set[str]:
        """Returns the symbols of the functions that the kernel can't probe."""
        probes = list(probes)
        descriptor = self._program.programs[program]
        if self._program.uprobe_multi and probes:
            try:
                link = kernel.attach_uprobes_together(
                    descriptor,
                    plan.attach_path,
                    [probe.offset for probe in probes],
                    [int(probe.hook.function) for probe in probes],
                    pid=self._pid,
                    is_return=is_return,
                )
            except OSError as error:
                if len(probes) > 1:  # find out which one it is
                    refused: set[str] = set()
                    for probe in probes:
                        refused |= self._attach_group(plan, program, [probe], is_return=is_return)
                    return refused
                return self._refuse(plan, probes[0], error)
            self._descriptors.append(link)
            return set()
        refused = set()
        for probe in probes:
            try:
                self._descriptors += kernel.attach_uprobe_event(
                    descriptor,
                    plan.attach_path,
                    probe.offset,
                    int(probe.hook.function),
                    pid=self._pid,
                    is_return=is_return,
                )
            except OSError as error:
                refused |= self._refuse(plan, probe, error)
        return refused

    def _refuse(self, plan: ObjectPlan, probe: Probe, error: OSError) -> set[str]:
        where = f"{probe.hook.symbol} in {plan.name}"
        cannot_probe = error.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.EIO, 524)
        if cannot_probe and probe.hook.symbol not in REQUIRED:
            return {probe.hook.symbol}
        raise _explain(error, where) from None

    def detach_objects(self) -> None:
        """Take the probes off the functions; exec and exit are followed still."""
        for descriptor in reversed(self._descriptors):
            os.close(descriptor)
        self._descriptors = []
        self.objects = []

    def close(self) -> None:
        """Take every probe off."""
        for descriptor in reversed([*self._lifecycle, *self._descriptors]):
            os.close(descriptor)
        self._lifecycle, self._descriptors = [], []


def _explain(error: OSError, where: str) -> LeaktraceError:
    if error.errno in (errno.EPERM, errno.EACCES):
        return EnvironmentUnfitError(
            f"the kernel does not permit a probe on {where}",
            "run as root: sudo leaktrace …; `leaktrace doctor` tells what is missing",
        )
    if error.errno == errno.ESRCH:
        return TargetError("the process ended before it could be traced", "check its pid")
    if error.errno == errno.EMFILE:
        return EnvironmentUnfitError(
            "too many open files for the probes", "raise the limit: ulimit -n 4096"
        )
    return ProgramError(
        f"can't put a probe on {where}: {error.strerror}",
        "please report this with the output of `leaktrace doctor`",
    )
