"""One row of an unwind table: how the caller's frame is found from this pc on.

A row is one u64, so that the BPF walker reads it with one map lookup:

    bits 63..32  pc: first address the row holds for, relative to the object's base
    bits 31..24  saved rbp: where the caller's rbp is (see `SavedRbp`)
    bits 23..19  CFA offset / 8, high part: unsigned, times 65536
    bits 18..16  rule: how to find the canonical frame address (see `Rule`)
    bits 15..0   CFA offset / 8, low part: signed

A row holds until the pc of the next one. The canonical frame address (CFA) is the value of rsp
just before the call (System V psABI for x86-64, DWARF 5 section 6.4.1), so the return address is
at CFA - 8 and rsp in the caller is the CFA. The kernel side shares the numbers: abi/process.py.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from leaktrace.abi import process as abi
from leaktrace.abi.process import EndOf, Rule, SavedRbp

Rows = NDArray[np.uint64]

PC_SHIFT = abi.ROW_PC_SHIFT
SAVED_RBP_SHIFT = abi.ROW_SAVED_RBP_SHIFT
RULE_SHIFT = abi.ROW_RULE_SHIFT
RULE_MASK = abi.ROW_RULE_MASK
FAR_SHIFT = abi.ROW_FAR_SHIFT
FAR_MASK = abi.ROW_FAR_MASK
OFFSET_MASK = abi.ROW_OFFSET_MASK
PC_LIMIT = 1 << 32
CFA_OFFSET_UNIT = 8
CFA_OFFSET_MIN = -0x8000 * CFA_OFFSET_UNIT
CFA_OFFSET_MAX = (FAR_MASK * 0x10000 + 0x7FFF) * CFA_OFFSET_UNIT  # 16 MB: buffers on the stack

_UNSCALED = (Rule.RULE_PLT, Rule.RULE_NONE, Rule.RULE_END)  # the offset field has another use


class NoRule(IntEnum):
    """Why a range has no rule. The walker makes no difference; reports for people do."""

    NO_ENTRY = 0  # no FDE covers it
    MALFORMED = 1  # its instructions can't be decoded
    CFA_REGISTER = 2  # CFA relative to a register other than rsp and rbp
    CFA_EXPRESSION = 3  # CFA by a DWARF expression that no rule can express
    CFA_OFFSET = 4  # CFA offset out of range, or not a multiple of 8
    RETURN_ADDRESS = 5  # return address not at CFA - 8


# The greatest distance from the CFA that a row can hold, in bytes.
SAVED_RBP_MAX = 253 * CFA_OFFSET_UNIT


class Row(NamedTuple):
    """The fields of a row. `pc` is relative to the object's base; `cfa_offset` is in bytes."""

    pc: int
    rule: Rule
    cfa_offset: (
        int  # of RULE_PLT the threshold N, of RULE_NONE the `NoRule`, of RULE_END the `EndOf`
    )
    saved_rbp: int  # a `SavedRbp`, or N for "at CFA - 8 * N"


SYSTEM_STACKS = (EndOf.SYSTEM_STACK, EndOf.SYSTEM_STACK_OF_LIBRARY)
CALLBACKS = (EndOf.CALLBACK, EndOf.CALLBACK_OF_LIBRARY)


class GoSwitch(NamedTuple):
    """How code that runs on another stack than its caller, in a function of the Go runtime, gets
    back to it (go_switches.py). A row of RULE_END holds it, from the lowest bit on: `of` (3 bits),
    `first` / 8 (4), `second` / 8 (4), `frame` / 8 (5), the rule (3), `entry_distance` (13). Of a
    system stack, `first` / 8 has eight bits."""

    of: EndOf
    first: int  # where in the frame the goroutine is saved; of a system stack: in struct m
    # Where in the frame the depth of its stack, or the stack pointer, is saved. Of
    # CALLBACK_OF_LIBRARY: from the return address to the code that loads where the goroutine is.
    second: int
    frame: int  # from the stack pointer that is found to the canonical frame address
    entry_distance: int  # from the function's entry to the return address in it

    @property
    def fits(self) -> bool:
        """Whether a row can hold it."""
        most = abi.GO_CURG_MASK if self.of in SYSTEM_STACKS else abi.GO_WORD_MASK
        return (
            all(field >= 0 and field % 8 == 0 for field in (self.first, self.second, self.frame))
            and self.first <= 8 * most
            and self.second <= 8 * abi.GO_WORD_MASK
            and self.frame <= 8 * abi.GO_FRAME_MASK
            and 0 < self.entry_distance < 1 << 32 - abi.GO_ENTRY_SHIFT
        )


