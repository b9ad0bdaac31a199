"""From an address to source line and inlined functions, by the debug information of one object.

`symbolic` converts DWARF into a table that is quick to search. It runs in a child process
(convert.py), because debug information may be damaged or malicious, may be truncated while it is
mapped, and may need gigabytes. None of that must reach the tracer, which only maps the finished
table.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

from symbolic.exceptions import SymbolicError
from symbolic.symcache import SymCache

from leaktrace.elf.object import ElfObject
from leaktrace.errors import ObjectFileError
from leaktrace.printable import printable
from leaktrace.site import SourceLine
from leaktrace.symbols.lookups import Lookups

_NO_ADDRESS = 0xFFFF_FFFF  # symbolic's value for the start of an inlined function
_MAX_INLINED = 128  # frames of one address


@dataclass(frozen=True)
class CodeLine:
    """A function at an address: an inlined one, or the physical one."""

    function: str  # mangled, as in the debug information; "" if unknown
    source: SourceLine | None
    start: int | None  # virtual address of the function; None for an inlined one


class LineTable:
    """The lines of one object, by address."""

    def __init__(self, cache: SymCache, base: int) -> None:
        self._cache = cache
        self._base = base

    def lookup(self, vaddr: int) -> tuple[CodeLine, ...]:
        """The functions at a virtual address of the file: inlined ones first, innermost first,
        the physical one last. Empty if the debug information doesn't cover the address."""
        if vaddr < self._base:
            return ()
        try:
            found = self._cache.lookup(vaddr - self._base)
        except SymbolicError:
            return ()
        return tuple(
            CodeLine(
                function=place.symbol if place.symbol != "?" else "",
                source=SourceLine(printable(place.full_path), place.line)
                if place.full_path and place.line
                else None,
                start=None if place.sym_addr == _NO_ADDRESS else place.sym_addr + self._base,
            )
            for place in (*found[:_MAX_INLINED], *found[_MAX_INLINED:][-1:])
        )


def has_debug_information(elf: ElfObject) -> bool:
    """Whether an object contains DWARF itself."""
    return any(
        section.name in (".debug_info", ".zdebug_info") and section.has_contents
        for section in elf.sections
    )


def debug_bytes(elf: ElfObject) -> int:
    """How many bytes of DWARF an object contains, compressed as they are in the file."""
    return sum(
        section.size
        for section in elf.sections
        if section.has_contents and section.name.startswith((".debug_", ".zdebug_"))
    )


def read_line_table(elf: ElfObject, timeout_s: float, lookups: Lookups) -> LineTable:
    """Read the debug information of an object in a child process.

    Raises ObjectFileError when that fails or takes longer than `timeout_s`, and CancelledError.
    """
    if elf.descriptor is None:
        raise ObjectFileError(f"{elf.shown} is not a file: its debug information is not read")
    table = os.memfd_create("leaktrace-lines", os.MFD_CLOEXEC)
    try:
        _convert_in_child(elf, elf.descriptor, table, timeout_s, lookups)
        try:
            cache = SymCache.open(f"/proc/self/fd/{table}")
        except (SymbolicError, OSError) as error:
            raise ObjectFileError(
                f"the debug information of {elf.shown} can't be used: {printable(str(error))}"
            ) from error
    finally:
        os.close(table)
    # symbolic counts from the first PT_LOAD segment.
    base = elf.load_segments[0].vaddr if elf.load_segments else 0
    return LineTable(cache, base)


def _convert_in_child(
    elf: ElfObject, descriptor: int, table: int, timeout_s: float, lookups: Lookups
) -> None:
    arguments = [str(number) for number in (os.getpid(), descriptor, table)]
    try:
        child = lookups.run("leaktrace.symbols.convert", arguments, (descriptor, table), timeout_s)
    except subprocess.TimeoutExpired as error:
        raise ObjectFileError(
            f"reading the debug information of {elf.shown} took more than {timeout_s:g} s"
        ) from error
    except OSError as error:
        raise ObjectFileError(
            f"the child process that reads debug information can't start: {error}"
        ) from error
    if child.returncode < 0:
        raise ObjectFileError(
            f"reading the debug information of {elf.shown} ended with signal {-child.returncode}"
        )
    if child.returncode:
        last = child.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        last = last.strip().removeprefix("caused by: ")
        raise ObjectFileError(
            f"the debug information of {elf.shown} is damaged: {printable(last)[:200]}"
        )
