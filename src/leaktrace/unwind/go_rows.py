"""The rules of a Go program's functions, from the runtime's own table (runtimes/go/functions.py).

For each instruction it says how many bytes the function has put on the stack. Compiled functions
keep a frame pointer, too, but rbp is of no use to the C code below: the way there is through the
runtime's functions that switch stacks (go_switches.py).
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from leaktrace.abi.process import EndOf, Rule, SavedRbp
from leaktrace.elf.object import ElfObject
from leaktrace.errors import ObjectFileError
from leaktrace.runtimes.go.functions import GoFlag, GoFunctions, read_go_functions
from leaktrace.runtimes.go.values import MAX_STEPS, number_at
from leaktrace.unwind.rows import (
    CALLBACKS,
    CFA_OFFSET_MAX,
    CFA_OFFSET_UNIT,
    NoRule,
    Return,
    Switch,
    pack_rule,
    pack_switch,
)

_CHECK_EVERY = 4096  # functions
_MAX_SWITCHING = 256  # functions that switch stacks: a program has about 40
_MAX_CODE_BYTES = 1024

_CALLS_BACK = b"\0crosscall2\0"

Rules = list[tuple[int, int]]  # from a distance from the function's start on


class GoRows(NamedTuple):
    """The rules of function i are `rules[j]` from `offsets[j]` on, for j from `firsts[i]` on,
    `counts[i]` of them."""

    firsts: array[int]
    counts: array[int]
    offsets: array[int]
    rules: array[int]


@dataclass(frozen=True)
class GoCode:
    """What the rules are made from: the functions of an object, and where they switch stacks, by
    ascending address."""

    functions: GoFunctions
    switches: tuple[Switch, ...]
    returns: tuple[Return, ...] = ()  # in functions that C code has called

    def add_to(self, state: hashlib.blake2b) -> None:
        """Hash it."""
        self.functions.add_to(state)
        for switch in self.switches:
            state.update(struct.pack("<QI", switch.return_address, pack_switch(switch.rule)))
        for back in self.returns:
            state.update(struct.pack("<Qii", *back))


def read_go_code(elf: ElfObject) -> GoCode | None:
    """The Go code of an object, None if it has none that is understood."""
    functions = read_go_functions(elf)
    if functions is None:
        return None
    switches = _switches_of(elf, functions)
    return GoCode(functions, switches, tuple(_callers_of_callbacks(elf, functions, switches)))


def _switches_of(elf: ElfObject, functions: GoFunctions) -> tuple[Switch, ...]:
    # Only now: few objects are Go's, and sanitizers refuse the way in which capstone is loaded.
    from leaktrace.unwind.go_switches import find_switches  # noqa: PLC0415

    found: list[Switch] = []
    switching = (functions.flags & GoFlag.WRITES_SP).nonzero()[0][:_MAX_SWITCHING]
    for index in switching.tolist():
        start, code = _code_of(elf, functions, index)
        found += find_switches(code, start)
    return tuple(found)


def _code_of(elf: ElfObject, functions: GoFunctions, index: int) -> tuple[int, bytes]:
    """Where a function is, and its code: nothing where it can't be read."""
    start, end = (int(at) for at in functions.starts[index : index + 2])
    try:
        return start, elf.read_vaddr(start, min(end - start, _MAX_CODE_BYTES))
    except ObjectFileError:
        return start, b""


def _callers_of_callbacks(
    elf: ElfObject, functions: GoFunctions, switches: tuple[Switch, ...]
) -> Iterator[Return]:
    """Returns to the function by which C code begins a callback."""
    from leaktrace.unwind.go_switches import find_returns  # noqa: PLC0415 (as above)

    begins = {
        switch.return_address - switch.rule.entry_distance
        for switch in switches
        if switch.rule.of in CALLBACKS
    }
    at = functions.names.find(_CALLS_BACK) + 1
    if at and begins:
        for index in (functions.name_offsets == at).nonzero()[0][:1].tolist():
            start, code = _code_of(elf, functions, index)
            yield from find_returns(code, start, begins)


def compile_go(go: GoCode, check: Callable[[], None] = lambda: None) -> GoRows:
    """The rules of all functions. `check` is called now and then, and may raise."""
    functions, switches = go.functions, go.switches
    made = GoRows(array("q"), array("q"), array("I"), array("I"))
    known: dict[tuple[int, int], tuple[int, int]] = {}
    starts, flags = functions.starts.tolist(), functions.flags.tolist()
    for index, table_at in enumerate(functions.stack_sizes.tolist()):
        if index % _CHECK_EVERY == 0:
            check()
        start, end = starts[index], starts[index + 1]
        kind = flags[index] & (GoFlag.TOP_FRAME | GoFlag.WRITES_SP)
        returns = [r for r in go.returns if start < r.return_address <= end]
        key = (kind, table_at if not kind and not returns else start)
        if key not in known:
            if kind & GoFlag.TOP_FRAME:
                rules = [(0, pack_rule(Rule.RULE_END, EndOf.STACK))]
            elif kind:
                rules = list(_switching(start, end, switches))
            else:
                rules = list(_by_sizes(functions.tables, table_at))
                for back in returns:
                    rules = _with_return(rules, back, start)
            known[key] = len(made.rules), len(rules)
            made.offsets.extend(offset for offset, _ in rules)
            made.rules.extend(rule for _, rule in rules)
        first, count = known[key]
        made.firsts.append(first)
        made.counts.append(count)
    return made


def _switching(start: int, end: int, switches: tuple[Switch, ...]) -> Iterator[tuple[int, int]]:
    """C code that such a function has called is followed no further, unless it is known how."""
    stop = pack_rule(Rule.RULE_END, EndOf.C_CODE)
    at = 0
    for switch in switches:
        if start < switch.return_address <= end:
            back = switch.return_address - start
            if at < back - 1:
                yield at, stop
            yield back - 1, pack_switch(switch.rule)
            at = back
    if at < end - start:
        yield at, stop


def _with_return(rules: Rules, back: Return, start: int) -> Rules:
    """The rules of a function, in which the one for a return address finds rbp, too."""
    at = back.return_address - start
    before = [rule for offset, rule in rules if offset <= at]
    rule = pack_rule(Rule.RULE_RSP, back.cfa_offset, back.saved_rbp // CFA_OFFSET_UNIT)
    others = {offset: one for offset, one in rules if offset != at - 1}
    return sorted({**others, at: before[-1], at - 1: rule}.items()) if before else rules


def _by_sizes(tables: bytes, at: int) -> Iterator[tuple[int, int]]:
    """A table: pairs of numbers, by how much the size on the stack changes, and for how many bytes
    of code it holds then. A change of 0 ends it."""
    if not 0 < at < len(tables):
        yield 0, pack_rule(Rule.RULE_NONE, NoRule.MALFORMED)
        return
    size, pc = -1, 0
    for step in range(MAX_STEPS):
        change, at = number_at(tables, at)
        if change == 0 and step:
            break
        size += -(change + 1 >> 1) if change & 1 else change >> 1
        yield pc, _rule_of(size + CFA_OFFSET_UNIT)
        length, at = number_at(tables, at)
        pc += length
        if not length or pc >= 1 << 32 or at >= len(tables):
            break


def _rule_of(cfa_offset: int) -> int:
    if cfa_offset % CFA_OFFSET_UNIT or not 0 < cfa_offset <= CFA_OFFSET_MAX:
        return pack_rule(Rule.RULE_NONE, NoRule.CFA_OFFSET)
    return pack_rule(Rule.RULE_RSP, cfa_offset, SavedRbp.LOST)
