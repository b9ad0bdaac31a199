"""The variables of one object, by address."""

from __future__ import annotations

from leaktrace.elf.headers import PF_X
from leaktrace.elf.object import ElfObject
from leaktrace.elf.symbols import STT_FUNC, CodeRange, RawSymbols, SymbolTable

_STT_OBJECT = 1
_TYPE_BITS = 0xF


def data_symbols(elf: ElfObject) -> SymbolTable:
    """The variables that an object defines, from .dynsym and .symtab. Built at each call: keep it.
    Raises ObjectFileError."""
    ranges = [
        CodeRange(one.vaddr, one.vaddr + one.memory_size)
        for one in elf.load_segments
        if not one.flags & PF_X and one.vaddr + one.memory_size <= 1 << 64
    ]
    return SymbolTable(map(_variables, elf.symbol_tables()), ranges)


def _variables(table: RawSymbols) -> RawSymbols:
    """Only the variables, as if they were functions: a symbol table looks functions up."""
    entries = table.entries[table.entries["info"] & _TYPE_BITS == _STT_OBJECT].copy()
    entries["info"] = entries["info"] & (0xFF ^ _TYPE_BITS) | STT_FUNC
    return RawSymbols(entries, table.strings)
