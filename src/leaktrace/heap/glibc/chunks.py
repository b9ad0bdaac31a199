"""Chunks one after another: each begins with its size, and the next one is behind it (malloc_chunk,
malloc/malloc.c).

    word 0  size of the chunk before, if that is free
    word 1  size, a multiple of 16, with three flags in its lowest bits
    word 2  the block; in a free chunk the next and the previous one of its list
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaktrace.heap.walked import Addresses
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.memory_image import WORD_BYTES, MemoryImage
from leaktrace.targets.page_map import Range, merge

PREVIOUS_IN_USE, IS_MAPPED, NOT_MAIN = 1, 2, 4
SIZE_MASK = ~7
BLOCK_OFFSET = 16  # of the block in its chunk
HEADER_BYTES = 8  # the block also has the first word of the next chunk
LEAST_BYTES = 32
IN_USE = 0  # beside FreeKind
FENCE_BYTES = 16  # two chunks of less than the least size end a segment to which none was added


Rows = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Run:
    """Chunks without a gap, and the segment that they are in. All in bytes."""

    arena: int
    start: int  # of the segment
    first: int  # where the first chunk begins
    sizes: Addresses  # the second words, with flags
    stop: int  # behind the last chunk
    end: int  # of the segment
    has_top: bool  # the last chunk is the top one
    is_last_in_use: bool = True


@dataclass(frozen=True, eq=False)
class Chunks:
    """All chunks of all arenas, by ascending address. `kinds` is filled in later: a FreeKind, or
    IN_USE."""

    at: Addresses
    sizes: Addresses
    kinds: NDArray[np.uint8]
    arenas: NDArray[np.int16]  # the number of the arena of each

    def rows_of(self, addresses: Addresses) -> Rows:
        """The row of the chunk that begins at each address, -1 where none does."""
        if not len(self.at):
            return np.full(len(addresses), -1, dtype=np.intp)
        rows = np.minimum(np.searchsorted(self.at, addresses), len(self.at) - 1)
        return np.where(self.at[rows] == addresses, rows, -1)

    def row_of(self, address: int) -> int:
        row = int(np.searchsorted(self.at, np.uint64(address)))
        return row if row < len(self.at) and int(self.at[row]) == address else -1


def mapped_memory(mappings: Sequence[Mapping]) -> list[Range]:
    """[start, end) of what malloc may have got by mmap(2), neighbours joined: the kernel doesn't
    tell them apart."""
    return merge(
        (
            (one.start, one.end)
            for one in mappings
            if not one.is_file
            and (one.path == "" or one.path.startswith("[anon:"))
            and one.permissions.startswith("rw")
        ),
        0,
    )


def walk(image: MemoryImage, first: int, end: int) -> tuple[Addresses, int]:
    """Follow the sizes from the chunk at `first`, a multiple of 8: the size words of the chunks
    that end by `end`, and where they end. That is before `end` if what follows is no chunk.

    Serial, as each chunk is found by the one before. A chunk takes 32 bytes at least, which bounds
    the time for any memory.
    """
    sizes = array("Q")
    take = sizes.append
    at = first
    while at < end and (segment := image.segment_at(at + WORD_BYTES)) is not None:
        words = segment.words.data
        index = (at + WORD_BYTES - segment.start) // WORD_BYTES
        last = (min(segment.end, end) - segment.start) // WORD_BYTES
        size = LEAST_BYTES
        while index < last:
            word = words[index]
            size = word & -8
            if size < LEAST_BYTES:
                break
            take(word)
            index += size >> 3
        at = segment.start + index * WORD_BYTES - WORD_BYTES
        if size < LEAST_BYTES:
            break
    if at > end and sizes:
        at -= sizes.pop() & SIZE_MASK
    return np.frombuffer(sizes, dtype=np.uint64) if sizes else np.empty(0, dtype=np.uint64), at


def size_at(image: MemoryImage, chunk: int) -> int:
    """The size of a chunk without its flags, 0 if it is not in the image."""
    return image.word(chunk + WORD_BYTES) & SIZE_MASK


def is_fence(image: MemoryImage, at: int) -> bool:
    """Whether the end of a segment of the main arena is here: two small chunks, which sysmalloc()
    puts there when the arena goes on elsewhere."""
    first, second = image.word(at + 8), image.word(at + FENCE_BYTES + 8)
    return first & ~PREVIOUS_IN_USE == FENCE_BYTES and second == FENCE_BYTES | PREVIOUS_IN_USE


def is_in_use(image: MemoryImage, following: int) -> bool:
    """Whether the chunk before this one is in use, as far as its arena knows."""
    return image.word(following + WORD_BYTES) & PREVIOUS_IN_USE != 0
