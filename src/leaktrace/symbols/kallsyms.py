"""The running kernel's symbols: from an address to its function, by /proc/kallsyms.

    ffffffff81005db0 T alloc_pipe_info
    ffffffffc0401000 t ext4_alloc_inode	[ext4]

The file contains addresses as they are in memory (with KASLR), and no sizes: a symbol ends where
the next one starts, and the last one of a module at the end of the module. If the kernel hides
addresses (kernel.kptr_restrict, proc(5)), all of them read as zero.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leaktrace.site import Frame

KALLSYMS = Path("/proc/kallsyms")
MODULES = Path("/proc/modules")
NOTES = Path("/sys/kernel/notes")
VMLINUX = "kernel"  # the module of frames outside of modules, as in bcc

_ADDRESS_DIGITS = 16
_LONGEST_FUNCTION = 1 << 20  # bytes; the end of a symbol that no other follows
_MAX_ALIASES = 64
_HIDDEN = "the kernel hides its symbols (see the sysctl kernel.kptr_restrict)"


@dataclass(frozen=True)
class KernelSymbol:
    """A function and its address; `module` is None for vmlinux."""

    name: str
    start: int
    module: str | None


class Kallsyms:
    """The contents of /proc/kallsyms. Addresses are decoded in bulk, names when they are needed."""

    def __init__(self, text: bytes, modules: str = "", build_id: str | None = None) -> None:
        """`text` is that of /proc/kallsyms, `modules` that of /proc/modules."""
        self._text = text
        self._build_id = build_id
        self._module_ends = dict(_module_ranges(modules))
        starts = _line_starts(text)
        letters = np.frombuffer(text, dtype=np.uint8)
        addresses = _decode_addresses(letters, starts)
        self._starts_by_line = starts
        order = np.argsort(addresses, kind="stable")
        order = order[addresses[order] != 0]
        self._addresses = addresses[order]
        self._lines = starts[order]

    @classmethod
    def read(cls) -> Kallsyms:
        """Those of the running kernel. Raises OSError if it has none (CONFIG_KALLSYMS=n)."""
        try:
            modules = MODULES.read_text()
        except OSError:
            modules = ""
        return cls(KALLSYMS.read_bytes(), modules, _vmlinux_build_id())

    @property
    def is_hidden(self) -> bool:
        """Whether all addresses read as zero."""
        return len(self._addresses) == 0

    def __len__(self) -> int:
        return len(self._starts_by_line)

    @cached_property
    def names(self) -> frozenset[str]:
        """The names of all symbols, those of modules included."""
        return frozenset(
            found.decode("utf-8", "surrogateescape")
            for found in re.findall(rb"^\S+ \S (\S+)", self._text, re.MULTILINE)
        )

    @property
    def modules(self) -> frozenset[str]:
        """The names of the loaded modules."""
        return frozenset(self._module_ends)

    def find(self, pattern: str) -> Iterator[tuple[str, int, int]]:
        """(name, start, end) of the symbols of vmlinux whose whole name matches a regular
        expression."""
        expression = rb"^\S+ \S (" + pattern.encode() + rb")$"
        for found in re.finditer(expression, self._text, re.MULTILINE):
            start = int(found[0].split(b" ", 1)[0], 16)
            if start:
                yield found[1].decode(), start, self._end_of(start)

    def lookup(self, address: int) -> KernelSymbol | None:
        """The symbol that contains an address."""
        if not 0 <= address < 1 << 64:
            return None
        following = int(np.searchsorted(self._addresses, np.uint64(address), side="right"))
        if following == 0:
            return None
        start = int(self._addresses[following - 1])
        first = int(np.searchsorted(self._addresses, np.uint64(start), side="left"))
        places = range(first, min(following, first + _MAX_ALIASES))
        best = min((self._symbol_at(place, start) for place in places), key=_name_rank)
        return best if address < self._limit(best, start) else None

    def _symbol_at(self, place: int, start: int) -> KernelSymbol:
        line_start = int(self._lines[place])
        line_end = self._text.find(b"\n", line_start)
        line = self._text[line_start : line_end if line_end >= 0 else None]
        name, _, module = (
            line[_ADDRESS_DIGITS + 3 :].decode("utf-8", "surrogateescape").partition("\t")
        )
        return KernelSymbol(name, start, module.strip("[]") or None)

    def _end_of(self, start: int) -> int:
        following = int(np.searchsorted(self._addresses, np.uint64(start), side="right"))
        if following < len(self._addresses):
            return int(self._addresses[following])
        return start + _LONGEST_FUNCTION

    def _limit(self, symbol: KernelSymbol, start: int) -> int:
        limit = min(self._end_of(start), start + _LONGEST_FUNCTION)
        memory = self._module_ends.get(symbol.module or "")
        return min(limit, memory[1]) if memory and memory[0] <= start < memory[1] else limit

    def frame(self, address: int, *, is_return_address: bool) -> Frame:
        """The frame at an address. A return address is looked up one byte before, because a call
        may be a function's last instruction."""
        looked_up = address - 1 if is_return_address else address
        symbol = self.lookup(looked_up)
        if symbol is None:
            return Frame(address, unknown=_HIDDEN if self.is_hidden else "not in /proc/kallsyms")
        base = self._base(symbol)
        return Frame(
            address,
            function=symbol.name,
            offset=address - symbol.start,
            module=symbol.module or VMLINUX,
            module_offset=None if base is None else address - base,
            build_id=self._build_id if symbol.module is None else None,
        )

    def _base(self, symbol: KernelSymbol) -> int | None:
        """The start of the symbol's object: the offset from there is the same at every boot. None
        for code that the kernel generates (BPF, kprobes)."""
        if symbol.module is None:
            return self._text_start
        memory = self._module_ends.get(symbol.module)
        return memory[0] if memory and memory[0] <= symbol.start < memory[1] else None

    @cached_property
    def _text_start(self) -> int | None:
        return next((start for _, start, _ in self.find("_text|_stext")), None)