class Switch(NamedTuple):
    """The return address of a call on another stack than the caller's, and how to get to it."""

    return_address: int
    rule: GoSwitch


class Return(NamedTuple):
    """A return address in a function of Go that C code has called: the way to its caller's rsp and
    rbp."""

    return_address: int
    cfa_offset: int  # from rsp
    saved_rbp: int  # below the CFA


def pack_switch(switch: GoSwitch) -> int:
    """The low 32 bits of a row. The caller has checked that it fits."""
    return (
        switch.of
        | switch.first // 8 << abi.GO_FIRST_SHIFT
        | switch.second // 8 << abi.GO_SECOND_SHIFT
        | switch.frame // 8 << abi.GO_FRAME_SHIFT
        | Rule.RULE_END << RULE_SHIFT
        | switch.entry_distance << abi.GO_ENTRY_SHIFT
    )


def unpack_switch(value: int) -> GoSwitch | None:
    """What `pack_switch` was given; None of another row."""
    of = value & abi.END_KIND_MASK
    is_end = value >> RULE_SHIFT & RULE_MASK == Rule.RULE_END
    if not is_end or of not in tuple(EndOf)[EndOf.C_OF_GOROUTINE :]:
        return None
    is_system = of in SYSTEM_STACKS
    most = abi.GO_CURG_MASK if is_system else abi.GO_WORD_MASK
    return GoSwitch(
        EndOf(of),
        8 * (value >> abi.GO_FIRST_SHIFT & most),
        0 if is_system else 8 * (value >> abi.GO_SECOND_SHIFT & abi.GO_WORD_MASK),
        8 * (value >> abi.GO_FRAME_SHIFT & abi.GO_FRAME_MASK),
        (value & PC_LIMIT - 1) >> abi.GO_ENTRY_SHIFT,
    )


class Columns(NamedTuple):
    """The fields of many rows, one array per field, scaled as in `Row`."""

    pc: NDArray[np.uint32]
    rule: NDArray[np.uint8]
    cfa_offset: NDArray[np.int32]
    saved_rbp: NDArray[np.uint8]


def _is_scaled(rule: int) -> bool:
    return rule not in _UNSCALED


def pack_rule(rule: int, cfa_offset: int = 0, saved_rbp: int = SavedRbp.UNCHANGED) -> int:
    """The low 32 bits of a row. The caller has checked that the fields fit."""
    field = cfa_offset // CFA_OFFSET_UNIT if _is_scaled(rule) else cfa_offset
    far = (field + 0x8000) >> 16
    low = field & OFFSET_MASK
    return low | rule << RULE_SHIFT | far << FAR_SHIFT | saved_rbp << SAVED_RBP_SHIFT


def pack(row: Row) -> int:
    """A row as the number that the BPF walker reads.

    Raises ValueError for a field that doesn't fit.
    """
    if _is_scaled(row.rule):
        fits = CFA_OFFSET_MIN <= row.cfa_offset <= CFA_OFFSET_MAX
        fits = fits and row.cfa_offset % CFA_OFFSET_UNIT == 0
    else:
        fits = -0x8000 <= row.cfa_offset <= 0x7FFF
    if not fits:
        raise ValueError(f"a row can't hold the CFA offset {row.cfa_offset}")
    if not 0 <= row.pc < PC_LIMIT or not 0 <= row.saved_rbp <= 0xFF:
        raise ValueError(f"a field of {row} is out of range")
    return row.pc << PC_SHIFT | pack_rule(row.rule, row.cfa_offset, row.saved_rbp)


