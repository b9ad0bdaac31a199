"""The blocks of glibc's malloc that have no record: between those that have one, chunk lies next to
chunk, and each says its size (struct malloc_chunk, malloc/malloc.c).

The process is not stopped meanwhile. So what lies between two known blocks counts only if the
chunks lead exactly from the one to the other. Whether a chunk is in use is said by the next one;
those that malloc keeps for the next request of their size (tcache, fast bins) say that they are.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from leaktrace.targets.bulk_memory import Piece
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.page_map import PAGE_BYTES, Range, merge

_HEAD_BYTES = 16  # from a chunk to its block
_UNIT = 16
_LEAST_CHUNK = 32
_SIZE_FLAGS = 7
_PREVIOUS_IN_USE, _IS_MAPPED = 1, 2
_MOST_CHUNKS = 2_000_000  # that are looked at: half a second for each million
_WORD = struct.Struct("<Q")

_LEAST_MAPPED = 128 << 10  # of a block that is mapped by itself, unless mallopt(3) says otherwise

ReadRanges = Callable[[NDArray[np.uint64]], Iterable[Piece]]  # [start, end), n x 2
ReadMemory = Callable[[int, int], bytes]  # within one page; fewer bytes if they aren't there


def find_chunks(
    heaps: Sequence[Range],
    first_chunks: Sequence[int],
    starts: NDArray[np.uint64],
    sizes: NDArray[np.uint64],
    read: ReadMemory,
) -> NDArray[np.uint64]:
    """Blocks in use, [start, end), n x 2, ascending. `heaps`: [start, end) of each, ascending;
    `first_chunks`: where chunks begin, if that is known of a heap; `starts` and `sizes`: the blocks
    that are known, by ascending address."""
    walk = _Walk(read)
    for low, high in sorted(heaps):
        rows = slice(*np.searchsorted(starts, np.array([low, high], dtype=np.uint64)).tolist())
        known = starts[rows] - np.uint64(_HEAD_BYTES)
        begins = [one for one in first_chunks if low <= one < high]
        if begins and (not len(known) or begins[0] < int(known[0])):
            first = int(known[0]) if len(known) else high
            walk.go(begins[0], first, to_end=first == high)
        for at, end in _gaps(known, sizes[rows], high):
            if walk.steps >= _MOST_CHUNKS:
                break
            size = walk.size_at(at)
            if size is not None:
                walk.go(at + size, end, to_end=end == high)
    return np.array(walk.found, dtype=np.uint64).reshape(-1, 2)


def _gaps(known: NDArray[np.uint64], sizes: NDArray[np.uint64], end: int) -> list[tuple[int, int]]:
    """The chunks of known blocks that others may follow, and where the next known one is. A chunk
    may be one unit larger than it must be."""
    if not len(known):
        return []
    least = (sizes + np.uint64(8 + _UNIT - 1)) & ~np.uint64(_UNIT - 1)
    ends = known + np.maximum(least, np.uint64(_LEAST_CHUNK))
    following = np.append(known[1:], np.uint64(end))
    rows = np.nonzero(following > ends + np.uint64(_UNIT))[0]
    return list(zip(known[rows].tolist(), following[rows].tolist(), strict=True))


def find_mapped_chunks(
    mappings: Sequence[Mapping], present: NDArray[np.uint64], pieces: ReadRanges
) -> NDArray[np.uint64]:
    """Large blocks, which malloc has mapped one by one: [start, end), n x 2, ascending. The kernel
    may show neighbours as one mapping, so they can begin at any page. What else is mapped is taken
    for one only if a page of it begins as they do: nothing before, then its size, whole pages, with
    the flag of mapped chunks. `present`: the ranges of memory that may be read."""
    anonymous = [(one.start, one.end) for one in mappings if _may_have_chunks(one)]
    found: list[Range] = []
    for low, high in merge(anonymous, 0):
        for at, size in _mapped_headers(low, high, present, pieces):
            if at + size <= high and (not found or found[-1][1] <= at):
                found.append((at + _HEAD_BYTES, at + size))
    return np.array(found, dtype=np.uint64).reshape(-1, 2)


def _may_have_chunks(mapping: Mapping) -> bool:
    size = mapping.end - mapping.start
    return not mapping.path and mapping.permissions == "rw-p" and size >= _LEAST_MAPPED


def _mapped_headers(
    low: int, high: int, present: NDArray[np.uint64], pieces: ReadRanges
) -> Iterator[tuple[int, int]]:
    """Where mapped chunks may begin, and their sizes."""
    within = np.clip(present, np.uint64(low), np.uint64(high))
    within = within[within[:, 0] < within[:, 1]]
    pages = [np.arange(start, end, PAGE_BYTES, dtype=np.uint64) for start, end in within.tolist()]
    starts = np.concatenate([np.empty(0, dtype=np.uint64), *pages])
    for piece in pieces(np.stack([starts, starts + np.uint64(_HEAD_BYTES)], axis=1)):
        before, sizes = piece.words.reshape(-1, 2).T
        flags = np.uint64(PAGE_BYTES - 1)
        is_head = (before == 0) & (sizes & flags == np.uint64(_IS_MAPPED))
        is_head &= sizes >= np.uint64(_LEAST_MAPPED)
        rows = np.nonzero(is_head)[0]
        places = piece.ranges[rows, 0].tolist()
        yield from zip(places, (sizes[rows] & ~flags).tolist(), strict=True)


def apart_from(blocks: NDArray[np.uint64], known: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Those blocks that don't overlap with known ones. Both: [start, end), n x 2; `known`
    ascending and disjoint."""
    if not len(known):
        return blocks
    before = np.searchsorted(known[:, 0], blocks[:, 1]) - 1  # the last that begins before its end
    is_apart = (before < 0) | (known[before, 1] <= blocks[:, 0])
    chosen: NDArray[np.uint64] = blocks[is_apart]
    return chosen


class _Walk:
    """Goes from chunk to chunk."""

    def __init__(self, read: ReadMemory) -> None:
        self._read = read
        self._page, self._data = -1, b""
        self.found: list[Range] = []
        self.steps = 0

    def size_at(self, chunk: int) -> int | None:
        """The size of a chunk; None if it says none that can be."""
        word = self._size_word(chunk)
        size = word & ~_SIZE_FLAGS
        return None if size < _LEAST_CHUNK or size % _UNIT else size

    def go(self, at: int, end: int, *, to_end: bool) -> None:
        """From one chunk to where another one is known to be, or `to_end` of the heap: there, the
        last one is what is left of it."""
        some: list[Range] = []
        while at < end and self.steps < _MOST_CHUNKS:
            self.steps += 1
            size = self.size_at(at)
            if size is None or at + size > end:
                return
            is_left = to_end and at + size == end
            if not is_left and self._size_word(at + size) & _PREVIOUS_IN_USE:
                some.append((at + _HEAD_BYTES, at + size + 8))
            at += size
        if at == end:
            self.found += some

    def _size_word(self, chunk: int) -> int:
        address = chunk + 8
        page, inside = address & -PAGE_BYTES, address & (PAGE_BYTES - 1)
        if page != self._page:
            self._page, self._data = page, self._read(page, PAGE_BYTES)
        if inside + 8 > len(self._data):
            return 0
        word: int = _WORD.unpack_from(self._data, inside)[0]
        return word
