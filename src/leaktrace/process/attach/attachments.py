"""Attaches the loaded programs to functions of the target, by uprobes.

If the kernel has uprobe_multi links (Linux 6.6; since 6.10 their pid means a process), one link
holds all probes of an object that share a program. Otherwise each probe is a perf event. Either
way, the keeper (process/attach/keeper.py) holds the probes, and removes them when leaktrace ends,
however it ends.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from leaktrace.abi import process as abi
from leaktrace.bpf import links
from leaktrace.bpf.links import UprobeLinks
from leaktrace.bpf.maps import Map
from leaktrace.capabilities import enumerate_missing, missing_for_probes
from leaktrace.errors import (
    AS_ROOT_OR_DOCTOR,
    EnvironmentUnfitError,
    LeaktraceError,
    ProgramError,
    TargetError,
)
from leaktrace.process.attach.keeper import Keeper, KeeperGoneError
from leaktrace.process.probes.allocators import (
    ANY_ENTRY_PROGRAM,
    POINT_PROGRAM,
    RETURN_PROGRAM,
)
from leaktrace.process.probes.encode import encode_points
from leaktrace.process.probes.object_plan import LeftOut, ObjectPlan, PointProbe, Probe
from leaktrace.process.program import RAW_TRACEPOINTS, SYSTEM_CALL_TRACEPOINTS, Program
from leaktrace.process.slot import Slot

_ENOTSUPP = 524  # include/linux/errno.h: an instruction that the kernel doesn't probe


class ObjectRefusedError(ProgramError):
    """The kernel refuses probes that an object needs. Other objects may still be traced."""


@dataclass(frozen=True)
class HookedObject:
    """What was hooked in one object, for the report's header and for --verbose."""

    name: str
    path: str
    functions: tuple[str, ...]
    missing: tuple[str, ...]  # not defined by the object
    required: tuple[str, ...]  # malloc and free, or those of another allocator
    refused: tuple[str, ...]  # the kernel can't probe them
    stepped: tuple[str, ...]  # their probes cost a second trap
    awaited: tuple[str, ...] = ()  # with a return probe, which replaces the return address
    left_out: tuple[LeftOut, ...] = ()
    offsets: tuple[int, ...] = ()  # of the probes, in the file


@dataclass(frozen=True)
class _Placed:
    """A probe as the kernel gets it."""

    symbol: str
    program: str  # the one for the arguments of its function; "" for a point
    offset: int
    cookie: int
    is_required: bool = False
    space: int = 0  # of a function that the user named


def _entry(probe: Probe) -> _Placed:
    hook = probe.hook
    return _Placed(
        hook.symbol, hook.program, probe.offset, hook.cookie, hook.is_required, hook.space
    )


class Lifecycle:
    """The tracepoints of exec, fork, the end of threads and the OOM killer, for all traced
    processes; and of system calls, where file descriptors are traced."""

    def __init__(self, program: Program) -> None:
        """Attaches to them. Raises LeaktraceError."""
        self._descriptors: list[int] = []
        for name in (*RAW_TRACEPOINTS, *SYSTEM_CALL_TRACEPOINTS):
            one = program.programs.get(f"at_{name}")
            if one is None:  # this kernel lacks what it needs, or it isn't asked for
                continue
            try:
                attached = links.attach_raw_tracepoint(one, name)
            except OSError as error:
                self.close()
                raise _explain(error, f"the tracepoint {name}") from None
            self._descriptors.append(attached)

    def close(self) -> None:
        """Detach from them."""
        for descriptor in reversed(self._descriptors):
            os.close(descriptor)
        self._descriptors = []


class StoredPoints:
    """The points in the kernel side's array. Processes that map the same object share them."""

    def __init__(self, points: Map | None) -> None:
        """`points`: the array; None where calls are not followed by points."""
        self._map = points
        self._first: dict[bytes, int] = {}
        self._count = 0

    def store(self, probes: Sequence[PointProbe]) -> int:
        """Returns the index of the first of these points; the others follow it.

        Raises ObjectRefusedError when there are too many.
        """
        encoded = encode_points(probe.point for probe in probes)
        key = encoded.tobytes()
        if key in self._first:
            return self._first[key]
        first = self._count
        if self._map is None or first + len(probes) > self._map.capacity:
            raise ObjectRefusedError(
                "the traced processes have too many allocators",
                "choose one object with --obj",
            )
        for number in range(len(probes)):
            self._map.update(first + number, encoded[number : number + 1])
        self._count += len(probes)
        self._first[key] = first
        return first


