"""The functions of the Go runtime that call C, found in a program by its symbols or, where those
were stripped, by the table that the runtime itself uses (.gopclntab).

They switch from the goroutine's stack to one that C can run on, so their own frames have no caller
on it. Sources: runtime/asm_amd64.s, runtime/sys_linux_amd64.s; for the table debug/gosym/pclntab.go
and runtime/symtab.go (pcHeader, ftab, _func).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from leaktrace.elf.object import ElfObject

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
# The symbol of assembly with another calling convention than Go's has a suffix.
NAMES = tuple(f"runtime.{name}{abi}" for name in _NAMES for abi in ("", ".abi0"))
_MARKS = {".go.buildinfo", ".note.go.buildid", ".gopclntab"}
_TABLE_SECTIONS = (
    ".gopclntab",
    ".data.rel.ro.gopclntab",
    ".data.rel.ro",
)  # as a part of the last one
_MAGICS = (b"\xf0\xff\xff\xff", b"\xf1\xff\xff\xff")  # of Go 1.18 and 1.20
_HEADER = struct.Struct("<8x8Q")  # behind the magic: two zeros, instruction step, pointer size
_HEADER_END = b"\0\0\x01\x08"
_TEXT_AT = 24  # where in the header
_MAX_FUNCTIONS = 4 << 20
_RELA = np.dtype([("offset", "<u8"), ("info", "<u8"), ("addend", "<i8")])
_R_RELATIVE = 8


class GoFunction(NamedTuple):
    """start <= virtual address < end"""

    start: int
    end: int


def functions_that_call_c(elf: ElfObject) -> list[GoFunction]:
    """The functions; none in an object that isn't Go's or whose version of the table is unknown.

    Raises ObjectFileError or struct.error where the object is damaged.
    """
    if not _MARKS.intersection(section.name for section in elf.sections):
        return []
    found = elf.functions(NAMES).values()
    if found:
        return [GoFunction(one.vaddr, one.vaddr + one.size) for one in found]
    return list(_by_table(elf))


def _by_table(elf: ElfObject) -> Iterator[GoFunction]:
    data, vaddr = _find_table(elf)
    if len(data) < _HEADER.size:
        return
    count, _, text, names_at, _, _, _, functions_at = _HEADER.unpack_from(data)
    text = text or _relocated(elf, vaddr + _TEXT_AT)
    if not text or not 0 < count <= _MAX_FUNCTIONS or not names_at < functions_at < len(data):
        return
    # Pairs: the distance of a function from `text`, and of its description from here. The last
    # number is the distance of the end of the text.
    if functions_at + (2 * count + 1) * 4 > len(data):
        return
    table = np.frombuffer(data, dtype="<u4", count=2 * count + 1, offset=functions_at)
    starts, descriptions = table[0::2].astype(np.int64), table[1::2].astype(np.int64)
    at = functions_at + descriptions + 4  # of _func: behind its entry, where its name is
    at[at + 4 > len(data)] = 0
    words = np.frombuffer(data, dtype=np.uint8)
    name_of = np.zeros(count, dtype=np.int64)
    for byte in range(4):
        name_of |= words[at + byte].astype(np.int64) << 8 * byte
    wanted = list(_offsets_of_names(data[names_at:functions_at]))
    for index in np.nonzero(np.isin(name_of, wanted))[0].tolist():
        yield GoFunction(text + int(starts[index]), text + int(starts[index + 1]))


def _find_table(elf: ElfObject) -> tuple[bytes, int]:
    """The table with what follows it in its section, and its virtual address; no bytes where it
    isn't found."""
    for name in _TABLE_SECTIONS:
        found = elf.section(name)
        if found is None:
            continue
        for magic in _MAGICS:
            at = found[0].find(magic + _HEADER_END)
            if at >= 0:
                return found[0][at:], found[1] + at
    return b"", 0


def _relocated(elf: ElfObject, vaddr: int) -> int:
    """The virtual address that the loader writes at `vaddr` of a position-independent program."""
    for section in elf.sections:
        if section.type != "SHT_RELA" or not section.vaddr:
            continue
        raw = elf.read(section.offset, section.size - section.size % _RELA.itemsize)
        entries = np.frombuffer(raw, dtype=_RELA)
        hits = entries[(entries["offset"] == vaddr) & (entries["info"] == _R_RELATIVE)]
        if len(hits):
            return int(hits["addend"][0])
    return 0


def _offsets_of_names(names: bytes) -> Iterator[int]:
    for name in NAMES:
        at = names.find(f"\0{name}\0".encode())
        if at >= 0:
            yield at + 1
