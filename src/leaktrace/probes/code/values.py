"""Where values are at each instruction of a function: its arguments, its caller's frame, and, seen
from the end, what it is going to return.

Both are data-flow analyses over all ways through the function (Aho, Lam, Sethi, Ullman: Compilers,
9.3). Forward: what a register or a slot of the stack holds is known where all ways that lead there
agree. Backward: a place holds the result where, on all ways from there to a return, what it holds
is what is returned.

Slots are named by their distance from the canonical frame address (CFA), the value of rsp before
the call: the return address is at -8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from leaktrace.probes.code.flow import Exit, Flow, UnfollowableError
from leaktrace.probes.code.x86 import (
    ARGUMENTS,
    CLOBBERED,
    RAX,
    RBP,
    RDI,
    RDX,
    RSP,
    SYSCALL_CLOBBERED,
    Instruction,
    Operand,
)


@dataclass(frozen=True, slots=True)
class Register:
    """A register holds it."""

    number: int


@dataclass(frozen=True, slots=True)
class Slot:
    """Eight bytes at CFA + offset hold it."""

    offset_bytes: int


@dataclass(frozen=True, slots=True)
class Constant:
    """It is this number, wherever it is."""

    value: int


Place = Register | Slot | Constant
Home = Register | Slot  # what can be written


@dataclass(frozen=True, slots=True)
class Argument:
    """The value of an argument, counted from 0, as the caller passed it."""

    index: int


@dataclass(frozen=True, slots=True)
class Product:
    """The product of two arguments, modulo 2^64."""

    first: int
    second: int


@dataclass(frozen=True, slots=True)
class FrameAddress:
    """CFA + offset."""

    offset_bytes: int


@dataclass(frozen=True, slots=True)
class CallersRbp:
    """What rbp held when the function was entered."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Some word of memory that is no element of a table: what a pointer to a function is."""


Value = Argument | Product | FrameAddress | CallersRbp | Loaded | Constant
State = dict[Home, Value]
Places = frozenset[Place] | None  # None: no way from here returns, so any place will do


def _order(home: Home) -> tuple[bool, int]:
    """Registers come before slots."""
    if isinstance(home, Slot):
        return True, home.offset_bytes
    return False, home.number


ENTRY_STATE: State = {
    **{Register(number): Argument(index) for index, number in enumerate(ARGUMENTS)},
    Register(RSP): FrameAddress(-8),
    Register(RBP): CallersRbp(),
}
_MASK = (1 << 64) - 1
_KEEPS_FLAGS = frozenset({"mov", "lea", "movabs", "movzx", "movsx", "movsxd", "push", "pop", "nop"})
_EXCHANGES = ("xchg", "xadd", "cmpxchg")
_FAILED = Constant(-1)  # what the wrappers of system calls return then
_NULL = Constant(0)
# The results of system calls that are errors: rax above -4096, unsigned. Compilers spell both.
_ERROR_BOUNDS = {("ja", -4096), ("jae", -4095)}


@dataclass
class Values:
    """What is known before each instruction of a flow, by its address."""

    before: dict[int, State] = field(default_factory=dict)
    result: dict[int, Places] = field(default_factory=dict)
    called: set[int] = field(default_factory=set)  # behind a call that may allocate, on some way
    shared: set[int] = field(default_factory=set)  # behind a tail call: others call this code, too

    def place_of(self, address: int, value: Value) -> Place | None:
        """Where a value is, a register before a slot."""
        places = [home for home, held in self.before[address].items() if held == value]
        return min(places, key=_order, default=None)

    def frame(self, address: int) -> tuple[int, int] | None:
        """The register (rsp, else rbp) and what to add to it for the CFA, in bytes."""
        for number in (RSP, RBP):
            held = self.before[address].get(Register(number))
            if isinstance(held, FrameAddress):
                return number, -held.offset_bytes
        return None


