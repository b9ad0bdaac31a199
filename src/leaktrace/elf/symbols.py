"""The function symbols of one object: by name, and by address with binary search.

Symbol tables are decoded in bulk with numpy, names only when they are needed: a table of a million
symbols takes some tens of milliseconds, and no Python object per symbol.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

# Elf64_Sym and Elf32_Sym (System V gABI, "Symbol Table"); `symbol_dtype` adds the byte order.
_SYMBOL_64 = [
    ("name", "u4"),
    ("info", "u1"),
    ("other", "u1"),
    ("section", "u2"),
    ("value", "u8"),
    ("size", "u8"),
]
_SYMBOL_32 = [
    ("name", "u4"),
    ("value", "u4"),
    ("size", "u4"),
    ("info", "u1"),
    ("other", "u1"),
    ("section", "u2"),
]

STT_NOTYPE, STT_FUNC, STT_GNU_IFUNC = 0, 2, 10
STB_LOCAL = 0
SHN_UNDEF, SHN_ABS, SHN_COMMON = 0, 0xFFF1, 0xFFF2
VERSYM_HIDDEN = 0x8000  # set on every version of a symbol except the default one

MAX_NAME_BYTES = 4096  # a mangled C++ name can be long; anything longer is not a name
_MAX_SAME_NAMES = 100_000  # symbols with the same beginning that are examined
_MAX_ALIASES = 64  # symbols of one address that are compared

ByteOrder = Literal["<", ">"]  # little, big: as struct and numpy spell it


def symbol_dtype(bits: int, byte_order: ByteOrder) -> np.dtype[Any]:
    """The numpy type of a symbol in a file of `bits` 32 or 64."""
    return np.dtype(_SYMBOL_64 if bits == 64 else _SYMBOL_32).newbyteorder(byte_order)


@dataclass(frozen=True)
class FunctionSymbol:
    """A function that an object defines; `vaddr` is a virtual address of its file."""

    name: str
    vaddr: int
    size: int
    is_ifunc: bool = False  # `vaddr` is the resolver, not the function that is called


@dataclass(frozen=True)
class RawSymbols:
    """A symbol table as it is in a file, with its strings and, for .dynsym, its versions."""

    entries: npt.NDArray[Any]  # of `symbol_dtype`
    strings: bytes
    versions: npt.NDArray[np.uint16] | None = None

    def name(self, offset: int) -> str:
        """The name at an offset of the string table, without a version."""
        end = self.strings.find(b"\0", offset, offset + MAX_NAME_BYTES)
        raw = self.strings[offset:end] if end >= 0 else b""
        name = raw.decode("utf-8", "surrogateescape")
        return name.split("@", 1)[0] if "@" in name else name


class SymbolMatch(NamedTuple):
    """The function that contains an address, by its name in the file, and the distance in bytes."""

    name: str
    offset: int


def find_functions(tables: Iterable[RawSymbols], names: Iterable[str]) -> dict[str, FunctionSymbol]:
    """The functions of these names that the tables define; earlier tables take
    precedence.

    Of a name with several versions, the default one is used (that of a new link).
    """
    wanted = [name for name in dict.fromkeys(names) if name]
    found: dict[str, FunctionSymbol] = {}
    for table in tables:
        positions = np.nonzero(_defined_functions(table))[0]
        beginnings = _beginnings(table, positions)
        for name in wanted:
            if name in found:
                continue
            hits = [
                int(position)
                for position in positions[_may_be(_bytes(name), beginnings)][:_MAX_SAME_NAMES]
                if table.name(int(table.entries["name"][position])) == name
            ]
            if hits:
                best = min(hits, key=lambda position: _version_rank(table, position))
                entry = table.entries[best]
                found[name] = FunctionSymbol(
                    name,
                    int(entry["value"]),
                    int(entry["size"]),
                    is_ifunc=int(entry["info"]) & 0xF == STT_GNU_IFUNC,
                )
    return found


def all_functions(tables: Iterable[RawSymbols], name: str) -> tuple[FunctionSymbol, ...]:
    """Every function of this name that the tables define, by address: of all versions, and static
    functions of several source files."""
    found: dict[int, FunctionSymbol] = {}
    for table in tables:
        positions = np.nonzero(_defined_functions(table))[0]
        for position in positions[_may_be(_bytes(name), _beginnings(table, positions))]:
            entry = table.entries[position]
            if len(found) < _MAX_SAME_NAMES and table.name(int(entry["name"])) == name:
                vaddr, kind = int(entry["value"]), int(entry["info"]) & 0xF
                found.setdefault(
                    vaddr,
                    FunctionSymbol(name, vaddr, int(entry["size"]), kind == STT_GNU_IFUNC),
                )
    return tuple(found[vaddr] for vaddr in sorted(found))


def function_names(tables: Iterable[RawSymbols], most: int) -> list[str]:
    """The names of functions that the tables define, `most` at most."""
    names: dict[str, None] = {}
    for table in tables:
        offsets = table.entries["name"][_defined_functions(table)]
        names |= dict.fromkeys(table.name(int(one)) for one in offsets[:most])
    return list(names)[:most]


def functions_ending_in(tables: Iterable[RawSymbols], ending: str) -> set[str]:
    """Names of functions that the tables define and that end in `ending`."""
    wanted, found = _bytes(ending) + b"\0", set()
    for table in tables:
        # A name may be the end of a longer one, where the linker has merged the two.
        starts = {
            start
            for at in _occurrences(table.strings, wanted)[:_MAX_SAME_NAMES]
            for start in range(
                table.strings.rfind(b"\0", max(at - MAX_NAME_BYTES, 0), at) + 1, at + 1
            )
        }
        if starts:
            names = table.entries["name"][_defined_functions(table)]
            found |= {table.name(start) for start in starts & set(names.tolist())}
    return found


def _bytes(name: str) -> bytes:
    """A name as it is in a string table: it may be no UTF-8 (`RawSymbols.name`)."""
    return name.encode("utf-8", "surrogateescape")


def _occurrences(text: bytes, wanted: bytes) -> list[int]:
    found = []
    at = text.find(wanted)
    while at >= 0:
        found.append(at)
        at = text.find(wanted, at + 1)
    return found


def functions_beginning_with(
    tables: Iterable[RawSymbols], beginnings: Iterable[str], *, defined: bool
) -> dict[str, int]:
    """Functions whose names begin with one of `beginnings` (at most eight letters each): those that
    the tables define, with their virtual addresses; or, not `defined`, those that they refer to,
    with 0."""
    found: dict[str, int] = {}
    for table in tables:
        is_meant = _defined_functions(table) if defined else _undefined(table)
        positions = np.nonzero(is_meant)[0]
        starts = _beginnings(table, positions)[0]
        for beginning in beginnings:
            raw = _bytes(beginning)
            mask, key = (
                np.frombuffer(part.ljust(8, b"\0"), dtype="<u8")[0]
                for part in (b"\xff" * len(raw), raw)
            )
            for at in positions[starts & mask == key][:_MAX_SAME_NAMES]:
                entry = table.entries[at]
                found.setdefault(table.name(int(entry["name"])), int(entry["value"]))
    return found


def _undefined(table: RawSymbols) -> npt.NDArray[np.bool_]:
    undefined: npt.NDArray[np.bool_] = table.entries["section"] == SHN_UNDEF
    return undefined


def _defined_functions(table: RawSymbols) -> npt.NDArray[np.bool_]:
    kinds = table.entries["info"] & 0xF
    sections = table.entries["section"]
    defined: npt.NDArray[np.bool_] = (
        ((kinds == STT_FUNC) | (kinds == STT_GNU_IFUNC))
        & (sections != SHN_UNDEF)
        & (sections != SHN_COMMON)
        & (table.entries["value"] != 0)
    )
    return defined


def _beginnings(table: RawSymbols, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """The first 16 bytes of the names of some symbols, as two rows of numbers.

    Comparing numbers first, fifty names are found among a hundred thousand in milliseconds.
    """
    padded = table.strings + bytes(16)
    offsets = np.minimum(table.entries["name"][positions], len(table.strings)).astype(np.int64)
    text = np.lib.stride_tricks.sliding_window_view(np.frombuffer(padded, dtype=np.uint8), 16)
    numbers = np.ascontiguousarray(text[offsets]).view("<u8").reshape(-1, 2)
    return np.ascontiguousarray(numbers.T)  # each row contiguous: comparing takes half the time


def _may_be(name: bytes, beginnings: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Which begin with `name` and, within 16 bytes, end there: in NUL or a version."""
    chosen = np.zeros(beginnings.shape[1], dtype=np.bool_)
    for ending in (b"\0", b"@"):
        part = (name + ending)[:16]
        keys = np.frombuffer(part.ljust(16, b"\0"), dtype="<u8")
        masks = np.frombuffer((b"\xff" * len(part)).ljust(16, b"\0"), dtype="<u8")
        found = np.nonzero(beginnings[0] & masks[0] == keys[0])[0]
        chosen[found[beginnings[1, found] & masks[1] == keys[1]]] = True
    return chosen


