"""Numbers as the table of functions has them: pairs of how much a value changes, and for how many
bytes of code it holds then. Source: runtime/symtab.go (step, pcvalue)."""

from __future__ import annotations

MAX_STEPS = 100_000  # of one function's table


def number_at(tables: bytes, at: int) -> tuple[int, int]:
    """A number of up to 32 bits, and where the next one is."""
    value = shift = 0
    while at < len(tables) and shift < 35:
        byte = tables[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    return value, at


def value_at(tables: bytes, at: int, distance: int) -> int | None:
    """The value for the instruction at a distance from the function's start; None where the table
    has none, or is damaged. `at`: where in `tables` the function's table is, 0 for none."""
    if not 0 < at < len(tables):
        return None
    value, pc = -1, 0
    for step in range(MAX_STEPS):
        change, at = number_at(tables, at)
        if change == 0 and step:
            return None
        value += -(change + 1 >> 1) if change & 1 else change >> 1
        length, at = number_at(tables, at)
        pc += length
        if distance < pc:
            return value
        if not length or at >= len(tables):
            return None
    return None