def analyse(flow: Flow, extent_of: Callable[[int], object], *, narrow_result: bool) -> Values:
    """All of it. `extent_of`: which function an address lies in; `narrow_result`: only the lower
    half of rax is returned, an int.

    Raises UnfollowableError where the stack pointer can't be followed.
    """
    values = Values()
    # Once some address in the frame is handed around, others may write there.
    escaped = _forward(flow, values, escaped=False)
    if escaped:
        _forward(flow, values, escaped=True)
    _check_stack(flow, values)
    _mark(flow, values, extent_of)
    _backward(flow, values, escaped=escaped, narrow=narrow_result)
    return values


# --- forward ----------------------------------------------------------------------------------


def can_return(flow: Flow, arguments: Mapping[int, int]) -> bool:
    """Whether a call with these numbers in these registers can come back: conditions on them are
    decided."""
    values = Values()
    numbers: State = {Register(number): Constant(value) for number, value in arguments.items()}
    _forward(flow, values, escaped=True, entry=ENTRY_STATE | numbers)
    return any(at in values.before for at, way in flow.exits.items() if way is not Exit.NEVER)


def _forward(
    flow: Flow, values: Values, *, escaped: bool, entry: Mapping[Home, Value] = ENTRY_STATE
) -> bool:
    """Returns whether an address in the frame gets away."""
    values.before = {flow.entry: dict(entry)}
    waiting = [flow.entry]
    gets_away = escaped
    while waiting:
        at = waiting.pop()
        instruction, state = flow.instructions[at], values.before[at]
        after = _transfer(instruction, state, escaped=escaped)
        gets_away = gets_away or _lets_go(instruction, state, after)
        landed = after
        if at in flow.landing:
            landed = {h: v for h, v in after.items() if h not in (Register(RAX), Register(RDX))}
        for following in flow.successors[at]:
            if not (instruction.is_conditional and _is_ruled_out(flow, values, at, following)):
                _flow_into(values, following, after, waiting)
        for following in flow.landing.get(at, ()):
            _flow_into(values, following, landed, waiting)
    return gets_away


def _is_ruled_out(flow: Flow, values: Values, at: int, following: int) -> bool:
    """Whether a condition is known not to hold: `test %r15d,%r15d; je` where r15 is 1."""
    jump, line = flow.instructions[at], _flag_setters(flow, at)
    if jump.mnemonic not in ("je", "jne") or jump.target == jump.end:
        return False
    if not line or line[-1].mnemonic != "test" or not _is_same_register(line[-1]):
        return False
    if any(flow.is_joined(one.address) for one in (jump, *line[:-1])):
        return False
    state = values.before.get(line[-1].address, {})
    number = line[-1].operands[0].register
    held = state.get(Register(number)) if number is not None else None
    if not isinstance(held, Constant):
        return False
    is_zero_way = (jump.mnemonic == "je") == (following == jump.target)
    return is_zero_way != (held.value == 0)


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


def _lets_go(instruction: Instruction, before: State, after: State) -> bool:
    """Whether an address in the frame is put where others may get it from."""
    for home, value in after.items():
        if isinstance(value, FrameAddress) and home not in (Register(RSP), Register(RBP)):
            return True
    if not _is_copy(instruction):
        return False
    source = instruction.operands[-1]
    held = before.get(Register(source.register)) if source.register is not None else None
    return isinstance(held, FrameAddress) and instruction.operands[0].is_memory


def _is_copy(instruction: Instruction) -> bool:
    return instruction.mnemonic == "mov" and len(instruction.operands) == 2


def slot_of(operand: Operand, state: State) -> Slot | None:
    """The slot of the frame that a memory operand names; None for other memory."""
    if not operand.is_memory or operand.base is None or operand.has_index:
        return None
    held = state.get(Register(operand.base))
    if not isinstance(held, FrameAddress):
        return None
    return Slot(held.offset_bytes + operand.displacement)


def _is_somewhere_in_frame(operand: Operand, state: State) -> bool:
    if not operand.is_memory or operand.base is None:
        return False
    return isinstance(state.get(Register(operand.base)), FrameAddress)


def _forget_slots(state: State, first: int | None = None, size_bytes: int = 8) -> None:
    """Slots that a write touches: all, or those that `size_bytes` at CFA + `first` overlap."""
    for home in [home for home in state if isinstance(home, Slot)]:
        offset = home.offset_bytes
        if first is None or (offset < first + size_bytes and first < offset + 8):
            del state[home]


