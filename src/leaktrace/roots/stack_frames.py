"""The frames on the stacks of threads that wait, by the unwind tables of the code: which call a
word on a stack belongs to (docs/unwinding.md).

The process is not stopped. So a stack counts only if the thread waited at the same place before and
after it was read.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaktrace.abi.process import Rule, SavedRbp
from leaktrace.arch.x86_64 import SIGNAL_RBP_OFFSET, SIGNAL_RIP_OFFSET, SIGNAL_RSP_OFFSET
from leaktrace.errors import ObjectFileError
from leaktrace.roots.module_data import ModuleData
from leaktrace.targets.dead_stacks import ReadMemory
from leaktrace.targets.thread_registers import Registers
from leaktrace.unwind.rows import Row

_MOST_FRAMES = 127
_MOST_THREADS = 64  # whose stacks are walked
_WORD = struct.Struct("<Q")


class _EndError(Exception):
    """The walk can't go on."""


@dataclass(frozen=True)
class _State:
    """What a frame is found by."""

    ip: int
    sp: int
    bp: int


@dataclass(frozen=True)
class Frames:
    """The frames of one stack, innermost first."""

    ends: NDArray[np.uint64]  # the canonical frame addresses
    code: tuple[int, ...]  # an address in the function of each: where it calls, or is

    def at(self, addresses: NDArray[np.uint64]) -> NDArray[np.intp]:
        """The frame that each address is in, -1 for none. What is below the stack pointer belongs
        to the innermost one."""
        found = np.searchsorted(self.ends, addresses, side="right")
        return np.where(found < len(self.ends), found, -1)


class StackFrames:
    """Walks stacks when they are asked for."""

    def __init__(
        self,
        modules: Sequence[ModuleData],
        threads: Registers,
        registers_now: Callable[[], Registers],
        read: ReadMemory,
    ) -> None:
        """`threads`: as they were when memory began to be read."""
        parts = [(low, high, one) for one in modules for low, high in one.ranges()]
        self._code = sorted(parts, key=lambda one: one[:2])
        self._starts = [low for low, _, _ in self._code]
        self._read = read
        self._before = _waiting(threads)
        self._now = registers_now
        self._walked = 0

    def of(self, tid: int) -> Frames | None:
        """The frames of a thread; None if they are not known."""
        state = self._before.get(tid)
        if state is None or self._walked >= _MOST_THREADS:
            return None
        self._walked += 1
        frames = self._walk(state)
        return frames if _waiting(self._now()).get(tid) == state else None

    def _walk(self, state: _State) -> Frames:
        ends: list[int] = []
        code: list[int] = []
        back = 0  # a return address is behind the call
        try:
            while len(ends) < _MOST_FRAMES:
                row = self._row(state.ip - back)
                code.append(state.ip - back)
                state = self._caller(row, state)
                ends.append(state.sp)
                back = 0 if row.rule is Rule.RULE_SIGNAL else 1
        except _EndError:
            pass
        return Frames(np.array(ends, dtype=np.uint64), tuple(code[: len(ends)]))

    def _row(self, ip: int) -> Row:
        at = bisect_right(self._starts, ip) - 1
        if at < 0 or ip >= self._code[at][1]:
            raise _EndError
        module = self._code[at][2]
        try:
            row = module.unwind_table.lookup(ip - module.base)
        except ObjectFileError:
            row = None
        if row is None or row.rule in (Rule.RULE_END, Rule.RULE_NONE):
            raise _EndError
        return row

    def _caller(self, row: Row, state: _State) -> _State:
        match row.rule:
            case Rule.RULE_RSP:
                cfa = state.sp + row.cfa_offset
            case Rule.RULE_RBP:
                cfa = state.bp + row.cfa_offset
            case Rule.RULE_PLT:
                cfa = state.sp + 8 + (8 if state.ip % 16 >= row.cfa_offset else 0)
            case Rule.RULE_RBP_DEREF:
                cfa = self._word(state.bp + row.cfa_offset)
            case Rule.RULE_RSP_DEREF:
                cfa = self._word(state.sp + row.cfa_offset)
            case _:
                ip, sp, bp = (
                    self._word(state.sp + offset)
                    for offset in (SIGNAL_RIP_OFFSET, SIGNAL_RSP_OFFSET, SIGNAL_RBP_OFFSET)
                )
                if sp <= state.sp:  # of another stack
                    raise _EndError
                return _State(ip, sp, bp)
        if cfa <= state.sp:
            raise _EndError
        match row.saved_rbp:
            case SavedRbp.UNCHANGED:
                bp = state.bp
            case SavedRbp.LOST:
                bp = 0  # a rule that needs it finds no frame above this one
            case SavedRbp.AT_RBP:
                bp = self._word(state.bp)
            case n:
                bp = self._word(cfa - 8 * n)
        return _State(self._word(cfa - 8), cfa, bp)

    def _word(self, address: int) -> int:
        data = self._read(address, 8) if 0 < address < 1 << 47 else b""
        if len(data) < 8:
            raise _EndError
        word: int = _WORD.unpack(data)[0]
        return word


def _waiting(threads: Registers) -> dict[int, _State]:
    """The threads that wait, by id."""
    return {
        int(threads.tids[row]): _State(
            int(threads.instruction_pointers[row]),
            int(threads.stack_pointers[row]),
            int(threads.frame_pointers[row]),
        )
        for row in np.nonzero(~threads.is_running)[0].tolist()
    }
