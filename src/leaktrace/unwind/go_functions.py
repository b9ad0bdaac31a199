"""The functions of a Go program, from the table that the Go runtime itself walks stacks by.

It is in every Go program, also in a stripped one, and right for every instruction. Sources:
debug/gosym/pclntab.go; runtime/symtab.go (pcHeader, ftab, _func, moduledata);
internal/abi/symtab.go (FuncFlag).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntFlag

import numpy as np
from numpy.typing import NDArray

from leaktrace.arch.x86_64 import USER_SPACE_END
from leaktrace.elf.headers import PF_X
from leaktrace.elf.object import ElfObject
from leaktrace.elf.symbols import STT_FUNC, RawSymbols, symbol_dtype
from leaktrace.errors import ObjectFileError

_NAMES = (
    "asmcgocall",  # C by cgo
    "asmcgocall_no_g",
    "callCgoMmap",  # the runtime's own calls, through libc where a sanitizer must see them
    "callCgoMunmap",
    "callCgoSigaction",
    "sigfwd",  # a signal handler that was installed before
    "racecall",
    "msancall",
    "asancall",
    "libfuzzerCall4",
    "libfuzzerCallTraceIntCmp",
)
# The functions that call C. The symbol of assembly with another calling convention than Go's has a
# suffix.
CALL_C = tuple(f"runtime.{name}{abi}" for name in _NAMES for abi in ("", ".abi0"))

_MARKS = {".go.buildinfo", ".note.go.buildid", ".gopclntab"}
_TABLE_SECTIONS = (
    ".gopclntab",
    ".data.rel.ro.gopclntab",
    ".data.rel.ro",
)  # as a part of the last one
# By the magic number: where the flags are in a function's description. Go 1.18, 1.20.
_FLAGS_AT = {b"\xf0\xff\xff\xff": 37, b"\xf1\xff\xff\xff": 41}
_HEADER = struct.Struct("<8x8Q")  # behind the magic: two zeros, instruction step, pointer size
_HEADER_END = b"\0\0\x01\x08"
_TEXT_AT = 24  # where in the header
_NAME_AT, _STACK_SIZES_AT = 4, 16  # where in a function's description
_MODULE_TEXT_AT = 176  # where in struct moduledata
# By this function a goroutine gives the thread back to the scheduler, which doesn't return to it.
_SCHEDULES = b"\0runtime.mcall\0"
_MAX_FUNCTIONS = 4 << 20
_RELA = np.dtype([("offset", "<u8"), ("info", "<u8"), ("addend", "<i8")])
_R_RELATIVE = 8


class GoFlag(IntFlag):
    """What the description of a function says about it."""

    TOP_FRAME = 1  # stacks end in it
    WRITES_SP = 2  # it switches stacks: its caller isn't found by the size of its frame


@dataclass(frozen=True)
class GoFunctions:
    """The functions of an object, by ascending address, one right behind the other."""

    starts: NDArray[np.int64]  # virtual addresses; the last one is the end of the last function
    stack_sizes: NDArray[np.int64]  # of each: where its table is in `tables`; 0: it has none
    flags: NDArray[np.uint8]  # of each: `GoFlag`
    name_offsets: NDArray[np.int64]  # of each: in `names`
    tables: bytes
    names: bytes  # each ends in a zero

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def size_bytes(self) -> int:
        """Of what the unwind table is made from."""
        return len(self.tables) + self.starts.nbytes + self.stack_sizes.nbytes

    def add_to(self, state: hashlib.blake2b) -> None:
        """Hash what the unwind table is made from."""
        for array in (self.starts, self.stack_sizes, self.flags):
            state.update(array.tobytes())
        state.update(self.tables)

    def symbols(self) -> RawSymbols:
        """The functions as a symbol table."""
        entries = np.zeros(len(self), dtype=symbol_dtype(64, "<"))
        entries["name"] = self.name_offsets
        entries["info"] = STT_FUNC
        entries["section"] = 1  # defined
        entries["value"] = self.starts[:-1]
        entries["size"] = np.diff(self.starts)
        return RawSymbols(entries, self.names)


def is_go(elf: ElfObject) -> bool:
    """Whether an object contains code compiled by Go."""
    return not _MARKS.isdisjoint(section.name for section in elf.sections)


def read_go_functions(elf: ElfObject) -> GoFunctions | None:
    """The functions; None in an object that isn't Go's, is damaged, or whose version of the table
    is unknown."""
    try:
        return _read(elf) if is_go(elf) else None
    except (ObjectFileError, struct.error):
        return None


def _read(elf: ElfObject) -> GoFunctions | None:
    data, vaddr = _find_table(elf)
    if len(data) < _HEADER.size:
        return None
    count, _, text, names_at, _, _, tables_at, functions_at = _HEADER.unpack_from(data)
    if not 0 < count <= _MAX_FUNCTIONS or not names_at < tables_at < functions_at < len(data):
        return None
    text = text or _relocated(elf, vaddr + _TEXT_AT) or _text_of_module(elf, vaddr, names_at)
    # Pairs: the distance of a function from `text`, and of its description from here. The last
    # number is the distance of the end of the text.
    if not 0 < text < USER_SPACE_END or functions_at + (2 * count + 1) * 4 > len(data):
        return None
    pairs = np.frombuffer(data, dtype="<u4", count=2 * count + 1, offset=functions_at)
    starts, described_at = pairs[0::2].astype(np.int64), functions_at + pairs[1::2].astype(np.int64)
    flags_at = _FLAGS_AT[data[:4]]
    if np.any(np.diff(starts) <= 0) or np.any(described_at + flags_at >= len(data)):
        return None
    if not _is_code(elf, text + int(starts[0]), text + int(starts[-1])):
        return None
    raw = np.frombuffer(data, dtype=np.uint8)
    names, name_offsets = data[names_at:tables_at], _numbers(raw, described_at + _NAME_AT)
    flags = raw[described_at + flags_at]
    if (at := names.find(_SCHEDULES)) >= 0:
        flags[name_offsets == at + 1] |= np.uint8(GoFlag.TOP_FRAME)
    return GoFunctions(
        starts=starts + text,
        stack_sizes=_numbers(raw, described_at + _STACK_SIZES_AT),
        flags=flags,
        name_offsets=name_offsets,
        tables=data[tables_at:functions_at],
        names=names,
    )


def _numbers(raw: NDArray[np.uint8], at: NDArray[np.int64]) -> NDArray[np.int64]:
    """The 32-bit numbers at some places."""
    found = np.zeros(len(at), dtype=np.int64)
    for byte in range(4):
        found |= raw[at + byte].astype(np.int64) << 8 * byte
    return found


def _is_code(elf: ElfObject, start: int, end: int) -> bool:
    return any(
        s.flags & PF_X and s.vaddr <= start < end <= s.vaddr + s.file_size
        for s in elf.load_segments
    )


def _find_table(elf: ElfObject) -> tuple[bytes, int]:
    """The table with what follows it in its section, and its virtual address; no bytes where it
    isn't found."""
    for name in _TABLE_SECTIONS:
        found = elf.section(name)
        if found is None:
            continue
        for magic in _FLAGS_AT:
            at = found[0].find(magic + _HEADER_END)
            if at >= 0:
                return found[0][at:], found[1] + at
    return b"", 0


