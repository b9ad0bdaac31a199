"""The headers of an ELF object: the file header, the program headers, the section headers.

Every offset, size and count is checked before it is used. Layout: System V gABI, chapters 4 ("ELF
Header", "Sections") and 5 ("Program Header"); pyelftools decodes the structures.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from elftools.common.exceptions import ELFError
from elftools.common.utils import struct_parse
from elftools.construct import Construct, ConstructError
from elftools.construct.lib.container import Container
from elftools.elf.structs import ELFStructs

from leaktrace.elf.symbols import ByteOrder
from leaktrace.errors import NotAnObjectError, ObjectFileError
from leaktrace.files import Source

PF_X, PF_W, PF_R = 1, 2, 4
SHF_ALLOC, SHF_EXECINSTR, SHF_COMPRESSED = 0x2, 0x4, 0x800

MAX_PART_BYTES = 512 << 20  # of one section, or one read
MAX_STRING_BYTES = 4096
_MAX_SEGMENTS = 1024
_MAX_SECTIONS = 16_384
_SHN_XINDEX = 0xFFFF  # e_shstrndx: the index is in the sh_link of section 0


class LoadSegment(NamedTuple):
    """A PT_LOAD segment: where in the file, where in memory (before relocation), PF_* flags."""

    offset: int
    vaddr: int
    file_size: int
    memory_size: int
    flags: int


class Extent(NamedTuple):
    """A part of the file that is loaded: file offset, virtual address, bytes."""

    offset: int
    vaddr: int
    size: int


class Section(NamedTuple):
    """A section header. `has_contents` is false for .bss and in files that hold debug info only."""

    name: str
    type: str
    flags: int
    vaddr: int
    offset: int
    size: int
    link: int
    has_contents: bool


class Segment(NamedTuple):
    """A program header. `type` is "PT_LOAD", "PT_DYNAMIC"…"""

    type: str
    offset: int
    vaddr: int
    file_size: int
    memory_size: int
    flags: int
    alignment: int


@dataclass(frozen=True)
class Headers:
    """What the headers of a file say."""

    kind: str  # "ET_EXEC", "ET_DYN", "ET_REL"…
    machine: str  # "EM_X86_64"…
    bits: int  # 32 or 64
    byte_order: ByteOrder
    entry: int  # virtual address at which a program starts
    segments: tuple[Segment, ...]
    sections: tuple[Section, ...]  # empty where the table was stripped or is damaged


class ElfFile:
    """An ELF file with its headers, and the translation between file offsets and addresses."""

    def __init__(self, source: Source, shown: str) -> None:
        """`shown` is what messages call the file. Raises ObjectFileError."""
        self._source = source
        self.shown = shown
        # A file in memory that is written through a mapping keeps its stamp: its first bytes, too.
        key = (source.stamp, source.read(0, min(source.size, _FIRST_BYTES)))
        headers = _KNOWN.get(key)
        if headers is None:
            headers = _HeaderReader(source, shown).read()
            if source.stamp:
                if len(_KNOWN) >= _MOST_KNOWN:
                    _KNOWN.clear()
                _KNOWN[key] = headers
        self.kind, self.machine = headers.kind, headers.machine
        self.bits, self.byte_order = headers.bits, headers.byte_order
        self.entry = headers.entry
        self.segments, self.sections = headers.segments, headers.sections
        self.load_segments = tuple(
            LoadSegment(*segment[1:6]) for segment in self.segments if segment.type == "PT_LOAD"
        )

    @property
    def file_size(self) -> int:
        """Bytes of the whole file."""
        return self._source.size

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes of the file (at most 512 MiB). Raises ObjectFileError."""
        return read_part(self._source, self.shown, offset, size)

    def read_vaddr(self, vaddr: int, size: int) -> bytes:
        """`size` bytes that the file loads at a virtual address. Raises ObjectFileError."""
        offset = self.vaddr_to_offset(vaddr)
        if offset is None:
            raise ObjectFileError(f"{self.shown} has no segment at {vaddr:#x}")
        return self.read(offset, size)

    # -- addresses --------------------------------------------------------------------------

    def vaddr_to_offset(self, vaddr: int) -> int | None:
        """The file offset of a virtual address, None where no file contents are loaded."""
        for segment in self.load_segments:
            if segment.vaddr <= vaddr < segment.vaddr + segment.file_size:
                return vaddr - segment.vaddr + segment.offset
        return None

    def offset_to_vaddr(self, offset: int) -> int | None:
        """The virtual address where a file offset is loaded, an executable segment first."""
        by_use = sorted(self.load_segments, key=lambda segment: not segment.flags & PF_X)
        for segment in by_use:
            if segment.offset <= offset < segment.offset + segment.file_size:
                return offset - segment.offset + segment.vaddr
        return None

    def loaded_after(self, vaddr: int) -> int:
        """How many bytes of the file are loaded from a virtual address on, in one segment."""
        for segment in self.load_segments:
            if segment.vaddr <= vaddr < segment.vaddr + segment.file_size:
                in_file = max(0, self.file_size - (vaddr - segment.vaddr + segment.offset))
                return min(segment.vaddr + segment.file_size - vaddr, in_file)
        return 0