def _transfer(one: Instruction, before: State, *, escaped: bool) -> State:
    """What holds behind an instruction."""
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
        elif depth is not None:  # what it writes lies below
            for home in [h for h in state if isinstance(h, Slot) and h.offset_bytes < depth]:
                del state[home]
        return state
    match one.mnemonic:
        case "syscall":
            forget(SYSCALL_CLOBBERED)
            return state
        case "push":
            value = _value_of(one.operands[0], before)
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
    for operand in one.operands:
        if operand.is_written and operand.register is not None:
            state.pop(Register(operand.register), None)
    if one.mnemonic in _EXCHANGES:
        forget(frozenset({RAX}) if one.mnemonic == "cmpxchg" else frozenset())
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
        if not operand.is_memory or not (operand.is_written or one.mnemonic in _EXCHANGES):
            continue
        slot = slot_of(operand, before)
        if slot is not None:
            _forget_slots(state, slot.offset_bytes, max(operand.size_bytes, 1))
            if one.mnemonic == "mov" and operand.size_bytes == 8:
                value = _value_of(one.operands[1], before)
                if value is not None:
                    state[slot] = value
        elif escaped or _is_somewhere_in_frame(operand, before):
            _forget_slots(state)
    if one.mnemonic.startswith("rep ") and escaped:
        _forget_slots(state)


def _swapped(one: Instruction, before: State) -> State:
    """xchg of two registers."""
    if one.mnemonic != "xchg" or any(o.register is None or o.size_bytes != 8 for o in one.operands):
        return {}
    first, second = (Register(o.register) for o in one.operands if o.register is not None)
    pairs = ((first, before.get(second)), (second, before.get(first)))
    return {home: value for home, value in pairs if value is not None}


def _value_of(operand: Operand, state: State) -> Value | None:
    """What a 64-bit operand holds."""
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
    """What an instruction leaves in its first operand, or in rax."""
    operands = one.operands
    match one.mnemonic:
        case "mov" | "movabs" if operands[0].register is not None:
            source = operands[1]
            if operands[0].size_bytes == 8:
                value = _value_of(source, state)
                is_outside = source.is_memory and not _is_somewhere_in_frame(source, state)
                return Loaded() if is_outside and not source.has_index else value
            if operands[0].size_bytes == 4 and source.immediate is not None:
                return Constant(source.immediate & 0xFFFFFFFF)  # the upper half is cleared
            held = _value_of(source, state) if operands[0].size_bytes == 4 else None
            return held if isinstance(held, Constant) else None
        case "and" if operands[1].immediate is not None and operands[1].immediate >= 0:
            held = _value_of(operands[0], state)
            if not isinstance(held, Constant) or operands[0].size_bytes < 4:
                return None
            return Constant(held.value & operands[1].immediate)
        case "xor" if _is_same_register(one) and operands[0].size_bytes >= 4:
            return _NULL
        case "or" if operands[1].immediate == -1 and operands[0].size_bytes == 8:
            return _FAILED
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
            return _product(state.get(Register(RAX)), _value_of(operands[0], state))
        case "imul" if len(operands) == 2 and operands[0].size_bytes == 8:
            return _product(_value_of(operands[0], state), _value_of(operands[1], state))
    return None


def _moved(held: Value | None, by: int) -> Value | None:
    if isinstance(held, FrameAddress):
        return FrameAddress(held.offset_bytes + by)
    return held if by == 0 else None


def _product(one: Value | None, other: Value | None) -> Value | None:
    if isinstance(one, Argument) and isinstance(other, Argument):
        first, second = sorted((one.index, other.index))
        return Product(first, second)
    return None


def _is_same_register(one: Instruction) -> bool:
    operands = one.operands
    return len(operands) == 2 and (
        operands[0].register is not None and operands[0].register == operands[1].register
    )


