"""The caches of threads (tcache_perthread_struct, malloc/malloc.c): blocks in use, as their arenas
see them, that contain lists of free blocks.

A block of the right size is a cache if it is nothing else: each of its lists leads through
blocks of its size to an end, after as many as it counts. One without any list is told from a block
of zeros by what points to it: a variable of libc in the storage of its thread (TLS).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaktrace.heap.glibc.chunks import BLOCK_OFFSET, IN_USE, LEAST_BYTES, Chunks, Rows
from leaktrace.heap.glibc.free_lists import Links
from leaktrace.heap.walked import Addresses, FreeKind
from leaktrace.targets.memory_image import WORD_BYTES, MemoryImage

_SMALL = 64  # lists of one size each; those behind have a range of sizes
_MOST_SPARE = 16  # bytes that were left over, less than a chunk
_STEP = 8  # lists at once, to tell early that a block is no cache
_MOST_ODD = 1  # lists that a thread is about to change
_MOST_CANDIDATES = 1 << 16
_MOST_LENGTH = 1 << 16  # what a count can have
_MOST_VAIN_STEPS = 1 << 17  # along lists that turn out to be none
_TLS_BYTES = 4096  # below the thread pointer, where the storage of the first libraries ends


@dataclass(frozen=True)
class _Layout:
    chunk_bytes: int
    lists: int
    first_at: int  # bytes from the start of the block to the first list
    count_bytes: int  # of each count, which are at the start
    counts_room: bool = False  # they say how many blocks could still be added


_LAYOUTS = (
    _Layout(0x250, 64, 64, 1),  # glibc 2.26
    _Layout(0x290, 64, 128, 2),  # 2.30
    _Layout(0x300, 76, 152, 2, counts_room=True),  # 2.42
)


def mark_cached(links: Links, chunks: Chunks) -> tuple[Rows, list[str]]:
    """Mark the chunks in caches. Returns the rows of the caches themselves, and what was wrong."""
    found: list[int] = []
    problems = []
    reader = _Reader(links, chunks)
    for layout in _LAYOUTS:
        spare = chunks.sizes - np.uint64(layout.chunk_bytes)  # below 0 is a large number
        rows = np.nonzero((spare <= np.uint64(_MOST_SPARE)) & (chunks.kinds == IN_USE))[0]
        rows = _plausible(links, chunks, rows, layout)
        if len(rows) > _MOST_CANDIDATES:
            problems.append(f"{len(rows):,} blocks look like caches of threads")
        for row in rows[:_MOST_CANDIDATES].tolist():
            members = reader.members(int(chunks.at[row]) + BLOCK_OFFSET, layout)
            if members is not None:
                chunks.kinds[members] = FreeKind.CACHED
                found.append(row)
    if reader.is_exhausted:
        problems.append("too much memory looks like caches of threads")
    return np.array(sorted(found), dtype=np.intp), problems


def find_empty(
    image: MemoryImage, chunks: Chunks, caches: Rows, thread_pointers: Sequence[int]
) -> Rows:
    """The rows of caches that have no list. `caches`: the rows of those that have one. A thread has
    one cache at most; where several blocks may be it, none is."""
    found: list[int] = []
    for pointer in thread_pointers:
        end = pointer & -WORD_BYTES
        pointed = [
            chunks.rows_of(one.words - np.uint64(BLOCK_OFFSET))
            for one in image.within(end - _TLS_BYTES, end)
        ]
        rows = np.unique(np.concatenate([np.empty(0, dtype=np.intp), *pointed]))
        rows = rows[rows >= 0]
        rows = rows[chunks.kinds[rows] == IN_USE]
        if not np.isin(rows, caches).any():
            empty = [row for row in rows.tolist() if _is_empty(image, chunks, row)]
            found += empty if len(empty) == 1 else []
    return np.array(found, dtype=np.intp)


def _is_empty(image: MemoryImage, chunks: Chunks, row: int) -> bool:
    """Whether it could be a cache without a list: zeros, but for how many blocks could be added."""
    size, block = int(chunks.sizes[row]), int(chunks.at[row]) + BLOCK_OFFSET
    for layout in _LAYOUTS:
        if not 0 <= size - layout.chunk_bytes <= _MOST_SPARE:
            continue
        data = image.read(block, layout.first_at + layout.lists * 8)
        counts, lists = data[: layout.first_at], data[layout.first_at :]
        first = counts[: layout.count_bytes] if layout.counts_room else bytes(1)
        if not any(lists) and counts == first * (layout.first_at // len(first)):
            return True
    return False


def _plausible(links: Links, chunks: Chunks, rows: Rows, layout: _Layout) -> Rows:
    """Those that have at least one list, and whose lists could all begin with a block."""
    if not len(rows):
        return rows
    low, span = chunks.at[0], chunks.at[-1] - chunks.at[0] + np.uint64(BLOCK_OFFSET)
    has_any = np.zeros(len(rows), dtype=bool)
    for first in range(0, layout.lists, _STEP):
        numbers = np.arange(first, min(first + _STEP, layout.lists), dtype=np.uint64)
        blocks = chunks.at[rows] + np.uint64(BLOCK_OFFSET + layout.first_at)
        places = blocks[:, None] + numbers * np.uint64(8)
        words = links.image.gather(places.ravel()).reshape(places.shape)
        is_block = (words - low <= span) & (words % np.uint64(16) == 0)
        is_kept = (is_block | (words == 0)).all(axis=1)
        has_any = (has_any | (words != 0).any(axis=1))[is_kept]
        rows = rows[is_kept]
        if not len(rows):
            break
    return rows[has_any]


class _Reader:
    """Reads caches, and stops when too much was followed in vain."""

    def __init__(self, links: Links, chunks: Chunks) -> None:
        self._links, self._chunks = links, chunks
        self._left = _MOST_VAIN_STEPS

    @property
    def is_exhausted(self) -> bool:
        return self._left <= 0

    def members(self, block: int, layout: _Layout) -> Rows | None:
        """The rows of all chunks that are in this cache; None: it is no cache."""
        read = self._links.image.read
        heads = np.frombuffer(read(block + layout.first_at, layout.lists * 8), dtype=np.uint64)
        kind = np.uint8 if layout.count_bytes == 1 else np.uint16
        data = read(block, layout.lists * layout.count_bytes)
        counts = np.frombuffer(data, dtype=kind).astype(np.int64)
        if len(heads) != layout.lists or len(counts) != layout.lists:
            return None
        numbers = np.nonzero(heads)[0]
        for is_mangled in self._links.forms():
            rows, lengths = self._follow(heads[numbers], numbers, is_mangled)
            if rows is None:
                continue
            listed = np.zeros(layout.lists, dtype=np.int64)
            listed[numbers] = lengths
            if _agree(listed, counts, layout):
                self._links.is_mangled = is_mangled
                return rows
        return None

    def _follow(
        self, heads: Addresses, numbers: Rows, is_mangled: bool
    ) -> tuple[Rows | None, NDArray[np.int64]]:
        """The rows of the chunks in these lists, None if they are no lists; the length of each."""
        chunks = self._chunks
        lengths = np.zeros(len(heads), dtype=np.int64)
        lists = np.arange(len(heads))
        sizes = np.uint64(LEAST_BYTES) + np.uint64(16) * numbers.astype(np.uint64)
        is_small = numbers < _SMALL
        found: list[Rows] = []
        blocks = heads
        for _ in range(min(_MOST_LENGTH, self._left)):
            rows = chunks.rows_of(blocks - np.uint64(BLOCK_OFFSET))
            is_other = (chunks.sizes[rows] != sizes[lists]) & is_small[lists]
            if (rows < 0).any() or (chunks.kinds[rows] != IN_USE).any() or is_other.any():
                break
            found.append(rows)
            lengths[lists] += 1
            following = self._links.following(blocks, is_mangled=is_mangled)
            goes_on = following != 0
            lists, blocks = lists[goes_on], following[goes_on]
            if not len(lists):
                every = np.concatenate(found)
                if len(np.unique(every)) == len(every):
                    return every, lengths
                break
        self._left -= len(found) + 1
        return None, lengths


def _agree(lengths: NDArray[np.int64], counts: NDArray[np.int64], layout: _Layout) -> bool:
    """Whether lists are as long as they are said to be. A thread may be about to change one. Where
    nothing is counted, such as in a table of the program, it is no cache."""
    if layout.counts_room:
        capacities = lengths + counts
        middle = np.median(capacities)
        off = np.abs(capacities - middle)
        is_counted = middle > 0
    else:
        off = np.abs(lengths - counts)
        is_counted = bool(((counts > 0) & (off == 0)).any())
    return bool(is_counted and off.max() <= 1 and np.count_nonzero(off) <= _MOST_ODD)