class Attachments:
    """All probes on functions of one process."""

    def __init__(self, slot: Slot, pid: int, keeper: Keeper | None, points: StoredPoints) -> None:
        """`keeper` holds the probes; None if there are none."""
        self._slot = slot
        self._program = slot.program
        self._pid = pid
        self._keeper = keeper
        self._points = points
        self._probes: list[int] = []  # by the keeper's numbers
        self.objects: list[HookedObject] = []

    def attach(self, plan: ObjectPlan) -> HookedObject:
        """Attach all probes of an object. Its file may be closed afterwards.

        A function that the kernel can't probe is left out and listed in `refused`, unless tracing
        requires it (malloc, free). Raises ObjectRefusedError, EnvironmentUnfitError, TargetError or
        KeeperGoneError, after removing the probes that were attached.
        """
        before = len(self._probes)
        try:
            return self._attach(plan)
        except LeaktraceError:
            attached, self._probes = self._probes[before:], self._probes[:before]
            with contextlib.suppress(KeeperGoneError):
                self._holder.remove(attached)
            raise

    def _attach(self, plan: ObjectPlan) -> HookedObject:
        # Releases first, entries of allocations last: while the process runs, no allocation may be
        # recorded whose release can't be seen.
        releases = [_entry(probe) for probe in plan.probes if not probe.hook.has_return]
        calls = [_entry(probe) for probe in plan.probes if probe.hook.has_return]
        refused: set[str] = set()
        for program, probes in self._by_entry_program(releases):
            refused |= self._attach_group(plan, program, probes)
        points = self._points_of(plan)
        refused |= self._attach_group(plan, POINT_PROGRAM, points)
        refused |= self._attach_group(plan, RETURN_PROGRAM, calls, is_return=True)
        wanted = [probe for probe in calls if probe.symbol not in refused]
        for program, probes in self._by_entry_program(wanted):
            refused |= self._attach_group(plan, program, probes)
        hooked = HookedObject(
            name=plan.name,
            path=plan.path,
            functions=tuple(symbol for symbol in plan.symbols if symbol not in refused),
            missing=plan.missing,
            required=plan.required,
            refused=tuple(sorted(refused)),
            stepped=plan.stepped,
            awaited=tuple(probe.symbol for probe in calls if probe.symbol not in refused),
            left_out=plan.left_out,
            offsets=tuple(
                sorted(
                    {probe.offset for probe in points}
                    | {one.offset for one in (*releases, *calls) if one.symbol not in refused}
                )
            ),
        )
        if plan.is_allocator:
            self.objects.append(hooked)
        return hooked

    def _points_of(self, plan: ObjectPlan) -> list[_Placed]:
        """Number an object's points and store them for the kernel side.

        Raises ObjectRefusedError when there are too many.
        """
        probes = plan.point_probes()
        if not probes or self._program.points is None:
            return []
        first = self._points.store(probes)
        return [
            _Placed(
                probe.point.function.name.lower(),
                "",
                probe.offset,
                first + number | probe.space << abi.COOKIE_SPACE_SHIFT,
                space=probe.space,
            )
            for number, probe in enumerate(probes)
        ]

    def _by_entry_program(self, probes: Iterable[_Placed]) -> Iterable[tuple[str, list[_Placed]]]:
        groups: defaultdict[str, list[_Placed]] = defaultdict(list)
        for probe in probes:
            by_shape = probe.program
            is_loaded = by_shape in self._program.programs
            groups[by_shape if is_loaded else ANY_ENTRY_PROGRAM].append(probe)
        return groups.items()

    @property
    def _holder(self) -> Keeper:
        assert self._keeper is not None  # it exists if functions are hooked
        return self._keeper

    def _attach_group(
        self, plan: ObjectPlan, program: str, probes: Sequence[_Placed], *, is_return: bool = False
    ) -> set[str]:
        """Attach one program at several probes. Returns the symbols that the kernel can't probe."""
        if not probes:
            return set()
        if self._program.links is UprobeLinks.TOGETHER:
            try:
                link = self._holder.attach_uprobes(
                    self._program.programs[program],
                    plan.attach_path,
                    [probe.offset for probe in probes],
                    [self._slot.cookie(probe.cookie) for probe in probes],
                    pid=self._pid,
                    is_return=is_return,
                )
            except OSError as error:
                if len(probes) == 1:
                    return self._refuse(plan, probes[0], error)
            else:
                self._probes.append(link)
                return set()
            # One of them is refused: find out which.
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
                    self._slot.cookie(probe.cookie),
                    pid=self._pid,
                    is_return=is_return,
                )
                self._probes.append(event)
            except OSError as error:
                refused |= self._refuse(plan, probe, error)
        return refused

    def _refuse(self, plan: ObjectPlan, probe: _Placed, error: OSError) -> set[str]:
        where = f"{probe.symbol} in {plan.name}"
        cannot_probe = error.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.EIO, _ENOTSUPP)
        # Without one of its points, a function's calls would be seen to begin and never to end.
        is_optional = not probe.is_required and not probe.space
        if cannot_probe and is_optional and probe.program:
            return {probe.symbol}
        raise _explain(error, where) from None

    def detach_objects(self) -> None:
        """Remove the probes. Raises KeeperGoneError."""
        self.objects = []
        probes = self.hand_over()
        if probes:
            self._holder.remove(probes)

    def hand_over(self) -> list[int]:
        """The probes, by the keeper's numbers. The caller removes them: many at once take hardly
        longer than one."""
        probes, self._probes = self._probes, []
        return probes

    def close(self) -> None:
        """Remove all probes, and return when that is done."""
        # If the keeper has ended, its probes are removed.
        with contextlib.suppress(KeeperGoneError):
            self.detach_objects()


def _explain(error: OSError, where: str) -> LeaktraceError:
    if error.errno in (errno.EPERM, errno.EACCES):
        missing = missing_for_probes()
        return EnvironmentUnfitError(
            f"the kernel doesn't permit a probe on {where}"
            + (f"; {enumerate_missing(missing)}" if missing else ""),
            AS_ROOT_OR_DOCTOR,
        )
    if error.errno == errno.ESRCH:
        return TargetError(
            "the process ended before it could be traced",
            "check how it ends without leaktrace; -c traces a command from its start",
        )
    if error.errno == errno.EMFILE:
        return EnvironmentUnfitError(
            "too many open files for the probes", "raise the limit: ulimit -n 4096"
        )
    return ObjectRefusedError(
        f"can't attach a probe to {where}: {error.strerror}",
        "please report this with the output of `leaktrace doctor`",
    )
