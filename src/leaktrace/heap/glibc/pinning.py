"""What keeps the free memory of an arena from going back to the kernel.

The end of an arena, its top chunk, is given back by itself; nothing below the highest block in use
is. malloc_trim(3) gives back whole pages within free chunks of every arena, and the top of the main
arena (mtrim(), malloc/malloc.c).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from leaktrace.heap.glibc.arenas import ArenaState
from leaktrace.heap.glibc.chunks import BLOCK_OFFSET, HEADER_BYTES, IN_USE, Chunks, Run
from leaktrace.heap.walked import Addresses, FreeKind
from leaktrace.targets.memory_image import MemoryImage

_PAGE = np.uint64(4096)
_KEPT_BYTES = np.uint64(48)  # at the start of a free chunk: its size and pointers
_KEPT_OF_TOP = np.uint64(33)  # MINSIZE and 1: a top chunk must be left


@dataclass(frozen=True)
class Pinned:
    """Of one arena, in bytes."""

    largest_free_bytes: int
    trimmable_bytes: int
    last_block: tuple[int, int] | None


def find_pinned(
    image: MemoryImage,
    arenas: Sequence[ArenaState],
    runs: Sequence[Run],
    chunks: Chunks,
) -> tuple[Pinned, ...]:
    """For each arena, in their order."""
    count = len(arenas)
    is_free = (chunks.kinds != IN_USE) & (chunks.kinds != FreeKind.TOP)
    largest = np.zeros(count, dtype=np.uint64)
    np.maximum.at(largest, chunks.arenas[is_free], chunks.sizes[is_free])
    trimmable = np.zeros(count, dtype=np.int64)
    for kind in (FreeKind.BIN, FreeKind.TOP):
        rows = np.nonzero(chunks.kinds == kind)[0]
        if kind == FreeKind.TOP:
            rows = rows[chunks.arenas[rows] == 0]
        starts, ends = _whole_pages(chunks.at[rows], chunks.sizes[rows], kind)
        present = _present(image, ends) - _present(image, starts)
        np.add.at(trimmable, chunks.arenas[rows], present.astype(np.int64))
    last = _last_blocks(runs, chunks)
    return tuple(
        Pinned(int(largest[number]), int(trimmable[number]), last.get(number))
        for number in range(count)
    )


def _whole_pages(at: Addresses, sizes: Addresses, kind: FreeKind) -> tuple[Addresses, Addresses]:
    """[start, end) of what is given back of each chunk."""
    if kind == FreeKind.TOP:
        ends = at + sizes
        rest = sizes - np.minimum(sizes, _KEPT_OF_TOP)
        return ends - rest // _PAGE * _PAGE, ends
    ends = (at + sizes) // _PAGE * _PAGE
    starts = (at + _KEPT_BYTES + _PAGE - np.uint64(1)) // _PAGE * _PAGE
    return np.minimum(starts, ends), ends


def _present(image: MemoryImage, addresses: Addresses) -> Addresses:
    """How many bytes of the image are below each address. What is not in it is in no memory."""
    ranges = image.ranges()
    before = np.concatenate([[np.uint64(0)], np.cumsum(ranges[:, 1] - ranges[:, 0])])
    rows = np.searchsorted(ranges[:, 0], addresses, side="right")
    lengths = np.concatenate([[np.uint64(0)], ranges[:, 1] - ranges[:, 0]])
    starts = np.concatenate([[np.uint64(0)], ranges[:, 0]])
    inside = np.minimum(addresses - starts[rows], lengths[rows])
    below: Addresses = before[rows] - lengths[rows] + inside
    return below


def _last_blocks(runs: Sequence[Run], chunks: Chunks) -> dict[int, tuple[int, int]]:
    """Of each arena, the highest block in use of the segment that ends with its top chunk."""
    found = {}
    for run in runs:
        if not run.has_top:
            continue
        first, last = np.searchsorted(chunks.at, np.array([run.first, run.stop], dtype=np.uint64))
        rows = np.nonzero(chunks.kinds[first:last] == IN_USE)[0]
        if len(rows):
            row = first + rows[-1]
            block = int(chunks.at[row]) + BLOCK_OFFSET
            found[run.arena] = (block, int(chunks.sizes[row]) - HEADER_BYTES)
    return found
