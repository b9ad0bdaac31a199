"""How the functions of the Go runtime that switch stacks get back to the stack of their caller.

A goroutine has a small stack of its own. To call C, and for some of its own work, the runtime
switches to the stack of the thread (runtime/asm_amd64.s: asmcgocall, systemstack; callCgoMmap and
the like in sys_linux_amd64.s). What the code does after the call, it does with what it has saved,
and so can a walk. That code is read and followed here, up to its return, so no version of Go and no
layout of its structures is assumed. Other code than is known gives no rule.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from leaktrace.abi import process as abi
from leaktrace.abi.process import EndOf
from leaktrace.arch.x86_64 import RBP, RSP
from leaktrace.arch.x86_64_code import Instruction, Operand, decode, register_named
from leaktrace.unwind.rows import GoSwitch, Return, Switch

_MAX_CODE_BYTES = 1024  # of a function; asmcgocall has 174
_MAX_STEPS = 60  # from a call to the return
_SAVED_RBP_BELOW_CFA = 16  # as in every function of Go with a frame
_IN_TLS = re.compile(r"fs:\[(\w+)\]")


@dataclass(frozen=True)
class _Value:
    """What a register holds: `plus` and the stack pointer at the start ("sp"), the thread pointer
    ("tls", with another value: and that), nothing else ("constant"), the word at another value
    ("at"), the difference of two ("minus"), or what the instruction at `plus` loads from a word of
    the library ("loaded")."""

    kind: str
    of: tuple[_Value, ...] = ()
    plus: int = 0

    def moved(self, by: int) -> _Value:
        return _Value(self.kind, self.of, self.plus + by)

    def word(self) -> _Value:
        return _Value("at", (self,))


_SP = _Value("sp")


def find_switches(code: bytes, start: int) -> Iterator[Switch]:
    """The calls in a function, by its code and address, behind which its caller's stack is
    restored in a known way."""
    instructions = list(decode(code[:_MAX_CODE_BYTES], start))
    for index, one in enumerate(instructions):
        if one.is_call:
            found = _at_return(instructions[index + 1 :])
            rule = _rule(found, one.end - start, one.end) if found else None
            if rule is not None:
                yield Switch(one.end, rule)


def find_returns(code: bytes, start: int, callees: Collection[int]) -> Iterator[Return]:
    """Calls of `callees` in a function that saves rbp, and has the stack pointer at a fixed
    distance from its frame behind the call."""
    instructions = list(decode(code[:_MAX_CODE_BYTES], start))
    for index, one in enumerate(instructions):
        if one.is_call and one.target in callees:
            found = _at_return(instructions[index + 1 :])
            if found and not found.has_jumped and found.cfa.kind == "sp":
                saved = found.cfa.moved(-_SAVED_RBP_BELOW_CFA).word()
                if found.rbp == saved:
                    yield Return(one.end, found.cfa.plus, _SAVED_RBP_BELOW_CFA)


class _AtReturn(NamedTuple):
    """Behind the next return: the stack pointer, and rbp; whether a jump leads there."""

    cfa: _Value
    rbp: _Value | None
    has_jumped: bool


def _at_return(instructions: list[Instruction]) -> _AtReturn | None:
    """None where it isn't known. Conditional jumps forward are taken: the code that they skip is
    for the case that a thread was Go's only for a callback."""
    registers: dict[int, _Value] = {RSP: _SP}
    to = 0
    has_jumped = False
    for one in instructions[:_MAX_STEPS]:
        if one.address < to:
            continue
        if one.is_return:
            sp = registers.get(RSP)
            if sp is None or one.operands:
                return None
            return _AtReturn(sp.moved(8), registers.get(RBP), has_jumped)
        if one.is_conditional and one.target is not None and one.target > one.address:
            to, has_jumped = one.target, True
        elif one.ends_block:
            return None
        else:
            _follow(one, registers)
    return None


def _follow(one: Instruction, registers: dict[int, _Value]) -> None:
    """The effect of an instruction on the registers. Stores are not followed: what is read has been
    saved before."""
    sp = registers.get(RSP)
    to = one.operands[0] if one.operands else None
    value: _Value | None = None
    if one.mnemonic == "pop" and to and to.register is not None:
        value = sp.word() if sp else None
        registers.pop(to.register, None)
        if sp:
            registers[RSP] = sp.moved(8)
        if value:
            registers[to.register] = value
        return
    if to is not None and to.register is not None and to.size_bytes == 8:
        value = _result(one, registers, to.register)
    for register in one.written:
        registers.pop(register, None)
    if value is not None and to is not None and to.register is not None:
        registers[to.register] = value


