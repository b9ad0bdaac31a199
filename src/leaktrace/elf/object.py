"""Reading ELF objects that may be hostile: executables, shared objects, debug files, the vDSO.

The file of a traced process belongs to the owner of the process. So every offset, size and count
in it is checked before it is used; files are read with pread(2), because a mapping of a file that
its owner truncates kills the reader with SIGBUS; and a check that fails raises `ObjectFileError`.
Layout: System V gABI chapters 4 and 5; pyelftools decodes the headers, numpy the tables.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from leaktrace.elf.dynamic import DynamicSection, Tags, read_tags
from leaktrace.elf.headers import (
    MAX_STRING_BYTES,
    PF_X,
    SHF_ALLOC,
    SHF_EXECINSTR,
    ElfFile,
    Extent,
)
from leaktrace.elf.sections import build_id_in, contents, debug_link_in
from leaktrace.elf.symbols import (
    CodeRange,
    FunctionSymbol,
    RawSymbols,
    SymbolTable,
    find_functions,
    symbol_dtype,
)
from leaktrace.errors import ObjectFileError
from leaktrace.files import FileSource, MemorySource, open_regular
from leaktrace.own.shortages import shortage
from leaktrace.printable import printable

_MAX_NOTE_BYTES = 1 << 20
_MAX_SYMBOL_BYTES = 128 << 20  # of one table: five million symbols


class ElfObject(ElfFile):
    """An open ELF object. It stays readable after its file was deleted or its process has ended.

    Closed with `close`, as a context manager, or when it is collected. Every method and property
    may raise ObjectFileError if the part of the file that it needs is damaged.
    """

    @classmethod
    def open(
        cls, path: str | Path | int, shown: str = "", reopen: Callable[[], int] | None = None
    ) -> ElfObject:
        """Open a path, or a duplicate of a file descriptor. Raises ObjectFileError.

        `shown` is what messages call the file; the default is the path. `reopen` as for
        `FileSource`.
        """
        shown = printable(shown or (f"descriptor {path}" if isinstance(path, int) else str(path)))
        try:
            descriptor = os.dup(path) if isinstance(path, int) else open_regular(path)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            lacks = shortage(error) if isinstance(error, OSError) else None
            advice = "" if lacks is None else lacks.hint
            raise ObjectFileError(f"{shown} can't be opened: {reason}", advice) from error
        return cls(FileSource(descriptor, shown, reopen), shown)

    @classmethod
    def from_bytes(cls, data: bytes, shown: str = "[memory]") -> ElfObject:
        """An object in memory, such as the vDSO. Raises ObjectFileError."""
        return cls(MemorySource(bytes(data), shown), shown)

    def close(self) -> None:
        """Close the file; nothing can be read afterwards."""
        self._source = MemorySource(b"", self.shown)

    def __enter__(self) -> ElfObject:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def descriptor(self) -> int | None:
        """The file descriptor that it reads from, None for one in memory or closed."""
        return self._source.descriptor if isinstance(self._source, FileSource) else None

    @property
    def file_stamp(self) -> tuple[int, ...]:
        """Changes whenever the contents of the file do; () for one in memory or closed."""
        return self._source.stamp

    @property
    def holds_file(self) -> bool:
        """Whether it has the file open. While it has, no other file can get its inode number."""
        return isinstance(self._source, FileSource) and self._source.is_open

    # -- sections ---------------------------------------------------------------------------

    def eh_frame_header(self) -> Extent | None:
        """.eh_frame_hdr by its segment PT_GNU_EH_FRAME, which no stripping removes."""
        for segment in self.segments:
            if segment.type == "PT_GNU_EH_FRAME" and segment.file_size:
                return Extent(segment.offset, segment.vaddr, segment.file_size)
        return None

    def section(self, name: str) -> tuple[bytes, int] | None:
        """Contents (decompressed) and virtual address of a section, None where it has none."""
        for section in self.sections:
            if section.name == name and section.has_contents:
                return contents(self, section), section.vaddr
        return None

    # -- identity ---------------------------------------------------------------------------

    @cached_property
    def build_id(self) -> str | None:
        """The GNU build ID in hexadecimal, None where the linker wrote none."""
        for offset, size in self._note_parts():
            try:
                notes = self.read(offset, min(size, _MAX_NOTE_BYTES))
            except ObjectFileError:
                continue
            build_id = build_id_in(notes, self.byte_order)
            if build_id:
                return build_id
        return None

    def _note_parts(self) -> Iterator[tuple[int, int]]:
        for section in self.sections:
            if section.type == "SHT_NOTE":
                yield section.offset, section.size
        for segment in self.segments:
            if segment.type == "PT_NOTE":
                yield segment.offset, segment.file_size

    @cached_property
    def debuglink(self) -> tuple[str, int] | None:
        """Name and CRC32 of the separate debug file, from .gnu_debuglink; None where it names
        none."""
        found = self.section(".gnu_debuglink")
        return debug_link_in(found[0], self.byte_order) if found else None

    @cached_property
    def interpreter(self) -> str | None:
        """The dynamic loader that a program requests, None for static programs and libraries."""
        for segment in self.segments:
            if segment.type == "PT_INTERP":
                raw = self.read(segment.offset, min(segment.file_size, MAX_STRING_BYTES))
                return os.fsdecode(raw.split(b"\0", 1)[0])
        return None

    # -- the dynamic section ----------------------------------------------------------------

    @cached_property
    def needed(self) -> tuple[str, ...]:
        """Names of the shared objects that it needs (DT_NEEDED), in order."""
        return self._dynamic.needed()

    @cached_property
    def soname(self) -> str | None:
        """DT_SONAME."""
        return self._dynamic.soname()

    def dynamic_value(self, tag: int) -> int | None:
        """The value of a DT_* tag, None where the object has no such entry."""
        return self._dynamic.value(tag)

    @cached_property
    def _tags(self) -> Tags:
        return read_tags(self)

    @property
    def _dynamic(self) -> DynamicSection:
        return DynamicSection(self, self._tags)

    # -- symbols ----------------------------------------------------------------------------

    def functions(self, names: Iterable[str]) -> dict[str, FunctionSymbol]:
        """The functions of these names that it defines, from .dynsym (through PT_DYNAMIC where
        section headers are stripped), then .symtab; of several versions the default one."""
        return find_functions(self.symbol_tables(), names)

    def symbols(self) -> SymbolTable:
        """All its function symbols by address. Built at each call: keep it."""
        return SymbolTable(self.symbol_tables(), self.code_ranges())

    def has_symbol_table(self) -> bool:
        """Whether it has .symtab, that is, whether it isn't stripped."""
        return any(s.type == "SHT_SYMTAB" and s.has_contents for s in self.sections)

    def symbol_tables(self) -> tuple[RawSymbols, ...]:
        """.dynsym and .symtab, if it has them. Read at each call: keep them."""
        dynamic = self._section_symbols("SHT_DYNSYM") or self._dynamic_symbols()
        static = self._section_symbols("SHT_SYMTAB")
        return tuple(table for table in (dynamic, static) if table)

    def _section_symbols(self, kind: str) -> RawSymbols | None:
        for section in self.sections:
            if section.type == kind and section.has_contents and section.link < len(self.sections):
                strings = self.sections[section.link]
                if strings.type == "SHT_STRTAB":
                    return RawSymbols(
                        self._decode_symbols(section.offset, section.size),
                        contents(self, strings),
                        self._section_versions() if kind == "SHT_DYNSYM" else None,
                    )
        return None

    def _section_versions(self) -> npt.NDArray[np.uint16] | None:
        for section in self.sections:
            if section.type == "SHT_GNU_versym" and section.has_contents:
                return self._decode_versions(contents(self, section))
        return None

    def _dynamic_symbols(self) -> RawSymbols | None:
        found = self._dynamic.symbols()
        if found is None:
            return None
        size = found.symbol_count * symbol_dtype(self.bits, self.byte_order).itemsize
        versions = None
        if found.versions is not None:
            versions = self._decode_versions(
                self.read_vaddr(found.versions, 2 * found.symbol_count)
            )
        return RawSymbols(self._decode_symbols(found.offset, size), found.strings, versions)

    def _decode_versions(self, raw: bytes) -> npt.NDArray[np.uint16]:
        whole = len(raw) - len(raw) % 2
        return np.frombuffer(raw[:whole], dtype=np.dtype("u2").newbyteorder(self.byte_order))

    def _decode_symbols(self, offset: int, size: int) -> npt.NDArray[Any]:
        if size > _MAX_SYMBOL_BYTES:
            raise ObjectFileError(f"{self.shown} has a symbol table of {size:,} bytes: too large")
        layout = symbol_dtype(self.bits, self.byte_order)
        return np.frombuffer(self.read(offset, size - size % layout.itemsize), dtype=layout)

    def code_ranges(self) -> list[CodeRange]:
        """Where its code is: the executable sections, or segments where it has no sections."""
        executable = [s for s in self.load_segments if s.flags & PF_X]
        sections = [
            CodeRange(section.vaddr, section.vaddr + section.size)
            for section in self.sections
            if section.flags & SHF_EXECINSTR and section.flags & SHF_ALLOC and section.size
        ]
        ranges = sections or [CodeRange(s.vaddr, s.vaddr + s.memory_size) for s in executable]
        return [part for part in ranges if part.end <= 1 << 64]
