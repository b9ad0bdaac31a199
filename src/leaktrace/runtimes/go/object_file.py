"""Where an object file of Go has what the Go runtime itself works with: the table of functions
("pclntab"), and struct moduledata.

No symbols and no section headers are needed. The addresses in moduledata are read from the file: in
a position-independent object they are the relocations that the loader applies. Sources:
debug/gosym/pclntab.go; runtime/symtab.go (pcHeader, moduledata).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from leaktrace.arch.x86_64 import USER_SPACE_END
from leaktrace.elf.headers import PF_X
from leaktrace.elf.object import ElfObject

_MARKS = {".go.buildinfo", ".note.go.buildid", ".gopclntab"}
_TABLE_SECTIONS = (
    ".gopclntab",
    ".data.rel.ro.gopclntab",
    ".data.rel.ro",
)  # as a part of the last one
MAGIC_1_18, MAGIC_1_20 = b"\xf0\xff\xff\xff", b"\xf1\xff\xff\xff"
_MAGICS = (MAGIC_1_18, MAGIC_1_20)
_HEADER = struct.Struct("<8x8Q")  # behind the magic: two zeros, instruction step, pointer size
_HEADER_END = b"\0\0\x01\x08"
_TEXT_AT = 24  # where in the header
_MODULE_TEXT_AT = 176  # where in struct moduledata
_MAX_FUNCTIONS = 4 << 20
_MAX_SCANNED_BYTES = 512 << 20  # of a segment, where there are no section headers
_MAX_FOUND = 64  # places that look like a table, in an object without section headers
_RELA = np.dtype([("offset", "<u8"), ("info", "<u8"), ("addend", "<i8")])
_R_RELATIVE = 8


@dataclass(frozen=True)
class TableHeader:
    """Where the parts of the table are, in bytes from its start."""

    function_count: int
    text: int  # virtual address of the code; 0 since Go 1.26, and in position-independent files
    names_at: int
    units_at: int  # numbers of the files of each compiled package
    files_at: int  # their names
    values_at: int  # tables of what changes along the code of a function
    functions_at: int

    @classmethod
    def read(cls, data: bytes, at: int = 0) -> TableHeader | None:
        """None where there is no such header."""
        if len(data) - at < _HEADER.size:
            return None
        count, _, text, names, units, files, values, functions = _HEADER.unpack_from(data, at)
        in_order = _HEADER.size <= names < values < functions < len(data) - at
        if not 0 < count <= _MAX_FUNCTIONS or not in_order or not names <= units <= files <= values:
            return None
        return cls(count, text, names, units, files, values, functions)


def is_go(elf: ElfObject) -> bool:
    """Whether an object contains code compiled by Go, by its section headers."""
    return not _MARKS.isdisjoint(section.name for section in elf.sections)


class GoObject:
    """The Go runtime's own data in an object file. All addresses are virtual ones of the file."""

    def __init__(self, elf: ElfObject, data: bytes, vaddr: int, header: TableHeader) -> None:
        self.elf = elf
        self.data = data  # from the table on
        self.vaddr = vaddr  # of the table
        self.header = header

    @classmethod
    def find(cls, elf: ElfObject, *, anywhere: bool = False) -> GoObject | None:
        """None where an object has no table, or one of an unknown version. `anywhere`: look for it
        in the whole file if the section headers are gone. Raises ObjectFileError."""
        for data, vaddr in _places(elf, anywhere=anywhere):
            header = TableHeader.read(data)
            if header is not None:
                return cls(elf, data, vaddr, header)
        return None

    @cached_property
    def text(self) -> int:
        """Where the code begins; 0 where that isn't found. Raises ObjectFileError."""
        text = self.header.text or self._relocated(self.vaddr + _TEXT_AT)
        if not text and self.module_vaddr:
            text = self.module_word(_MODULE_TEXT_AT)
        return text if 0 < text < USER_SPACE_END else 0

    @cached_property
    def module_vaddr(self) -> int:
        """Where struct moduledata is; 0 where it isn't found. It begins with the address of the
        table, and that of the names in it. Raises ObjectFileError."""
        first, second = self.vaddr, self.vaddr + self.header.names_at
        for entries in self._relocations:
            places = entries["offset"][entries["addend"] == first]
            seconds = entries["offset"][entries["addend"] == second]
            for place in np.intersect1d(places + 8, seconds).tolist():
                return int(place) - 8
        beginning = struct.pack("<QQ", first, second)
        for segment in self.elf.load_segments:
            if segment.flags & PF_X or segment.file_size > _MAX_SCANNED_BYTES:
                continue
            at = self.elf.read(segment.offset, segment.file_size).find(beginning)
            if at >= 0:
                return segment.vaddr + at
        return 0

    def module_word(self, offset: int) -> int:
        """A word of struct moduledata, which is at `module_vaddr`. Raises ObjectFileError."""
        return self._word(self.module_vaddr + offset)

    def _word(self, vaddr: int) -> int:
        relocated = self._relocated(vaddr)
        if relocated:
            return relocated
        (word,) = struct.unpack("<Q", self.elf.read_vaddr(vaddr, 8))
        return int(word)

    def _relocated(self, vaddr: int) -> int:
        """The virtual address that the loader writes at `vaddr`; 0 if it writes none."""
        for entries in self._relocations:
            hits = entries["addend"][entries["offset"] == vaddr]
            if len(hits):
                return int(hits[0])
        return 0

    @cached_property
    def _relocations(self) -> tuple[NDArray[np.void], ...]:
        """The addresses that the loader writes to a position-independent program."""
        return tuple(_relocations(self.elf))


def _places(elf: ElfObject, *, anywhere: bool) -> Iterator[tuple[bytes, int]]:
    """What begins as a table does, with what follows it, and its virtual address."""
    if is_go(elf):
        for name in _TABLE_SECTIONS:
            found = elf.section(name)
            for magic in _MAGICS if found is not None else ():
                at = found[0].find(magic + _HEADER_END) if found is not None else -1
                if found is not None and at >= 0:
                    yield found[0][at:], found[1] + at
    elif anywhere and not elf.sections:
        for segment in elf.load_segments:
            if segment.file_size > _MAX_SCANNED_BYTES:
                continue
            data = elf.read(segment.offset, segment.file_size)
            for magic in _MAGICS:
                at = data.find(magic + _HEADER_END)
                for _ in range(_MAX_FOUND):
                    if at < 0:
                        break
                    if at % 8 == 0 and TableHeader.read(data, at) is not None:
                        yield data[at:], segment.vaddr + at
                    at = data.find(magic + _HEADER_END, at + 1)


def _relocations(elf: ElfObject) -> Iterator[NDArray[np.void]]:
    for section in elf.sections:
        if section.type == "SHT_RELA" and section.vaddr:
            raw = elf.read(section.offset, section.size - section.size % _RELA.itemsize)
            entries = np.frombuffer(raw, dtype=_RELA)
            yield entries[entries["info"] == _R_RELATIVE]