def _version_rank(table: RawSymbols, index: int) -> tuple[bool, bool, int]:
    hidden = (
        table.versions is not None
        and index < len(table.versions)
        and bool(int(table.versions[index]) & VERSYM_HIDDEN)
    )
    # .symtab has no version table but spells versions: name@OLD, name@@DEFAULT.
    offset = int(table.entries["name"][index])
    spelled = table.strings[offset : offset + MAX_NAME_BYTES].split(b"\0", 1)[0]
    old = b"@" in spelled and b"@@" not in spelled
    binding = int(table.entries["info"][index]) >> 4
    return hidden or old, binding == STB_LOCAL, index


@dataclass(frozen=True)
class CodeRange:
    """Virtual addresses of code: an executable section, or a segment without sections."""

    start: int
    end: int


# A symbol as it is searched for: `start` to `end`, which is within its section or segment.
_CODE_SYMBOL = np.dtype(
    [
        ("start", "u8"),
        ("size", "u8"),
        ("limit", "u8"),  # end of its section or segment
        ("end", "u8"),
        ("name", "u4"),
        ("info", "u1"),
        ("table", "u1"),  # whose strings its name is in
    ]
)


class _Group:
    """Symbols by ascending start, to be searched by address."""

    def __init__(self, symbols: npt.NDArray[Any]) -> None:
        self.symbols = symbols
        self._starts = np.ascontiguousarray(symbols["start"])
        self._furthest = np.maximum.accumulate(symbols["end"]) if symbols.size else self._starts

    def covering(self, vaddr: np.uint64) -> npt.NDArray[Any]:
        """The symbols of the innermost start that reach to an address."""
        last = int(np.searchsorted(self._starts, vaddr, side="right"))
        if last == 0 or self._furthest[last - 1] <= vaddr:
            return self.symbols[:0]
        first = int(np.searchsorted(self._starts, self._starts[last - 1], side="left"))
        nearest = self.symbols[first:last][-_MAX_ALIASES:]
        covering: npt.NDArray[Any] = nearest[nearest["end"] > vaddr]
        if covering.size:
            return covering
        # The nearest symbol ends before the address, which lies in an outer one that goes on.
        outer = self.symbols[:first][self.symbols["end"][:first] > vaddr][-_MAX_ALIASES:]
        innermost: npt.NDArray[Any] = outer[outer["start"] == outer["start"][-1]]
        return innermost