def _result(one: Instruction, registers: dict[int, _Value], to: int) -> _Value | None:
    if len(one.operands) != 2:
        return None
    source, before = one.operands[1], registers.get(to)
    if one.mnemonic == "mov":
        if source.immediate is not None:
            return _Value("constant", plus=source.immediate)
        return _read(one, source, registers)
    if one.mnemonic in ("add", "sub") and before:
        if source.immediate is not None:
            return before.moved(source.immediate if one.mnemonic == "add" else -source.immediate)
        subtracted = _read(one, source, registers)
        if one.mnemonic == "sub" and subtracted:
            return _Value("minus", (before, subtracted))
    return None


def _read(one: Instruction, source: Operand, registers: dict[int, _Value]) -> _Value | None:
    if source.register is not None:
        return registers.get(source.register)
    if not source.is_memory or source.has_index or source.size_bytes != 8:
        return None
    if in_tls := _IN_TLS.search(one.text):
        number = register_named(in_tls[1])
        offset = _Value("constant", plus=source.displacement)
        if number is not None:
            offset = registers.get(number, _Value("unknown")).moved(source.displacement)
        if offset.kind == "loaded" and not source.displacement:
            return _Value("tls", (offset,)).word()
        return _Value("tls", plus=offset.plus).word() if offset.kind == "constant" else None
    if source.absolute is not None:
        (code,) = struct.unpack("<Q", one.code.ljust(8, b"\0")[:8])
        is_known = (
            len(one.code) == abi.GO_LOAD_BYTES and code & abi.GO_LOAD_MASK == abi.GO_LOAD_CODE
        )
        return _Value("loaded", plus=one.address) if is_known else None
    base = registers.get(source.base) if source.base is not None else None
    return base.moved(source.displacement).word() if base else None


def _thread_pointer_in(value: _Value) -> _Value | None:
    """The place relative to the thread pointer by which a value is found, if there is one."""
    for _ in range(_MAX_STEPS):
        if value.kind == "tls":
            return value
        if value.kind != "at":
            return None
        (value,) = value.of
    return None


def _rule(found: _AtReturn, entry_distance: int, return_address: int) -> GoSwitch | None:
    """The rule that gives this stack pointer in the caller; None where no rule does."""
    rule: GoSwitch | None = None
    cfa = found.cfa
    own = _thread_pointer_in(cfa) or _Value("unknown")
    m = own.word().moved(abi.GO_G_M).word()
    is_own_known, load_distance = own == _Value("tls", plus=-abi.GO_G_BELOW_TLS), None
    if own.of:
        is_own_known, load_distance = True, own.of[0].plus - return_address
    if cfa.moved(-cfa.plus) == m.word().moved(abi.GO_G_SCHED_SP).word():
        if is_own_known and found.rbp == cfa.moved(-_SAVED_RBP_BELOW_CFA).word():
            if load_distance is None:
                rule = GoSwitch(EndOf.CALLBACK, 0, 0, cfa.plus, entry_distance)
            else:
                of = EndOf.CALLBACK_OF_LIBRARY
                rule = GoSwitch(of, 0, load_distance, cfa.plus, entry_distance)
    elif found.has_jumped:
        return None
    elif cfa.kind == "minus":
        top, depth = cfa.of
        if top.kind == depth.kind == "at" and not top.plus and not depth.plus:
            goroutine = top.of[0].moved(-abi.GO_G_STACK_HI)
            if goroutine.kind == "at" and goroutine.plus == 0:
                saved_goroutine, saved_depth = goroutine.of[0], depth.of[0]
                if saved_goroutine.kind == saved_depth.kind == "sp":
                    rule = GoSwitch(
                        EndOf.C_OF_GOROUTINE,
                        saved_goroutine.plus,
                        saved_depth.plus,
                        cfa.plus,
                        entry_distance,
                    )
    elif cfa.kind == "at" and cfa.of[0].kind == "sp":
        rule = GoSwitch(EndOf.C_BELOW_SAVED_SP, 0, cfa.of[0].plus, cfa.plus, entry_distance)
    elif cfa.kind == "at":
        goroutine = cfa.of[0].moved(-abi.GO_G_SCHED_SP)
        if is_own_known and goroutine.kind == "at" and goroutine.plus == 0:
            curg = goroutine.of[0]
            if curg.moved(-curg.plus) == m and not load_distance:
                in_program, in_library = EndOf.SYSTEM_STACK, EndOf.SYSTEM_STACK_OF_LIBRARY
                of = in_program if load_distance is None else in_library
                rule = GoSwitch(of, curg.plus, 0, cfa.plus, entry_distance)
    return rule if rule is not None and rule.fits else None
