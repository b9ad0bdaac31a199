"""The variables of a process's objects, by address."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

from leaktrace.elf.data_symbols import data_symbols
from leaktrace.elf.headers import PF_X
from leaktrace.elf.object import ElfObject
from leaktrace.elf.symbols import SymbolTable
from leaktrace.errors import ObjectFileError
from leaktrace.symbols.demangle import demangle
from leaktrace.symbols.module import Module
from leaktrace.symbols.views import Region

Tables = WeakKeyDictionary[ElfObject, SymbolTable | None]


class _Placed(NamedTuple):
    """Where an object is in memory."""

    start: int
    end: int
    bias: int  # what its virtual addresses lack
    module: Module


class DataNames:
    """Variables of one process at one moment."""

    def __init__(self, regions: Iterable[Region], tables: Tables) -> None:
        """`regions`: its code; `tables`: what is known of objects, to be used again."""
        self._objects = sorted(_placed(regions), key=lambda one: one.start)
        self._starts = [one.start for one in self._objects]
        self._tables = tables

    def name(self, address: int) -> str | None:
        """The variable, as "name", "name+0x10", or "libc.so.6+0x1234" if the object has no symbol
        there; None if no object has data there."""
        at = bisect_right(self._starts, address) - 1
        if at < 0 or address >= self._objects[at].end:
            return None
        one = self._objects[at]
        vaddr = address - one.bias
        table = self._table_of(one.module.elf)
        symbol = None if table is None else table.lookup(vaddr)
        if symbol is None:
            return f"{one.module.shown.rpartition('/')[2]}+{vaddr:#x}"
        return demangle(symbol.name) + (f"+{symbol.offset:#x}" if symbol.offset else "")

    def _table_of(self, elf: ElfObject) -> SymbolTable | None:
        if elf not in self._tables:
            try:
                self._tables[elf] = data_symbols(elf)
            except ObjectFileError:
                self._tables[elf] = None
        return self._tables[elf]


def new_tables() -> Tables:
    """Nothing is known yet."""
    return WeakKeyDictionary()


def _placed(regions: Iterable[Region]) -> Sequence[_Placed]:
    found: dict[tuple[int, int], _Placed] = {}
    for region in regions:
        mapping, module = region.mapping, region.module
        if module is None:
            continue
        segments, last = module.elf.load_segments, mapping.offset + mapping.end - mapping.start
        for one in segments:
            is_in = mapping.offset < one.offset + one.file_size and one.offset < last
            if one.flags & PF_X and is_in:
                bias = mapping.start - mapping.offset + one.offset - one.vaddr
                start = bias + min(each.vaddr for each in segments)
                end = bias + max(each.vaddr + each.memory_size for each in segments)
                found[start, end] = _Placed(start, end, bias, module)
                break
    return list(found.values())