class SymbolTable:
    """Address to function name, honouring the sizes that symbols state.

    A symbol without a size (a label in assembly) reaches to the next symbol or to the end of its
    section; it is asked only where no sized symbol covers the address.
    """

    def __init__(self, tables: Iterable[RawSymbols], code: Iterable[CodeRange]) -> None:
        tables = list(tables)
        ranges = sorted(code, key=lambda part: part.start)
        chosen = [_code_symbols(table, n, ranges) for n, table in enumerate(tables)]
        # Only the strings are needed further on.
        self._tables = [RawSymbols(np.zeros(0), table.strings) for table in tables]
        symbols = np.concatenate([np.zeros(0, _CODE_SYMBOL), *chosen])
        symbols = symbols[np.argsort(symbols["start"], kind="stable")]
        starts, limits = symbols["start"], symbols["limit"]
        sized = symbols["size"] > 0
        following = np.searchsorted(starts, starts, side="right")
        next_start = np.append(starts, np.uint64((1 << 64) - 1))[following]
        symbols["end"] = np.where(
            sized,
            starts + np.minimum(symbols["size"], limits - starts),
            np.minimum(next_start, limits),
        )
        self._groups = (_Group(symbols[sized]), _Group(symbols[~sized]))

    def __len__(self) -> int:
        return sum(len(group.symbols) for group in self._groups)

    def lookup(self, vaddr: int) -> SymbolMatch | None:
        """The function that a virtual address of the file lies in, or None."""
        if not 0 <= vaddr < 1 << 64:
            return None
        for group in self._groups:
            covering = group.covering(np.uint64(vaddr))
            name = self._best_name(covering)
            if name:
                return SymbolMatch(name, vaddr - int(covering["start"][0]))
        return None

    def _best_name(self, symbols: npt.NDArray[Any]) -> str:
        candidates = []
        for _, _, _, _, name_offset, info, number in symbols.tolist():
            name = self._tables[number].name(name_offset)
            if name:
                candidates.append((_name_rank(name, info), name))
        return min(candidates)[1] if candidates else ""


