"""The places of the value that a function returns, before each instruction.

A backward data-flow analysis: a place holds the result if, on all paths from there to a return, the
function returns the value in that place.
"""

from __future__ import annotations

from leaktrace.arch.x86_64 import CLOBBERED, RAX, RBP, RDI, RSP
from leaktrace.arch.x86_64_code import EXCHANGES, Instruction
from leaktrace.process.probes.code.effects import is_same_register, slot_of, transfer
from leaktrace.process.probes.code.flow import Exit, Flow
from leaktrace.process.probes.code.values import (
    FAILED,
    NULL,
    Argument,
    Constant,
    FrameAddress,
    Home,
    Place,
    Places,
    Register,
    Slot,
    State,
    Value,
    Values,
)

# The results of system calls that are errors: rax above -4096, unsigned. Compilers spell both.
_ERROR_BOUNDS = {("ja", -4096), ("jae", -4095)}


def backward(flow: Flow, values: Values, *, escaped: bool, narrow: bool) -> None:
    """Fill `values.result`. `escaped`: an address in the frame is known to other functions;
    `narrow`: the function returns an int."""
    values.result = dict.fromkeys(flow.instructions)
    waiting = set(flow.instructions)
    while waiting:
        at = waiting.pop()
        found = _result_before(flow, values, at, escaped=escaped, narrow=narrow)
        if found != values.result[at]:
            values.result[at] = found
            waiting.update(flow.predecessors[at])


def _result_before(flow: Flow, values: Values, at: int, *, escaped: bool, narrow: bool) -> Places:
    one = flow.instructions[at]
    behind: Places = None
    match flow.exits.get(at):
        case Exit.RETURN:
            return frozenset({Register(RAX)})
        case Exit.FIRST_ARGUMENT:
            behind = frozenset({Register(RDI)})
        case Exit.HOOKED | Exit.POINTER:
            behind = frozenset()  # it has its own probes, or may have, which see the result
    for following in flow.successors[at]:
        behind = _common(behind, result_towards(flow, values, at, following))
    for following in flow.landing.get(at, ()):
        behind = _common(behind, values.result[following])
    if behind is None:
        return None
    return _carried(one, behind, values.before.get(at, {}), escaped=escaped, narrow=narrow)


def result_towards(flow: Flow, values: Values, at: int, following: int) -> Places:
    """Where the result is after an instruction, if control goes on at `following`."""
    places = values.result[following]
    jump = flow.instructions[at]
    if jump.is_conditional and places is not None:
        places |= _implied(flow, flow.flag_setters(at), jump, following, places)
    return places


def _common(one: Places, other: Places) -> Places:
    if one is None:
        return other
    return one if other is None else one & other


def _implied(
    flow: Flow, line: list[Instruction], jump: Instruction, following: int, places: frozenset[Place]
) -> frozenset[Place]:
    """Other places of the result, because of the condition: after `test %rax,%rax; je`, rax
    contains the NULL that is returned there."""
    if not line or any(flow.is_joined(one.address) for one in (jump, *line[:-1])):
        return frozenset()
    test = line[-1]
    is_taken = following == jump.target
    if jump.target == jump.end or not test.operands or test.operands[0].register is None:
        return frozenset()
    number = test.operands[0].register
    if any(number in one.written for one in line[:-1]) or test.operands[0].size_bytes != 8:
        return frozenset()
    is_zero = (jump.mnemonic == "je") == is_taken and jump.mnemonic in ("je", "jne")
    if test.mnemonic == "test" and is_same_register(test) and is_zero and NULL in places:
        return frozenset({Register(number)})
    if (
        test.mnemonic == "cmp"
        and is_taken
        and (jump.mnemonic, test.operands[1].immediate) in _ERROR_BOUNDS
        and FAILED in places
    ):
        return frozenset({Register(number)})
    return frozenset()


def _carried(
    one: Instruction, behind: frozenset[Place], state: State, *, escaped: bool, narrow: bool
) -> frozenset[Place]:
    """The places before an instruction of the value that is in `behind` after it."""
    if one.is_call:
        return frozenset(
            place
            for place in behind
            if isinstance(place, Constant)
            or (isinstance(place, Register) and place.number not in CLOBBERED)
            or (isinstance(place, Slot) and not escaped)
        )
    if _touches_nothing(one, behind):
        return behind
    # The forward analysis says where each value goes: it is given a state in which every place
    # contains a different value.
    marks: dict[Value, Place] = {}
    marked: State = {}
    for number, home in enumerate(_homes(one, behind, state)):
        in_frame = state.get(home)
        if isinstance(in_frame, FrameAddress):
            marked[home] = in_frame
            continue
        mark = Argument(number)
        marked[home] = mark
        marks[mark] = home
    after = transfer(one, marked, escaped=escaped)
    found: set[Place] = {place for place in behind if isinstance(place, Constant)}
    for place in behind:
        if isinstance(place, Constant):
            continue
        held = after.get(place)
        if held is None and narrow:
            held = _narrow_copy(one, place, marked)
        if isinstance(held, Constant):
            found.add(Constant(_signed(held.value, narrow=narrow)))
        elif held is not None and held in marks:
            found.add(marks[held])
    return frozenset(found)


def _touches_nothing(one: Instruction, behind: frozenset[Place]) -> bool:
    """Whether an instruction leaves all of these places as they are."""
    if one.mnemonic in ("push", "pop", "leave", "syscall", *EXCHANGES):
        return False
    writes_memory = any(o.is_memory and o.is_written for o in one.operands)
    return not any(
        (isinstance(place, Register) and place.number in one.written)
        or (isinstance(place, Slot) and writes_memory)
        for place in behind
    )


def _homes(one: Instruction, behind: frozenset[Place], state: State) -> list[Home]:
    """Every place from which an instruction may take a value."""
    slots = {place for place in behind if isinstance(place, Slot)}
    for operand in one.operands:
        slot = slot_of(operand, state)
        if slot is not None:
            slots.add(slot)
    sp = state.get(Register(RSP))
    if isinstance(sp, FrameAddress):
        slots.add(Slot(sp.offset_bytes))
    frame = state.get(Register(RBP))
    if isinstance(frame, FrameAddress):
        slots.add(Slot(frame.offset_bytes))
    return [*(Register(number) for number in range(16)), *slots]


def _narrow_copy(one: Instruction, place: Home, marked: State) -> Value | None:
    """`mov %ebx,%eax` copies all of an int."""
    if (
        one.mnemonic == "mov"
        and isinstance(place, Register)
        and one.operands[0].register == place.number
        and one.operands[0].size_bytes == 4
        and one.operands[1].register is not None
    ):
        return marked.get(Register(one.operands[1].register))
    return None


def _signed(value: int, *, narrow: bool) -> int:
    bits = 32 if narrow else 64
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value
