"""The walk in Python, by docs/unwinding.md: every rule, every fallback and how a walk ends.

Tables are searched by the model in unwind_walker.py. There are no caches and no copies of more than
what is needed, so a walk that differs from this one went wrong there or in its arithmetic.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any, NamedTuple

from unwind_walker import Arrays

from leaktrace.abi import process as abi
from leaktrace.abi.process import EndOf, Rule, SavedRbp, StackEndCode, WalkResult
from leaktrace.unwind.rows import CALLBACKS, GoSwitch, NoRule, Row, unpack_switch
from walker.cases import (
    SIGNAL_RBP_OFFSET,
    SIGNAL_RIP_OFFSET,
    SIGNAL_RSP_OFFSET,
    TASK_FSBASE,
)
from walker.machine import Memory
from walker.walks import Caller, Origin, Start

_RBP = 5  # as instructions number it
_MASK = (1 << 64) - 1
_TRAMPOLINE_BYTES = 64
_FAR_BYTES = 1 << 20  # a frame pointer this far above sp is none
COPIED_BELOW = 64  # a walk that begins above a function reads from there on
_WORDS_OF_SIGNAL = 7
_CALL_DIRECT = 0xE8
_MOST_SWITCHES = 12  # of stacks by Go
_SIGNAL_CODE = bytes.fromhex("48c7c00f0000000f")  # mov $15, %rax; syscall
# call with five bytes, and call *... with two, three, four, six and seven
_TARGET = rb"\xff[\x10-\x17\x50-\x57\x90-\x97\xd0-\xd7]"
_CALL = re.compile(
    rb"...\xe8....|"
    + b"|".join(b"." * (8 - size) + _TARGET + b"." * (size - 2) for size in (2, 3, 4, 6, 7)),
    re.DOTALL,
)
_EPILOGUE = re.compile(rb"\x48\x83\xc4([\x00-\x7f])\xc3", re.DOTALL)  # add $N, %rsp; ret


class Expected(NamedTuple):
    """What a walk should find."""

    ips: tuple[int, ...]
    result: WalkResult
    end: StackEndCode


class _EndError(Exception):
    def __init__(self, result: WalkResult) -> None:
        super().__init__(result.name)
        self.result = result


@dataclass
class Reference:
    """One walk; make another object for the next one."""

    arrays: Arrays
    memory: Memory
    trampoline: int
    most_frames: int = abi.MAX_FRAMES
    sees_loads: bool = False  # unmapped code was made at run time

    def walk(self, origin: Origin) -> Expected:
        """From the registers on, or from the caller of the function that they are in."""
        self._ip, self._sp, bp = origin.registers
        self._bp: int | None = bp  # None: lost
        self._back = int(origin.start is Start.RETURN)
        self._guessed = False
        self._switches = 0
        self.has_switched = False
        self._callback_sp = 0  # of the thread's stack before its last callback
        self._callback_of = 0  # by which Go: where it has the goroutine of a thread
        self.read_at: set[int] = set()  # where memory was read
        ips: list[int] = []
        try:
            if origin.caller:
                self._step_out(origin.caller)
            while len(ips) < self.most_frames:
                ips.append(self._ip)
                self._step()
            result = WalkResult.TOO_DEEP
        except _EndError as error:
            result = error.result
            if result is WalkResult.NO_ROW and self._is_in_generated_code():
                result = WalkResult.GENERATED_CODE
        return Expected(tuple(ips), result, self._end_of(result))

    def _end_of(self, result: WalkResult) -> StackEndCode:
        match result:
            case WalkResult.TOO_DEEP:
                return StackEndCode.TRUNCATED
            case WalkResult.GO | WalkResult.COMPLETE if self._guessed:
                return StackEndCode.GUESSED
            case WalkResult.GO:
                return StackEndCode.GO
            case WalkResult.COMPLETE:
                return StackEndCode.COMPLETE
        return StackEndCode.BROKEN

    def _words(self, address: int, count: int = 1) -> tuple[int, ...] | None:
        found = self._bytes(address & _MASK, 8 * count)
        return struct.unpack(f"<{count}Q", found) if found else None

    def _bytes(self, address: int, size: int) -> bytes | None:
        self.read_at.add(address)
        return self.memory.read(address, size)

    def _word(self, address: int) -> int:
        words = self._words(address)
        if words is None:
            raise _EndError(WalkResult.UNREADABLE)
        return words[0]

    def _go_on(self, ip: int, sp: int) -> None:
        self._ip, self._sp, self._back = ip, sp & _MASK, 1

    def _step_out(self, caller: Caller) -> None:
        base = self._bp if caller.frame_register == _RBP else self._sp
        assert base is not None
        frame = base + caller.frame_offset
        self._word(frame - COPIED_BELOW)
        ip = self._word(frame - 8)
        if caller.rbp_offset == abi.RBP_LOST:
            self._bp = None
        elif caller.rbp_offset != abi.RBP_UNCHANGED:
            self._bp = self._word(frame + caller.rbp_offset)
        self._go_on(ip, frame)
        if ip == self.trampoline:
            raise _EndError(WalkResult.FOREIGN_PROBE)

    def _step(self) -> None:
        pc = (self._ip - self._back) & _MASK
        is_mapped = self.arrays.find_mapping(pc) is not None
        row = self.arrays.find_row(pc)
        if row is None or (row.rule, row.cfa_offset, row.saved_rbp) == (0, NoRule.NO_ENTRY, 0):
            self._step_without_row(WalkResult.NO_ROW if is_mapped else WalkResult.NO_MAPPING)
            return
        switch = unpack_switch(self.arrays.find_value(pc) or 0)
        if switch:
            self._switch_stacks(switch)
            return
        match row.rule:
            case Rule.RULE_END if row.cfa_offset == EndOf.STACK:
                raise _EndError(WalkResult.COMPLETE)
            case Rule.RULE_END:
                raise _EndError(WalkResult.GO)
            case Rule.RULE_SIGNAL:
                self._step_over_signal()
            case _:
                self._step_by_row(row)

    def _switch_stacks(self, switch: GoSwitch) -> None:
        """To the stack of the caller, if there is a return address of a call of this function."""
        self._switches += 1
        sp = self._sp_of_caller(switch) if self._switches <= _MOST_SWITCHES else None
        if sp is None or (sp + switch.frame) % 8:
            raise _EndError(WalkResult.GO)
        cfa = (sp + switch.frame) & _MASK
        found = self._words(cfa - 8)
        code = self._bytes((found[0] - 8) & _MASK, 8) if found else None
        if found is None or code is None or code[3] != _CALL_DIRECT:
            raise _EndError(WalkResult.GO)
        (distance,) = struct.unpack_from("<i", code, 4)
        if (found[0] + distance) & _MASK != (self._ip - switch.entry_distance) & _MASK:
            raise _EndError(WalkResult.GO)
        self._go_on(found[0], cfa)
        self._bp = None
        if switch.of in CALLBACKS:
            saved = self._words(cfa - 16)
            self._bp = saved[0] if saved else None
        self.has_switched = True

    def _sp_of_caller(self, switch: GoSwitch) -> int | None:
        def word(address: int) -> int:
            found = self._words(address)
            if found is None:
                raise _EndError(WalkResult.GO)
            return found[0]

        match switch.of:
            case EndOf.C_OF_GOROUTINE:
                bounds = self._words(word(self._sp + switch.first), 2)
                if bounds is None:
                    return None
                depth = word(self._sp + switch.second)
                low, high = bounds
                return None if depth > (high - low) & _MASK else (high - depth) & _MASK
            case EndOf.SYSTEM_STACK | EndOf.SYSTEM_STACK_OF_LIBRARY:
                own = word((word(TASK_FSBASE) + self._place_of_goroutine(switch)) & _MASK)
                current = word(word(own + abi.GO_G_M) + switch.first)
                if current in (0, own):
                    return None
                return word(current + abi.GO_G_SCHED_SP)
            case EndOf.CALLBACK | EndOf.CALLBACK_OF_LIBRARY:
                place = self._place_of_goroutine(switch)
                if self._callback_sp and self._callback_of == place:
                    self._callback_sp = word(self._callback_sp)
                else:
                    own = word((word(TASK_FSBASE) + place) & _MASK)
                    of_thread = word(word(own + abi.GO_G_M) + abi.GO_M_G0)
                    if not of_thread:
                        return None
                    found = word(of_thread + abi.GO_G_SCHED_SP)
                    if found <= self._callback_sp:
                        return None
                    self._callback_sp = found
                self._callback_of = place
                return self._callback_sp or None
        return word(self._sp + switch.second)

    def _place_of_goroutine(self, switch: GoSwitch) -> int:
        """From the thread pointer, as the code that follows the return address loads it."""
        if switch.of in (EndOf.SYSTEM_STACK, EndOf.CALLBACK):
            return -abi.GO_G_BELOW_TLS & _MASK
        at = self._ip + (switch.second if switch.of is EndOf.CALLBACK_OF_LIBRARY else 0)
        code = self._bytes(at, 8)
        if code is None or code[0] not in (0x48, 0x4C) or code[1] != 0x8B or code[2] & 0xC7 != 5:
            raise _EndError(WalkResult.GO)
        (distance,) = struct.unpack_from("<i", code, 3)
        found = self._words((at + 7 + distance) & _MASK)
        if found is None:
            raise _EndError(WalkResult.GO)
        return found[0]

    def _step_by_row(self, row: Row) -> None:
        cfa = self._cfa(row) & _MASK
        if cfa <= self._sp:
            raise _EndError(WalkResult.NOT_UPWARD)
        match row.saved_rbp:
            case SavedRbp.UNCHANGED:
                pass
            case SavedRbp.LOST:
                self._bp = None
            case SavedRbp.AT_RBP:
                self._bp = None if self._bp is None else self._word(self._bp)
            case count:
                self._bp = self._word(cfa - 8 * count)
        ip = self._word(cfa - 8)
        if ip == 0:
            raise _EndError(WalkResult.COMPLETE)
        if ip == self.trampoline:
            raise _EndError(WalkResult.FOREIGN_PROBE)
        self._go_on(ip, cfa)

    def _cfa(self, row: Row) -> int:
        match row.rule:
            case Rule.RULE_RSP:
                return self._sp + row.cfa_offset
            case Rule.RULE_PLT:
                return self._sp + (16 if self._ip % 16 >= row.cfa_offset else 8)
            case Rule.RULE_RSP_DEREF:
                return self._word(self._sp + row.cfa_offset)
        if self._bp is None or row.rule is Rule.RULE_NONE:
            raise _EndError(WalkResult.NO_RULE)
        if row.rule is Rule.RULE_RBP:
            return self._bp + row.cfa_offset
        return self._word(self._bp + row.cfa_offset)

    def _step_over_signal(self) -> None:
        assert (SIGNAL_RSP_OFFSET, SIGNAL_RIP_OFFSET) == (
            SIGNAL_RBP_OFFSET + 40,
            SIGNAL_RBP_OFFSET + 48,
        )
        saved = self._words(self._sp + SIGNAL_RBP_OFFSET, _WORDS_OF_SIGNAL)
        if saved is None:
            raise _EndError(WalkResult.UNREADABLE)
        self._bp, self._sp, self._ip, self._back = saved[0], saved[5], saved[6], 0

    def _step_without_row(self, why: WalkResult) -> None:
        if self.trampoline <= self._ip < self.trampoline + _TRAMPOLINE_BYTES:
            self._step_over_trampoline()
            return
        if why is WalkResult.NO_MAPPING and not self.sees_loads:
            raise _EndError(why)
        if self._is_table_to_come():
            raise _EndError(WalkResult.NO_MAPPING)
        if why is WalkResult.NO_ROW and self._back and not self._guessed:
            if not self._is_in_object():
                code = self._bytes(self._ip, 8)
                if code and (found := _EPILOGUE.match(code)):
                    self._step_over_epilogue(found[1][0])
                    return
            else:
                code = self._bytes(self._ip - 8, 16)
                if code and code[8:] == _SIGNAL_CODE:
                    self._step_over_signal()
                    return
                if code and not _CALL.match(code[:8]):
                    raise _EndError(WalkResult.COMPLETE)
        self._step_by_frame_pointer(why)

    def _step_over_epilogue(self, added: int) -> None:
        place = self._sp + added
        ip = self._word(place)
        if ip == 0:
            raise _EndError(WalkResult.COMPLETE)
        if ip == self.trampoline:
            raise _EndError(WalkResult.FOREIGN_PROBE)
        self._go_on(ip, place + 8)

    def _is_in_generated_code(self) -> bool:
        mapping = self.arrays.find_mapping(self._ip - self._back)
        return mapping is not None and self._kind_without_table(mapping) == abi.GENERATED_CODE

    def _is_table_to_come(self) -> bool:
        mapping = self.arrays.find_mapping(self._ip - self._back)
        return mapping is not None and self._kind_without_table(mapping) == abi.TABLE_TO_COME

    @staticmethod
    def _kind_without_table(mapping: Any) -> int:
        return 0 if mapping["page_count"] else int(mapping["row_lo"])

    def _is_in_object(self) -> bool:
        mapping = self.arrays.find_mapping(self._ip - self._back)
        return mapping is not None and bool(mapping["page_count"])

    def _step_over_trampoline(self) -> None:
        """pop %r11; pop %rcx; ret, at 13, 15 and 16 bytes from its start."""
        pops = {13: 2, 15: 1, 16: 0}.get(self._ip - self.trampoline)
        if pops is None:
            raise _EndError(WalkResult.FOREIGN_PROBE)
        place = self._sp + 8 * pops
        self._go_on(self._word(place), place + 8)

    def _step_by_frame_pointer(self, why: WalkResult) -> None:
        bp = self._bp
        if bp == 0 and why is WalkResult.NO_ROW:
            raise _EndError(WalkResult.COMPLETE)
        if bp is None or not self._sp <= bp < self._sp + _FAR_BYTES or bp % 8:
            raise _EndError(why)
        saved = self._words(bp, 2)
        if saved is None:
            raise _EndError(why)
        self._bp = saved[0]
        self._go_on(saved[1], bp + 16)
        self._guessed = True
        if saved[1] == 0:
            raise _EndError(WalkResult.COMPLETE)