def _code_symbols(table: RawSymbols, number: int, code: list[CodeRange]) -> npt.NDArray[Any]:
    """The symbols of a table that name code, as _CODE_SYMBOL without their ends."""
    entries = table.entries
    if not code or not len(entries):
        return np.zeros(0, _CODE_SYMBOL)
    kinds, sections, names = entries["info"] & 0xF, entries["section"], entries["name"]
    text = np.frombuffer(table.strings, dtype=np.uint8)
    first_letter = np.zeros(len(entries), dtype=np.uint8)
    inside = names < len(text)
    first_letter[inside] = text[names[inside].astype(np.int64)]
    # "$x" and the like mark code and data on ARM and RISC-V; ".L" is the assembler's own.
    label = (kinds == STT_NOTYPE) & (first_letter != ord("$")) & (first_letter != ord("."))
    keep = (
        ((kinds == STT_FUNC) | (kinds == STT_GNU_IFUNC) | label)
        & (first_letter != 0)
        & (sections != SHN_UNDEF)
        & (sections != SHN_ABS)
        & (sections != SHN_COMMON)
    )
    code_starts = np.array([part.start for part in code], dtype=np.uint64)
    code_ends = np.array([part.end for part in code], dtype=np.uint64)
    values = entries["value"].astype(np.uint64)
    within = np.searchsorted(code_starts, values, side="right") - 1
    keep &= within >= 0
    keep &= values < code_ends[np.maximum(within, 0)]
    symbols = np.zeros(int(keep.sum()), _CODE_SYMBOL)
    symbols["start"], symbols["size"] = values[keep], entries["size"][keep]
    symbols["limit"] = code_ends[within[keep]]
    symbols["name"], symbols["info"] = names[keep], entries["info"][keep]
    symbols["table"] = number
    return symbols


def _name_rank(name: str, info: int) -> tuple[bool, bool, int, int, str]:
    """How well a name for an address is known to people: the least rank is the best.

    Global before local, functions before labels, then the fewest leading underscores
    (`malloc` before `__libc_malloc`), the shortest. `_Z` and `_R` only begin mangled names.
    """
    mangled = name.startswith(("_Z", "_R"))
    underscores = 0 if mangled else len(name) - len(name.lstrip("_"))
    return info >> 4 == STB_LOCAL, info & 0xF == STT_NOTYPE, underscores, len(name), name
