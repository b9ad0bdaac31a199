"""The dynamic section: what the loader reads of an object, and what no stripping removes.

Layout: System V gABI, chapter 5, "Dynamic Section" and "Hash Table"; DT_GNU_HASH as binutils
writes it (bfd/elflink.c).
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from leaktrace.elf.headers import MAX_STRING_BYTES, ElfFile
from leaktrace.errors import ObjectFileError

_DT_NULL, _DT_NEEDED, _DT_SONAME = 0, 1, 14
_DT_STRTAB, _DT_STRSZ, _DT_SYMTAB = 5, 10, 6
_DT_HASH, _DT_GNU_HASH, _DT_VERSYM = 4, 0x6FFFFEF5, 0x6FFFFFF0
_MAX_DYNAMIC_BYTES = 1 << 20
_HASH_CHAIN_STEP = 1024  # words of DT_GNU_HASH that are read at once

Tags = tuple[tuple[int, int], ...]


def read_tags(file: ElfFile) -> Tags:
    """Tags and values up to DT_NULL, found through PT_DYNAMIC as the loader does.

    Raises ObjectFileError.
    """
    if any(
        (section.type == "SHT_DYNAMIC" or section.name == ".dynamic") and not section.has_contents
        for section in file.sections
    ):
        return ()  # a debug file: the segment's offset means nothing there
    for segment in file.segments:
        if segment.type == "PT_DYNAMIC":
            word = "u8" if file.bits == 64 else "u4"
            size = min(segment.file_size, _MAX_DYNAMIC_BYTES)
            size -= size % (file.bits // 4)
            raw = file.read(segment.offset, size)
            pairs = np.frombuffer(raw, dtype=np.dtype(word).newbyteorder(file.byte_order))
            pairs = pairs.reshape(-1, 2)
            ends = np.nonzero(pairs[:, 0] == _DT_NULL)[0]
            kept = pairs[: ends[0]] if ends.size else pairs
            return tuple((int(tag), int(value)) for tag, value in kept)
    return ()


class DynamicSymbols(NamedTuple):
    """Where .dynsym is, without section headers: file offset, number of symbols, string table,
    address of the version table (None: no versions)."""

    offset: int
    symbol_count: int
    strings: bytes
    versions: int | None


class DynamicSection:
    """The tags of one object, and what they lead to.

    Made for one question: an object that kept it would keep itself alive.
    """

    def __init__(self, file: ElfFile, tags: Tags) -> None:
        self._file = file
        self._tags = tags

    def value(self, tag: int) -> int | None:
        """The value of the first entry with this tag, None where there is none."""
        return next((value for found, value in self._tags if found == tag), None)

    def needed(self) -> tuple[str, ...]:
        """The DT_NEEDED names, in order."""
        names = (self._string(value) for tag, value in self._tags if tag == _DT_NEEDED)
        return tuple(name for name in names if name)

    def soname(self) -> str | None:
        """DT_SONAME."""
        offset = self.value(_DT_SONAME)
        return self._string(offset) if offset is not None else None

    def symbols(self) -> DynamicSymbols | None:
        """The symbol table that the loader uses, None where there is none."""
        table, strings = self.value(_DT_SYMTAB), self.value(_DT_STRTAB)
        string_size = self.value(_DT_STRSZ)
        if table is None or strings is None or string_size is None:
            return None
        offset = self._file.vaddr_to_offset(table)
        if offset is None:
            return None
        return DynamicSymbols(
            offset,
            self._symbol_count(),
            self._file.read_vaddr(strings, string_size),
            self.value(_DT_VERSYM) or None,
        )

    def _string(self, offset: int) -> str | None:
        table, size = self.value(_DT_STRTAB), self.value(_DT_STRSZ)
        if table is None or size is None or offset >= size:
            return None
        length = min(size - offset, MAX_STRING_BYTES)
        raw = self._file.read_vaddr(table + offset, length)
        return os.fsdecode(raw.split(b"\0", 1)[0])

    def _symbol_count(self) -> int:
        """No tag states it: DT_HASH has a chain entry per symbol, DT_GNU_HASH ends each chain."""
        file = self._file
        table = self.value(_DT_HASH)
        if table is not None:
            _, count = struct.unpack(file.byte_order + "II", file.read_vaddr(table, 8))
            return int(count)
        table = self.value(_DT_GNU_HASH)
        if table is None:
            return 0
        buckets, first, bloom_words, _ = struct.unpack(
            file.byte_order + "IIII", file.read_vaddr(table, 16)
        )
        at = table + 16 + bloom_words * (file.bits // 8)
        starts = self._words(file.read_vaddr(at, 4 * buckets))
        last = int(starts.max()) if starts.size else 0
        if last < first:
            return int(first)
        chains = at + 4 * buckets
        while True:
            room = file.loaded_after(chains + 4 * (last - first))
            if room < 4:
                raise ObjectFileError(f"{file.shown} has a damaged symbol hash table")
            size = min(_HASH_CHAIN_STEP, room // 4) * 4
            words = self._words(file.read_vaddr(chains + 4 * (last - first), size))
            ends = np.nonzero(words & 1)[0]
            if ends.size:
                return last + int(ends[0]) + 1
            last += len(words)

    def _words(self, raw: bytes) -> npt.NDArray[np.uint32]:
        return np.frombuffer(raw, dtype=np.dtype("u4").newbyteorder(self._file.byte_order))
