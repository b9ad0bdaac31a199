"""Probes on: links between functions of the target and the loaded programs.

Where the kernel has session links (Linux 6.13), one carries all calls of an object, entries and
returns, and another one the releases; where it has uprobe_multi links (6.6, with a pid that means a
process since 6.10), one carries those that share a program; elsewhere each probe is a perf event.
In any case the keeper (keeper.py) holds them, and takes them off when leaktrace ends, however it
ends.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from leaktrace import links
from leaktrace.errors import EnvironmentUnfitError, LeaktraceError, ProgramError, TargetError
from leaktrace.keeper import Keeper, KeeperGoneError
from leaktrace.links import UprobeLinks
from leaktrace.probes.allocators import (
    ANY_ENTRY_PROGRAM,
    REQUIRED,
    RETURN_PROGRAM,
    SESSION_PROGRAM,
)
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
    stepped: tuple[str, ...]  # their probes cost a second trap


class Attachments:
    """Every probe of one session."""

    def __init__(self, program: Program, pid: int, keeper: Keeper | None) -> None:
        """`keeper` holds the probes on functions; None where there are none."""
        self._program = program
        self._pid = pid
        self._keeper = keeper
        self._lifecycle: list[int] = []
        self._probes: list[int] = []  # by the keeper's numbers
        self.objects: list[HookedObject] = []

    def attach_lifecycle(self) -> None:
        """Follow exec and the end of threads."""
        for name in ("sched_process_exec", "sched_process_exit"):
            program = self._program.programs[f"at_{name}"]
            try:
                self._lifecycle.append(links.attach_raw_tracepoint(program, name))
            except OSError as error:
                raise _explain(error, f"the tracepoint {name}") from None

    def attach(self, plan: ObjectPlan) -> HookedObject:
        """Put all probes of an object on; its file may be closed afterwards.

        A function that the kernel can't probe is left out and named, unless it is malloc or free.
        Raises EnvironmentUnfitError, TargetError or ProgramError.
        """
        # Releases first, beginnings last: what is hooked while the process runs must never see a
        # block come that it can't see go.
        releases = [probe for probe in plan.probes if not probe.hook.has_return]
        calls = [probe for probe in plan.probes if probe.hook.has_return]
        refused: set[str] = set()
        for program, probes in self._by_entry_program(releases):
            refused |= self._attach_group(plan, program, probes)
        if self._program.links is UprobeLinks.SESSIONS:
            refused |= self._attach_group(plan, SESSION_PROGRAM, calls)
        else:
            refused |= self._attach_group(plan, RETURN_PROGRAM, calls, is_return=True)
            wanted = [probe for probe in calls if probe.hook.symbol not in refused]
            for program, probes in self._by_entry_program(wanted):
                refused |= self._attach_group(plan, program, probes)
        hooked = HookedObject(
            name=plan.name,
            path=plan.path,
            functions=tuple(p.hook.symbol for p in plan.probes if p.hook.symbol not in refused),
            missing=plan.missing,
            refused=tuple(sorted(refused)),
            stepped=tuple(p.hook.symbol for p in plan.probes if not p.placement.emulated),
        )
        self.objects.append(hooked)
        return hooked

    def _by_entry_program(self, probes: Iterable[Probe]) -> Iterable[tuple[str, list[Probe]]]:
        groups: defaultdict[str, list[Probe]] = defaultdict(list)
        for probe in probes:
            by_shape = probe.hook.program
            is_loaded = by_shape in self._program.programs
            groups[by_shape if is_loaded else ANY_ENTRY_PROGRAM].append(probe)
        return groups.items()

    @property
    def _holder(self) -> Keeper:
        assert self._keeper is not None  # there where functions are hooked
        return self._keeper

    def _attach_group(
        self, plan: ObjectPlan, program: str, probes: Sequence[Probe], *, is_return: bool = False
    ) -> set[str]:
        """Returns the symbols of the functions that the kernel can't probe."""
        if not probes:
            return set()
        if self._program.links is not UprobeLinks.EVENTS:
            try:
                link = self._link(plan, program, probes, is_return=is_return)
            except OSError as error:
                if len(probes) == 1:
                    return self._refuse(plan, probes[0], error)
            else:
                self._probes.append(link)
                return set()
            # Find out which one it is.
            one_by_one = ([probe] for probe in probes)
            return set().union(
                *(self._attach_group(plan, program, one, is_return=is_return) for one in one_by_one)
            )
        refused: set[str] = set()
        for probe in probes:
            try:
                event = self._holder.attach_uprobe_event(
                    self._program.programs[program],
                    plan.attach_path,
                    probe.offset,
                    probe.cookie,
                    pid=self._pid,
                    is_return=is_return,
                )
                self._probes.append(event)
            except OSError as error:
                refused |= self._refuse(plan, probe, error)
        return refused

    def _link(
        self, plan: ObjectPlan, program: str, probes: Sequence[Probe], *, is_return: bool
    ) -> int:
        """One link for all of them. Returns the keeper's number of it; raises OSError."""
        return self._holder.attach_uprobes(
            self._program.programs[program],
            plan.attach_path,
            [probe.offset for probe in probes],
            [probe.cookie for probe in probes],
            kind=UprobeLinks.SESSIONS if program == SESSION_PROGRAM else UprobeLinks.TOGETHER,
            pid=self._pid,
            is_return=is_return,
        )

    def _refuse(self, plan: ObjectPlan, probe: Probe, error: OSError) -> set[str]:
        where = f"{probe.hook.symbol} in {plan.name}"
        cannot_probe = error.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.EIO, 524)
        if cannot_probe and probe.hook.symbol not in REQUIRED:
            return {probe.hook.symbol}
        raise _explain(error, where) from None

    def detach_objects(self) -> None:
        """Take the probes off the functions; exec and exit are followed still.

        Raises KeeperGoneError.
        """
        probes, self._probes = self._probes, []
        self.objects = []
        if probes:
            self._holder.take_off(probes)

    def close(self) -> None:
        """Take every probe off, and wait until they are."""
        # If the keeper is gone, so are its probes.
        with contextlib.suppress(KeeperGoneError):
            self.detach_objects()
        for descriptor in reversed(self._lifecycle):
            os.close(descriptor)
        self._lifecycle = []


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
