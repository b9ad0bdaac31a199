"""Walks the stacks of goroutines that don't run: by the size of each function's frame, from the
runtime's table of functions, as the runtime itself does (runtime/traceback.go)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaktrace.runtimes.go.memory import Words
from leaktrace.runtimes.go.program import GoProgram

MAX_FRAMES = 128
_FIRST_BYTES = 1024  # of each stack: most are no deeper
_MAX_STACK_BYTES = 1 << 20  # that are read of a deep one: 128 frames rarely take more
_AT_ONCE = 1 << 16  # stacks
_WORD = struct.Struct("<Q").unpack_from
_END, _UNKNOWN = -1, -2  # in place of the size of a frame


@dataclass(frozen=True)
class Stack:
    """Where each function goes on, the innermost first."""

    addresses: tuple[int, ...]
    is_complete: bool  # up to where it ends, or to the most frames that are kept


class StackWalker:
    """Walks stacks of one program. It remembers the sizes of frames by address."""

    def __init__(self, program: GoProgram) -> None:
        self._program = program
        self._sizes: dict[int, int] = {}

    def walk(self, sp: Words, pc: Words, high: Words) -> Iterator[Stack | None]:
        """The stack at each sp (below `high`) and pc; None where it can't be read. Raises
        OSError."""
        for at in range(0, len(sp), _AT_ONCE):
            some = slice(at, at + _AT_ONCE)
            yield from self._walk(sp[some], pc[some], high[some])

    def _walk(self, sp: Words, pc: Words, high: Words) -> Iterator[Stack | None]:
        rooms: NDArray[np.int64] = (high - sp).astype(np.int64)
        pieces = self._program.memory.gather(sp, np.minimum(rooms, _FIRST_BYTES))
        data = pieces.data.data
        per_stack = zip(
            sp.tolist(),
            pc.tolist(),
            rooms.tolist(),
            pieces.starts.tolist(),
            pieces.sizes.tolist(),
            pieces.was_read.tolist(),
            strict=True,
        )
        for base, first, room, start, size, was_read in per_stack:
            yield self._one(base, first, room, data[start : start + size]) if was_read else None

    def _one(self, base: int, first: int, room: int, data: memoryview | bytes) -> Stack:
        addresses, address, at, sizes = [], first, 0, self._sizes
        while True:
            addresses.append(address)
            size = sizes.get(address)
            if size is None:
                size = sizes[address] = self._size_of(address)
            if size < 0 or len(addresses) == MAX_FRAMES:
                return Stack(tuple(addresses), is_complete=size != _UNKNOWN)
            at += size + 8
            if at > len(data):
                whole = min(room, _MAX_STACK_BYTES)
                more = self._program.memory.read(base, whole) if len(data) < whole else None
                if more is None or at > len(more):
                    return Stack(tuple(addresses), is_complete=False)
                data = more
            (address,) = _WORD(data, at - 8)

    def _size_of(self, address: int) -> int:
        program = self._program
        vaddr = address - program.bias
        if not program.text.start <= address < program.text.end:
            return _UNKNOWN
        if program.table.ends_stack(vaddr):
            return _END
        size = program.table.frame_size(vaddr)
        return _UNKNOWN if size is None else size
