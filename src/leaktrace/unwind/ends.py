"""Where stacks end, in functions whose unwind information doesn't say so.

The return address of the outermost frame of a stack is undefined (DWARF 5, 6.4.4). glibc declares
that for `_start` and for the function that a thread begins with. Otherwise a stack ends

- in the code that the kernel begins a program with: the ELF entry point;
- where the result of a call by pointer is the exit status of the thread or process,
  `exit(main(…))`: in musl's start code and its threads, which have no unwind information;
- in the code to which glibc's makecontext(3) makes a function return that it has not called;
- where Go has called C, if that can't be followed (go_rows.py): the C code runs on a stack of the
  thread, its caller on another one.

These ends become rows of the object's unwind table.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from leaktrace.abi.process import EndOf, Rule
from leaktrace.arch.x86_64 import ENDBR64
from leaktrace.arch.x86_64_code import EXIT_STATUS, START_CONTEXT, decode
from leaktrace.elf.object import ElfObject
from leaktrace.errors import ObjectFileError
from leaktrace.runtimes.go.functions import CALL_C
from leaktrace.runtimes.go.object_file import is_go
from leaktrace.unwind.extents import Extents
from leaktrace.unwind.rows import PC_LIMIT, PC_SHIFT, NoRule, Rows, pack_rule
from leaktrace.unwind.table import MAX_EXTENT_BYTES, UnwindTable, with_rows

_ENTRY_AT = 24  # e_entry of an Elf64_Ehdr
_MAX_ENTRY_BYTES = 64  # up to its first call
_MAX_CODE_BYTES = 64 << 20  # searched for calls whose result is an exit status
_LEAST_GAP_BYTES = 24  # shorter ones are padding
_MOST_ENDS = 1000  # of each kind: the file may be hostile
_MOST_EXAMINED = 100_000  # functions that may be __start_context

_EXITS = ("exit", "_exit", "_Exit", "pthread_exit", "thrd_exit")
_MAKECONTEXT = b"makecontext"


class End(NamedTuple):
    """Code, start <= virtual address < end, where walks end, and what it is the end of."""

    start: int
    end: int
    of: EndOf = EndOf.STACK


def with_ends(elf: ElfObject, table: UnwindTable) -> UnwindTable:
    """The unwind table of an object, with rows where stacks end. Never raises: without an end that
    it finds, the table is unchanged."""
    ends = find_ends(elf, table)
    return with_rows(table, put_ends(table, ends)) if ends else table


def find_ends(elf: ElfObject, table: UnwindTable) -> list[End]:
    """The ends in an object of x86-64, by ascending address, without overlap."""
    found: list[End] = []
    for ends in (_entry, _exit_status, _made_contexts, _calls_of_go):
        # Damaged parts have no ends: a walk stops there as at any code without rules.
        with suppress(ObjectFileError, struct.error):
            found += islice(ends(elf, table), _MOST_ENDS)
    found.sort()
    kept: list[End] = []
    for end in found:
        is_code = any(s.vaddr <= end.start and end.end <= s.vaddr + s.size for s in table.segments)
        is_near = table.base <= end.start < end.end <= table.base + MAX_EXTENT_BYTES
        if is_code and is_near and (not kept or end.start >= kept[-1].end):
            kept.append(end)
    return kept


def _entry(elf: ElfObject, _: UnwindTable) -> Iterator[End]:
    """Where the kernel begins a program. Not in a library: its header may name any code."""
    name = elf.soname or ""
    is_loader = name.startswith(("ld-", "ld.", "ld64", "libc."))
    if name and not is_loader and elf.interpreter is None:
        return
    (entry,) = struct.unpack("<Q", elf.read(_ENTRY_AT, 8))
    offset = elf.vaddr_to_offset(entry) if entry else None
    if offset is None:
        return
    extent = Extents(elf).of(entry)
    if extent is not None:
        yield End(extent.start, extent.end)
        return
    code = elf.read(offset, min(_MAX_ENTRY_BYTES, elf.file_size - offset))
    for instruction in decode(code, entry):
        if instruction.is_call:
            yield End(entry, instruction.end)
        if instruction.is_call or instruction.ends_block:
            return


def _exit_status(elf: ElfObject, table: UnwindTable) -> Iterator[End]:
    """Calls by pointer whose result is an exit status, in code without unwind information."""
    exits: set[int] | None = None
    for segment in table.segments:
        gaps = list(_uncovered(table, segment.vaddr, segment.vaddr + segment.size))
        if not gaps or segment.size > _MAX_CODE_BYTES:
            continue
        if exits is None:
            exits = {symbol.vaddr for symbol in elf.functions(_EXITS).values()}
        if not exits:
            return
        code = elf.read(segment.offset, segment.size)
        for start, end in gaps:
            part = code[start - segment.vaddr : end - segment.vaddr]
            for match in EXIT_STATUS.finditer(part):
                if match[2] is not None:
                    behind = start + match.end(2)
                    if behind + struct.unpack("<i", match[2])[0] not in exits:
                        continue
                back = start + match.end(1)
                yield End(back - 1, back)


def _made_contexts(elf: ElfObject, table: UnwindTable) -> Iterator[End]:
    """The entry of __start_context, a local symbol. (The walker recognizes a return address without
    a call before it, but only if the page is in memory, and this code runs last.)"""
    if not any(_MAKECONTEXT in symbols.strings for symbols in elf.symbol_tables()):
        return
    pcs = (table.rows >> np.uint64(PC_SHIFT)).astype(np.int64) + table.base
    is_gap = _is_gap(table.rows)
    begins = pcs[1:][is_gap[:-1] & ~is_gap[1:]][:_MOST_EXAMINED]
    for segment in table.segments:
        inside = (segment.vaddr <= begins) & (begins < segment.vaddr + segment.size)
        # A C library is small: its code is read at once, and not 14,000 times.
        code = elf.read(segment.offset, segment.size) if segment.size <= _MAX_CODE_BYTES else None
        for start in begins[inside].tolist():
            at = start - segment.vaddr
            size = len(ENDBR64 + START_CONTEXT)
            first = elf.read_vaddr(start, size) if code is None else code[at : at + size]
            if first.removeprefix(ENDBR64).startswith(START_CONTEXT):
                yield End(start - 1, start)


def _is_gap(rows: Rows) -> NDArray[np.bool_]:
    none = np.uint64(pack_rule(Rule.RULE_NONE, NoRule.NO_ENTRY))
    is_gap: NDArray[np.bool_] = (rows & np.uint64(PC_LIMIT - 1)) == none
    return is_gap


def _uncovered(table: UnwindTable, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of some code without unwind information, except padding."""
    pcs = (table.rows >> np.uint64(PC_SHIFT)).astype(np.int64) + table.base
    is_gap = _is_gap(table.rows)
    begins = np.concatenate(([start], pcs[is_gap]))
    ends = np.concatenate((pcs[:1], np.append(pcs[1:], end)[is_gap]))
    for begin, stop in zip(np.maximum(begins, start), np.minimum(ends, end), strict=True):
        if stop - begin >= _LEAST_GAP_BYTES:
            yield int(begin), int(stop)