# Many processes map the same files, and each file is opened for several purposes.
_KNOWN: dict[tuple[tuple[int, ...], bytes], Headers] = {}  # by the stamp of the file
_FIRST_BYTES = 4096  # with the program headers
_MOST_KNOWN = 1024


class _HeaderReader:
    """Decodes the headers of one file."""

    def __init__(self, source: Source, shown: str) -> None:
        self._source = source
        self._shown = shown
        self._bits = 64

    def read(self) -> Headers:
        """Raises ObjectFileError."""
        identification = self._source.read(0, 16) if self._source.size >= 16 else b""
        if identification[:4] != b"\x7fELF" or identification[4] not in (1, 2):
            raise NotAnObjectError(f"{self._shown} is not an ELF file")
        if identification[5] not in (1, 2):
            raise ObjectFileError(f"{self._shown} has an unknown byte order")
        self._bits = 64 if identification[4] == 2 else 32
        byte_order: ByteOrder = "<" if identification[5] == 1 else ">"
        structs = ELFStructs(byte_order == "<", self._bits)
        structs.create_basic_structs()
        header = self._parse(structs.Elf_Ehdr, 0, 64 if self._bits == 64 else 52)
        structs.create_advanced_structs(header.e_type, header.e_machine, header.e_ident.EI_OSABI)
        segments = tuple(self._read_segments(header, structs.Elf_Phdr))
        try:
            sections = tuple(self._read_sections(header, structs.Elf_Shdr))
        except ObjectFileError:
            # The kernel and the loader run such a file anyway: they read segments only.
            sections = ()
        return Headers(
            kind=str(header.e_type),
            machine=str(header.e_machine),
            bits=self._bits,
            byte_order=byte_order,
            entry=int(header.e_entry),
            segments=segments,
            sections=sections,
        )

    def _parse(self, layout: Construct, offset: int, size: int) -> Container:
        try:
            parsed: Container = struct_parse(layout, io.BytesIO(self._source.read(offset, size)))
        except (ELFError, ConstructError, ValueError, OverflowError, KeyError) as error:
            raise ObjectFileError(f"{self._shown} has a damaged header at {offset:#x}") from error
        return parsed

    def _read_segments(self, header: Container, layout: Construct) -> Iterator[Segment]:
        count, entry_size = header.e_phnum, 56 if self._bits == 64 else 32
        if not count or not header.e_phoff:
            return
        if count > _MAX_SEGMENTS or header.e_phentsize < entry_size:
            raise ObjectFileError(f"{self._shown} has a damaged program header table")
        for i in range(count):
            at = header.e_phoff + i * header.e_phentsize
            entry = self._parse(layout, at, entry_size)
            yield Segment(
                str(entry.p_type),
                entry.p_offset,
                entry.p_vaddr,
                entry.p_filesz,
                entry.p_memsz,
                entry.p_flags,
                entry.p_align,
            )

    def _read_sections(self, header: Container, layout: Construct) -> Iterator[Section]:
        entry_size = 64 if self._bits == 64 else 40
        if not header.e_shoff:
            return
        if header.e_shentsize < entry_size:
            raise ObjectFileError(f"{self._shown} has a damaged section header table")
        # Section 0 holds what doesn't fit in the header: the count and the index of the names.
        first = self._parse(layout, header.e_shoff, entry_size)
        count = header.e_shnum or first.sh_size
        if count > _MAX_SECTIONS:
            raise ObjectFileError(f"{self._shown} claims to have {count:,} sections")
        entries = [
            self._parse(layout, header.e_shoff + i * header.e_shentsize, entry_size)
            for i in range(count)
        ]
        is_elsewhere = header.e_shstrndx == _SHN_XINDEX
        names_index = first.sh_link if is_elsewhere else header.e_shstrndx
        names = b""
        if 0 < names_index < count and entries[names_index].sh_type == "SHT_STRTAB":
            names = read_part(
                self._source,
                self._shown,
                entries[names_index].sh_offset,
                entries[names_index].sh_size,
            )
        for entry in entries:
            yield Section(
                _string_at(names, entry.sh_name),
                str(entry.sh_type),
                entry.sh_flags,
                entry.sh_addr,
                entry.sh_offset,
                entry.sh_size,
                entry.sh_link,
                entry.sh_type not in ("SHT_NOBITS", "SHT_NULL"),
            )


def read_part(source: Source, shown: str, offset: int, size: int) -> bytes:
    """`size` bytes of a file (at most 512 MiB). Raises ObjectFileError."""
    if size > MAX_PART_BYTES:
        raise ObjectFileError(f"{shown} has a part of {size:,} bytes: too large to read")
    return source.read(offset, size)


def _string_at(strings: bytes, offset: int) -> str:
    end = strings.find(b"\0", offset, offset + MAX_STRING_BYTES)
    return strings[offset:end].decode("utf-8", "replace") if end >= 0 else ""
