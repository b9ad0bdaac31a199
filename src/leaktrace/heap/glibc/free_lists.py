"""Chunks that malloc has set aside as they are, in singly linked lists: fastbins of an arena,
caches of threads (tcache). Their neighbours take them for chunks in use.

Since glibc 2.32 the pointers are mangled with where they are stored ("safe linking"). Which of the
two it is follows from the last chunk of any list: its pointer is 0, or 0 mangled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaktrace.heap.glibc.arenas import ArenaState
from leaktrace.heap.glibc.chunks import BLOCK_OFFSET, LEAST_BYTES
from leaktrace.heap.image import MemoryImage
from leaktrace.heap.walked import Addresses, FreeKind

IN_USE = 0
_MANGLING_SHIFT = 12

Rows = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Chunks:
    """All chunks of all arenas, by ascending address. `kinds` is filled in later: a FreeKind, or
    IN_USE."""

    at: Addresses
    sizes: Addresses
    kinds: NDArray[np.uint8]

    def rows_of(self, addresses: Addresses) -> Rows:
        """The row of the chunk that begins at each address, -1 where none does."""
        if not len(self.at):
            return np.full(len(addresses), -1, dtype=np.intp)
        rows = np.minimum(np.searchsorted(self.at, addresses), len(self.at) - 1)
        return np.where(self.at[rows] == addresses, rows, -1)

    def row_of(self, address: int) -> int:
        row = int(np.searchsorted(self.at, np.uint64(address)))
        return row if row < len(self.at) and int(self.at[row]) == address else -1


class Links:
    """Follows pointers of these lists, in the form that the first complete list shows."""

    def __init__(self, image: MemoryImage) -> None:
        self.image = image
        self.is_mangled: bool | None = None

    def forms(self) -> tuple[bool, ...]:
        return (True, False) if self.is_mangled is None else (self.is_mangled,)

    def following(self, stored_at: Addresses, *, is_mangled: bool) -> Addresses:
        """What the pointers at these addresses point to."""
        words = self.image.gather(stored_at)
        return words ^ (stored_at >> np.uint64(_MANGLING_SHIFT)) if is_mangled else words

    def next_one(self, stored_at: int, *, is_mangled: bool) -> int:
        word = self.image.word(stored_at)
        return word ^ (stored_at >> _MANGLING_SHIFT) if is_mangled else word


def mark_fastbins(links: Links, chunks: Chunks, arenas: tuple[ArenaState, ...]) -> list[str]:
    """Mark the chunks in the fastbins of all arenas. Returns what was wrong."""
    problems = []
    for arena in arenas:
        for number, first in enumerate(arena.fastbins):
            if not first:
                continue
            size = LEAST_BYTES + 16 * number
            for is_mangled in links.forms():
                rows, is_whole = _follow(links, chunks, (first, size), is_mangled)
                if is_whole:
                    links.is_mangled = is_mangled
                    break
            chunks.kinds[rows] = FreeKind.FAST
            if not is_whole:
                what = f"the list of free chunks of {size} bytes breaks off"
                problems.append(f"arena {arena.number}: {what}")
    return problems


def _follow(
    links: Links, chunks: Chunks, head: tuple[int, int], is_mangled: bool
) -> tuple[list[int], bool]:
    """The rows of a list's chunks, and whether it ends as it should. A chunk in two lists, or twice
    in one, ends it, so that all lists together take as long as there are chunks."""
    at, size = head
    rows: list[int] = []
    seen: set[int] = set()
    while at:
        row = chunks.row_of(at)
        if row < 0 or row in seen or int(chunks.sizes[row]) != size or chunks.kinds[row] != IN_USE:
            return rows, False
        rows.append(row)
        seen.add(row)
        at = links.next_one(at + BLOCK_OFFSET, is_mangled=is_mangled)
    return rows, True
