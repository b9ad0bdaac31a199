"""The debug information of one object, as far as it is known by now: found out beside the reports.

In steps: the debug file is searched on this machine, and asked of servers where the user named
some; then its symbols and lines are read. What can take long says so (`Lookup.awaits`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from leaktrace.elf.object import ElfObject
from leaktrace.elf.symbols import SymbolTable
from leaktrace.errors import ObjectFileError
from leaktrace.printable import printable
from leaktrace.symbols.debug import MANY_BYTES, find_debug_file
from leaktrace.symbols.debuginfod import DebuginfodError, Servers, is_asked_for, kept_file
from leaktrace.symbols.lines import LineTable, debug_bytes, has_debug_information, read_line_table
from leaktrace.symbols.lookups import Lookup, Lookups, Step
from leaktrace.symbols.options import SymbolOptions
from leaktrace.targets.root import TargetRoot

_MAX_SEARCHED_BYTES = 64 << 20  # of a string table; where .dwo files are named, they are small


@dataclass(frozen=True)
class Known:
    """What was found out; `problem` says why there are no lines, "" where there are."""

    file: ElfObject | None = None  # the debug file, where it isn't the object itself
    symbols: SymbolTable | None = None  # with those of that file, where the object has none
    lines: LineTable | None = None
    problem: str = ""
    is_sought: bool = False  # more may come


@dataclass(frozen=True)
class Means:
    """What look-ups are done with: the same for all objects of a run."""

    options: SymbolOptions
    lookups: Lookups
    servers: Servers

    @classmethod
    def of(cls, options: SymbolOptions, lookups: Lookups | None = None) -> Means:
        """Without `lookups`, whoever wants to know waits until all is found out."""
        lookups = lookups or Lookups(beside=False)
        return cls(options, lookups, Servers(lookups, options))


class DebugInformation:
    """Looked up the first time that somebody wants to know."""

    def __init__(
        self, elf: ElfObject, path: str, roots: tuple[TargetRoot, ...], means: Means
    ) -> None:
        self._elf = elf
        self._path = path  # as the target sees it
        self._name = printable(PurePosixPath(path).name)
        self._roots = roots
        self._means = means
        self._is_started = False
        self._known = Known(
            problem="no debug information yet: it is being looked for", is_sought=True
        )

    def known(self) -> Known:
        """What is known now; a look-up is on its way."""
        if not self._is_started:
            self._is_started = True
            self._means.lookups.start(self._search_here)
        return self._known

    # -- in another thread ------------------------------------------------------------------

    def _search_here(self, lookup: Lookup) -> Step | None:
        def expect(what: str) -> None:
            self._means.lookups.may_take_long(lookup, what)

        try:
            found = find_debug_file(self._elf, self._path, self._roots, expect)
            if found.elf is None:
                return self._search_servers(lookup, found.problem)
            self._read(found.elf, lookup)
        except ObjectFileError as error:
            self._fail(error.message)
        return None

    def _search_servers(self, lookup: Lookup, problem: str) -> Step | None:
        """Where the user named some: what was fetched from them before, else ask them."""
        build_id = self._elf.build_id
        kept = None
        if not is_asked_for():
            problem += "; DEBUGINFOD_URLS is not set"
        elif not build_id:
            problem += "; it has no build-id to ask a debuginfod server for"
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
            hosts = self._means.servers.hosts()
            if hosts:
                wanted = f"the debug file of {self._name} from {hosts}"
                self._means.lookups.may_take_long(lookup, wanted)
            try:
                self._read(self._means.servers.fetch(build_id), lookup)
            except (DebuginfodError, ObjectFileError) as error:
                self._fail(f"{problem}; debuginfod: {error}")

        return ask

    def _read(self, file: ElfObject, lookup: Lookup) -> None:
        """The symbols and lines of the debug file."""
        other = None if file is self._elf else file
        table, lines, problem = None, None, ""
        if other and not self._elf.has_symbol_table():
            try:
                tables = (*self._elf.symbol_tables(), *other.symbol_tables())
                table = SymbolTable(tables, self._elf.code_ranges())
            except ObjectFileError as error:
                problem = error.message
            else:  # names are there before lines are
                self._known = replace(self._known, file=other, symbols=table)
                self._means.lookups.tell_news()
        options = self._means.options
        if options.lines or options.inlines:
            try:
                lines, problem = self._read_lines(file, lookup)
            except ObjectFileError as error:
                problem = error.message
        self._known = Known(other, table, lines, problem)

    def _read_lines(self, file: ElfObject, lookup: Lookup) -> tuple[LineTable | None, str]:
        if not has_debug_information(file):
            return None, f"no debug information in {file.shown}"
        size_bytes = debug_bytes(file)
        if size_bytes > MANY_BYTES:
            wanted = f"the debug information of {self._name} ({size_bytes >> 20:,} MB)"
            self._means.lookups.may_take_long(lookup, wanted)
        problem = _missing_part(file)
        timeout_s = self._means.options.debug_timeout_s
        return read_line_table(file, timeout_s, self._means.lookups), problem

    def _fail(self, problem: str) -> None:
        self._known = Known(problem=f"no debug information: {problem}")


def _missing_part(elf: ElfObject) -> str:
    """What of its debug information is in files that aren't read; "" where nothing is."""
    link = elf.section(".gnu_debugaltlink")  # dwz(1), DWARF 5 "supplementary object file"
    if link:
        name = printable(os.fsdecode(link[0].split(b"\0", 1)[0]))
        return f"some inlined functions have no name: it is in {name} (dwz), which is not read"
    for section in elf.sections:
        if section.name not in (".debug_str", ".debug_line_str"):
            continue
        if section.size > _MAX_SEARCHED_BYTES:
            continue
        found = elf.section(section.name)
        if found and b".dwo\0" in found[0]:  # DW_AT_dwo_name; DWARF 5, 7.3.2
            return (
                "compiled with -gsplit-dwarf: inlined functions, which only the .dwo files name, "
                "are not shown; compile without it to see them"
            )
    return ""
