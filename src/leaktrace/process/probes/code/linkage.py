"""The destination of calls through the tables of an object: PLT and GOT.

`call memset@plt` leads to a stub that jumps to the address in a slot of the global offset table,
and a relocation of that slot names the symbol. Sources: System V psABI for x86-64, 5.2; elf(5).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from leaktrace.arch.x86_64 import R_GLOB_DAT, R_IRELATIVE, R_JUMP_SLOT
from leaktrace.arch.x86_64_code import decode
from leaktrace.elf.object import ElfObject
from leaktrace.elf.symbols import RawSymbols
from leaktrace.errors import ObjectFileError

_DT_RELA, _DT_RELASZ, _DT_JMPREL, _DT_PLTRELSZ = 7, 8, 23, 2
_RELA = np.dtype([("offset", "<u8"), ("info", "<u8"), ("addend", "<i8")])
_MAX_RELOCATION_BYTES = 64 << 20
_STUB_BYTES = 32
_STT_FUNC, _STT_GNU_IFUNC = 2, 10


class Linkage:
    """The slots and stubs of one object."""

    def __init__(self, elf: ElfObject, symbol_tables: Sequence[RawSymbols]) -> None:
        self._elf = elf
        self._symbol_tables = symbol_tables
        self._stubs: dict[int, str | None] = {}

    def slot(self, vaddr: int) -> str | None:
        """The name of the function whose address a slot contains at run time; "" where it has only
        an address, None where no relocation is for the slot."""
        relocations = self._relocations
        index = int(np.searchsorted(relocations["offset"], vaddr))
        if index >= len(relocations) or int(relocations["offset"][index]) != vaddr:
            return None
        one = relocations[index]
        kind = int(one["info"]) & 0xFFFFFFFF
        if kind in (R_GLOB_DAT, R_JUMP_SLOT):
            return self._symbol(int(one["info"]) >> 32)
        if kind == R_IRELATIVE:
            return self._resolved_by(int(one["addend"]))
        return None

    def stub(self, vaddr: int) -> str | None:
        """The name of the function that a PLT stub leads to, as for `slot`; None for other code."""
        if vaddr not in self._stubs:
            self._stubs[vaddr] = self._read_stub(vaddr)
        return self._stubs[vaddr]

    def _read_stub(self, vaddr: int) -> str | None:
        try:
            code = self._elf.read_vaddr(vaddr, _STUB_BYTES)
        except ObjectFileError:
            return None
        for instruction in decode(code, vaddr):
            if instruction.mnemonic == "endbr64":
                continue
            if instruction.mnemonic == "jmp" and instruction.operands:
                slot = instruction.operands[0].absolute
                return self.slot(slot) if slot is not None else None
            return None
        return None

    @cached_property
    def _relocations(self) -> NDArray[np.void]:
        """All relocations that name a function, by ascending offset."""
        parts = [np.frombuffer(raw, dtype=_RELA) for raw in self._tables()]
        every = np.concatenate(parts) if parts else np.zeros(0, dtype=_RELA)
        kinds = every["info"] & np.uint64(0xFFFFFFFF)
        kept = every[np.isin(kinds, (R_GLOB_DAT, R_JUMP_SLOT, R_IRELATIVE))]
        return kept[np.argsort(kept["offset"], kind="stable")]

    def _tables(self) -> list[bytes]:
        sections = [s for s in self._elf.sections if s.type == "SHT_RELA" and s.vaddr]
        places = [(section.vaddr, section.size) for section in sections]
        if not sections:
            for start, size in ((_DT_RELA, _DT_RELASZ), (_DT_JMPREL, _DT_PLTRELSZ)):
                vaddr, length = self._elf.dynamic_value(start), self._elf.dynamic_value(size)
                if vaddr and length:
                    places.append((vaddr, length))
        whole = _RELA.itemsize
        return [
            self._elf.read_vaddr(vaddr, min(size, _MAX_RELOCATION_BYTES) // whole * whole)
            for vaddr, size in places
        ]

    def _symbol(self, index: int) -> str:
        tables = self._symbol_tables
        if not tables or not 0 < index < len(tables[0].entries):
            return ""
        return tables[0].name(int(tables[0].entries["name"][index]))

    def _resolved_by(self, resolver: int) -> str:
        """The symbol whose function the code at `resolver` chooses at run time."""
        for table in self._symbol_tables:
            kinds = table.entries["info"] & 0xF
            hits = np.nonzero(
                (table.entries["value"] == resolver)
                & ((kinds == _STT_GNU_IFUNC) | (kinds == _STT_FUNC))
            )[0]
            names = sorted((table.name(int(table.entries["name"][hit])) for hit in hits), key=len)
            if names:
                return names[0]
        return ""
