"""Reading ELF objects that may be hostile: executables, shared objects, debug files, the vDSO.

The file of a traced process belongs to whoever owns the process, so every offset, size and count
in it is checked before it is used, files are read with pread(2) (a mapping of a file that its
owner truncates kills the reader with SIGBUS), and whatever doesn't hold raises `ObjectFileError`.
Layout: System V gABI chapters 4 and 5; pyelftools decodes the headers, numpy the tables.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from elftools.common.exceptions import ELFError
from elftools.common.utils import struct_parse
from elftools.construct import Construct, ConstructError
from elftools.construct.lib.container import Container
from elftools.elf.structs import ELFStructs

from leaktrace.elf.symbols import (
    ByteOrder,
    CodeRange,
    FunctionSymbol,
    RawSymbols,
    SymbolMatch,
    SymbolTable,
    find_functions,
    symbol_dtype,
)
from leaktrace.errors import NotAnObjectError, ObjectFileError
from leaktrace.files import FileSource, MemorySource, Source, open_regular
from leaktrace.own.shortages import shortage
from leaktrace.printable import printable

__all__ = [
    "ElfObject",
    "Extent",
    "FunctionSymbol",
    "LoadSegment",
    "Section",
    "SymbolMatch",
    "SymbolTable",
]

PF_X, PF_W, PF_R = 1, 2, 4

_MAX_SEGMENTS = 1024
_MAX_SECTIONS = 16_384
_MAX_DYNAMIC_BYTES = 1 << 20
_MAX_NOTE_BYTES = 1 << 20
_MAX_STRING_BYTES = 4096
_MAX_SECTION_BYTES = 512 << 20
_MAX_SYMBOL_BYTES = 128 << 20  # of one table: five million symbols
_MAX_BUILD_ID_BYTES = 64
_MAX_DEFLATE_RATIO = 1032  # of zlib, https://zlib.net/zlib_tech.html
_MAX_ZSTD_RATIO = 65_536  # zstd has no hard limit; debug information compresses about 1:3

_SHF_ALLOC, _SHF_EXECINSTR, _SHF_COMPRESSED = 0x2, 0x4, 0x800
_ELFCOMPRESS_ZLIB, _ELFCOMPRESS_ZSTD = 1, 2
_NT_GNU_BUILD_ID = 3
_DT_NULL, _DT_NEEDED, _DT_SONAME = 0, 1, 14
_DT_STRTAB, _DT_STRSZ, _DT_SYMTAB = 5, 10, 6
_DT_HASH, _DT_GNU_HASH, _DT_VERSYM = 4, 0x6FFFFEF5, 0x6FFFFFF0


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


class _Segment(NamedTuple):
    type: str
    offset: int
    vaddr: int
    file_size: int
    memory_size: int
    flags: int


class ElfObject:
    """An open ELF object; it stays readable after its file was deleted or its process has ended.

    Closed with `close`, as a context manager, or when it is collected. Every method and property
    may raise ObjectFileError, where the part of the file it needs is damaged.
    """

    def __init__(self, source: Source, shown: str) -> None:
        self._source = source
        self.shown = shown
        self._read_headers()

    @classmethod
    def open(
        cls, path: str | Path | int, shown: str = "", reopen: Callable[[], int] | None = None
    ) -> ElfObject:
        """Opens a path, or a duplicate of a file descriptor. Raises ObjectFileError.

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
        """An object that lies in memory, such as the vDSO. Raises ObjectFileError."""
        return cls(MemorySource(bytes(data), shown), shown)

    def close(self) -> None:
        """Lets the file go; nothing can be read afterwards."""
        self._source = MemorySource(b"", self.shown)

    def __enter__(self) -> ElfObject:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def descriptor(self) -> int | None:
        """The file descriptor it reads from, None for one in memory or closed."""
        return self._source.descriptor if isinstance(self._source, FileSource) else None

    @property
    def file_stamp(self) -> tuple[int, ...]:
        """What tells the file's contents from any others; () for one in memory or closed."""
        return self._source.stamp if isinstance(self._source, FileSource) else ()

    @property
    def holds_file(self) -> bool:
        """Whether it has the file open, whose inode can't become another file's then."""
        return isinstance(self._source, FileSource) and self._source.is_open

    @property
    def file_size(self) -> int:
        """Bytes of the whole file."""
        return self._source.size

    # -- what the headers say ---------------------------------------------------------------

    kind: str  # "ET_EXEC", "ET_DYN", "ET_REL"…
    machine: str  # "EM_X86_64"…
    bits: int  # 32 or 64
    byte_order: ByteOrder
    load_segments: tuple[LoadSegment, ...]
    sections: tuple[Section, ...]  # empty where the table was stripped or is damaged

    def _read_headers(self) -> None:
        identification = self._source.read(0, 16) if self._source.size >= 16 else b""
        if identification[:4] != b"\x7fELF" or identification[4] not in (1, 2):
            raise NotAnObjectError(f"{self.shown} is not an ELF file")
        if identification[5] not in (1, 2):
            raise ObjectFileError(f"{self.shown} has an unknown byte order")
        self.bits = 64 if identification[4] == 2 else 32
        self.byte_order = "<" if identification[5] == 1 else ">"
        self._structs = ELFStructs(self.byte_order == "<", self.bits)
        self._structs.create_basic_structs()
        header = self._parse(self._structs.Elf_Ehdr, 0, 64 if self.bits == 64 else 52)
        self._structs.create_advanced_structs(
            header.e_type, header.e_machine, header.e_ident.EI_OSABI
        )
        self.kind, self.machine = str(header.e_type), str(header.e_machine)
        self._segments = tuple(self._read_segments(header))
        self.load_segments = tuple(
            LoadSegment(*segment[1:]) for segment in self._segments if segment.type == "PT_LOAD"
        )
        try:
            self.sections = tuple(self._read_sections(header))
        except ObjectFileError:
            # The kernel and the loader run such a file all the same: they read segments only.
            self.sections = ()

    def _parse(self, layout: Construct, offset: int, size: int) -> Container:
        try:
            parsed: Container = struct_parse(layout, io.BytesIO(self._source.read(offset, size)))
        except (ELFError, ConstructError, ValueError, OverflowError, KeyError) as error:
            raise ObjectFileError(f"{self.shown} has a damaged header at {offset:#x}") from error
        return parsed

    def _read_segments(self, header: Container) -> Iterator[_Segment]:
        count, entry_size = header.e_phnum, 56 if self.bits == 64 else 32
        if not count or not header.e_phoff:
            return
        if count > _MAX_SEGMENTS or header.e_phentsize < entry_size:
            raise ObjectFileError(f"{self.shown} has a damaged program header table")
        for i in range(count):
            at = header.e_phoff + i * header.e_phentsize
            entry = self._parse(self._structs.Elf_Phdr, at, entry_size)
            yield _Segment(
                str(entry.p_type),
                entry.p_offset,
                entry.p_vaddr,
                entry.p_filesz,
                entry.p_memsz,
                entry.p_flags,
            )

    def _read_sections(self, header: Container) -> Iterator[Section]:
        entry_size = 64 if self.bits == 64 else 40
        if not header.e_shoff:
            return
        if header.e_shentsize < entry_size:
            raise ObjectFileError(f"{self.shown} has a damaged section header table")
        # Section 0 holds what doesn't fit the header: the count and the index of the names.
        first = self._parse(self._structs.Elf_Shdr, header.e_shoff, entry_size)
        count = header.e_shnum or first.sh_size
        if count > _MAX_SECTIONS:
            raise ObjectFileError(f"{self.shown} claims to have {count:,} sections")
        entries = [
            self._parse(self._structs.Elf_Shdr, header.e_shoff + i * header.e_shentsize, entry_size)
            for i in range(count)
        ]
        names_index = first.sh_link if header.e_shstrndx == 0xFFFF else header.e_shstrndx
        names = b""
        if 0 < names_index < count and entries[names_index].sh_type == "SHT_STRTAB":
            names = self._read_part(entries[names_index].sh_offset, entries[names_index].sh_size)
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

    def _read_part(self, offset: int, size: int) -> bytes:
        if size > _MAX_SECTION_BYTES:
            raise ObjectFileError(f"{self.shown} has a part of {size:,} bytes: too large to read")
        return self._source.read(offset, size)

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

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes of the file (at most 512 MiB)."""
        return self._read_part(offset, size)

    def read_vaddr(self, vaddr: int, size: int) -> bytes:
        """`size` bytes that the file gives to a virtual address."""
        offset = self.vaddr_to_offset(vaddr)
        if offset is None:
            raise ObjectFileError(f"{self.shown} loads nothing at {vaddr:#x}")
        return self._read_part(offset, size)

    def eh_frame_header(self) -> Extent | None:
        """.eh_frame_hdr by its segment PT_GNU_EH_FRAME, which no stripping removes."""
        for segment in self._segments:
            if segment.type == "PT_GNU_EH_FRAME" and segment.file_size:
                return Extent(segment.offset, segment.vaddr, segment.file_size)
        return None

    # -- sections ---------------------------------------------------------------------------

    def section(self, name: str) -> tuple[bytes, int] | None:
        """Contents (decompressed) and virtual address of a section, None where it has none."""
        for section in self.sections:
            if section.name == name and section.has_contents:
                return self._contents(section), section.vaddr
        return None

    def _contents(self, section: Section) -> bytes:
        raw = self._read_part(section.offset, section.size)
        if not section.flags & _SHF_COMPRESSED:
            return raw
        layout = self.byte_order + ("IIQQ" if self.bits == 64 else "III")
        if len(raw) < struct.calcsize(layout):
            raise ObjectFileError(f"{self.shown}: section {section.name} is truncated")
        method, *rest = struct.unpack_from(layout, raw)
        size = rest[1] if self.bits == 64 else rest[0]
        return self._decompress(method, raw[struct.calcsize(layout) :], size, section.name)

    def _decompress(self, method: int, raw: bytes, size: int, name: str) -> bytes:
        ratio = _MAX_DEFLATE_RATIO if method == _ELFCOMPRESS_ZLIB else _MAX_ZSTD_RATIO
        if size > _MAX_SECTION_BYTES or size > (len(raw) + 64) * ratio:
            raise ObjectFileError(f"{self.shown}: section {name} claims {size:,} bytes")
        if method == _ELFCOMPRESS_ZLIB:
            try:
                # One byte more than it claims, so that a stream which goes on is noticed.
                data = zlib.decompressobj().decompress(raw, size + 1)
            except zlib.error as error:
                raise ObjectFileError(f"{self.shown}: section {name} is damaged") from error
        elif method == _ELFCOMPRESS_ZSTD:
            data = _decompress_zstd(raw, size, f"{self.shown}: section {name}")
        else:
            raise ObjectFileError(f"{self.shown}: section {name} has compression {method}")
        if len(data) != size:
            raise ObjectFileError(f"{self.shown}: section {name} is damaged")
        return data

    # -- identity ---------------------------------------------------------------------------

    @cached_property
    def build_id(self) -> str | None:
        """The GNU build-id in hexadecimal, None where the linker gave none."""
        for offset, size in self._note_parts():
            try:
                build_id = self._build_id_in(self._read_part(offset, min(size, _MAX_NOTE_BYTES)))
            except ObjectFileError:
                continue
            if build_id:
                return build_id
        return None

    def _note_parts(self) -> Iterator[tuple[int, int]]:
        for section in self.sections:
            if section.type == "SHT_NOTE":
                yield section.offset, section.size
        for segment in self._segments:
            if segment.type == "PT_NOTE":
                yield segment.offset, segment.file_size

    def _build_id_in(self, notes: bytes) -> str | None:
        at = 0
        while at + 12 <= len(notes):
            name_size, size, kind = struct.unpack_from(self.byte_order + "III", notes, at)
            name_at = at + 12
            start = name_at + (name_size + 3 & ~3)
            end = start + size
            if end > len(notes):
                return None
            if kind == _NT_GNU_BUILD_ID and notes[name_at : name_at + name_size] == b"GNU\0":
                return notes[start:end].hex() if 0 < size <= _MAX_BUILD_ID_BYTES else None
            at = end + 3 & ~3
        return None

    @cached_property
    def debuglink(self) -> tuple[str, int] | None:
        """Name and CRC32 of the separate debug file, from .gnu_debuglink (gdb, "Separate Debug
        Files")."""
        found = self.section(".gnu_debuglink")
        if not found:
            return None
        data = found[0]
        length = data.find(b"\0")
        crc_at = length + 4 & ~3
        if length <= 0 or crc_at + 4 > len(data):
            return None
        crc: int = struct.unpack_from(self.byte_order + "I", data, crc_at)[0]
        return os.fsdecode(data[:length]), crc

    @cached_property
    def interpreter(self) -> str | None:
        """The dynamic loader that a program asks for, None for static programs and libraries."""
        for segment in self._segments:
            if segment.type == "PT_INTERP":
                raw = self._source.read(segment.offset, min(segment.file_size, _MAX_STRING_BYTES))
                return os.fsdecode(raw.split(b"\0", 1)[0])
        return None

    # -- the dynamic section ----------------------------------------------------------------

    @cached_property
    def needed(self) -> tuple[str, ...]:
        """Names of the shared objects it needs (DT_NEEDED), in order."""
        names = (self._dynamic_string(value) for tag, value in self._dynamic if tag == _DT_NEEDED)
        return tuple(name for name in names if name)

    @cached_property
    def soname(self) -> str | None:
        """DT_SONAME."""
        offset = self.dynamic_value(_DT_SONAME)
        return self._dynamic_string(offset) if offset is not None else None

    @cached_property
    def _dynamic(self) -> tuple[tuple[int, int], ...]:
        """Tags and values up to DT_NULL, found by PT_DYNAMIC as the loader does."""
        if any(s.type == "SHT_DYNAMIC" and not s.has_contents for s in self.sections) or any(
            s.name == ".dynamic" and not s.has_contents for s in self.sections
        ):
            return ()  # a debug file: the segment's offset means nothing there
        for segment in self._segments:
            if segment.type == "PT_DYNAMIC":
                word = "u8" if self.bits == 64 else "u4"
                size = min(segment.file_size, _MAX_DYNAMIC_BYTES)
                size -= size % (self.bits // 4)
                raw = self._source.read(segment.offset, size)
                pairs = np.frombuffer(raw, dtype=np.dtype(word).newbyteorder(self.byte_order))
                pairs = pairs.reshape(-1, 2)
                ends = np.nonzero(pairs[:, 0] == _DT_NULL)[0]
                kept = pairs[: ends[0]] if ends.size else pairs
                return tuple((int(tag), int(value)) for tag, value in kept)
        return ()

    def dynamic_value(self, tag: int) -> int | None:
        return next((value for found, value in self._dynamic if found == tag), None)

    def _dynamic_string(self, offset: int) -> str | None:
        table, size = self.dynamic_value(_DT_STRTAB), self.dynamic_value(_DT_STRSZ)
        if table is None or size is None or offset >= size:
            return None
        length = min(size - offset, _MAX_STRING_BYTES)
        raw = self.read_vaddr(table + offset, length)
        return os.fsdecode(raw.split(b"\0", 1)[0])

    # -- symbols ----------------------------------------------------------------------------

    def functions(self, names: Iterable[str]) -> dict[str, FunctionSymbol]:
        """The functions of these names that it defines, from .dynsym (through PT_DYNAMIC where
        section headers are stripped), then .symtab; of several versions the default one."""
        return find_functions(self.symbol_tables(), names)

    def symbols(self) -> SymbolTable:
        """All its function symbols by address. Built anew at each call: keep it."""
        return SymbolTable(self.symbol_tables(), self.code_ranges())

    def has_symbol_table(self) -> bool:
        """Whether .symtab is there, that is, whether it isn't stripped."""
        return any(s.type == "SHT_SYMTAB" and s.has_contents for s in self.sections)

    def symbol_tables(self) -> tuple[RawSymbols, ...]:
        """.dynsym and .symtab, those that are there. Read anew at each call."""
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
                        self._contents(strings),
                        self._section_versions() if kind == "SHT_DYNSYM" else None,
                    )
        return None

    def _section_versions(self) -> npt.NDArray[np.uint16] | None:
        for section in self.sections:
            if section.type == "SHT_GNU_versym" and section.has_contents:
                return self._decode_versions(self._contents(section))
        return None

    def _dynamic_symbols(self) -> RawSymbols | None:
        table, strings = self.dynamic_value(_DT_SYMTAB), self.dynamic_value(_DT_STRTAB)
        string_size = self.dynamic_value(_DT_STRSZ)
        if table is None or strings is None or string_size is None:
            return None
        offset = self.vaddr_to_offset(table)
        if offset is None:
            return None
        count = self._dynamic_symbol_count()
        versions = self.dynamic_value(_DT_VERSYM)
        return RawSymbols(
            self._decode_symbols(offset, count * symbol_dtype(self.bits, self.byte_order).itemsize),
            self.read_vaddr(strings, string_size),
            self._decode_versions(self.read_vaddr(versions, 2 * count)) if versions else None,
        )

    def _dynamic_symbol_count(self) -> int:
        """Nothing states it: DT_HASH has a chain entry a symbol, DT_GNU_HASH ends each chain."""
        table = self.dynamic_value(_DT_HASH)
        if table is not None:
            _, count = struct.unpack(self.byte_order + "II", self.read_vaddr(table, 8))
            return int(count)
        table = self.dynamic_value(_DT_GNU_HASH)
        if table is None:
            return 0
        buckets, first, bloom_words, _ = struct.unpack(
            self.byte_order + "IIII", self.read_vaddr(table, 16)
        )
        at = table + 16 + bloom_words * (self.bits // 8)
        starts = self._decode_words(self.read_vaddr(at, 4 * buckets))
        last = int(starts.max()) if starts.size else 0
        if last < first:
            return int(first)
        chains = at + 4 * buckets
        step = 1024
        while True:
            room = self._loaded_after(chains + 4 * (last - first))
            if room < 4:
                raise ObjectFileError(f"{self.shown} has a damaged symbol hash table")
            words = self._decode_words(
                self.read_vaddr(chains + 4 * (last - first), min(step, room // 4) * 4)
            )
            ends = np.nonzero(words & 1)[0]
            if ends.size:
                return last + int(ends[0]) + 1
            last += len(words)

    def _loaded_after(self, vaddr: int) -> int:
        for segment in self.load_segments:
            if segment.vaddr <= vaddr < segment.vaddr + segment.file_size:
                in_file = max(0, self._source.size - (vaddr - segment.vaddr + segment.offset))
                return min(segment.vaddr + segment.file_size - vaddr, in_file)
        return 0

    def _decode_words(self, raw: bytes) -> npt.NDArray[np.uint32]:
        return np.frombuffer(raw, dtype=np.dtype("u4").newbyteorder(self.byte_order))

    def _decode_versions(self, raw: bytes) -> npt.NDArray[np.uint16]:
        whole = len(raw) - len(raw) % 2
        return np.frombuffer(raw[:whole], dtype=np.dtype("u2").newbyteorder(self.byte_order))

    def _decode_symbols(self, offset: int, size: int) -> npt.NDArray[Any]:
        if size > _MAX_SYMBOL_BYTES:
            raise ObjectFileError(f"{self.shown} has a symbol table of {size:,} bytes: too large")
        layout = symbol_dtype(self.bits, self.byte_order)
        return np.frombuffer(self._source.read(offset, size - size % layout.itemsize), dtype=layout)

    def code_ranges(self) -> list[CodeRange]:
        """Where its code lies: the executable sections, or segments where it has no sections."""
        executable = [s for s in self.load_segments if s.flags & PF_X]
        sections = [
            CodeRange(section.vaddr, section.vaddr + section.size)
            for section in self.sections
            if section.flags & _SHF_EXECINSTR and section.flags & _SHF_ALLOC and section.size
        ]
        ranges = sections or [CodeRange(s.vaddr, s.vaddr + s.memory_size) for s in executable]
        return [part for part in ranges if part.end <= 1 << 64]


def _string_at(strings: bytes, offset: int) -> str:
    end = strings.find(b"\0", offset, offset + _MAX_STRING_BYTES)
    return strings[offset:end].decode("utf-8", "replace") if end >= 0 else ""


def _decompress_zstd(raw: bytes, size: int, shown: str) -> bytes:
    try:
        import zstandard  # noqa: PLC0415 - optional: few distributions compress with it
    except ImportError:
        raise ObjectFileError(
            f"{shown} is compressed with zstd", "install the Python package zstandard"
        ) from None
    try:
        with zstandard.ZstdDecompressor().stream_reader(raw) as reader:
            data: bytes = reader.read(size)
            return data
    except zstandard.ZstdError as error:
        raise ObjectFileError(f"{shown} is damaged") from error
