"""A compiled set of BPF programs: its maps, the memory that it reads, and running a program."""

from __future__ import annotations

import ctypes
import itertools
import shutil
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST_READS = 8192  # runtime.c
_POINTER = ctypes.c_void_p
_NUMBERS = itertools.count()

# struct pt_regs of x86-64, bpf/include/uapi/linux/ptrace.h
PT_REGS = np.dtype(
    [
        (name, "<u8")
        for name in (
            *("r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax"),
            *("cx", "dx", "si", "di", "orig_ax", "ip", "cs", "flags", "sp", "ss"),
        )
    ]
)


class Run(NamedTuple):
    """What a program did."""

    reads: NDArray[Any]  # of READ: every copy of user memory, in order
    read_count: int  # also beyond MOST_READS
    lookups: int  # in maps
    missed_lookups: int  # with an index beyond the array
    tail_calls: int


READ = np.dtype([("address", "<u8"), ("bytes", "<u8"), ("failed", "<u8")])


class _Region(ctypes.Structure):
    _fields_ = (("start", ctypes.c_uint64), ("bytes", ctypes.c_uint64), ("data", _POINTER))


class Memory:
    """Memory of a process: parts by address, which do not overlap."""

    def __init__(self, parts: Mapping[int, bytes]) -> None:
        self._parts = sorted(parts.items())
        self._starts = [start for start, _ in self._parts]
        self._regions = (_Region * len(self._parts))(
            *(
                _Region(start, len(data), ctypes.cast(ctypes.c_char_p(data), _POINTER))
                for start, data in self._parts
            )
        )

    @property
    def regions(self) -> ctypes.Array[_Region]:
        """struct region of runtime.c; valid as long as this object."""
        return self._regions

    def changed(self, words: Mapping[int, int]) -> Memory:
        """With other words of 8 bytes at these addresses, which are within one part each."""
        parts = dict(self._parts)
        for address, word in words.items():
            start = self._starts[bisect_right(self._starts, address) - 1]
            data = bytearray(parts[start])
            assert 0 <= address - start <= len(data) - 8, hex(address)
            data[address - start : address - start + 8] = word.to_bytes(8, "little")
            parts[start] = bytes(data)
        return Memory(parts)

    def read(self, address: int, size: int) -> bytes | None:
        """`size` bytes; None where not all of them are readable."""
        found = b""
        while len(found) < size:
            at = address + len(found)
            index = bisect_right(self._starts, at) - 1
            if index < 0:
                return None
            start, data = self._parts[index]
            here = data[at - start : at - start + size - len(found)]
            if not here:
                return None
            found += here
        return found


