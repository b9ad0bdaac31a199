"""Where the Go runtime's structs have their members, by version: offsets in bytes.

They were read from the DWARF of programs of each version; those of 1.18 and 1.20 from the sources.
A version that isn't listed gets the nearest one's, and what is read with it is checked: see
goroutines.py. Source: runtime/runtime2.go (g, gobuf, m), runtime/symtab.go (moduledata).
"""

from __future__ import annotations

from dataclasses import dataclass

OLDEST_MINOR = 18

# The same in all versions.
G_STACK_LOW, G_STACK_HIGH, G_M = 0, 8, 48
G_SP, G_PC, G_SELF = 56, 64, 72  # g.sched.sp, pc, g
MODULE_TEXT, MODULE_TEXT_END = 176, 184
# Pairs of addresses, start and end: noptrdata, data, bss, noptrbss. The second and third hold
# pointers.
MODULE_DATA = {"noptrdata": 192, "data": 208, "bss": 224, "noptrbss": 240}


@dataclass(frozen=True)
class Layout:
    """Of Go 1.`minor` and later, up to the next row. Members of struct g but for the last ones."""

    minor: int
    g_syscall_sp: int
    g_syscall_pc: int
    g_status: int
    g_goid: int
    g_wait_since: int
    g_wait_reason: int
    g_created_pc: int  # gopc
    g_start_pc: int
    m_procid: int
    m_curg: int
    module_types: int
    module_types_end: int
    module_inlines: int  # gofunc


_LAYOUTS = (
    Layout(18, 112, 120, 144, 152, 168, 176, 296, 312, 72, 192, 280, 288, 304),
    Layout(20, 112, 120, 144, 152, 168, 176, 296, 312, 72, 192, 296, 304, 320),
    Layout(21, 112, 120, 144, 152, 168, 176, 280, 296, 72, 192, 296, 304, 320),
    Layout(23, 112, 120, 152, 160, 176, 184, 288, 304, 72, 192, 296, 304, 320),
    Layout(25, 104, 112, 144, 152, 168, 176, 280, 296, 64, 184, 296, 304, 320),
    Layout(26, 104, 112, 144, 152, 168, 176, 288, 304, 64, 184, 296, 304, 320),
    Layout(27, 104, 112, 144, 152, 168, 176, 288, 304, 64, 184, 296, 312, 344),
)
NEWEST_MINOR = 27


def layout_of(minor: int | None) -> Layout:
    """The layout of Go 1.`minor`; None, as of a version without a number: the newest one."""
    known = [one for one in _LAYOUTS if minor is None or one.minor <= minor]
    return known[-1] if known else _LAYOUTS[0]
