"""Call frame instructions -> rules: an interpreter of DW_CFA_* for rsp, rbp, return address.

A general decoder (DWARF 5 section 6.4, psABI for x86-64 chapter 4.2.4, LSB "Exception Frames")
keeps a rule for each of 17 registers. The walker follows three of them, so instructions about the
others, which are the most, are skipped. entries.py keeps results by (CIE, instruction bytes):
compilers emit the same prologue over and over.

Every loop consumes input, so the work is linear in the number of bytes; numbers are limited in
length, so none of them can grow without bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from leaktrace.abi.process import Rule, SavedRbp
from leaktrace.arch.x86_64 import (
    DW_OP_BREG_RBP,
    DW_OP_BREG_RSP,
    DWARF_RBP,
    DWARF_RSP,
    PLT_EXPRESSION_HEAD,
    PLT_EXPRESSION_TAIL,
    RETURN_ADDRESS_OFFSET,
    SIGNAL_RBP_OFFSET,
    SIGNAL_RIP_OFFSET,
    SIGNAL_RSP_OFFSET,
)
from leaktrace.unwind.rows import (
    CFA_OFFSET_MAX,
    CFA_OFFSET_MIN,
    CFA_OFFSET_UNIT,
    SAVED_RBP_MAX,
    NoRule,
    pack_rule,
)

MAX_LEB128_BYTES = 10  # 64 bits
MAX_REMEMBERED_STATES = 64  # compilers nest two or three
MAX_LOCATION = 1 << 32

# `State.cfa_register` is a DWARF register number, or one of these for an expression.
_CFA_PLT = -1
_CFA_RBP_DEREF = -2
_CFA_RSP_DEREF = -3
_CFA_OTHER_EXPRESSION = -4

# `State.return_address`
_RA_AT_CFA = 0  # at CFA - 8
_RA_UNDEFINED = 1  # the outermost frame
_RA_SIGNAL = 2  # at *(rsp + SIGNAL_RIP_OFFSET)
_RA_OTHER = 3

# `State.saved_rbp` is what the row will hold, or:
_RBP_SIGNAL = 0x100  # at *(rsp + SIGNAL_RBP_OFFSET)

_DW_OP_DEREF = 0x06
_DW_OP_LIT0 = 0x30


class MalformedCfiError(Exception):
    """Call frame information that can't be decoded. It doesn't leave this package."""


class State(NamedTuple):
    """The rules that hold at one point of a function."""

    cfa_register: int
    cfa_offset: int
    saved_rbp: int
    return_address: int


# The rule of each state so far. Plain tuples: a State per row would double the time.
PackedRules = dict[tuple[int, int, int, int], int]

# Before the first instruction of a CIE nothing is known, except that the ABI preserves rbp.
NOTHING_KNOWN = State(_CFA_OTHER_EXPRESSION, 0, SavedRbp.UNCHANGED, _RA_OTHER)


@dataclass(frozen=True, slots=True)
class CommonInfo:
    """What a CIE says about the instructions of its FDEs."""

    code_alignment: int
    data_alignment: int
    return_register: int
    initial: State = NOTHING_KNOWN


class Program(NamedTuple):
    """The rules of one function: from `offsets[i]` bytes after its start on, `rules[i]`.

    Offsets ascend strictly; rules are the low 32 bits of rows.
    """

    offsets: list[int]
    rules: list[int]


def read_uleb128(data: bytes, position: int) -> tuple[int, int]:
    """An unsigned LEB128 number and the position behind it (DWARF 5 section 7.6).

    Raises MalformedCfiError if it is too long, IndexError if the data ends first.
    """
    value = shift = 0
    for index in range(position, position + MAX_LEB128_BYTES):
        byte = data[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, index + 1
        shift += 7
    raise MalformedCfiError("LEB128 number too long")


def read_sleb128(data: bytes, position: int) -> tuple[int, int]:
    """A signed LEB128 number and the position behind it; raises as `read_uleb128` does."""
    value, end = read_uleb128(data, position)
    bits = 7 * (end - position)
    return value - (1 << bits if value >> (bits - 1) else 0), end


def interpret_common(code: bytes, info: CommonInfo) -> State:
    """The rules that the initial instructions of a CIE establish.

    Raises MalformedCfiError or IndexError.
    """
    return _run(code, info, Program([], []), {})


def interpret(code: bytes, info: CommonInfo, packed: PackedRules) -> Program:
    """The rules that the instructions of one FDE establish.

    `packed` keeps the rule of each state between calls. Raises MalformedCfiError or IndexError.
    """
    program = Program([], [])
    _run(code, info, program, packed)
    return program


def _run(code: bytes, info: CommonInfo, program: Program, packed: PackedRules) -> State:
    """Execute instructions, appending to `program` what changes; return the rules at the end.

    Written for speed: building a table spends its time here. The most frequent instructions are
    executed in place, the others in `_of_register` and `_of_cfa`.
    """
    offsets, rules = program
    code_alignment, data_alignment = info.code_alignment, info.data_alignment
    return_register = info.return_register
    register, offset, saved, ra = info.initial
    plain_offset = offset  # the last that was set without an expression
    remembered: list[tuple[State, int]] = []
    location = 0
    changed = True  # since the last row
    position, end = 0, len(code)

    while position < end:
        opcode = code[position]
        position += 1
        primary = opcode & 0xC0

        if primary == 0x40 or 0x02 <= opcode <= 0x04:  # DW_CFA_advance_loc, _loc1, _loc2, _loc4
            if changed:
                _append(offsets, rules, location, (register, offset, saved, ra), packed)
                changed = False
            if primary:
                location += (opcode & 0x3F) * code_alignment
            else:
                size = 1 << (opcode - 2)
                delta = int.from_bytes(code[position : position + size], "little")
                location += delta * code_alignment
                position += size
        elif opcode == 0x0E:  # DW_CFA_def_cfa_offset
            offset = code[position]
            position += 1
            if offset >= 0x80:
                offset, position = read_uleb128(code, position - 1)
            changed = True
        elif primary == 0x80:  # DW_CFA_offset
            value = code[position]
            position += 1
            if value >= 0x80:
                value, position = read_uleb128(code, position - 1)
            target = opcode & 0x3F
            if target == DWARF_RBP:
                saved = _saved_at(value * data_alignment)
                changed = True
            elif target == return_register:
                ra = _return_address_at(value * data_alignment)
                changed = True
        elif opcode == 0x0A:  # DW_CFA_remember_state
            if len(remembered) == MAX_REMEMBERED_STATES:
                raise MalformedCfiError("too many remembered states")
            remembered.append((State(register, offset, saved, ra), plain_offset))
        elif opcode == 0x0B:  # DW_CFA_restore_state
            if not remembered:
                raise MalformedCfiError("no state to restore")
            (register, offset, saved, ra), plain_offset = remembered.pop()
            changed = True
        elif opcode == 0x00:  # DW_CFA_nop
            pass
        elif primary == 0xC0 or opcode in _OF_ONE_REGISTER:
            target, its_saved, its_ra, position = _of_register(code, position, opcode, info)
            if target == DWARF_RBP:
                saved = its_saved
                changed = True
            elif target == return_register:
                ra = its_ra
                changed = True
        else:
            cfa, position = _of_cfa(code, position, opcode, info, (register, offset, plain_offset))
            register, offset, plain_offset = cfa
            changed = True

    if position > end or location >= MAX_LOCATION:
        raise MalformedCfiError("the last instruction is truncated, or advances too far")
    if changed:
        _append(offsets, rules, location, (register, offset, saved, ra), packed)
    return State(register, offset, saved, ra)


# Instructions about one register: DW_CFA_offset_extended, restore_extended, undefined, same_value,
# register, expression, offset_extended_sf, val_offset, val_offset_sf, val_expression,
# GNU_negative_offset_extended.
_OF_ONE_REGISTER = frozenset((0x05, 0x06, 0x07, 0x08, 0x09, 0x10, 0x11, 0x14, 0x15, 0x16, 0x2F))


def _of_register(
    code: bytes, position: int, opcode: int, info: CommonInfo
) -> tuple[int, int, int, int]:
    """An instruction about one register: the register, what it makes of the saved rbp if that is
    rbp, and of the return address if it is that, and the position behind the instruction."""
    if opcode >= 0xC0:  # DW_CFA_restore
        return opcode & 0x3F, info.initial.saved_rbp, info.initial.return_address, position
    target, position = read_uleb128(code, position)
    saved, ra = int(SavedRbp.LOST), _RA_OTHER
    match opcode:
        case 0x06:  # DW_CFA_restore_extended
            saved, ra = info.initial.saved_rbp, info.initial.return_address
        case 0x05 | 0x11 | 0x2F:  # DW_CFA_offset_extended, _sf, DW_CFA_GNU_negative_…
            read = read_sleb128 if opcode == 0x11 else read_uleb128
            value, position = read(code, position)
            distance = value * info.data_alignment * (-1 if opcode == 0x2F else 1)
            saved, ra = _saved_at(distance), _return_address_at(distance)
        case 0x07:  # DW_CFA_undefined
            ra = _RA_UNDEFINED
        case 0x08:  # DW_CFA_same_value
            saved = SavedRbp.UNCHANGED
        case 0x10:  # DW_CFA_expression
            expression, position = _read_block(code, position)
            saved, ra = _saved_by_expression(expression), _return_address_by_expression(expression)
        case 0x16:  # DW_CFA_val_expression
            _, position = _read_block(code, position)
        case 0x09 | 0x14 | 0x15:  # DW_CFA_register, DW_CFA_val_offset, _sf
            _, position = read_uleb128(code, position)
    return target, saved, ra, position


def _of_cfa(
    code: bytes, position: int, opcode: int, info: CommonInfo, cfa: tuple[int, int, int]
) -> tuple[tuple[int, int, int], int]:
    """An instruction about the CFA: its register and offset and the last offset that was set
    without an expression, and the position behind the instruction."""
    register, offset, plain_offset = cfa
    match opcode:
        case 0x0C:  # DW_CFA_def_cfa
            register, position = read_uleb128(code, position)
            offset, position = read_uleb128(code, position)
        case 0x0D:  # DW_CFA_def_cfa_register
            if register < 0:  # DWARF forbids it, assemblers do it: the offset from before
                offset = plain_offset
            register, position = read_uleb128(code, position)
        case 0x0F:  # DW_CFA_def_cfa_expression
            expression, position = _read_block(code, position)
            if register >= 0:
                plain_offset = offset
            register, offset = _cfa_from_expression(expression)
        case 0x12:  # DW_CFA_def_cfa_sf
            register, position = read_uleb128(code, position)
            value, position = read_sleb128(code, position)
            offset = value * info.data_alignment
        case 0x13:  # DW_CFA_def_cfa_offset_sf
            value, position = read_sleb128(code, position)
            offset = value * info.data_alignment
        case 0x2E:  # DW_CFA_GNU_args_size
            _, position = read_uleb128(code, position)
        case _:  # DW_CFA_set_loc, which no x86-64 tool emits, and undefined opcodes
            raise MalformedCfiError(f"instruction {opcode:#x}")
    return (register, offset, plain_offset), position


def _append(
    offsets: list[int],
    rules: list[int],
    location: int,
    state: tuple[int, int, int, int],
    packed: PackedRules,
) -> None:
    """Append the rule of `state`, which holds from `location` on, unless it holds already."""
    rule = packed.get(state)
    if rule is None:
        rule = packed[state] = rule_of(State(*state))
    if offsets and offsets[-1] == location:
        offsets.pop()
        rules.pop()
    if not rules or rules[-1] != rule:
        offsets.append(location)
        rules.append(rule)


def rule_of(state: State) -> int:
    """The low 32 bits of the row for `state`, or RULE_NONE with the reason."""
    register, offset, saved, ra = state
    if ra == _RA_UNDEFINED:
        return pack_rule(Rule.RULE_END)
    if (register, offset, saved, ra) == (
        _CFA_RSP_DEREF,
        SIGNAL_RSP_OFFSET,
        _RBP_SIGNAL,
        _RA_SIGNAL,
    ):
        return pack_rule(Rule.RULE_SIGNAL)
    if ra != _RA_AT_CFA:
        return pack_rule(Rule.RULE_NONE, NoRule.RETURN_ADDRESS)
    rule = _RULE_OF_CFA.get(register)
    if rule is None:
        is_expression = register == _CFA_OTHER_EXPRESSION
        reason = NoRule.CFA_EXPRESSION if is_expression else NoRule.CFA_REGISTER
        return pack_rule(Rule.RULE_NONE, reason)
    if rule != Rule.RULE_PLT and (
        offset % CFA_OFFSET_UNIT or not CFA_OFFSET_MIN <= offset <= CFA_OFFSET_MAX
    ):
        return pack_rule(Rule.RULE_NONE, NoRule.CFA_OFFSET)
    return pack_rule(rule, offset, SavedRbp.LOST if saved == _RBP_SIGNAL else saved)


_RULE_OF_CFA = {
    DWARF_RSP: Rule.RULE_RSP,
    DWARF_RBP: Rule.RULE_RBP,
    _CFA_PLT: Rule.RULE_PLT,
    _CFA_RBP_DEREF: Rule.RULE_RBP_DEREF,
    _CFA_RSP_DEREF: Rule.RULE_RSP_DEREF,
}


def _saved_at(distance: int) -> int:
    """The saved-rbp byte for "at CFA + distance"."""
    if distance % CFA_OFFSET_UNIT == 0 and 0 < -distance <= SAVED_RBP_MAX:
        return -distance // CFA_OFFSET_UNIT
    return SavedRbp.LOST


def _return_address_at(distance: int) -> int:
    """`State.return_address` for "at CFA + distance"."""
    return _RA_AT_CFA if distance == RETURN_ADDRESS_OFFSET else _RA_OTHER


def _return_address_by_expression(expression: bytes) -> int:
    """`State.return_address` for "at the address that the expression yields"."""
    is_signal = _register_plus(expression) == (DW_OP_BREG_RSP, SIGNAL_RIP_OFFSET)
    return _RA_SIGNAL if is_signal else _RA_OTHER


def _saved_by_expression(expression: bytes) -> int:
    """The saved-rbp byte for "at the address that the expression yields"."""
    at = _register_plus(expression)
    if at == (DW_OP_BREG_RBP, 0):
        return SavedRbp.AT_RBP
    if at == (DW_OP_BREG_RSP, SIGNAL_RBP_OFFSET):
        return _RBP_SIGNAL
    return SavedRbp.LOST


def _cfa_from_expression(expression: bytes) -> tuple[int, int]:
    """The (register, offset) of `State` for a CFA that an expression yields."""
    threshold = expression[6] - _DW_OP_LIT0 if len(expression) == 11 else -1
    if (
        0 <= threshold < 16
        and expression.startswith(PLT_EXPRESSION_HEAD)
        and expression.endswith(PLT_EXPRESSION_TAIL)
    ):
        return _CFA_PLT, threshold
    if expression and expression[-1] == _DW_OP_DEREF:
        at = _register_plus(expression[:-1])
        if at is not None:
            opcode, offset = at
            return (_CFA_RBP_DEREF if opcode == DW_OP_BREG_RBP else _CFA_RSP_DEREF), offset
    return _CFA_OTHER_EXPRESSION, 0


def _register_plus(expression: bytes) -> tuple[int, int] | None:
    """(opcode, offset) when an expression is just DW_OP_breg6 or DW_OP_breg7."""
    if expression[:1] not in (b"\x76", b"\x77"):
        return None
    try:
        offset, end = read_sleb128(expression, 1)
    except (MalformedCfiError, IndexError):
        return None
    return (expression[0], offset) if end == len(expression) else None


def _read_block(code: bytes, position: int) -> tuple[bytes, int]:
    size, position = read_uleb128(code, position)
    if size > len(code) - position:
        raise MalformedCfiError("an expression is cut off")
    return code[position : position + size], position + size
