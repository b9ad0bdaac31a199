"""Chunks that malloc has set aside as they are, in singly linked lists: fastbins of an arena,
caches of threads (tcache). Their neighbours take them for chunks in use.

Since glibc 2.32 the pointers are mangled with where they are stored ("safe linking"). Which of the
two it is follows from the last chunk of any list: its pointer is 0, or 0 mangled.
"""

from __future__ import annotations

from array import array

import numpy as np

from leaktrace.heap.glibc.arenas import ArenaState
from leaktrace.heap.glibc.chunks import BLOCK_OFFSET, IN_USE, LEAST_BYTES, Chunks, Rows
from leaktrace.heap.walked import Addresses, FreeKind
from leaktrace.targets.memory_image import MemoryImage

_MANGLING_SHIFT = 12


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
                rows, is_whole = _mark(links, chunks, (first, size), is_mangled)
                if is_whole:
                    links.is_mangled = is_mangled
                    break
                if is_mangled and links.is_mangled is None:
                    chunks.kinds[rows] = IN_USE  # the other form may be right
            if not is_whole:
                what = f"the list of free chunks of {size} bytes breaks off"
                problems.append(f"arena {arena.number}: {what}")
    return problems


def _mark(
    links: Links, chunks: Chunks, head: tuple[int, int], is_mangled: bool
) -> tuple[Rows, bool]:
    """The rows of a list's chunks, and whether it ends as it should. A chunk that is in a list
    already ends it, so that all lists together take as long as there are chunks."""
    at, size = head
    rows = array("q")
    while at:
        row = chunks.row_of(at)
        if row < 0 or int(chunks.sizes[row]) != size or chunks.kinds[row] != IN_USE:
            break
        chunks.kinds[row] = FreeKind.FAST
        rows.append(row)
        at = links.next_one(at + BLOCK_OFFSET, is_mangled=is_mangled)
    return np.array(rows, dtype=np.intp), at == 0
