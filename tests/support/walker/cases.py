"""Made-up processes: unwind tables with every rule, and stacks that fit them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import numpy as np
from unwind_walker import Arrays

from leaktrace.abi import process as abi
from leaktrace.abi.process import EndOf, Rule, SavedRbp
from leaktrace.errors import ObjectFileError
from leaktrace.targets.mappings import Mapping
from leaktrace.unwind.entries import FrameSection, SectionKind
from leaktrace.unwind.layout import UnwindLayout, Update
from leaktrace.unwind.rows import (
    CALLBACKS,
    PC_SHIFT,
    SYSTEM_STACKS,
    GoSwitch,
    Row,
    pack,
    pack_switch,
    unpack_switch,
)
from leaktrace.unwind.table import CodeSegment, UnwindSource, UnwindTable, index_rows
from walker.machine import Memory
from walker.walks import TRAMPOLINE, Registers

PAGE = 4096
CODE_START = 0x7F0000000000
STACK_START = 0x7FFD00000000
OBJECT_PAGES = 2
# What may precede a return address: calls of all lengths, and other instructions; and what a
# signal handler returns to.
_CODE = (
    *(b"\xe8\1\2\3\4", b"\xff\xd0", b"\xff\x50\x08", b"\xff\x54\x24\x08", b"\x41\xff\xd4"),
    *(b"\xff\x90\1\2\3\4", b"\xff\x94\x24\1\2\3\4", b"\x90", b"\xc3", b"\x0f\x1f\x00"),
    bytes.fromhex("48c7c00f0000000f05"),  # mov $15, %rax; syscall
    *(bytes.fromhex(code) for code in ("4883c408c3", "4883c420c3", "4883c4f8c3")),  # add; ret
)

# From rsp of a signal's frame, which points at a struct ucontext: its uc_mcontext.gregs[] begin at
# 40, and REG_RBP, REG_RSP and REG_RIP are 10, 15 and 16 (glibc, sys/ucontext.h).
SIGNAL_RBP_OFFSET, SIGNAL_RSP_OFFSET, SIGNAL_RIP_OFFSET = 120, 160, 168
# Where the programs read a thread's fs base, and what they find: goroutines are in the stack.
TASK_FSBASE = 1 << 16
FSBASE = STACK_START + 8 * 12
# Where a thread has its goroutine, from there.
OF_PROGRAM, OF_LIBRARY = -abi.GO_G_BELOW_TLS, -24
IN_LIBRARY = (EndOf.SYSTEM_STACK_OF_LIBRARY, EndOf.CALLBACK_OF_LIBRARY)
_LOAD = bytes.fromhex("488b0d00000000")  # mov 0(%rip),%rcx: the word behind it

SMALL_NUMBERS = (0, 1, 255)
IN_TRAMPOLINE = tuple(TRAMPOLINE + at for at in (0, 13, 15, 16, 20))

_RULES = {
    Rule.RULE_RSP: 60,
    Rule.RULE_RBP: 12,
    Rule.RULE_END: 8,
    Rule.RULE_NONE: 3,
    Rule.RULE_PLT: 3,
    Rule.RULE_RBP_DEREF: 5,
    Rule.RULE_RSP_DEREF: 5,
    Rule.RULE_SIGNAL: 3,
}
_SAVED = {0: 60, 1: 2, 2: 20, 3: 10, SavedRbp.LOST: 3, SavedRbp.AT_RBP: 8}
_MOST_FRAMES = 140  # more than a walk takes


class SwitchRow(NamedTuple):
    """A row by which Go code is found."""

    pc: int
    switch: GoSwitch
    rule: Rule = Rule.RULE_END


AnyRow = Row | SwitchRow


@dataclass
class Process:
    """Code with tables, and where code is."""

    layout: UnwindLayout
    mappings: list[Mapping]
    update: Update
    arrays: Arrays
    code: dict[int, bytes]
    pcs: list[int]  # addresses in code, most with a row
    calls: dict[int, int]  # return address in a function that switches stacks -> of a call of it

    def is_mapped(self, ip: int) -> bool:
        """Whether an address is in a mapping on the walker's list."""
        return self.arrays.find_mapping(ip) is not None


