"""The data of the objects that a process has mapped: which variable an address is in.

Objects are opened when memory is looked at, and closed afterwards; the variables of each file are
kept, because a look comes with every report.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Never, Self

import numpy as np
from numpy.typing import NDArray

from leaktrace.cache.directory import user_cache_directory
from leaktrace.elf.headers import Segment
from leaktrace.elf.object import ElfObject
from leaktrace.elf.symbols import RawSymbols, SymbolTable
from leaktrace.elf.variables import Variables
from leaktrace.errors import ObjectFileError, TargetError
from leaktrace.symbols.debug_files import find_debug_file
from leaktrace.symbols.demangle import demangle
from leaktrace.targets.mapped_files import MappedFiles
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.page_map import Range
from leaktrace.targets.root import TargetRoot
from leaktrace.unwind.budget import TableBudget
from leaktrace.unwind.cache import TableCache
from leaktrace.unwind.ends import with_ends
from leaktrace.unwind.table import UnwindTable

_SHF_TLS = 0x400
_MOST_MODULES = 4096
_MOST_KEPT = 256


class FileTables:
    """The variables and the unwind tables of files, kept from look to look."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], Variables] = {}
        self._functions: dict[tuple[object, ...], SymbolTable] = {}
        self._unwind: dict[tuple[object, ...], UnwindTable] = {}
        self._cache = TableCache(user_cache_directory())
        self._budget = TableBudget()

    def unwind_table_of(self, elf: ElfObject) -> UnwindTable:
        """Raises ObjectFileError where there is none."""
        key = (elf.file_stamp, elf.shown)
        if key not in self._unwind:
            if len(self._unwind) >= _MOST_KEPT:
                self._unwind.clear()
            self._unwind[key] = with_ends(elf, self._cache.table_for(elf, self._budget))
        return self._unwind[key]

    def variables_of(
        self, elf: ElfObject, path: str, roots: tuple[TargetRoot, ...], *, thread_local: bool
    ) -> Variables:
        """Those of an object, or of its debug file, which is searched in `roots` if the object is
        stripped; none if its symbols are damaged."""
        key = (elf.file_stamp, elf.shown, thread_local)
        if key not in self._known:
            if len(self._known) >= _MOST_KEPT:
                self._known.clear()
            self._known[key] = Variables(_all_tables(elf, path, roots), thread_local=thread_local)
        return self._known[key]

    def functions_of(self, elf: ElfObject, path: str, roots: tuple[TargetRoot, ...]) -> SymbolTable:
        """Those of an object, likewise."""
        key = (elf.file_stamp, elf.shown)
        if key not in self._functions:
            if len(self._functions) >= _MOST_KEPT:
                self._functions.clear()
            self._functions[key] = SymbolTable(_all_tables(elf, path, roots), elf.code_ranges())
        return self._functions[key]


def _all_tables(elf: ElfObject, path: str, roots: tuple[TargetRoot, ...]) -> list[RawSymbols]:
    tables = [*_tables_of(elf)]
    if not elf.has_symbol_table():
        with suppress(ObjectFileError):
            file = find_debug_file(elf, path, roots).elf
            tables += () if file is None or file is elf else _tables_of(file)
    return tables


def _tables_of(elf: ElfObject) -> tuple[RawSymbols, ...]:
    try:
        return elf.symbol_tables()
    except ObjectFileError:
        return ()