class Machine:
    """The programs of one library, with their own maps."""

    def __init__(self, library: Path) -> None:
        # The maps are variables of the library: a file that is loaded twice has them once.
        copy = library.with_name(f"{library.stem}-{next(_NUMBERS)}{library.suffix}")
        shutil.copy(library, copy)
        self._library = ctypes.CDLL(str(copy))
        copy.unlink()
        for name, result, arguments in (
            ("next_map", _POINTER, (_POINTER,)),
            ("name_of", ctypes.c_char_p, (_POINTER,)),
            ("array_values", _POINTER, (_POINTER, ctypes.c_uint)),
            ("set_capacity", None, (_POINTER, ctypes.c_uint)),
            ("capacity_of", ctypes.c_uint, (_POINTER,)),
            ("value_bytes_of", ctypes.c_uint, (_POINTER,)),
            ("count_of", ctypes.c_uint, (_POINTER,)),
            ("oldest_key", _POINTER, (_POINTER,)),
            ("clear_map", None, (_POINTER,)),
            ("map_lookup", _POINTER, (_POINTER, _POINTER)),
            ("map_update", ctypes.c_long, (_POINTER, _POINTER, _POINTER, ctypes.c_ulong)),
            ("set_memory", None, (_POINTER, ctypes.c_size_t)),
            ("run", ctypes.c_int, (_POINTER, _POINTER, ctypes.c_uint64, ctypes.c_uint64)),
            ("counts_of_run", None, (_POINTER,)),
            ("reads_of_run", _POINTER, ()),
        ):
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments
        self._memory: Memory | None = None
        self._maps: dict[str, int] = {}
        found = self._library.next_map(None)
        while found:
            self._maps[self._library.name_of(found).decode()] = found
            found = self._library.next_map(found)

    # --- maps ---

    def has(self, name: str) -> bool:
        """Whether the programs have this map."""
        return name in self._maps

    def array(self, name: str, dtype: np.dtype[Any], capacity: int = 0) -> NDArray[Any]:
        """The memory of an array map: what is written to it the programs see at once.

        `capacity` gives the map room for so many values and empties it; 0 leaves it as it is.
        """
        found = self._maps[name]
        size = self._library.value_bytes_of(found)
        assert size == dtype.itemsize, f"{name} has values of {size} bytes, not {dtype.itemsize}"
        values = self._library.array_values(found, capacity)
        stride = -(-size // 8) * 8
        count = self._library.capacity_of(found)
        memory = (ctypes.c_char * (count * stride)).from_address(values)
        return np.ndarray((count,), dtype, memory, strides=(stride,))

    def words(self, name: str) -> NDArray[np.uint64]:
        """The memory of an array map in words of 8 bytes, one row per value."""
        found = self._maps[name]
        row = -(-self._library.value_bytes_of(found) // 8)
        values, count = self._library.array_values(found, 0), self._library.capacity_of(found)
        memory = (ctypes.c_uint64 * (count * row)).from_address(values)
        return np.frombuffer(memory, np.uint64).reshape(count, row)

    def set_capacity(self, name: str, capacity: int) -> None:
        """Give a hash map room for so many entries."""
        self._library.set_capacity(self._maps[name], capacity)

    def lookup(self, name: str, key: int, dtype: np.dtype[Any]) -> np.void | None:
        """A copy of the value of an 8-byte key, or None."""
        found = self._maps[name]
        assert self._library.value_bytes_of(found) == dtype.itemsize
        value = self._library.map_lookup(found, ctypes.byref(ctypes.c_uint64(key)))
        if not value:
            return None
        copied: np.void = np.frombuffer(ctypes.string_at(value, dtype.itemsize), dtype)[0]
        return copied

    def update(self, name: str, key: int, value: NDArray[Any]) -> None:
        """Write the value of an 8-byte key, or of an array's index."""
        found = self._maps[name]
        assert self._library.value_bytes_of(found) == value.nbytes
        key_pointer, data = ctypes.byref(ctypes.c_uint64(key)), np.ascontiguousarray(value)
        error = self._library.map_update(found, key_pointer, data.ctypes.data, 0)
        assert error == 0, f"{name}: {error}"

    def count(self, name: str) -> int:
        """Entries of a hash map; records sent to a ring buffer."""
        return int(self._library.count_of(self._maps[name]))

    def oldest_key(self, name: str) -> int | None:
        """The 8-byte key that a hash map has had for the longest time."""
        key = self._library.oldest_key(self._maps[name])
        return int.from_bytes(ctypes.string_at(key, 8), "little") if key else None

    def clear(self, names: Iterable[str] = (), *, except_for: Iterable[str] = ()) -> None:
        """Empty these maps, or all but some."""
        for name in set(names or self._maps) - set(except_for):
            self._library.clear_map(self._maps[name])

    def set_program(self, array: str, index: int, program: str) -> None:
        """Have a program called by tail call."""
        address = ctypes.cast(getattr(self._library, program), _POINTER).value
        assert address is not None
        self.array(array, np.dtype("<u8"))[index] = address

    # --- running ---

    def set_memory(self, memory: Memory) -> None:
        """What the programs can read of the process."""
        self._memory = memory  # keeps it
        self._library.set_memory(memory.regions, len(memory.regions))

    def run(self, program: str, context: NDArray[Any], *, thread: int, cookie: int = 0) -> Run:
        """Run a program and those that it tail-calls on a copy of `context`, a record such as
        PT_REGS, as `thread` (tgid << 32 | tid)."""
        copy = np.array(context)
        address = ctypes.cast(getattr(self._library, program), _POINTER)
        self._library.run(address, copy.ctypes.data, thread, cookie)
        counts = (ctypes.c_uint64 * 4)()
        self._library.counts_of_run(counts)
        noted = min(counts[0], MOST_READS)
        reads = ctypes.string_at(self._library.reads_of_run(), noted * READ.itemsize)
        return Run(np.frombuffer(reads, READ), *counts)