@dataclass
class Stack:
    """A stack that the tables lead up to its end, or until it can't be continued."""

    start: int
    words: list[int]
    registers: Registers
    used: list[int]  # addresses of words that decide the walk

    def memory(self, process: Process) -> Memory:
        """With the code of the process."""
        data = np.array(self.words, np.uint64).tobytes()
        task = FSBASE.to_bytes(8, "little")
        return Memory({**process.code, self.start: data, TASK_FSBASE: task})

    def put(self, address: int, word: int) -> None:
        """Write a word that decides the walk."""
        self.words[(address - self.start) // 8] = word
        self.used.append(address)

    def address(self, random: Random) -> int:
        """The address of a word, mostly one that decides the walk."""
        if self.used and random.random() < 0.7:
            return random.choice(self.used)
        return self.start + 8 * random.randrange(len(self.words))

    def value(self, random: Random, process: Process) -> int:
        """What a damaged or another stack may have in a word."""
        kind = random.random()
        if kind < 0.4:
            return random.choice(process.pcs)
        if kind < 0.7:
            return self.address(random)
        return random.choice((*SMALL_NUMBERS, *IN_TRAMPOLINE, random.getrandbits(64)))


def make_process(random: Random) -> Process:
    """One to three objects, and sometimes generated code without a table, or an object whose table
    is still to come."""
    objects: list[list[AnyRow]] = []
    row = _small_frame if random.random() < 0.1 else _row
    for number in range(random.randint(1, 3)):
        is_generated = number > 0 and random.random() < 0.3
        objects.append([] if is_generated else _rows(random, row))
    code = Random(random.getrandbits(32))
    gaps = [random.randint(0, 2) for _ in objects]
    distances = [random.choice((0, random.randint(1, 15))) for _ in range(16)]
    to_come = {number for number in range(len(objects)) if random.random() < 0.1}
    return process_of(objects, code=code, gaps=gaps, distances=distances, to_come=to_come)


def process_of(
    objects: Sequence[Sequence[AnyRow]],
    *,
    code: Random | None = None,
    gaps: Sequence[int] = (),
    distances: Sequence[int] = (4,),
    to_come: Collection[int] = (),
) -> Process:
    """A process of objects of OBJECT_PAGES pages, each with these rows; without rows, there is no
    object but generated code. `gaps` are pages between them, `distances` bytes from a row's pc to
    an address that stacks have. Objects with the numbers `to_come` have no table yet."""
    code = code or Random(1)
    tables: dict[str, UnwindTable] = {}
    mappings: list[Mapping] = []
    pcs: list[int] = []
    parts: dict[int, bytes] = {}
    switches: dict[int, GoSwitch] = {}
    address = CODE_START
    for number, rows in enumerate(objects):
        path, end = f"/{number}" if rows else "", address + OBJECT_PAGES * PAGE
        mappings.append(Mapping(address, end, "r-xp", 0, "00:00", number + 1 if rows else 0, path))
        if rows:
            tables[path] = _table(rows)
        parts[address] = b"".join(code.choices(_CODE, k=OBJECT_PAGES * PAGE))[: end - address]
        own = [
            address + row.pc + distance
            for row, distance in zip(rows, itertools.cycle(distances), strict=False)
        ]
        pcs += own or [address + 64]
        switches |= {
            ip: row.switch for ip, row in zip(own, rows, strict=True) if isinstance(row, SwitchRow)
        }
        address = end + (gaps[number] if gaps else 0) * PAGE

    def provide(mapping: Mapping) -> UnwindTable | None:
        if mapping.is_file and int(mapping.path[1:]) in to_come:
            raise ObjectFileError("its table is to come") from FileNotFoundError()
        return tables.get(mapping.path)

    layout = UnwindLayout(provide)
    update = layout.update(mappings)
    arrays = Arrays(np.zeros(1 << 12, np.uint64), np.zeros(1 << 10, np.uint64))
    arrays.write(update)
    calls = _put_calls(code, switches, pcs, parts)
    return Process(layout, mappings, update, arrays, parts, pcs, calls)


def _table(rows: Sequence[AnyRow]) -> UnwindTable:
    segments = (CodeSegment(0, 0, OBJECT_PAGES * PAGE),)
    source = UnwindSource("made up", (FrameSection(SectionKind.EH_FRAME, b"", 0),), 0, segments)
    return index_rows(source, np.array([_packed(row) for row in rows], np.uint64), {})


def _packed(row: AnyRow) -> int:
    if isinstance(row, SwitchRow):
        return row.pc << PC_SHIFT | pack_switch(row.switch)
    return pack(row)


def _put_calls(
    code: Random, switches: dict[int, GoSwitch], pcs: list[int], parts: dict[int, bytes]
) -> dict[int, int]:
    """Calls of each function that switches stacks, before some address that stacks have; by the
    return address in the function."""
    calls = {}
    for ip, switch in switches.items():
        if switch.of in IN_LIBRARY and code.random() < 0.9:
            start = max(start for start in parts if start <= ip)
            at = ip - start + (switch.second if switch.of is EndOf.CALLBACK_OF_LIBRARY else 0)
            load = _LOAD + OF_LIBRARY.to_bytes(8, "little", signed=True)
            if at + len(load) <= len(parts[start]):
                parts[start] = parts[start][:at] + load + parts[start][at + len(load) :]
        back = code.choice(pcs)
        start = max(start for start in parts if start <= back)
        at = back - start
        call = b"\xe8" + (ip - switch.entry_distance - back).to_bytes(4, "little", signed=True)
        if at >= len(call):
            parts[start] = parts[start][: at - len(call)] + call + parts[start][at:]
            calls[ip] = back
    return calls


def _rows(random: Random, row: Callable[[Random, int], AnyRow]) -> list[AnyRow]:
    pcs = {random.randrange(0, OBJECT_PAGES * PAGE, 16) for _ in range(random.randint(1, 16))}
    return [row(random, pc) for pc in sorted(pcs)]


def _small_frame(random: Random, pc: int) -> Row:
    """Small frames make deep stacks."""
    return Row(pc, Rule.RULE_RSP, 8 * random.randint(1, 6), random.choice((0, 2)))


def _row(random: Random, pc: int) -> AnyRow:
    rule = random.choices(list(_RULES), list(_RULES.values()))[0]
    saved = random.choices(list(_SAVED), list(_SAVED.values()))[0]
    match rule:
        case Rule.RULE_RSP:
            offset = 8 * random.randint(1, 8)
            if random.random() < 0.04:
                offset = 8 * random.choice((-100, -1, 0, 40_000, 600_000, 2_000_000))
        case Rule.RULE_PLT:
            return Row(pc, rule, 11, 0)
        case Rule.RULE_END if random.random() < 0.7:
            return SwitchRow(pc, _switch(random))
        case Rule.RULE_END:
            return Row(pc, rule, random.randint(0, 1), 0)
        case Rule.RULE_NONE:
            return Row(pc, rule, random.randint(0, 5), 0)
        case Rule.RULE_SIGNAL:
            return Row(pc, rule, 0, 0)
        case _:
            offset = 8 * random.randint(-4, 8)
    return Row(pc, rule, offset, saved)


def _switch(random: Random) -> GoSwitch:
    of = random.choice(tuple(EndOf)[EndOf.C_OF_GOROUTINE :])
    first, second = (8 * random.randint(0, 15) for _ in range(2))
    if of in SYSTEM_STACKS:
        first, second = 8 * random.randint(1, 60), 0
    elif of is EndOf.CALLBACK:
        first = second = 0
    elif of in (EndOf.C_BELOW_SAVED_SP, EndOf.CALLBACK_OF_LIBRARY):
        first = 0
    return GoSwitch(of, first, second, 8 * random.randint(1, 8), random.randint(1, 200))


def make_stack(random: Random, process: Process, most_frames: int = _MOST_FRAMES) -> Stack:
    """Adjacent frames, as the rows of their code require them."""
    frame_count = random.choice((most_frames, random.randint(0, most_frames)))
    return _Builder(random, process).build(frame_count)


class _Builder:
    def __init__(self, random: Random, process: Process) -> None:
        self._random, self._process = random, process
        others = Random(random.getrandbits(32))
        count = random.choice((64, 300, 1500, 1500))
        pool = [*SMALL_NUMBERS, *process.pcs, *(STACK_START + 8 * n for n in range(0, count, 7))]
        self._words = others.choices(pool, k=count)
        self._end = STACK_START + 8 * count
        self._bp_at = 0  # the word that rbp is from; 0: the register
        self._used: list[int] = []
        self._callback_sp = 0  # where a callback saved that of an earlier one

    def build(self, frame_count: int) -> Stack:
        random = self._random
        ip, sp = random.choice(self._process.pcs), STACK_START + 8 * random.randint(20, 40)
        self._bp = self._first_bp = STACK_START + 8 * random.randint(20, len(self._words) - 1)
        first_ip, first_sp, back = ip, sp, 0
        for _ in range(frame_count):
            row = self._process.arrays.find_row(ip - back)
            switch = unpack_switch(self._process.arrays.find_value(ip - back) or 0)
            if switch and ip in self._process.calls:
                sp = self._place_switch(switch, sp)
                ip, back = self._process.calls[ip], 1
                self._put(sp - 8, ip)
                continue
            if row is None or row.rule in (Rule.RULE_END, Rule.RULE_NONE):
                break
            next_ip = random.choice(self._process.pcs)
            if row.rule is Rule.RULE_SIGNAL:
                above = sp + 8 * random.randint(22, 40)
                self._put(sp + SIGNAL_RBP_OFFSET, self._bp)
                self._put(sp + SIGNAL_RSP_OFFSET, above)
                self._put(sp + SIGNAL_RIP_OFFSET, next_ip)
                self._bp_at, sp, back = sp + SIGNAL_RBP_OFFSET, above, 0
            else:
                cfa = self._place(row, ip, sp)
                self._put(cfa - 8, next_ip)
                sp, back = cfa, 1
            ip = next_ip
        last = random.random()
        if last < 0.3:
            self._put(sp - 8, 0)
        elif last < 0.4:
            self._put(sp - 8, random.choice(IN_TRAMPOLINE))
        registers = Registers(first_ip, first_sp, self._first_bp)
        return Stack(STACK_START, self._words, registers, self._used)

    def _place(self, row: Row, ip: int, sp: int) -> int:
        """The CFA of a frame; what its rule reads is written."""
        cfa = sp + 8 * self._random.randint(1, 6)
        slot = sp + 8 * self._random.randint(0, 6)
        match row.rule:
            case Rule.RULE_RSP:
                cfa = sp + row.cfa_offset
            case Rule.RULE_PLT:
                cfa = sp + 8 + (8 if ip % 16 >= row.cfa_offset else 0)
            case Rule.RULE_RBP:
                self._set_bp(cfa - row.cfa_offset)
            case Rule.RULE_RBP_DEREF:
                self._set_bp(slot - row.cfa_offset)
                self._put(slot, cfa)
            case Rule.RULE_RSP_DEREF:
                self._put(sp + row.cfa_offset, cfa)
        if row.saved_rbp == SavedRbp.AT_RBP:
            self._bp_at = self._bp
        elif row.saved_rbp not in (SavedRbp.UNCHANGED, SavedRbp.LOST):
            self._bp_at = cfa - 8 * row.saved_rbp
            self._put(self._bp_at, self._bp)
        return cfa

    def _place_switch(self, switch: GoSwitch, sp: int) -> int:
        """The CFA of the caller, on any part of the stack; what the switch reads is written."""
        random = self._random
        cfa = random.choice((sp, STACK_START)) + 8 * random.randint(30, 60)
        goroutine = STACK_START + 8 * random.randrange(len(self._words))
        saved = cfa - switch.frame
        match switch.of:
            case EndOf.C_BELOW_SAVED_SP:
                self._put(sp + switch.second, saved)
            case EndOf.C_OF_GOROUTINE:
                self._put(sp + switch.first, goroutine)
                self._put(goroutine, STACK_START)
                self._put(goroutine + abi.GO_G_STACK_HI, self._end)
                self._put(sp + switch.second, (self._end - saved) & (1 << 64) - 1)
            case EndOf.CALLBACK | EndOf.CALLBACK_OF_LIBRARY if self._callback_sp:
                self._put(self._callback_sp, saved)
            case _:
                own, m = FSBASE + 8, FSBASE + 16 + 8 * random.randint(0, 8)
                self._put(FSBASE + (OF_LIBRARY if switch.of in IN_LIBRARY else OF_PROGRAM), own)
                self._put(own + abi.GO_G_M, m)
                self._put(m + switch.first, goroutine)
                self._put(goroutine + abi.GO_G_SCHED_SP, saved)
        if switch.of in CALLBACKS:
            self._callback_sp = saved
            self._bp = self._end - 64
            self._bp_at = cfa - 16
            self._put(cfa - 16, self._bp)
        return cfa

    def _set_bp(self, value: int) -> None:
        self._bp = value
        if self._bp_at:
            self._put(self._bp_at, value)
        else:
            self._first_bp = value

    def _put(self, address: int, value: int) -> None:
        if STACK_START <= address < self._end:
            self._words[(address - STACK_START) // 8] = value
            self._used.append(address)
