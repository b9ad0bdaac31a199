"""The variables of a process's objects, by address."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from leaktrace.elf.headers import PF_X
from leaktrace.elf.object import ElfObject
from leaktrace.elf.variables import Variables
from leaktrace.errors import ObjectFileError
from leaktrace.symbols.demangle import demangle
from leaktrace.symbols.module import Module
from leaktrace.symbols.views import Region

Tables = WeakKeyDictionary[ElfObject, Variables]


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
        variables = self._variables_of(one.module.elf)
        number = -1
        if vaddr < 1 << 64:  # a damaged file may lead beyond
            number = int(variables.find(np.array([vaddr], dtype=np.uint64))[0])
        name = variables.name(number) if number >= 0 else ""
        if not name:
            return f"{one.module.shown.rpartition('/')[2]}+{vaddr:#x}"
        offset = vaddr - variables.start(number)
        return demangle(name) + (f"+{offset:#x}" if offset else "")

    def _variables_of(self, elf: ElfObject) -> Variables:
        if elf not in self._tables:
            try:
                symbols = elf.symbol_tables()
            except ObjectFileError:
                symbols = ()
            self._tables[elf] = Variables(symbols)
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
