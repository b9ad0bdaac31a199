"""What is known before each instruction: where the arguments are, and where the caller's frame is.

A forward data-flow analysis of all paths through the function (Aho, Lam, Sethi, Ullman: Compilers,
9.3): the value of a register or a stack slot is known where all paths to the instruction agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from leaktrace.arch.x86_64 import RAX, RBP, RDX, RSP
from leaktrace.arch.x86_64_code import Instruction
from leaktrace.process.probes.code.effects import is_same_register, transfer
from leaktrace.process.probes.code.flow import Exit, Flow, UnfollowableError
from leaktrace.process.probes.code.values import (
    ENTRY_STATE,
    Constant,
    FrameAddress,
    Home,
    Loaded,
    Register,
    State,
    Value,
    Values,
)


def can_return(flow: Flow, arguments: Mapping[int, int]) -> bool:
    """Whether a call with these numbers in these registers can return. Conditions on them are
    evaluated."""
    values = Values()
    numbers: State = {Register(number): Constant(value) for number, value in arguments.items()}
    forward(flow, values, escaped=True, entry=ENTRY_STATE | numbers)
    return any(at in values.before for at, exit_ in flow.exits.items() if exit_ is not Exit.NEVER)


def forward(
    flow: Flow, values: Values, *, escaped: bool, entry: Mapping[Home, Value] = ENTRY_STATE
) -> bool:
    """Fill `values.before`. Returns whether other functions may know an address in the frame."""
    values.before = {flow.entry: dict(entry)}
    waiting = [flow.entry]
    escapes = escaped
    ruled_out: set[tuple[int, int]] = set()
    while waiting or (waiting := _possible_after_all(flow, values, ruled_out)):
        at = waiting.pop()
        instruction, state = flow.instructions[at], values.before[at]
        after = transfer(instruction, state, escaped=escaped)
        escapes = escapes or _lets_escape(instruction, state, after)
        landed = after
        if at in flow.landing:
            landed = {h: v for h, v in after.items() if h not in (Register(RAX), Register(RDX))}
        for following in flow.successors[at]:
            if instruction.is_conditional and _is_ruled_out(flow, values, at, following):
                ruled_out.add((at, following))
            else:
                _flow_into(values, following, after, waiting)
        for following in flow.landing.get(at, ()):
            _flow_into(values, following, landed, waiting)
    return escapes


def _possible_after_all(flow: Flow, values: Values, ruled_out: set[tuple[int, int]]) -> list[int]:
    """Jumps that were ruled out by a value that is no longer known."""
    revived = [edge for edge in ruled_out if not _is_ruled_out(flow, values, *edge)]
    ruled_out.difference_update(revived)
    return [at for at, _ in revived]


def _is_ruled_out(flow: Flow, values: Values, at: int, following: int) -> bool:
    """Whether a condition is known not to hold: `test %r15d,%r15d; je` where r15 is 1."""
    jump, line = flow.instructions[at], flow.flag_setters(at)
    if jump.mnemonic not in ("je", "jne") or jump.target == jump.end:
        return False
    if not line or line[-1].mnemonic != "test" or not is_same_register(line[-1]):
        return False
    if any(flow.is_joined(one.address) for one in (jump, *line[:-1])):
        return False
    state = values.before.get(line[-1].address, {})
    tested = line[-1].operands[0]
    held = state.get(Register(tested.register)) if tested.register is not None else None
    if not isinstance(held, Constant) or tested.size_bytes not in (4, 8):
        return False
    is_zero = held.value & ((1 << 8 * tested.size_bytes) - 1) == 0
    is_zero_path = (jump.mnemonic == "je") == (following == jump.target)
    return is_zero_path != is_zero


def _flow_into(values: Values, at: int, state: State, waiting: list[int]) -> None:
    known = values.before.get(at)
    if known is None:
        values.before[at] = dict(state)
        waiting.append(at)
        return
    agreed = {home: value for home, value in known.items() if state.get(home) == value}
    if len(agreed) != len(known):
        values.before[at] = agreed
        waiting.append(at)


# The effect of these on an address in the frame is followed, or they don't move it.
_FOLLOWED = frozenset(
    [
        "mov",
        "lea",
        "push",
        "pop",
        "add",
        "sub",
        "and",
        "leave",
        "cmp",
        "test",
        "call",
        "ret",
        "nop",
        "endbr64",
        "jmp",
    ]
)


def _lets_escape(instruction: Instruction, before: State, after: State) -> bool:
    """Whether an address in the frame is written where other functions may read it."""
    for home, value in after.items():
        if isinstance(value, FrameAddress) and home not in (Register(RSP), Register(RBP)):
            return True

    def is_in_frame(number: int | None) -> bool:
        return number is not None and isinstance(before.get(Register(number)), FrameAddress)

    operands = instruction.operands
    if any(is_in_frame(operand.index) for operand in operands):
        return True
    if instruction.mnemonic == "lea" and operands[1].has_index and is_in_frame(operands[1].base):
        return True
    if instruction.mnemonic not in _FOLLOWED:
        return any(is_in_frame(operand.register) for operand in operands)
    if instruction.mnemonic == "mov":
        return operands[0].is_memory and is_in_frame(operands[1].register)
    # add %rsp,%rax: another address in the frame, which isn't followed
    return instruction.mnemonic in ("add", "sub", "and") and any(
        is_in_frame(operand.register) for operand in operands[1:]
    )


def check_stack(flow: Flow, values: Values) -> None:
    """The return address must be on top of the stack at every exit. Raises UnfollowableError."""
    for at, exit_ in flow.exits.items():
        if at not in values.before or exit_ is Exit.NEVER:
            continue
        if exit_ is Exit.POINTER and not _is_pointer(flow.instructions[at], values.before[at]):
            raise UnfollowableError("it jumps to an address that only the running process knows")
        if values.before[at].get(Register(RSP)) != FrameAddress(-8):
            raise UnfollowableError("its stack pointer can't be followed")


def _is_pointer(jump: Instruction, state: State) -> bool:
    """Whether a jump goes where a variable points, and not through a jump table."""
    operand = jump.operands[0]
    if operand.register is not None:
        return isinstance(state.get(Register(operand.register)), Loaded)
    return operand.is_memory and not operand.has_index


def mark(flow: Flow, values: Values, extent_of: Callable[[int], object]) -> None:
    """Fill `values.shared`: code that is reached by a tail call, so other functions use it too."""
    top = FrameAddress(-8)
    _spread(
        flow,
        values.shared,
        [
            following
            for at, state in values.before.items()
            if state.get(Register(RSP)) == top
            for following in flow.successors[at]
            if extent_of(at) != extent_of(following)
        ],
    )


def _spread(flow: Flow, reached: set[int], waiting: list[int]) -> None:
    while waiting:
        at = waiting.pop()
        if at not in reached:
            reached.add(at)
            waiting += flow.after(at)
