"""The effect of an instruction on what is known of registers and stack slots.

What isn't understood is forgotten. Sources: Intel SDM, volume 2; System V psABI for x86-64,
3.2.1.
"""

from __future__ import annotations

from leaktrace.arch.x86_64 import CLOBBERED, RAX, RBP, RED_ZONE_BYTES, RSP, SYSCALL_CLOBBERED
from leaktrace.arch.x86_64_code import EXCHANGES, WRITE_MUCH, Instruction, Operand
from leaktrace.process.probes.code.values import (
    FAILED,
    NULL,
    Argument,
    Constant,
    FrameAddress,
    Home,
    Loaded,
    Product,
    Register,
    Slot,
    State,
    Value,
)


def slot_of(operand: Operand, state: State) -> Slot | None:
    """The slot of the frame that a memory operand names; None for other memory."""
    if not operand.is_memory or operand.base is None or operand.has_index:
        return None
    held = state.get(Register(operand.base))
    if not isinstance(held, FrameAddress):
        return None
    return Slot(held.offset_bytes + operand.displacement)


def is_somewhere_in_frame(operand: Operand, state: State) -> bool:
    if not operand.is_memory:
        return False
    return any(
        number is not None and isinstance(state.get(Register(number)), FrameAddress)
        for number in (operand.base, operand.index)
    )


def _forget_slots(state: State, first: int | None = None, size_bytes: int = 8) -> None:
    """Forget the slots that a write changes: all, or those that `size_bytes` at CFA + `first`
    overlap."""
    for home in [home for home in state if isinstance(home, Slot)]:
        offset = home.offset_bytes
        if first is None or (offset < first + size_bytes and first < offset + 8):
            del state[home]


def transfer(one: Instruction, before: State, *, escaped: bool) -> State:
    """What is known after an instruction, also if a signal handler runs then."""
    state = _executed(one, before, escaped=escaped)
    sp = state.get(Register(RSP))
    if isinstance(sp, FrameAddress):
        lowest = sp.offset_bytes - RED_ZONE_BYTES
        for home in [h for h in state if isinstance(h, Slot) and h.offset_bytes < lowest]:
            del state[home]
    return state


def _executed(one: Instruction, before: State, *, escaped: bool) -> State:
    state = dict(before)
    sp = before.get(Register(RSP))
    depth = sp.offset_bytes if isinstance(sp, FrameAddress) else None

    def forget(numbers: frozenset[int]) -> None:
        for number in numbers:
            state.pop(Register(number), None)

    def put(home: Home, value: Value | None) -> None:
        if value is None:
            state.pop(home, None)
        else:
            state[home] = value

    if one.is_call:
        forget(CLOBBERED)
        if escaped:
            _forget_slots(state)
        elif depth is not None:  # it writes below
            for home in [h for h in state if isinstance(h, Slot) and h.offset_bytes < depth]:
                del state[home]
        return state
    match one.mnemonic:
        case "syscall":
            forget(SYSCALL_CLOBBERED)
            return state
        case "push":
            value = value_of(one.operands[0], before)
            if depth is None:
                return state
            state[Register(RSP)] = FrameAddress(depth - 8)
            _forget_slots(state, depth - 8)
            put(Slot(depth - 8), value)
            return state
        case "pop" if one.operands[0].register is not None:
            number = one.operands[0].register
            put(Register(number), state.get(Slot(depth)) if depth is not None else None)
            if number != RSP and depth is not None:
                state[Register(RSP)] = FrameAddress(depth + 8)
            return state
        case "leave":
            frame = before.get(Register(RBP))
            forget(frozenset({RSP, RBP}))
            if isinstance(frame, FrameAddress):
                put(Register(RBP), before.get(Slot(frame.offset_bytes)))
                state[Register(RSP)] = FrameAddress(frame.offset_bytes + 8)
            return state
        case "ret":
            return state
    _write_memory(one, state, before, escaped=escaped)
    value = _computed(one, before)
    swapped = _swapped(one, before)
    forget(one.written)
    if one.mnemonic in EXCHANGES:
        for operand in one.operands:
            if operand.register is not None:
                state.pop(Register(operand.register), None)
        state |= swapped
    target = one.operands[0].register if one.operands else None
    if one.mnemonic == "mul":
        target = RAX
    if target is not None and value is not None:
        state[Register(target)] = value
    return state


