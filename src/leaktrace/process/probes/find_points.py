"""How to know the result of a call without touching its return address.

A return probe replaces the return address on the stack, and code that unwinds through it (an
exception, a coroutine, a backtrace) finds the kernel's trampoline. So a call is followed by probes
inside the function: on every path through it, at instructions where the place of the size or of the
result is known:

- a *begin* point opens the call: the size is known, and nothing that may allocate was called yet,
- an *end* point closes it: the result is known, and nothing is called after it,
- at a *both* point the size and the result are known: one trap for the whole call.

The paths and places come from `probes/code`. `choose.py` chooses points by cost, on instructions
that the kernel emulates if there are any; then `prove.py`, independently, checks that each call
begins and ends once. For a function that can't be followed there is a reason instead of points.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from leaktrace.abi.process import Rule, SavedRbp
from leaktrace.arch.x86_64 import ARGUMENTS, RBP, RSP
from leaktrace.elf.object import ElfObject
from leaktrace.errors import ObjectFileError
from leaktrace.process.probes.choose_points import Chooser
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
from leaktrace.process.probes.point import Point
from leaktrace.process.probes.prove_points import prove
from leaktrace.process.probes.shape import Signature
from leaktrace.unwind.rows import CFA_OFFSET_UNIT, Row


class FrameRules(Protocol):
    """The unwind information of an address."""

    def lookup(self, vaddr: int) -> Row | None:
        """The row in force; None where there is none."""


class PointFinder:
    """Finds the points of the functions of one object."""

    def __init__(
        self,
        elf: ElfObject,
        hooked: Mapping[int, Signature],
        names: Mapping[str, Signature],
        rules: FrameRules | None,
    ) -> None:
        """`hooked`: all hooked functions of the object, by virtual address; `names`: what hooked
        functions of all objects are called; `rules`: its unwind information, which checks the
        analysis."""
        self._reader = CodeReader(elf, hooked, names)
        self._hooked = hooked
        self._others: dict[int | str, Signature] = {}
        for one in (hooked, names):
            self._others.update(one.items())
        self._rules = rules
        self._returning: dict[tuple[object, ...], bool] = {}

    def find(self, vaddr: int) -> tuple[Point, ...]:
        """The points of a hooked function; none where every path passes the call on to another one.

        Raises UnfollowableError with the reason where its paths, or a value on them, can't be
        followed.
        """
        signature = self._hooked[vaddr]
        try:
            flow, values = self._analyse(vaddr, signature)
        except ObjectFileError as error:
            raise UnfollowableError(error.message) from None
        chooser = Chooser(flow, values, signature, self._others)
        points = chooser.choose()
        prove(points, chooser)
        if self._rules is None:
            return points
        return tuple(_checked(values, point, self._rules) for point in points)

    def _analyse(self, vaddr: int, signature: Signature) -> tuple[Flow, Values]:
        flow = self._reader.flow(vaddr)
        while True:
            values = analyse(flow, self._reader.extent, narrow_result=signature.returns_int)
            final = [
                at
                for at, call in flow.calls.items()
                if call.returns and self._is_final(flow, values, at)
            ]
            if not final:
                return flow, values
            flow = self._reader.cut_off(flow, final)

    def _is_final(self, flow: Flow, values: Values, at: int) -> bool:
        """Whether a call never returns, because of constant arguments: __libc_message of glibc with
        do_abort."""
        target, state = flow.instructions[at].target, values.before.get(at)
        # Compilers pad after such a call, so that others need not be examined.
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
    """The point, compared with the unwind information, if there is any: the frame must be in the
    same place. The unwind information may also know where the caller's rbp is.

    Raises UnfollowableError.
    """
    row = rules.lookup(point.vaddr)
    if row is None or row.rule not in (Rule.RULE_RSP, Rule.RULE_RBP):
        return point
    number = RSP if row.rule is Rule.RULE_RSP else RBP
    held = values.before[point.vaddr].get(Register(number))
    if held is not None and held != FrameAddress(-row.cfa_offset):
        raise UnfollowableError(f"its unwind information has another frame at {point.vaddr:#x}")
    if point.callers_rbp is not None:
        return point
    saved: Place | None = None
    if row.saved_rbp == SavedRbp.UNCHANGED:
        saved = Register(RBP)
    elif row.saved_rbp not in (SavedRbp.LOST, SavedRbp.AT_RBP):
        saved = Slot(-CFA_OFFSET_UNIT * row.saved_rbp)
    return replace(point, callers_rbp=saved)
