"""The functions of a Go program, from the table that the Go runtime itself walks stacks by.

It is in every Go program, also in a stripped one, and right for every instruction. Sources:
debug/gosym/pclntab.go; runtime/symtab.go (pcHeader, ftab, _func, moduledata);
internal/abi/symtab.go (FuncFlag).
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from enum import IntFlag
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from leaktrace.elf.headers import PF_X
from leaktrace.elf.object import ElfObject
from leaktrace.elf.symbols import STT_FUNC, RawSymbols, symbol_dtype
from leaktrace.errors import ObjectFileError
from leaktrace.runtimes.go.object_file import MAGIC_1_18, MAGIC_1_20, GoObject

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

# By the magic number: where the flags are in a function's description. Go 1.18, 1.20.
FLAGS_AT = {MAGIC_1_18: 37, MAGIC_1_20: 41}
_NAME_AT, _STACK_SIZES_AT = 4, 16  # where in a function's description
# By this function a goroutine gives the thread back to the scheduler, which doesn't return to it.
_SCHEDULES = b"\0runtime.mcall\0"


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
    kinds: NDArray[np.uint8]  # of each: which special function it is (FuncID)
    described_at: NDArray[np.int64]  # of each: where its description is, from the table's start
    tables: bytes
    names: bytes  # each ends in a zero

    def __len__(self) -> int:
        return len(self.starts) - 1

    def index_of(self, vaddr: int) -> int | None:
        """Which function an address is in."""
        index = int(np.searchsorted(self.starts, vaddr, side="right")) - 1
        return index if 0 <= index < len(self) else None

    def named(self, name: str) -> int | None:
        """Which function has a name."""
        at = self.names.find(b"\0" + name.encode() + b"\0") + 1
        if not at:
            return None
        found = (self.name_offsets == at).nonzero()[0].tolist()
        return found[0] if found else None

    @cached_property
    def wrapper_kind(self) -> int:
        """The kind of functions that the compiler makes to call others (FuncIDWrapper): the last
        one in each version, and every program has some."""
        return int(self.kinds.max(initial=0))

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


def read_go_functions(elf: ElfObject) -> GoFunctions | None:
    """The functions; None in an object that isn't Go's, is damaged, or whose version of the table
    is unknown."""
    try:
        found = GoObject.find(elf)
        return functions_of(found) if found is not None else None
    except (ObjectFileError, struct.error):
        return None


def functions_of(found: GoObject) -> GoFunctions | None:
    """The functions in a table; None where it is damaged. Raises ObjectFileError."""
    data, header, text = found.data, found.header, found.text
    count, functions_at = header.function_count, header.functions_at
    # Pairs: the distance of a function from `text`, and of its description from here. The last
    # number is the distance of the end of the text.
    if not text or functions_at + (2 * count + 1) * 4 > len(data):
        return None
    pairs = np.frombuffer(data, dtype="<u4", count=2 * count + 1, offset=functions_at)
    starts, described_at = pairs[0::2].astype(np.int64), functions_at + pairs[1::2].astype(np.int64)
    flags_at = FLAGS_AT[data[:4]]
    if np.any(np.diff(starts) <= 0) or np.any(described_at + flags_at >= len(data)):
        return None
    if not _is_code(found.elf, text + int(starts[0]), text + int(starts[-1])):
        return None
    raw = np.frombuffer(data, dtype=np.uint8)
    names = data[header.names_at : header.values_at]
    name_offsets = _numbers(raw, described_at + _NAME_AT)
    flags = raw[described_at + flags_at]
    if (at := names.find(_SCHEDULES)) >= 0:
        flags[name_offsets == at + 1] |= np.uint8(GoFlag.TOP_FRAME)
    return GoFunctions(
        starts=starts + text,
        stack_sizes=_numbers(raw, described_at + _STACK_SIZES_AT),
        flags=flags,
        kinds=raw[described_at + flags_at - 1],
        name_offsets=name_offsets,
        described_at=described_at,
        tables=data[header.values_at : functions_at],
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