def _check_stack(flow: Flow, values: Values) -> None:
    """The return address must be on top wherever the function is left."""
    for at, way in flow.exits.items():
        if at not in values.before or way is Exit.NEVER:
            continue
        if way is Exit.POINTER and not _is_pointer(flow.instructions[at], values.before[at]):
            raise UnfollowableError("it jumps where only the running process knows")
        if values.before[at].get(Register(RSP)) != FrameAddress(-8):
            raise UnfollowableError("its stack pointer can't be followed")


def _is_pointer(jump: Instruction, state: State) -> bool:
    """Whether a jump goes where a variable points, and not by a table of places in the function."""
    operand = jump.operands[0]
    if operand.register is not None:
        return isinstance(state.get(Register(operand.register)), Loaded)
    return operand.is_memory and not operand.has_index


def _mark(flow: Flow, values: Values, extent_of: Callable[[int], object]) -> None:
    """Where a call that may allocate can have been made, and what code is others' as well."""
    _spread(
        flow,
        values.called,
        [
            following
            for at, call in flow.calls.items()
            if call.may_allocate
            for following in flow.after(at)
        ],
    )
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


# --- backward ---------------------------------------------------------------------------------


def _backward(flow: Flow, values: Values, *, escaped: bool, narrow: bool) -> None:
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
            behind = frozenset()  # it has probes of its own, which see the result, or may have
    for following in flow.successors[at]:
        behind = _common(behind, result_towards(flow, values, at, following))
    for following in flow.landing.get(at, ()):
        behind = _common(behind, values.result[following])
    if behind is None:
        return None
    return _carried(one, behind, values.before.get(at, {}), escaped=escaped, narrow=narrow)


def result_towards(flow: Flow, values: Values, at: int, following: int) -> Places:
    """Where the result is behind an instruction, if control goes on there."""
    places = values.result[following]
    jump = flow.instructions[at]
    if jump.is_conditional and places is not None:
        places |= _implied(flow, _flag_setters(flow, at), jump, following, places)
    return places


def _common(one: Places, other: Places) -> Places:
    if one is None:
        return other
    return one if other is None else one & other


def _flag_setters(flow: Flow, at: int) -> list[Instruction]:
    """The instructions right before a jump, nearest first, as far as they keep the flags; the last
    one sets them."""
    by_end = flow.by_end
    line: list[Instruction] = []
    while (before := by_end.get(at)) is not None and len(line) < 4:
        line.append(before)
        if before.mnemonic not in _KEEPS_FLAGS:
            break
        at = before.address
    return line


def _implied(
    flow: Flow, line: list[Instruction], jump: Instruction, following: int, places: frozenset[Place]
) -> frozenset[Place]:
    """Where the result is besides, for what the condition says: behind `test %rax,%rax; je`, rax
    holds the NULL that is returned there."""
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
    if test.mnemonic == "test" and _is_same_register(test) and is_zero and _NULL in places:
        return frozenset({Register(number)})
    if (
        test.mnemonic == "cmp"
        and is_taken
        and (jump.mnemonic, test.operands[1].immediate) in _ERROR_BOUNDS
        and _FAILED in places
    ):
        return frozenset({Register(number)})
    return frozenset()


def _carried(
    one: Instruction, behind: frozenset[Place], state: State, *, escaped: bool, narrow: bool
) -> frozenset[Place]:
    """Where that is before an instruction, which is in these places behind it."""
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
    # What each place would hold: asked of the forward analysis, of a state in which every place
    # holds a value of its own.
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
    after = _transfer(one, marked, escaped=escaped)
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
    if one.mnemonic in ("push", "pop", "leave", "syscall", *_EXCHANGES):
        return False
    written = one.written | {
        o.register for o in one.operands if o.is_written and o.register is not None
    }
    writes_memory = any(o.is_memory and o.is_written for o in one.operands)
    return not any(
        (isinstance(place, Register) and place.number in written)
        or (isinstance(place, Slot) and writes_memory)
        for place in behind
    )


def _homes(one: Instruction, behind: frozenset[Place], state: State) -> list[Home]:
    """Everything that an instruction may take a value from."""
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
    """`mov %ebx,%eax` hands on all that an int has."""
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