def _relocations(elf: ElfObject) -> Iterator[NDArray[np.void]]:
    """The addresses that the loader writes to a position-independent program."""
    for section in elf.sections:
        if section.type == "SHT_RELA" and section.vaddr:
            raw = elf.read(section.offset, section.size - section.size % _RELA.itemsize)
            entries = np.frombuffer(raw, dtype=_RELA)
            yield entries[entries["info"] == _R_RELATIVE]


def _relocated(elf: ElfObject, vaddr: int) -> int:
    """The virtual address that the loader writes at `vaddr`; 0 if it writes none."""
    for entries in _relocations(elf):
        hits = entries["addend"][entries["offset"] == vaddr]
        if len(hits):
            return int(hits[0])
    return 0


def _text_of_module(elf: ElfObject, vaddr: int, names_at: int) -> int:
    """Where the code begins, from the runtime's struct moduledata; since Go 1.26 it is not in the
    table. The struct begins with the address of the table, and that of the names in it."""
    for entries in _relocations(elf):
        places = entries["offset"][entries["addend"] == vaddr]
        seconds = entries["offset"][entries["addend"] == vaddr + names_at]
        for place in np.intersect1d(places + 8, seconds).tolist():
            return _relocated(elf, place - 8 + _MODULE_TEXT_AT)
    beginning = struct.pack("<QQ", vaddr, vaddr + names_at)
    for segment in elf.load_segments:
        if segment.flags & PF_X:
            continue
        data = elf.read(segment.offset, segment.file_size)
        at = data.find(beginning)
        if 0 <= at <= len(data) - _MODULE_TEXT_AT - 8:
            (text,) = struct.unpack_from("<Q", data, at + _MODULE_TEXT_AT)
            return int(text)
    return 0