def _calls_of_go(elf: ElfObject, table: UnwindTable) -> Iterator[End]:
    """The functions by which Go calls C, by their symbols, where the table has no rows from Go's
    own: in a program of an unknown version of Go."""
    if is_go(elf):
        for function in elf.functions(CALL_C).values():
            row = table.lookup(function.vaddr)
            if row is None or row.rule is not Rule.RULE_END:
                yield End(function.vaddr, function.vaddr + function.size, EndOf.C_CODE)


def put_ends(table: UnwindTable, ends: list[End]) -> Rows:
    """The rows of a table, in which the rows of some ends replace what they cover."""
    pcs = (table.rows >> np.uint64(PC_SHIFT)).astype(np.int64)
    kept = np.ones(len(pcs), dtype=bool)
    added: list[int] = []
    for start, end, of in ends:
        first, last = start - table.base, end - table.base
        before = int(np.searchsorted(pcs, last, side="right")) - 1
        kept[np.searchsorted(pcs, first) : np.searchsorted(pcs, last)] = False
        added.append(first << PC_SHIFT | pack_rule(Rule.RULE_END, of))
        if before < 0 or pcs[before] != last:  # the rule from before holds again
            rule = int(table.rows[before]) & (PC_LIMIT - 1) if before >= 0 else 0
            added.append(last << PC_SHIFT | rule)
    # Where one end begins as another stops, the row of the one that begins counts.
    rows = dict(sorted((row >> PC_SHIFT, row) for row in added if row & (PC_LIMIT - 1)))
    for row in added:
        rows.setdefault(row >> PC_SHIFT, row)
    own = np.array(sorted(rows.values()), dtype=np.uint64)
    return np.sort(np.concatenate((table.rows[kept], own)))
