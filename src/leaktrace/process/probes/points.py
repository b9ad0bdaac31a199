"""How to know the result of a call without touching its return address.

A return probe replaces the return address on the stack, and whatever unwinds through it (an
exception, a coroutine, a backtrace) meets the kernel's trampoline. So a call is followed by probes
inside the function, on instructions at which it is known, on every way through the function, where
the size that was asked for is, or where the result is:

- a *begin* point opens the call: the size is at hand, and nothing was called yet that may allocate,
- an *end* point closes it: the result is at hand, and nothing is called any more,
- at a *both* point size and result are at hand at once: one trap for the whole call.

The ways and places come from `probes/code`. `choose.py` chooses points by cost, on instructions
that the kernel emulates where there is one; then `prove.py`, other code over the same ways, checks
that each call begins and ends once. A function that can't be followed has a reason in their place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from leaktrace.abi.process import Function, Rule, SavedRbp
from leaktrace.arch.x86_64 import ARGUMENTS, RBP, RSP
from leaktrace.elf.object import ElfObject
from leaktrace.errors import ObjectFileError
from leaktrace.process.probes.choose import Chooser
from leaktrace.process.probes.code.analysis import analyse
from leaktrace.process.probes.code.flow import CodeReader, Flow, UnfollowableError
from leaktrace.process.probes.code.forward import can_return
from leaktrace.process.probes.code.values import (
    Constant,
    FrameAddress,
    Place,
    Register,
    Slot,
    Values,
)
from leaktrace.process.probes.point import NARROW, Point
from leaktrace.process.probes.prove import prove
from leaktrace.unwind.rows import CFA_OFFSET_UNIT, Row


class FrameRules(Protocol):
    """What unwind information says of an address."""

    def lookup(self, vaddr: int) -> Row | None:
        """The row in force; None where there is none."""


class PointFinder:
    """Finds the points of the functions of one object."""

    def __init__(
        self,
        elf: ElfObject,
        hooked: Mapping[int, Function],
        names: Mapping[str, Function],
        rules: FrameRules | None,
    ) -> None:
        """`hooked`: all hooked functions of the object, by virtual address; `names`: what hooked
        functions are called, in whichever object; `rules`: its unwind information, to check the
        analysis with."""
        self._reader = CodeReader(elf, hooked, names)
        self._hooked = hooked
        self._others: dict[int | str, Function] = {}
        for one in (hooked, names):
            self._others.update(one.items())
        self._rules = rules
        self._returning: dict[tuple[object, ...], bool] = {}

    def find(self, vaddr: int, argument_count: int) -> tuple[Point, ...]:
        """The points of a hooked function; none where every way hands the call on to another one.

        Raises UnfollowableError with the reason where its ways, or a value on them, can't be
        followed.
        """
        function = self._hooked[vaddr]
        try:
            flow, values = self._analyse(vaddr, function)
        except ObjectFileError as error:
            raise UnfollowableError(error.message) from None
        chooser = Chooser(flow, values, function, argument_count, self._others)
        points = chooser.choose()
        prove(points, chooser)
        if self._rules is None:
            return points
        return tuple(_checked(values, point, self._rules) for point in points)

    def _analyse(self, vaddr: int, function: Function) -> tuple[Flow, Values]:
        flow = self._reader.flow(vaddr)
        while True:
            values = analyse(flow, self._reader.extent, narrow_result=function in NARROW)
            final = [
                at
                for at, call in flow.calls.items()
                if call.returns and self._is_final(flow, values, at)
            ]
            if not final:
                return flow, values
            flow = self._reader.cut_off(flow, final)

    def _is_final(self, flow: Flow, values: Values, at: int) -> bool:
        """Whether a call never comes back, for the numbers that it is given: __libc_message of
        glibc, told to abort."""
        target, state = flow.instructions[at].target, values.before.get(at)
        # Compilers pad behind such a call: any other one need not be looked at.
        behind = flow.instructions.get(flow.instructions[at].end)
        if target is None or state is None or behind is None or behind.mnemonic != "nop":
            return False
        held = {number: state.get(Register(number)) for number in ARGUMENTS}
        numbers = {n: value.value for n, value in held.items() if isinstance(value, Constant)}
        return bool(numbers) and not self._can_return(target, numbers)

    def _can_return(self, vaddr: int, numbers: Mapping[int, int]) -> bool:
        key = (vaddr, *sorted(numbers.items()))
        if key not in self._returning:
            try:
                self._returning[key] = can_return(self._reader.flow(vaddr), numbers)
            except (UnfollowableError, ObjectFileError):
                self._returning[key] = True
        return self._returning[key]


def _checked(values: Values, point: Point, rules: FrameRules) -> Point:
    """The unwind information, where there is some, must put the frame in the same place. It may
    also know where the caller's rbp is, if the analysis doesn't."""
    row = rules.lookup(point.vaddr)
    if row is None or row.rule not in (Rule.RULE_RSP, Rule.RULE_RBP):
        return point
    number = RSP if row.rule is Rule.RULE_RSP else RBP
    held = values.before[point.vaddr].get(Register(number))
    if held is not None and held != FrameAddress(-row.cfa_offset):
        raise UnfollowableError(f"its unwind information says another frame at {point.vaddr:#x}")
    if point.callers_rbp is not None:
        return point
    saved: Place | None = None
    if row.saved_rbp == SavedRbp.UNCHANGED:
        saved = Register(RBP)
    elif row.saved_rbp not in (SavedRbp.LOST, SavedRbp.AT_RBP):
        saved = Slot(-CFA_OFFSET_UNIT * row.saved_rbp)
    return replace(point, callers_rbp=saved)