def _write_memory(one: Instruction, state: State, before: State, *, escaped: bool) -> None:
    for operand in one.operands:
        if not operand.is_memory or not (operand.is_written or one.mnemonic in EXCHANGES):
            continue
        slot = slot_of(operand, before)
        if slot is not None:
            _forget_slots(state, slot.offset_bytes, max(operand.size_bytes, 1))
            if one.mnemonic == "mov" and operand.size_bytes == 8:
                value = value_of(one.operands[1], before)
                if value is not None:
                    state[slot] = value
        elif escaped or is_somewhere_in_frame(operand, before):
            _forget_slots(state)
        if one.mnemonic.startswith(WRITE_MUCH):
            _forget_slots(state)


def _swapped(one: Instruction, before: State) -> State:
    """xchg of two registers."""
    if one.mnemonic != "xchg" or any(o.register is None or o.size_bytes != 8 for o in one.operands):
        return {}
    first, second = (Register(o.register) for o in one.operands if o.register is not None)
    pairs = ((first, before.get(second)), (second, before.get(first)))
    return {home: value for home, value in pairs if value is not None}


def value_of(operand: Operand, state: State) -> Value | None:
    """The value of a 64-bit operand, None if it isn't known."""
    if operand.immediate is not None:
        return Constant(operand.immediate)
    if operand.register is not None:
        held = state.get(Register(operand.register))
        is_small = isinstance(held, Constant) and 0 <= held.value < 1 << 31
        if operand.size_bytes == 8 or (operand.size_bytes == 4 and is_small):
            return held
        return None
    if operand.size_bytes != 8:
        return None
    slot = slot_of(operand, state)
    return state.get(slot) if slot is not None else None


def _computed(one: Instruction, state: State) -> Value | None:
    """The value that an instruction writes to its first operand, or to rax."""
    operands = one.operands
    match one.mnemonic:
        case "mov" | "movabs" if operands[0].register is not None:
            source = operands[1]
            if operands[0].size_bytes == 8:
                value = value_of(source, state)
                is_outside = source.is_memory and not is_somewhere_in_frame(source, state)
                return Loaded() if is_outside and _is_variable(source, state) else value
            if operands[0].size_bytes == 4 and source.immediate is not None:
                return Constant(source.immediate & 0xFFFFFFFF)  # the upper half is cleared
            held = value_of(source, state) if operands[0].size_bytes == 4 else None
            return held if isinstance(held, Constant) else None
        case "and" if operands[1].immediate is not None and operands[1].immediate >= 0:
            held = value_of(operands[0], state)
            if not isinstance(held, Constant) or operands[0].size_bytes < 4:
                return None
            return Constant(held.value & operands[1].immediate)
        case "xor" if is_same_register(one) and operands[0].size_bytes >= 4:
            return NULL
        case "or" if operands[1].immediate == -1 and operands[0].size_bytes == 8:
            return FAILED
        case "lea" if operands[0].size_bytes == 8:
            source = operands[1]
            if source.base is None or source.has_index:
                return None
            return _moved(state.get(Register(source.base)), source.displacement)
        case "add" | "sub" if operands[1].immediate is not None and operands[0].size_bytes == 8:
            if operands[0].register is None:
                return None
            by = operands[1].immediate
            held = state.get(Register(operands[0].register))
            return _moved(held, by if one.mnemonic == "add" else -by)
        case "mul" if operands[0].size_bytes == 8:
            return _product(state.get(Register(RAX)), value_of(operands[0], state))
        case "imul" if len(operands) == 2 and operands[0].size_bytes == 8:
            return _product(value_of(operands[0], state), value_of(operands[1], state))
    return None


def _is_variable(source: Operand, state: State) -> bool:
    """Whether memory is a variable: of the object, or reached through a pointer; not an element of
    a table."""
    if source.has_index or source.base is None:
        return source.absolute is not None and not source.has_index
    return isinstance(state.get(Register(source.base)), Loaded | Argument)


def _moved(held: Value | None, by: int) -> Value | None:
    if isinstance(held, FrameAddress):
        return FrameAddress(held.offset_bytes + by)
    return held if by == 0 else None


def _product(one: Value | None, other: Value | None) -> Value | None:
    if isinstance(one, Argument) and isinstance(other, Argument):
        first, second = sorted((one.index, other.index))
        return Product(first, second)
    return None


def is_same_register(one: Instruction) -> bool:
    operands = one.operands
    return len(operands) == 2 and (
        operands[0].register is not None and operands[0].register == operands[1].register
    )
