"""The debug information of one object, looked up in the background.

The steps: search the debug file on this machine; ask debuginfod servers for it, if the user named
some; read its symbols and lines. A step that may take long says so first (`Lookup.awaits`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from leaktrace.elf.object import ElfObject
from leaktrace.elf.symbols import SymbolTable
from leaktrace.errors import ObjectFileError
from leaktrace.options import SymbolOptions
from leaktrace.printable import printable
from leaktrace.symbols.debug_files import MANY_BYTES, find_debug_file
from leaktrace.symbols.debuginfod import DebuginfodError, Servers, has_servers, kept_file
from leaktrace.symbols.lines import LineTable, debug_bytes, has_debug_information, read_line_table
from leaktrace.symbols.lookups import Lookup, Lookups, Step
from leaktrace.targets.root import TargetRoot

_MAX_SEARCHED_BYTES = 64 << 20  # of a string table; those that name .dwo files are small


@dataclass(frozen=True)
class DebugData:
    """What was found so far. `problem` says why there are no lines, "" if there are."""

    file: ElfObject | None = None  # the debug file; None if it is the object itself
    symbols: SymbolTable | None = None  # with those of the debug file, if the object has no .symtab
    lines: LineTable | None = None
    problem: str = ""
    is_pending: bool = False  # more may come


@dataclass(frozen=True)
class LookupContext:
    """What lookups need that is the same for all objects of a run."""

    options: SymbolOptions
    lookups: Lookups
    servers: Servers

    @classmethod
    def of(cls, options: SymbolOptions, lookups: Lookups | None = None) -> LookupContext:
        """Without `lookups`, the first caller that asks waits until everything is read."""
        lookups = lookups or Lookups(in_background=False)
        return cls(options, lookups, Servers(lookups, options))


class DebugInformation:
    """Looked up when it is first asked for."""

    def __init__(
        self, elf: ElfObject, path: str, roots: tuple[TargetRoot, ...], context: LookupContext
    ) -> None:
        self._elf = elf
        self._path = path  # as the target sees it
        self._name = printable(PurePosixPath(path).name)
        self._roots = roots
        self._context = context
        self._is_started = False
        self._data = DebugData(
            problem="no debug information yet: it is being looked up", is_pending=True
        )

    def so_far(self) -> DebugData:
        """What was found so far. The first call starts the lookup."""
        if not self._is_started:
            self._is_started = True
            self._context.lookups.start(self._search_here)
        return self._data

    # -- in another thread ------------------------------------------------------------------

    def _search_here(self, lookup: Lookup) -> Step | None:
        def announce(what: str) -> None:
            self._context.lookups.may_take_long(lookup, what)

        try:
            found = find_debug_file(self._elf, self._path, self._roots, announce)
            if found.elf is None:
                return self._search_servers(lookup, found.problem)
            self._read(found.elf, lookup)
        except ObjectFileError as error:
            self._fail(error.message)
        return None

    def _search_servers(self, lookup: Lookup, problem: str) -> Step | None:
        """Take the file that was fetched earlier; otherwise return the step that asks servers."""
        build_id = self._elf.build_id
        kept = None
        if not has_servers():
            problem += "; DEBUGINFOD_URLS is not set"
        elif not build_id:
            problem += "; it has no build ID to ask a debuginfod server for"
        else:
            try:
                kept = kept_file(build_id)
            except (DebuginfodError, ObjectFileError) as error:
                problem += f"; debuginfod: {error}"
            else:
                if kept is None:
                    return self._ask(build_id, problem)
        if kept is None:
            self._fail(problem)
        else:
            self._read(kept, lookup)
        return None

    def _ask(self, build_id: str, problem: str) -> Step:
        def ask(lookup: Lookup) -> None:
            hosts = self._context.servers.hosts()
            if hosts:
                awaited = f"the debug file of {self._name} from {hosts}"
                self._context.lookups.may_take_long(lookup, awaited)
            try:
                self._read(self._context.servers.fetch(build_id), lookup)
            except (DebuginfodError, ObjectFileError) as error:
                self._fail(f"{problem}; debuginfod: {error}")

        return ask

    def _read(self, file: ElfObject, lookup: Lookup) -> None:
        """Read the symbols and lines of the debug file."""
        other = None if file is self._elf else file
        table, lines, problem = None, None, ""
        if other and not self._elf.has_symbol_table():
            try:
                tables = (*self._elf.symbol_tables(), *other.symbol_tables())
                table = SymbolTable(tables, self._elf.code_ranges())
            except ObjectFileError as error:
                problem = error.message
            else:  # names arrive before lines
                self._data = replace(self._data, file=other, symbols=table)
                self._context.lookups.partly_arrived()
        options = self._context.options
        if options.lines or options.inlines:
            try:
                lines, problem = self._read_lines(file, lookup)
            except ObjectFileError as error:
                problem = error.message
        self._data = DebugData(other, table, lines, problem)

    def _read_lines(self, file: ElfObject, lookup: Lookup) -> tuple[LineTable | None, str]:
        if not has_debug_information(file):
            return None, f"no debug information in {file.shown}"
        size_bytes = debug_bytes(file)
        if size_bytes > MANY_BYTES:
            awaited = f"the debug information of {self._name} ({size_bytes >> 20:,} MB)"
            self._context.lookups.may_take_long(lookup, awaited)
        problem = _missing_part(file)
        timeout_s = self._context.options.debug_timeout_s
        return read_line_table(file, timeout_s, self._context.lookups), problem

    def _fail(self, problem: str) -> None:
        self._data = DebugData(problem=f"no debug information: {problem}")


def _missing_part(elf: ElfObject) -> str:
    """The part of its debug information that is in other files, which leaktrace doesn't read; ""
    if there is none."""
    link = elf.section(".gnu_debugaltlink")  # dwz(1), DWARF 5 "supplementary object file"
    if link:
        name = printable(os.fsdecode(link[0].split(b"\0", 1)[0]))
        return (
            f"some inlined functions have no name: it is in {name} (dwz), which leaktrace doesn't "
            "read"
        )
    for section in elf.sections:
        if section.name not in (".debug_str", ".debug_line_str"):
            continue
        if section.size > _MAX_SEARCHED_BYTES:
            continue
        found = elf.section(section.name)
        if found and b".dwo\0" in found[0]:  # DW_AT_dwo_name; DWARF 5, 7.3.2
            return (
                "compiled with -gsplit-dwarf: inlined functions are not shown, because only the "
                ".dwo files name them; compile without it to see them"
            )
    return ""
