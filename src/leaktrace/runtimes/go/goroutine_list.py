"""Finds the list of all goroutines (runtime.allgs) and the names of what they wait for
(runtime.waitReasonStrings) in the data of a Go program, without symbols.

Both are found by what they contain: that also proves that the layout (layouts.py) is right for
this program. Sources: runtime/proc.go (allgs), runtime/runtime2.go (g, waitReasonStrings).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from leaktrace.arch.x86_64 import USER_SPACE_END
from leaktrace.runtimes.go.layouts import G_SELF
from leaktrace.runtimes.go.memory import Words
from leaktrace.runtimes.go.program import GoProgram, Span

MAX_GOROUTINES = 1 << 21  # what is read of them fits in MAX_READ_BYTES
_MAX_ROOM = 1 << 36  # beyond it, it isn't a list
_FIRST = 4  # goroutines of a list that are looked at: a program has these from its start on
_NEEDED = 3
_PIECE_BYTES = 16 << 20
_MAX_DATA_BYTES = 1 << 30
_MAX_CANDIDATES = 1 << 16  # of a piece
_LOWEST = 1 << 12
# The first wait reasons are "", "GC assist marking", "IO wait", in every version.
_FIRST_LENGTHS = (0, 17, 7)
_THIRD = b"IO wait"
_MAX_REASONS = 80
_MAX_REASON_BYTES = 64


def find_goroutine_list(program: GoProgram) -> int | None:
    """The address of runtime.allgs; None where nothing in the data is like it. Raises OSError."""
    best, found = 0, None
    for name in ("bss", "data", "noptrbss", "noptrdata"):
        for at, words in _data(program, program.data[name]):
            address, hits = _best_list(program, at, words)
            if hits > best:
                best, found = hits, address
        if best >= _NEEDED:
            return found
    return None


def looks_like_list(program: GoProgram, address: int) -> bool:
    """Whether the list is still there. Raises OSError."""
    raw = program.memory.read(address, 24)
    return raw is not None and _best_list(program, address, np.frombuffer(raw, np.uint64))[1] >= (
        _NEEDED
    )


def _data(program: GoProgram, span: Span) -> Iterator[tuple[int, Words]]:
    """The words of a part of the data, piece by piece; pieces overlap by the size of a slice."""
    start = span.start + 7 & ~7
    end = min(span.end, start + _MAX_DATA_BYTES) & ~7
    for at in range(start, end, _PIECE_BYTES):
        raw = program.memory.read(at, min(_PIECE_BYTES + 16, end - at))
        if raw is not None:
            yield at, np.frombuffer(raw, np.uint64)


def _best_list(program: GoProgram, at: int, words: Words) -> tuple[int, int]:
    """Where a slice of pointers to goroutines is, and how many of the first ones are some."""
    if len(words) < 3:
        return 0, 0
    pointers, lengths, rooms = words[:-2], words[1:-1], words[2:]
    likely = (
        _is_pointer(pointers)
        & (pointers & np.uint64(7) == 0)
        & (lengths >= _NEEDED)
        & (lengths <= rooms)
        & (rooms < _MAX_ROOM)
    ).nonzero()[0][:_MAX_CANDIDATES]
    if not len(likely):
        return 0, 0
    raw, _ = program.memory.rows(pointers[likely], 8 * _FIRST)
    first = raw.view(np.uint64).reshape(-1, _FIRST)
    hits = np.zeros(len(likely), np.int64)
    for column in range(_FIRST):
        hits += _are_goroutines(program, first[:, column]) & (column < lengths[likely])
    best = int(np.argmax(hits))
    return at + 8 * int(likely[best]), int(hits[best])


def _are_goroutines(program: GoProgram, addresses: Words) -> NDArray[np.bool_]:
    """Which addresses are those of goroutines: g.sched.g is itself, and it began with a
    function."""
    good = _is_pointer(addresses) & (addresses & np.uint64(7) == 0)
    starts = program.table.functions.starts[:-1]
    some = addresses[good]
    own, read_own = program.memory.words(some + np.uint64(G_SELF))
    began, read_began = program.memory.words(some + np.uint64(program.layout.g_start_pc))
    vaddrs = began.astype(np.int64) - program.bias
    index = np.minimum(np.searchsorted(starts, vaddrs), len(starts) - 1)
    found = np.zeros(len(addresses), np.bool_)
    found[good] = read_own & read_began & (own == some) & (starts[index] == vaddrs)
    return found


def _is_pointer(words: Words) -> NDArray[np.bool_]:
    return (words >= _LOWEST) & (words < USER_SPACE_END)


def read_reasons(program: GoProgram) -> tuple[str, ...]:
    """What a goroutine can wait for, by number; () where the names aren't found. Raises OSError."""
    for name in ("data", "noptrdata"):
        for _, words in _data(program, program.data[name]):
            lengths = len(words) - 2 * len(_FIRST_LENGTHS)
            if lengths <= 0:
                continue
            good = np.ones(lengths, np.bool_)
            for index, length in enumerate(_FIRST_LENGTHS):
                good &= words[1 + 2 * index : 1 + 2 * index + lengths] == length
            for at in good.nonzero()[0].tolist():
                if program.memory.read(int(words[at + 4]), len(_THIRD)) == _THIRD:
                    return tuple(_strings(program, words[at:]))
    return ()


def _strings(program: GoProgram, words: Words) -> Iterator[str]:
    """The strings of an array, up to what isn't one."""
    for index in range(min(_MAX_REASONS, len(words) // 2)):
        address, size = (int(word) for word in words[2 * index : 2 * index + 2])
        if size > _MAX_REASON_BYTES or bool(size) != bool(address):
            return
        raw = program.memory.read(address, size) if size else b""
        if raw is None or (index and not size):
            return
        yield raw.decode("utf-8", "surrogateescape")
