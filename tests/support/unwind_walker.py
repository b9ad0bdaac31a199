"""The BPF arrays of the unwinder in user space, and the walk that the kernel side does in them.

A model to test against: it follows docs/unwinding.md, and is not optimized.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from leaktrace.abi.process import (
    UNWIND_MAPPING,
    Rule,
    SavedRbp,
)
from leaktrace.arch.x86_64 import SIGNAL_RBP_OFFSET, SIGNAL_RIP_OFFSET, SIGNAL_RSP_OFFSET
from leaktrace.unwind.layout import Update, at_array_stride
from leaktrace.unwind.rows import PC_SHIFT, NoRule, Row, unpack
from leaktrace.unwind.table import PAGE_SHIFT

MAX_FRAMES = 127


class Registers(NamedTuple):
    """What a frame is found by."""

    ip: int
    sp: int
    bp: int


class Walk(NamedTuple):
    """The ip of each frame, innermost first, and what kept the walk from being complete."""

    ips: list[int]
    problem: str = ""


class _BrokenWalkError(Exception):
    pass


@dataclass
class Arrays:
    """The three arrays, and which part of `mappings` is valid."""

    rows: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(1 << 18, np.uint64))
    pages: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(1 << 18, np.uint64))
    mappings: NDArray[Any] = field(default_factory=lambda: np.zeros(1 << 13, UNWIND_MAPPING))
    list_start: int = 0
    list_size: int = 0

    def write(self, update: Update) -> None:
        """Apply an update."""
        for array, start, new in (
            (self.rows, update.row_start, update.rows),
            (self.pages, update.page_start, at_array_stride(update.pages)),
            (self.mappings, update.mapping_start, update.mappings),
        ):
            array[start : start + len(new)] = new
        self.list_start, self.list_size = update.mapping_start, len(update.mappings)

    def find_mapping(self, ip: int) -> Any | None:
        """The entry of `mappings` that ip is in."""
        base, n = self.list_start, self.list_size
        while n > 1:
            half = n >> 1
            if int(self.mappings[base + half]["start"]) <= ip:
                base += half
            n -= half
        found = self.mappings[base]
        return found if n and int(found["start"]) <= ip < int(found["end"]) else None

    def find_row(self, ip: int) -> Row | None:
        """The row in force at ip; None without a mapping or a row."""
        value = self.find_value(ip)
        return None if value is None else unpack(value)

    def find_value(self, ip: int) -> int | None:
        """The same as a number."""
        found = self.find_mapping(ip)
        if found is None:
            return None
        rel = (ip - int(found["bias"])) & 0xFFFFFFFF
        page = rel >> PAGE_SHIFT
        if page >= found["page_count"]:
            return None
        at = int(found["page_lo"]) + page
        base, n = int(self.pages[at]), int(self.pages[at + 1]) - int(self.pages[at])
        if base > found["row_lo"]:  # the row before the page may still hold
            base, n = base - 1, n + 1
        if n == 0:
            return None
        steps = 0
        while n > 1:
            half = n >> 1
            if int(self.rows[base + half]) >> 32 <= rel:
                base += half
            n -= half
            steps += 1
        assert steps <= PAGE_SHIFT + 1
        value = int(self.rows[base])
        return value if value >> PC_SHIFT <= rel else None

    def walk(self, registers: Registers, read: Callable[[int, int], bytes]) -> Walk:
        """Up to the outermost frame; `read(address, size)` reads the stack."""
        ips: list[int] = []
        back = 0  # the ip of the innermost frame is looked up itself, a return address minus one
        while len(ips) < MAX_FRAMES:
            ips.append(registers.ip)
            row = self.find_row(registers.ip - back)
            if row is None:
                return Walk(ips, f"no row for {registers.ip:#x}")
            if row.rule is Rule.RULE_END:
                return Walk(ips)
            try:
                registers = _caller(row, registers, read)
            except _BrokenWalkError as error:
                return Walk(ips, str(error))
            back = 0 if row.rule is Rule.RULE_SIGNAL else 1
        return Walk(ips, "too many frames")


def _caller(row: Row, registers: Registers, read: Callable[[int, int], bytes]) -> Registers:
    ip, sp, bp = registers

    def word(address: int) -> int:
        (value,) = struct.unpack("<Q", read(address, 8))
        return int(value)

    match row.rule:
        case Rule.RULE_RSP:
            cfa = sp + row.cfa_offset
        case Rule.RULE_RBP:
            cfa = bp + row.cfa_offset
        case Rule.RULE_PLT:
            cfa = sp + 8 + (8 if ip % 16 >= row.cfa_offset else 0)
        case Rule.RULE_RBP_DEREF:
            cfa = word(bp + row.cfa_offset)
        case Rule.RULE_RSP_DEREF:
            cfa = word(sp + row.cfa_offset)
        case Rule.RULE_SIGNAL:
            return Registers(
                ip=word(sp + SIGNAL_RIP_OFFSET),
                sp=word(sp + SIGNAL_RSP_OFFSET),
                bp=word(sp + SIGNAL_RBP_OFFSET),
            )
        case _:
            raise _BrokenWalkError(f"no rule at {ip:#x}: {NoRule(row.cfa_offset).name}")
    if cfa <= sp:
        raise _BrokenWalkError(f"the stack of {ip:#x} doesn't grow: {row}")
    match row.saved_rbp:
        case SavedRbp.UNCHANGED:
            pass
        case SavedRbp.LOST:
            bp = 0  # so that a rule which needs it yields no CFA above sp
        case SavedRbp.AT_RBP:
            bp = word(bp)
        case n:
            bp = word(cfa - 8 * n)
    return Registers(ip=word(cfa - 8), sp=cfa, bp=bp)
