"""Blocks that malloc gave a mapping of their own (mmap_chunk() in sysmalloc, malloc/malloc.c).

There is no list of them. Such a chunk begins with the mapping, or, if a larger alignment was asked
for, up to a page behind it; it says how far behind, and ends with the mapping. How many bytes there
are in all, malloc counts (mp_.mmapped_mem).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaktrace.heap.glibc.chunks import (
    BLOCK_OFFSET,
    HEADER_BYTES,
    IS_MAPPED,
    SIZE_MASK,
    mapped_memory,
)
from leaktrace.heap.walked import Addresses
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.memory_image import WORD_BYTES, MemoryImage
from leaktrace.targets.page_map import Range

_PAGE_BYTES = 4096
_PAGE_WORDS = _PAGE_BYTES // WORD_BYTES
_PIECE_PAGES = 1 << 16
# Where in a page the header may be: an aligned block begins at a power of two.
_LEADS = (0, *((1 << power) - BLOCK_OFFSET for power in range(5, 13)))
_MOST_BYTES = 1 << 46
_SIZE = np.uint64(SIZE_MASK & 0xFFFF_FFFF_FFFF_FFFF)


@dataclass(frozen=True, eq=False)
class MappedChunks:
    """Blocks, ascending, and the memory that was mapped for each: [start, end), n x 2."""

    blocks: Addresses
    sizes: Addresses  # usable
    mapped: Addresses

    @property
    def mapped_bytes(self) -> int:
        return int((self.mapped[:, 1] - self.mapped[:, 0]).sum()) if len(self.mapped) else 0


def find_mapped_chunks(
    image: MemoryImage, mappings: Sequence[Mapping], taken: Sequence[Range]
) -> MappedChunks:
    """Those that are not in memory that is taken, by the arenas for example."""
    chunks, befores, words = _candidates(image)
    sizes = words & _SIZE
    # Since glibc 2.43 the last 16 bytes belong to no chunk.
    behind = np.where(((chunks + sizes) % _PAGE_BYTES) == 0, np.uint64(0), np.uint64(16))
    starts, ends = chunks - befores, chunks + sizes + behind
    # An aligned block was cut from one at the start of the mapping, whose header is still there.
    is_cut = np.zeros(len(chunks), dtype=bool)
    order = np.lexsort((chunks, ends, starts))
    is_cut[order[:-1]] = (np.diff(starts[order]) == 0) & (np.diff(ends[order]) == 0)
    chunks, sizes, behind = chunks[~is_cut], sizes[~is_cut], behind[~is_cut]
    starts, ends = starts[~is_cut], ends[~is_cut]
    rows = _apart(starts.tolist(), ends.tolist(), mapped_memory(mappings), sorted(taken))
    # Up to glibc 2.42 the first word behind the mapping is no part of the block.
    unused = np.where(behind == 0, np.uint64(2 * HEADER_BYTES), np.uint64(HEADER_BYTES))
    return MappedChunks(
        chunks[rows] + np.uint64(BLOCK_OFFSET),
        (sizes - unused)[rows],
        np.stack([starts[rows], ends[rows]], axis=1).reshape(-1, 2),
    )


def said_bytes(image: MemoryImage, data: Range, base: int) -> int | None:
    """What malloc says that its mapped chunks have, from struct malloc_par in this writable data;
    None: it wasn't found. `base`: where the memory of the main arena begins (sbrk_base), which is
    in that structure, behind mmapped_mem and max_mmapped_mem."""
    found = set()
    for segment in image.within(*data):
        words = segment.words
        for at in np.nonzero(words == np.uint64(base))[0].tolist():
            if at < 2:
                continue
            now, most = int(words[at - 2]), int(words[at - 1])
            if now <= most < _MOST_BYTES and now % _PAGE_BYTES == most % _PAGE_BYTES == 0:
                found.add(now)
    return found.pop() if len(found) == 1 else None


def _candidates(image: MemoryImage) -> tuple[Addresses, Addresses, Addresses]:
    """What looks like the header of such a chunk: its address and its two words, ascending."""
    found: list[Addresses] = []
    for segment in image.segments:
        skipped = (-segment.start % _PAGE_BYTES) // WORD_BYTES
        for lead in _LEADS:
            first = skipped + lead // WORD_BYTES
            befores = segment.words[first::_PAGE_WORDS]
            words = segment.words[first + 1 :: _PAGE_WORDS]
            befores = befores[: len(words)]
            for at in range(0, len(words), _PIECE_PAGES):
                piece = slice(at, at + _PIECE_PAGES)
                rows = np.nonzero(_is_mapped(befores[piece], words[piece], lead))[0] + at
                if len(rows):
                    pages = rows.astype(np.uint64) * np.uint64(_PAGE_BYTES)
                    address = pages + np.uint64(segment.start + first * WORD_BYTES)
                    found.append(np.stack([address, befores[rows], words[rows]]))
    if not found:
        empty = np.empty(0, dtype=np.uint64)
        return empty, empty, empty
    address, befores, words = np.concatenate(found, axis=1)
    order = np.argsort(address)
    return address[order], befores[order], words[order]


def _is_mapped(befores: Addresses, words: Addresses, lead: int) -> NDArray[np.bool_]:
    sizes = words & _SIZE
    rest = (sizes + befores) % np.uint64(_PAGE_BYTES)
    is_mapped: NDArray[np.bool_] = (words & np.uint64(7)) == np.uint64(IS_MAPPED)
    is_mapped &= (rest == 0) | (rest == np.uint64(_PAGE_BYTES - 16))
    is_mapped &= (sizes >= np.uint64(32)) & (sizes < np.uint64(_MOST_BYTES))
    is_mapped &= (befores % np.uint64(_PAGE_BYTES) == np.uint64(lead)) if lead else (befores == 0)
    return is_mapped


def _apart(
    starts: Sequence[int], ends: Sequence[int], allowed: Sequence[Range], taken: Sequence[Range]
) -> list[int]:
    """The rows of those that are within one of the allowed ranges, and overlap neither a taken one
    nor one before."""
    lows = [low for low, _ in allowed]
    taken_lows = [low for low, _ in taken]
    rows, last = [], 0
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        at = bisect_right(lows, start) - 1
        if start < last or at < 0 or end > allowed[at][1]:
            continue
        at = bisect_right(taken_lows, end - 1) - 1
        if at >= 0 and taken[at][1] > start:
            continue
        rows.append(row)
        last = end
    return rows
