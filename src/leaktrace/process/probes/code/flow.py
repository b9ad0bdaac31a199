"""A function's control flow: every instruction that its entry leads to, and what follows it.

Direct jumps are followed to any destination: separate parts of the function, and other functions
(tail calls). Calls return, unless the function that is called never does. Exceptions land where the
exception tables say. Anything else raises `UnfollowableError`: an analysis of only some paths
through a function would be worthless.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from leaktrace.arch.x86_64_code import KEEPS_FLAGS, UNFOLLOWED, Instruction, decode
from leaktrace.elf.object import ElfObject
from leaktrace.elf.symbols import find_functions
from leaktrace.errors import ObjectFileError
from leaktrace.process.probes.code.linkage import Linkage
from leaktrace.unwind.extents import Extent, Extents

_STT_FUNC = 2
_MAX_INSTRUCTIONS = 20_000
_MAX_CALLEE_INSTRUCTIONS = 4_000
_MAX_CALL_DEPTH = 6
_BLOCK_BYTES = 512
_MAX_FLAG_LINE = 4

_NEVER_RETURN = re.compile(
    r"abort|_?exit|_Exit|quick_exit|pthread_exit|__assert(_perror)?_fail|__stack_chk_fail|__chk_fail"
    r"|__fortify_fail|__libc_fatal|longjmp|_longjmp|siglongjmp|__longjmp_chk|__cxa_throw"
    r"|__cxa_rethrow|__cxa_bad_cast|__cxa_throw_bad_array_(new_)?length|_Unwind_Resume"
    r"|__cxa_call_terminate|__clang_call_terminate|_ZSt9terminatev|_ZSt10unexpectedv|_ZSt\d+__throw_.*"
)
_RETURN_TWICE = {"setjmp", "_setjmp", "__sigsetjmp", "sigsetjmp", "vfork", "getcontext"}
# They allocate nothing, and call nothing that allocates.
_HARMLESS = re.compile(
    r"(__)?(mem(set|cpy|move|cmp|chr|pcpy)|str(n?len|n?cmp|n?cpy|r?chr)|bzero)(_chk)?"
    r"|__errno_location|sched_yield|getpid|gettid|__sched_cpucount|sched_getcpu"
    r"|(__)?pthread_(mutex_(un|try)?lock|spin_(un|try)?lock|self|getspecific)"
)
_RETURN_FIRST_ARGUMENT = re.compile(r"(__)?(memset|memcpy|memmove)(_chk)?")


class UnfollowableError(Exception):
    """Why not all paths through a function can be known, in words."""


class Exit(Enum):
    """How control leaves a function."""

    RETURN = "return"
    NEVER = "never"  # abort, an exception
    FIRST_ARGUMENT = "first argument"  # tail call of memset and similar, which return it
    HOOKED = "hooked"  # tail call of a hooked function, which has its own probes
    POINTER = "pointer"  # tail call of a function that only the running process knows


@dataclass(frozen=True)
class Call:
    """A call. `may_allocate`: it may reach a hooked function."""

    returns: bool
    may_allocate: bool


@dataclass
class Flow:
    """Instructions by address, in the order of addresses when iterated over `order`."""

    entry: int
    no_return: frozenset[int] = frozenset()  # calls that are known not to return
    instructions: dict[int, Instruction] = field(default_factory=dict)
    successors: dict[int, tuple[int, ...]] = field(default_factory=dict)
    landing: dict[int, tuple[int, ...]] = field(default_factory=dict)  # of calls: landing pads
    exits: dict[int, Exit] = field(default_factory=dict)
    handed_to: dict[int, int | str] = field(default_factory=dict)  # of HOOKED exits: address, name
    calls: dict[int, Call] = field(default_factory=dict)

    @cached_property
    def order(self) -> list[int]:
        return sorted(self.instructions)

    @cached_property
    def by_end(self) -> dict[int, Instruction]:
        """Instructions that go on with the next one, by where they end."""
        return {
            one.end: one for at, one in self.instructions.items() if one.end in self.successors[at]
        }

    @cached_property
    def predecessors(self) -> dict[int, list[int]]:
        """From where each instruction is reached."""
        found: dict[int, list[int]] = {at: [] for at in self.instructions}
        for at in self.instructions:
            for following in self.after(at):
                found[following].append(at)
        return found

    def after(self, at: int) -> tuple[int, ...]:
        """Where control goes from an instruction, including exceptions."""
        return (*self.successors[at], *self.landing.get(at, ()))

    def flag_setters(self, at: int) -> list[Instruction]:
        """The instructions before a jump, nearest first, that keep the flags; the last one sets
        them."""
        line: list[Instruction] = []
        while (before := self.by_end.get(at)) is not None and len(line) < _MAX_FLAG_LINE:
            line.append(before)
            if before.mnemonic not in KEEPS_FLAGS:
                break
            at = before.address
        return line

    def is_joined(self, at: int) -> bool:
        """Whether an instruction has more than one predecessor."""
        return len(self.predecessors[at]) > 1


class CodeReader:
    """The code of one object: its instructions, its functions, their calls."""

    def __init__(
        self, elf: ElfObject, hooked: Iterable[int], hooked_names: Iterable[str] = ()
    ) -> None:
        """`hooked`: entries of the functions that have probes; `hooked_names`: names of such
        functions in all objects."""
        self.elf = elf
        self.hooked_names = frozenset(hooked_names)
        self.hooked = frozenset(hooked)
        self._extents = Extents(elf)
        self._symbol_tables = elf.symbol_tables()
        self._linkage = Linkage(elf, self._symbol_tables)
        self._decoded: dict[int, Instruction] = {}
        self._blocks: dict[int, tuple[Instruction, ...]] = {}
        self._callees: dict[int, Call] = {}
        self._own_functions: dict[str, int | None] = {}

    def block(self, vaddr: int) -> tuple[Instruction, ...]:
        """The straight line from an address to the first instruction that may branch."""
        if vaddr not in self._blocks:
            found: list[Instruction] = []
            at = vaddr
            while not found or not found[-1].ends_block:
                if at not in self._decoded:
                    self._decode_from(at)
                found.append(self._decoded[at])
                at = found[-1].end
            self._blocks[vaddr] = tuple(found)
        return self._blocks[vaddr]

    def _decode_from(self, vaddr: int) -> None:
        """Decode the part of a straight line that isn't decoded."""
        size = _BLOCK_BYTES
        for segment in self.elf.load_segments:
            if segment.vaddr <= vaddr < segment.vaddr + segment.file_size:
                size = min(size, segment.vaddr + segment.file_size - vaddr)
        for one in decode(self.elf.read_vaddr(vaddr, size), vaddr):
            if one.address in self._decoded:
                break
            self._decoded[one.address] = one
            if one.ends_block:
                break
        if vaddr not in self._decoded:
            raise UnfollowableError(f"the instruction at {vaddr:#x} can't be decoded")

    def extent(self, vaddr: int) -> Extent | None:
        """The function that contains an address, by unwind information or by symbol; None where
        neither covers it."""
        found = self._extents.of(vaddr)
        return found if found is not None else self._by_symbol(vaddr)

    def _by_symbol(self, vaddr: int) -> Extent | None:
        starts, ends = self._symbols
        index = int(np.searchsorted(starts, vaddr, side="right")) - 1
        if index < 0 or vaddr >= int(ends[index]):
            return None
        return Extent(int(starts[index]), int(ends[index]))

    @cached_property
    def _symbols(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Start and end of each function that has a symbol, by ascending start."""
        places: set[tuple[int, int]] = set()
        for table in self._symbol_tables:
            entries = table.entries
            kept = entries[(entries["size"] > 0) & ((entries["info"] & 0xF) == _STT_FUNC)]
            starts = kept["value"].astype(np.int64)
            places.update(zip(starts.tolist(), (starts + kept["size"]).tolist(), strict=True))
        pairs = np.array(sorted(places), dtype=np.int64).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]

    def _own(self, name: str) -> int | None:
        """Where this object defines a function that it calls through its PLT or GOT."""
        if name not in self._own_functions:
            found = find_functions(self._symbol_tables, [name]).get(name)
            is_known = found is not None and not found.is_ifunc
            self._own_functions[name] = found.vaddr if found is not None and is_known else None
        return self._own_functions[name]

    def destination(self, instruction: Instruction) -> tuple[int | None, str | None]:
        """The destination of a jump or call: an address in this object, or the name of an import
        ("" if it has none); (None, None) where only the running process knows it."""
        target = instruction.target
        if target is not None:
            imported = self._linkage.stub(target)
            return (target, None) if imported is None else self._imported(imported)
        operand = instruction.operands[0]
        if operand.absolute is not None and not operand.has_index:
            imported = self._linkage.slot(operand.absolute)
            if imported is not None:
                return self._imported(imported)
        return None, None

    def _imported(self, name: str) -> tuple[int | None, str | None]:
        """An object that is searched earlier could override the symbol. That isn't done to internal
        functions of an allocator, so its own definition is assumed."""
        if name in self.hooked_names or _NEVER_RETURN.fullmatch(name) or _HARMLESS.fullmatch(name):
            return None, name
        own = self._own(name)
        if own is None:
            return None, name
        return own, None

    # --- what is called -------------------------------------------------------------------

    def call(self, instruction: Instruction, depth: int = 0) -> Call:
        """What a call instruction does. Raises UnfollowableError for calls that return twice."""
        vaddr, name = self.destination(instruction)
        if vaddr is not None:
            return self.callee(vaddr, depth + 1)
        if name in _RETURN_TWICE:
            raise UnfollowableError(f"it calls {name}, which returns twice")
        if name and _NEVER_RETURN.fullmatch(name):
            return Call(returns=False, may_allocate=False)
        return Call(returns=True, may_allocate=not (name and _HARMLESS.fullmatch(name)))

    def callee(self, vaddr: int, depth: int = 0) -> Call:
        """What a function of this object does when it is called."""
        if vaddr in self.hooked:
            return Call(returns=True, may_allocate=True)
        if vaddr not in self._callees:
            # The answer where it calls itself, or is too large to examine.
            self._callees[vaddr] = Call(returns=True, may_allocate=True)
            if depth <= _MAX_CALL_DEPTH:
                with suppress(UnfollowableError, ObjectFileError):
                    self._callees[vaddr] = self._look_through(vaddr, depth)
        return self._callees[vaddr]

    def _look_through(self, vaddr: int, depth: int) -> Call:
        returns = may_allocate = False
        waiting, seen, count = [vaddr], set[int](), 0
        while waiting and not (returns and may_allocate):
            at = waiting.pop()
            if at in seen:
                continue
            if at in self.hooked:
                return Call(returns=True, may_allocate=True)
            seen.add(at)
            block = self.block(at)
            count += len(block)
            if count > _MAX_CALLEE_INSTRUCTIONS:
                return Call(returns=True, may_allocate=True)
            last = block[-1]
            if last.is_return:
                returns = True
            elif last.is_trap:
                continue
            elif last.is_call:
                called = self.call(last, depth)
                may_allocate |= called.may_allocate
                waiting += self._landing_pads(last)
                if called.returns and not self._ends_behind(last):
                    waiting.append(last.end)
            else:
                if last.is_conditional:
                    waiting.append(last.end)
                target, name = self.destination(last)
                if target is not None:
                    waiting.append(target)
                elif not (name and _NEVER_RETURN.fullmatch(name)):
                    returns = True
                    may_allocate |= not (name and _HARMLESS.fullmatch(name))
        return Call(returns, may_allocate)

    def _ends_behind(self, call: Instruction) -> bool:
        """Whether a function ends with this call, which therefore never returns."""
        extent = self.extent(call.address)
        return extent is not None and call.end >= extent.end

    # --- the paths through a function --------------------------------------------------------

    def flow(self, entry: int, no_return: frozenset[int] = frozenset()) -> Flow:
        """All paths through the function at `entry`; `no_return`: calls that don't return.

        Raises UnfollowableError and ObjectFileError.
        """
        flow = Flow(entry, no_return)
        waiting = [entry]
        while waiting:
            for instruction in self.block(waiting.pop()):
                at = instruction.address
                if at in flow.instructions:
                    break
                if len(flow.instructions) >= _MAX_INSTRUCTIONS:
                    raise UnfollowableError("it is too large")
                flow.instructions[at] = instruction
                flow.successors[at] = self._after(flow, instruction)
                waiting += [*flow.successors[at], *flow.landing.get(at, ())]
        _refuse_overlaps(flow)
        return flow

    def returns_in(self, entry: int) -> set[int]:
        """The return addresses of calls on all paths through the function at `entry` that can be
        followed: they occur in stacks that lead through it. Never raises."""
        found: set[int] = set()
        waiting, seen = [entry], set[int]()
        while waiting and len(seen) < _MAX_INSTRUCTIONS:
            at = waiting.pop()
            if at in seen:
                continue
            seen.add(at)
            with suppress(UnfollowableError, ObjectFileError):
                last = self.block(at)[-1]
                if last.is_return or last.is_trap:
                    continue
                if last.is_call:
                    found.add(last.end)
                    waiting += self._landing_pads(last)
                    if self.call(last).returns and not self._ends_behind(last):
                        waiting.append(last.end)
                    continue
                if last.is_conditional:
                    waiting.append(last.end)
                target, _ = self.destination(last)
                if target is not None:
                    waiting.append(target)
        return found

    def cut_off(self, flow: Flow, calls: Iterable[int]) -> Flow:
        """The same without what follows calls that are known not to return."""
        return self.flow(flow.entry, flow.no_return.union(calls))

    def _after(self, flow: Flow, one: Instruction) -> tuple[int, ...]:
        """Where control goes from an instruction, within the flow."""
        if one.is_return:
            flow.exits[one.address] = Exit.RETURN
            return ()
        if one.is_trap:
            flow.exits[one.address] = Exit.NEVER
            return ()
        if one.is_call:
            called = self.call(one)
            if one.address in flow.no_return:
                called = Call(returns=False, may_allocate=called.may_allocate)
            pads = self._landing_pads(one)
            if pads:
                flow.landing[one.address] = pads
            flow.calls[one.address] = called
            if called.returns and not self._ends_behind(one):
                return (one.end,)
            if not pads:
                flow.exits[one.address] = Exit.NEVER
            return ()
        if one.is_jump:
            after = self._after_jump(flow, one)
            return (one.end, *after) if one.is_conditional else after
        if one.mnemonic in UNFOLLOWED:
            raise UnfollowableError(f"it contains {one.mnemonic}")
        return (one.end,)

    def _after_jump(self, flow: Flow, one: Instruction) -> tuple[int, ...]:
        target, name = self.destination(one)
        if target is not None:
            if target in self.hooked and target != flow.entry:
                flow.exits[one.address] = Exit.HOOKED
                flow.handed_to[one.address] = target
                return ()
            return (target,)
        if name in self.hooked_names:
            flow.exits[one.address] = Exit.HOOKED
            flow.handed_to[one.address] = name
            return ()
        if name and _NEVER_RETURN.fullmatch(name):
            flow.exits[one.address] = Exit.NEVER
            return ()
        if name and _RETURN_FIRST_ARGUMENT.fullmatch(name):
            flow.exits[one.address] = Exit.FIRST_ARGUMENT
            return ()
        if name:
            raise UnfollowableError(f"it jumps to {name} of another object")
        flow.exits[one.address] = Exit.POINTER  # `check_stack` checks that it is one
        return ()

    def _landing_pads(self, call: Instruction) -> tuple[int, ...]:
        extent = self.extent(call.address)
        if extent is None:
            return ()
        pads = (pad for pad in extent.landing_pads if pad.start <= call.address < pad.end)
        return tuple(dict.fromkeys(pad.vaddr for pad in pads))


def _refuse_overlaps(flow: Flow) -> None:
    end = 0
    for address in flow.order:
        if address < end:
            raise UnfollowableError(f"its instructions at {address:#x} overlap")
        end = flow.instructions[address].end