@dataclass(frozen=True)
class ModuleData:
    """One object where it is mapped."""

    elf: ElfObject
    path: str  # as the target sees it
    base: int  # what is added to virtual addresses of the file
    tables: FileTables
    roots: tuple[TargetRoot, ...] = ()  # where its debug file may be

    @cached_property
    def variables(self) -> Variables:
        return self._variables(thread_local=False)

    @cached_property
    def thread_locals(self) -> Variables:
        return self._variables(thread_local=True)

    def function_at(self, address: int) -> str | None:
        """The function that has an address of this object, as it is written in source code."""
        symbols = self.tables.functions_of(self.elf, self.path, self.roots)
        found = symbols.lookup(address - self.base)
        return None if found is None else demangle(found.name)

    def _variables(self, *, thread_local: bool) -> Variables:
        return self.tables.variables_of(self.elf, self.path, self.roots, thread_local=thread_local)

    @property
    def unwind_table(self) -> UnwindTable:
        """Raises ObjectFileError."""
        return self.tables.unwind_table_of(self.elf)

    def ranges(self) -> list[Range]:
        """Where its segments are, with the memory behind them that the file doesn't fill."""
        return [
            (self.base + one.vaddr, self.base + one.vaddr + one.memory_size)
            for one in self.elf.load_segments
        ]

    @cached_property
    def tls(self) -> Segment | None:
        """Its thread-local storage."""
        found = (one for one in self.elf.segments if one.type == "PT_TLS" and one.memory_size)
        return next(found, None)

    def to_file(self, addresses: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Virtual addresses of the file."""
        converted: NDArray[np.uint64] = addresses - np.uint64(self.base % (1 << 64))
        return converted

    @cached_property
    def _sections(self) -> list[tuple[int, int, str]]:
        """Where each begins and ends, and its name."""
        return sorted(
            (one.vaddr, one.vaddr + one.size, one.name)
            for one in self.elf.sections
            if one.vaddr and not one.flags & _SHF_TLS
        )

    def section_at(self, vaddr: int) -> str:
        """The name of the section that has a virtual address; "" if there is none."""
        at = bisect_right(self._sections, (vaddr, 1 << 64, "")) - 1
        return self._sections[at][2] if at >= 0 and vaddr < self._sections[at][1] else ""


@dataclass(frozen=True)
class ObjectFiles:
    """Where the objects of a process come from."""

    elf: Callable[[Mapping], ElfObject]
    """The object behind a mapping. Raises ObjectFileError, and TargetError when the process has
    ended."""
    program_path: str | None  # as the target sees it; None: not known
    thread_name: Callable[[int], str | None]  # by thread id
    roots: tuple[TargetRoot, ...] = ()  # where debug files may be

    @classmethod
    def of_process(cls, pid: int) -> Self:
        """Raises TargetError when it has ended."""
        files = MappedFiles(pid)
        roots, program_path = [TargetRoot("/")], None
        with suppress(OSError):
            roots.insert(0, TargetRoot(f"/proc/{pid}/root"))
        with suppress(OSError):
            program_path = str(Path(f"/proc/{pid}/exe").readlink()).removesuffix(" (deleted)")
        return cls(files.elf, program_path, partial(_name_of_thread, pid), tuple(roots))

    @classmethod
    def of_copy(cls, pid: int) -> Self:
        """Of a process whose memory was copied. If it has ended since, objects can't be opened any
        more."""
        try:
            found = cls.of_process(pid)
        except TargetError:
            return cls(_not_there, None, lambda _: None)
        return replace(found, elf=partial(_elf_if_there, found))


def _elf_if_there(files: ObjectFiles, mapping: Mapping) -> ElfObject:
    try:
        return files.elf(mapping)
    except TargetError:
        return _not_there(mapping)


def _not_there(mapping: Mapping) -> Never:
    raise ObjectFileError(f"{mapping.path} can't be opened: the process has ended")


def _name_of_thread(pid: int, tid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/task/{tid}/comm").read_text("utf-8", "replace").rstrip("\n")
    except OSError:
        return None


def open_modules(
    files: ObjectFiles,
    mappings: Sequence[Mapping],
    tables: FileTables,
    keep: Callable[[ElfObject], object],
) -> list[ModuleData]:
    """The objects behind mappings; those that can't be opened are left out. `keep`: closes each
    later. Raises TargetError when the process has ended."""
    found: list[ModuleData] = []
    for first in first_mappings(mappings):
        if len(found) >= _MOST_MODULES:
            break
        try:
            elf = files.elf(first)
        except ObjectFileError:
            continue
        keep(elf)
        base = _base_of(elf, first)
        if base is not None:
            found.append(ModuleData(elf, first.path, base, tables, files.roots))
    return found


def first_mappings(mappings: Sequence[Mapping]) -> Iterator[Mapping]:
    """The beginning of each file that has code mapped. A file may be there several times
    (dlmopen(3))."""
    first: Mapping | None = None
    is_given = False
    for one in mappings:
        if not one.is_file:
            continue
        # Of a core file, only the path is known.
        is_same = first is not None and _identity(one) == _identity(first)
        if not is_same or one.offset == 0:
            first, is_given = one, False
        assert first is not None
        if one.is_executable and not is_given and first.offset == 0:
            is_given = True
            yield first


def _identity(one: Mapping) -> tuple[str, int, str]:
    return one.device, one.inode, one.path


def _base_of(elf: ElfObject, first: Mapping) -> int | None:
    for one in elf.load_segments:
        if one.offset < first.end - first.start and one.offset // 4096 == 0:
            return first.start - one.vaddr + one.offset
    return None
