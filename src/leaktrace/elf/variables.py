"""The variables of one object by address: its data symbols, and those of its thread-local storage.

Symbol tables are decoded in bulk (symbols.py); names are read only when they are needed.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from leaktrace.elf.symbols import SHN_UNDEF, STB_LOCAL, RawSymbols

_STT_OBJECT, _STT_COMMON, _STT_TLS = 1, 5, 6
_MOST_NESTED = 8  # variables that are looked at for one address

_VARIABLE = np.dtype(
    [
        ("start", "u8"),
        ("end", "u8"),
        ("rank", "u1"),  # of its name: the least is the best
        ("name", "u4"),
        ("table", "u1"),
    ]
)


class Variables:
    """Those of one kind: of data, or thread-local ones. Without symbols there are none."""

    def __init__(self, tables: Iterable[RawSymbols], *, thread_local: bool = False) -> None:
        """Of thread-local ones, an address is an offset in the object's part of the storage."""
        tables = list(tables)
        self._strings = [RawSymbols(np.zeros(0), table.strings) for table in tables]
        kinds = (_STT_TLS,) if thread_local else (_STT_OBJECT, _STT_COMMON)
        found = [_variables(table, number, kinds) for number, table in enumerate(tables)]
        symbols = np.concatenate([np.zeros(0, _VARIABLE), *found])
        # Of several names for one variable, the last is the best: it is met first.
        order = np.lexsort((-symbols["rank"].astype(int), symbols["end"], symbols["start"]))
        self._symbols = symbols[order]
        self._starts = np.ascontiguousarray(self._symbols["start"])

    def __len__(self) -> int:
        return len(self._symbols)

    def find(self, addresses: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
        """The variable that each address is in, as a number; -1 for none."""
        found = np.full(len(addresses), -1)
        if not len(self):
            return found
        at = np.searchsorted(self._starts, addresses, side="right") - 1
        for _ in range(_MOST_NESTED):
            is_in = (found < 0) & (at >= 0)
            is_in &= addresses < self._symbols["end"][at]
            found[is_in] = at[is_in]
            at = np.maximum(at - 1, -1)
        return found

    def start(self, number: int) -> int:
        """Where a variable begins."""
        return int(self._symbols["start"][number])

    def name(self, number: int) -> str:
        """Its name in the file; "" if that can't be read."""
        symbol = self._symbols[number]
        return self._strings[int(symbol["table"])].name(int(symbol["name"]))


def _variables(table: RawSymbols, number: int, kinds: tuple[int, ...]) -> npt.NDArray[np.void]:
    entries = table.entries
    keep = (
        np.isin(entries["info"] & 0xF, kinds)
        & (entries["section"] != SHN_UNDEF)
        & (entries["size"] > 0)
        & (entries["name"] > 0)
    )
    starts = entries["value"][keep].astype(np.uint64)
    sizes = entries["size"][keep].astype(np.uint64)
    found = np.zeros(len(starts), _VARIABLE)
    found["start"] = starts
    found["end"] = starts + np.minimum(sizes, ~starts)
    text = np.frombuffer(table.strings + b"\0", dtype=np.uint8)
    names = entries["name"][keep].astype(np.int64)
    first = text[np.minimum(names, len(text) - 1)]
    is_local = entries["info"][keep] >> 4 == STB_LOCAL
    # `environ` rather than `__environ`, and what is known outside of the file first.
    found["rank"] = 2 * is_local + (first == ord("_"))
    found["name"], found["table"] = entries["name"][keep], number
    return found