def unpack(value: int) -> Row:
    """The fields of a row."""
    rule = Rule(value >> RULE_SHIFT & RULE_MASK)
    low = (value & OFFSET_MASK ^ 0x8000) - 0x8000
    field = low + ((value >> FAR_SHIFT & FAR_MASK) << 16)
    return Row(
        pc=value >> PC_SHIFT,
        rule=rule,
        cfa_offset=field * CFA_OFFSET_UNIT if _is_scaled(rule) else field,
        saved_rbp=value >> SAVED_RBP_SHIFT & 0xFF,
    )


def unpack_all(rows: Rows) -> Columns:
    """The fields of many rows, without a Python object per row."""
    low_half = rows.astype(np.uint32)
    rule = (low_half >> RULE_SHIFT & RULE_MASK).astype(np.uint8)
    low = rows.astype(np.uint16).view(np.int16).astype(np.int32)
    field = low + (low_half >> FAR_SHIFT & FAR_MASK).astype(np.int32) * 0x10000
    scaled = ~np.isin(rule, _UNSCALED)
    return Columns(
        pc=(rows >> np.uint64(PC_SHIFT)).astype(np.uint32),
        rule=rule,
        cfa_offset=np.where(scaled, field * CFA_OFFSET_UNIT, field).astype(np.int32),
        saved_rbp=(low_half >> SAVED_RBP_SHIFT).astype(np.uint8),
    )


def describe(value: int) -> str:
    """A row in words, for example "0x26a4: CFA = rsp+16, rbp at CFA-16"."""
    row = unpack(value)
    switch = unpack_switch(value)
    if switch is not None:
        return f"{row.pc:#x}: {_switch_in_words(switch)}"
    match row.rule:
        case Rule.RULE_NONE:
            known = row.cfa_offset in NoRule.__members__.values()
            reason = NoRule(row.cfa_offset).name.lower() if known else str(row.cfa_offset)
            return f"{row.pc:#x}: no rule ({reason.replace('_', ' ')})"
        case Rule.RULE_RSP:
            cfa = f"CFA = rsp{row.cfa_offset:+d}"
        case Rule.RULE_RBP:
            cfa = f"CFA = rbp{row.cfa_offset:+d}"
        case Rule.RULE_PLT:
            cfa = f"CFA = rsp+8, rsp+16 from byte {row.cfa_offset} of a PLT entry on"
        case Rule.RULE_END:
            below = ", called by Go" if row.cfa_offset == EndOf.C_CODE else ""
            return f"{row.pc:#x}: outermost frame{below}"
        case Rule.RULE_RBP_DEREF:
            cfa = f"CFA = *(rbp{row.cfa_offset:+d})"
        case Rule.RULE_RSP_DEREF:
            cfa = f"CFA = *(rsp{row.cfa_offset:+d})"
        case Rule.RULE_SIGNAL:
            return f"{row.pc:#x}: signal frame"
    match row.saved_rbp:
        case SavedRbp.UNCHANGED:
            rbp = ""
        case SavedRbp.LOST:
            rbp = ", rbp lost"
        case SavedRbp.AT_RBP:
            rbp = ", rbp at *(rbp)"
        case _:
            rbp = f", rbp at CFA-{row.saved_rbp * CFA_OFFSET_UNIT}"
    return f"{row.pc:#x}: {cfa}{rbp}"


def _switch_in_words(switch: GoSwitch) -> str:
    match switch.of:
        case EndOf.C_OF_GOROUTINE:
            found = f"the stack of the goroutine at rsp+{switch.first}, by the depth at "
            found += f"rsp+{switch.second}"
        case EndOf.CALLBACK | EndOf.CALLBACK_OF_LIBRARY:
            found = "the stack of the thread before its last callback"
        case EndOf.SYSTEM_STACK | EndOf.SYSTEM_STACK_OF_LIBRARY:
            found = f"the stack of the current goroutine (m+{switch.first})"
        case _:
            found = f"*(rsp+{switch.second})"
    return f"CFA = {found}, +{switch.frame}; entered {switch.entry_distance} before"