def _name_rank(symbol: KernelSymbol) -> tuple[bool, int, int, str]:
    """Sorts the names of one address by how familiar they are: no label of a section, few
    underscores at the start, short."""
    name = symbol.name
    label = name.startswith("__") and name.endswith(("_start", "_end", "_begin"))
    return label, len(name) - len(name.lstrip("_")), len(name), name


def _line_starts(text: bytes) -> NDArray[np.int64]:
    newlines = np.nonzero(np.frombuffer(text, dtype=np.uint8) == ord("\n"))[0]
    starts = np.concatenate([np.zeros(1, dtype=np.int64), newlines + 1])
    # What is shorter than "address type n" is no symbol, but the end of the file.
    return starts[starts + _ADDRESS_DIGITS + 3 < len(text)]


def _decode_addresses(letters: NDArray[np.uint8], starts: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The 16 hexadecimal digits at each start."""
    addresses = np.zeros(len(starts), dtype=np.uint64)
    for digit in range(_ADDRESS_DIGITS):
        letter = letters[starts + digit].astype(np.uint64)
        value = np.where(letter >= ord("a"), letter - (ord("a") - 10), letter - ord("0"))
        addresses = addresses << np.uint64(4) | value & np.uint64(15)
    return addresses


def _module_ranges(modules: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """(name, (start, end)) of each line `name size users dependencies state address`."""
    for line in modules.splitlines():
        fields = line.split()
        if len(fields) >= 6 and fields[1].isdigit():
            start = int(fields[5], 16)
            yield fields[0], (start, start + int(fields[1]))


def _vmlinux_build_id() -> str | None:
    """From the ELF notes of vmlinux: owner "GNU", type 3 (elf.h, NT_GNU_BUILD_ID)."""
    try:
        notes = NOTES.read_bytes()
    except OSError:
        return None
    found = re.search(rb"\x04\0\0\0(.)\0\0\0\x03\0\0\0GNU\0", notes, re.DOTALL)
    return None if found is None else notes[found.end() : found.end() + found[1][0]].hex()
