"""All goroutines of a running Go program: what each waits for, and its stack.

The program runs on meanwhile. So each goroutine is read, then its stack, then the goroutine once
more: what has changed between is distrusted, tried again, and counted. Which goroutines there are
is known in any case. Sources: runtime/runtime2.go (g, the states), runtime/traceback.go
(isSystemGoroutine).
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from leaktrace.errors import TargetError
from leaktrace.go_report import GoroutineLook, GroupKey, SeenGroup, Skip
from leaktrace.printable import printable
from leaktrace.runtimes.go.goroutine_list import (
    MAX_GOROUTINES,
    find_goroutine_list,
    looks_like_list,
    read_reasons,
)
from leaktrace.runtimes.go.layouts import G_M, G_PC, G_SELF, G_SP, G_STACK_HIGH, G_STACK_LOW
from leaktrace.runtimes.go.memory import Words
from leaktrace.runtimes.go.program import GoProgram
from leaktrace.runtimes.go.stacks import Stack, StackWalker

_SCAN_BIT = 0x1000  # the garbage collector looks at the stack
_IDLE, _RUNNABLE, _RUNNING, _SYSCALL, _WAITING, _DEAD = 0, 1, 2, 3, 4, 6
_COPYING_STACK, _PREEMPTED, _LEAKED, _DEAD_EXTRA = 8, 9, 10, 11
_NONE = (_IDLE, _DEAD, _DEAD_EXTRA)  # no goroutine at the moment
_STATES = {
    _RUNNABLE: "runnable",
    _RUNNING: "running",
    _SYSCALL: "syscall",
    _WAITING: "waiting",
    _COPYING_STACK: "copystack",
    _PREEMPTED: "preempted",
    _LEAKED: "leaked",  # as the runtime itself has found
}
_MOVING = (_RUNNABLE, _RUNNING, _COPYING_STACK, _PREEMPTED)
_NOT_SYSTEM = ("runtime.main", "runtime.handleAsyncEvent")
_RUNTIME_WAITS = ("runtime.gc", "runtime.mallocgc", "runtime.stopTheWorld")
_MAX_STACK_BYTES = 1 << 30  # the runtime's own limit
_MAX_TRIES = 3
_LIST_TRIES = 5


class LayoutUnknownError(TargetError):
    """The runtime's data isn't where it should be."""


@dataclass
class _Goroutines:
    """Members of some goroutines: arrays of the same length."""

    address: Words
    low: Words
    high: Words
    m: Words
    sp: Words
    pc: Words
    own: Words
    syscall_sp: Words
    syscall_pc: Words
    status: NDArray[np.uint32]
    goid: Words
    wait_since: Words
    reason: NDArray[np.uint8]
    created_at: Words
    start: Words
    was_read: NDArray[np.bool_]

    def same_as(self, other: _Goroutines) -> NDArray[np.bool_]:
        """Which have not gone on, as far as one can see."""
        same: NDArray[np.bool_] = self.was_read & other.was_read & (self.status == other.status)
        for name in ("low", "high", "m", "sp", "pc", "goid", "syscall_sp", "syscall_pc", "reason"):
            same &= getattr(self, name) == getattr(other, name)
        return same


@dataclass
class _Group:
    ids: list[int] = field(default_factory=list)
    stack_bytes: int = 0
    waits_since_ns: int | None = None
    can_leak: bool = True

    def seen(self, now_ns: int) -> SeenGroup:
        since = self.waits_since_ns
        wait = now_ns - since if since is not None and 0 < since <= now_ns else None
        return SeenGroup(frozenset(self.ids), self.stack_bytes, wait, self.can_leak)


@dataclass
class _Account:
    """Of one look, while it is made."""

    groups: dict[GroupKey, _Group] = field(default_factory=dict)
    alive: set[int] = field(default_factory=set)
    moving: set[int] = field(default_factory=set)
    system_count: int = 0
    skipped: Counter[Skip] = field(default_factory=Counter)

    def is_new(self, goid: int) -> bool:
        """Whether a goroutine was not counted yet; it is now."""
        before = len(self.alive)
        self.alive.add(goid)
        return len(self.alive) > before

    def add_changed(self, goids: list[int]) -> None:
        """Those that went on each time they were looked at."""
        for goid in goids:
            if self.is_new(goid):
                self.moving.add(goid)
                self.skipped[Skip.CHANGED] += 1


class Goroutines:
    """Looks at the goroutines of a program."""

    def __init__(self, program: GoProgram) -> None:
        """Raises LayoutUnknownError where they aren't found, and OSError as `GoMemory`."""
        self._program = program
        self._walker = StackWalker(program)
        self._system: dict[int, bool] = {}  # by the function that a goroutine began with
        found = find_goroutine_list(program)
        if found is None:
            raise LayoutUnknownError(*_unknown(program))
        self._list = found
        self.reasons = read_reasons(program)

    def is_there(self) -> bool:
        """Whether the program is still the same: a process can execute another one."""
        return looks_like_list(self._program, self._list)

    def look(self) -> GoroutineLook:
        """Raises OSError as `GoMemory`, and LayoutUnknownError where the list can't be read, or has
        more than MAX_GOROUTINES."""
        began_s, now_ns = time.monotonic(), time.monotonic_ns()
        account = _Account()
        current = self._read(self._addresses())
        alive = ~np.isin(current.status, _NONE)
        bad = ~current.was_read | (alive & ~_are_sound(current))
        account.skipped[Skip.UNREADABLE] += int(bad.sum())
        current = _take(current, (alive & ~bad).nonzero()[0])
        for _ in range(_MAX_TRIES):
            stacks = self._stacks(current)
            again = self._read(current.address)
            same = current.same_as(again)
            for index in same.nonzero()[0].tolist():
                self._put(account, current, index, stacks[index])
            changed = ~same & again.was_read & ~np.isin(again.status, _NONE) & _are_sound(again)
            current = _take(again, changed.nonzero()[0])
            if not len(current.address):
                break
        account.add_changed(current.goid.tolist())
        return GoroutineLook(
            time_s=began_s,
            took_s=time.monotonic() - began_s,
            groups={key: group.seen(now_ns) for key, group in account.groups.items()},
            moving_ids=frozenset(account.moving),
            alive_count=len(account.alive),
            system_count=account.system_count,
            skipped={skip: count for skip, count in account.skipped.items() if count},
        )

    def _addresses(self) -> Words:
        memory = self._program.memory
        for _ in range(_LIST_TRIES):
            header = memory.read(self._list, 24)
            if header is None:
                break
            pointer, length, room = np.frombuffer(header, np.uint64).tolist()
            if not 0 < length <= room:
                break
            if length > MAX_GOROUTINES:
                raise LayoutUnknownError(
                    f"process {self._program.pid} has had more than {MAX_GOROUTINES:,} goroutines "
                    f"at once ({length:,}): that many are not looked at",
                    "look at it before it has so many: the list never gets shorter",
                )
            raw = memory.read(pointer, 8 * length)
            # A list that grows moves. It never gets shorter.
            if raw is not None and memory.read(self._list, 8) == header[:8]:
                return np.unique(np.frombuffer(raw, np.uint64))
        raise LayoutUnknownError(*_unknown(self._program))

    def _read(self, addresses: Words) -> _Goroutines:
        layout = self._program.layout
        size = max(layout.g_start_pc, layout.g_created_pc) + 8
        raw, was_read = self._program.memory.rows(addresses, size)

        def words(at: int) -> Words:
            return raw[:, at : at + 8].copy().view(np.uint64)[:, 0]

        status = raw[:, layout.g_status : layout.g_status + 4].copy().view(np.uint32)[:, 0]
        return _Goroutines(
            address=addresses,
            low=words(G_STACK_LOW),
            high=words(G_STACK_HIGH),
            m=words(G_M),
            sp=words(G_SP),
            pc=words(G_PC),
            own=words(G_SELF),
            syscall_sp=words(layout.g_syscall_sp),
            syscall_pc=words(layout.g_syscall_pc),
            status=status & ~np.uint32(_SCAN_BIT),
            goid=words(layout.g_goid),
            wait_since=words(layout.g_wait_since),
            reason=raw[:, layout.g_wait_reason].copy(),
            created_at=words(layout.g_created_pc),
            start=words(layout.g_start_pc),
            was_read=was_read,
        )

    def _stacks(self, goroutines: _Goroutines) -> list[Stack | None]:
        """The stack of each; None where it runs, or its stack can't be read."""
        in_call = (goroutines.status == _SYSCALL) & (goroutines.syscall_sp != 0)
        sp = np.where(in_call, goroutines.syscall_sp, goroutines.sp)
        pc = np.where(in_call, goroutines.syscall_pc, goroutines.pc)
        parked = np.isin(goroutines.status, (_RUNNABLE, _WAITING, _PREEMPTED, _LEAKED)) | in_call
        parked &= (sp >= goroutines.low) & (sp < goroutines.high)
        some = parked.nonzero()[0]
        stacks: list[Stack | None] = [None] * len(sp)
        walked = self._walker.walk(sp[some], pc[some], goroutines.high[some])
        for index, stack in zip(some.tolist(), walked, strict=True):
            stacks[index] = stack
        return stacks

    def _put(
        self, account: _Account, goroutines: _Goroutines, index: int, stack: Stack | None
    ) -> None:
        """Count one that didn't change while it was looked at."""
        status, goid = int(goroutines.status[index]), int(goroutines.goid[index])
        start = int(goroutines.start[index])
        if not account.is_new(goid):
            return
        if self._is_system(start):
            account.system_count += 1
            return
        if status in _MOVING:
            account.moving.add(goid)
        if stack is None:
            is_running = status in (_RUNNING, _COPYING_STACK, _SYSCALL)
            account.skipped[Skip.RUNNING if is_running else Skip.UNREADABLE] += 1
        elif not stack.is_complete:
            account.skipped[Skip.INCOMPLETE] += 1
        key = GroupKey(
            self._state(status, int(goroutines.reason[index])),
            stack.addresses if stack else (),
            int(goroutines.created_at[index]),
            start,
        )
        group = account.groups.get(key)
        if group is None:
            can_leak = status not in _MOVING and not self._waits_for_runtime(key.stack)
            group = account.groups[key] = _Group(can_leak=can_leak)
        group.ids.append(goid)
        group.stack_bytes += int(goroutines.high[index] - goroutines.low[index])
        since = int(goroutines.wait_since[index]) if status == _WAITING else 0
        if since and (group.waits_since_ns is None or since < group.waits_since_ns):
            group.waits_since_ns = since

    def _state(self, status: int, reason: int) -> str:
        if status == _WAITING and 0 < reason < len(self.reasons):
            return self.reasons[reason]
        return _STATES[status]

    def _waits_for_runtime(self, stack: tuple[int, ...]) -> bool:
        """Whether a goroutine waits in an allocation, or in the collector of garbage."""
        program = self._program
        for address in stack:
            found = program.table.function_at(address - 1 - program.bias)
            if found is None or not found[0].startswith("runtime."):
                return False
            if found[0].startswith(_RUNTIME_WAITS):
                return True
        return False

    def _is_system(self, start: int) -> bool:
        known = self._system.get(start)
        if known is None:
            found = self._program.table.function_at(start - self._program.bias)
            name = found[0] if found else ""
            known = name.startswith("runtime.") and name not in _NOT_SYSTEM
            self._system[start] = known
        return known


def _take(goroutines: _Goroutines, some: NDArray[np.intp]) -> _Goroutines:
    return _Goroutines(**{name: values[some] for name, values in vars(goroutines).items()})


def _are_sound(goroutines: _Goroutines) -> NDArray[np.bool_]:
    """Which are goroutines, by all that one can check."""
    size = goroutines.high - goroutines.low
    sound: NDArray[np.bool_] = (
        np.isin(goroutines.status, (*_STATES, *_NONE))
        & (goroutines.own == goroutines.address)
        & (goroutines.goid > 0)
        & (goroutines.low > 0)
        & (goroutines.high > goroutines.low)
        & (size <= _MAX_STACK_BYTES)
    )
    return sound


def _unknown(program: GoProgram) -> tuple[str, str]:
    version = printable(program.version.text)
    if program.is_known_version:
        return (
            f"the goroutines of process {program.pid} ({version}) can't be found",
            "it may have started just now, or be damaged: try again",
        )
    return (
        f"the goroutines of process {program.pid} can't be found: it was built with {version}, "
        "whose layout is not known",
        "a newer version of leaktrace may know it",
    )
