"""Where glibc's malloc keeps what it knows of free memory: struct malloc_state of its main arena,
in the data of libc.

Its pointers lead to the headers of free chunks, which lie in the last word of the block before: a
block that nothing points to would seem to have pointers into it. There is no symbol for it, so it
is found by what it contains: 127 pairs of words, the ends of doubly linked lists, of which the
empty ones point to themselves (bins, malloc/malloc.c). Other arenas are in memory of their own
(glibc_heaps.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaktrace.targets.glibc_heaps import find_heaps
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.page_map import Range

_BINS = 127
_LEAST_EMPTY = 10  # of them, so that the search has something to go by
_MOST_ODD = 4  # a list may be about to change
_HEAD_BYTES = 16  # a bin is the header of a chunk that has only the pointers
_BEFORE_BYTES, _AFTER_BYTES = 112, 2088  # the rest of the structure, around the first bin
_MOST_BYTES = 1 << 20  # of a mapping
_MOST_HEADER_BYTES = 4096  # of a heap

ReadMemory = Callable[[int, int], bytes]


@dataclass(frozen=True)
class Arenas:
    """What belongs to malloc itself."""

    structures: tuple[Range, ...]  # what it knows of free memory
    heaps: tuple[Range, ...]  # where its blocks are, and nothing else, but for mapped ones


def find_arenas(mappings: Sequence[Mapping], read: ReadMemory) -> Arenas | None:
    """All arenas; None if the process doesn't use glibc's malloc, or that can't be told."""
    main = find_main_arena(mappings, read)
    if main is None:
        return None
    others = find_heaps(mappings, read)
    structures, heaps = [main], []
    for one in mappings:
        if one.path == "[heap]" or one.start in others:
            heaps.append((one.start, one.end))
        if one.start in others:
            arena = int.from_bytes(read(one.start, 8), "little")
            if one.start <= arena < one.start + _MOST_HEADER_BYTES:
                structures.append((one.start, arena + _BEFORE_BYTES + _AFTER_BYTES))
    return Arenas(tuple(structures), tuple(heaps))


def find_main_arena(mappings: Sequence[Mapping], read: ReadMemory) -> Range | None:
    """Where the structure is; None: there is none, or it can't be told for sure."""
    for start, end in _data(mappings):
        found = _find_bins(start, read(start, end - start), read)
        if found is not None:
            return max(found - _BEFORE_BYTES, start), found + _AFTER_BYTES
    return None


def _data(mappings: Sequence[Mapping]) -> list[Range]:
    """Writable data of files, with the memory behind it that they don't fill (bss)."""
    found: list[Range] = []
    for one in mappings:
        if not one.permissions.startswith("rw"):
            continue
        is_behind = bool(found) and found[-1][1] == one.start
        if one.is_file or (one.path == "" and is_behind):
            size = min(one.end - one.start, _MOST_BYTES)
            if is_behind and not one.is_file:
                found[-1] = (found[-1][0], min(one.start + size, found[-1][0] + _MOST_BYTES))
            else:
                found.append((one.start, one.start + size))
    return found


def _find_bins(start: int, data: bytes, read: ReadMemory) -> int | None:
    """The address of the first bin."""
    words = np.frombuffer(data[: len(data) // 8 * 8], dtype=np.uint64)
    if len(words) < 2 * _BINS:
        return None
    heads = np.uint64(start - _HEAD_BYTES) + np.arange(len(words) - 1, dtype=np.uint64) * 8
    empty = (words[:-1] == heads) & (words[1:] == heads)
    at = np.nonzero(empty)[0]
    if len(at) < _LEAST_EMPTY:
        return None
    for first in at[np.concatenate([[True], np.diff(at) > 2 * _BINS])].tolist():
        least = max(first - 2 * (_BINS - 1), first % 2)
        places = range(least, min(first + 2 * _BINS, len(words) - 1), 2)
        is_bin = np.array(
            [bool(empty[one]) or _is_list(words, one, int(heads[one]), read) for one in places]
        )
        if len(is_bin) < _BINS:
            continue
        counts = np.convolve(is_bin, np.ones(_BINS, dtype=int), "valid")
        best = int(counts.argmax())
        if counts[best] >= _BINS - _MOST_ODD:
            return start + places[best] * 8
    return None


def _is_list(words: NDArray[np.uint64], at: int, head: int, read: ReadMemory) -> bool:
    """Whether the chunks at both ends of a list point back to it."""
    first, last = int(words[at]), int(words[at + 1])
    if not first or not last or first % 16 or last % 16:
        return False
    back = head.to_bytes(8, "little")
    return read(first + 24, 8) == back and read(last + 16, 8) == back
