"""Which blocks of a heap nothing points to.

All blocks are known, those of before any trace too. So what else is in the memory of the allocator
is free, or its own, and is no root: stale pointers in freed blocks hide nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.block_classes import BlockClass
from leaktrace.analysis.reachability.classes import Classes, classify
from leaktrace.analysis.reachability.kept_details import Details
from leaktrace.analysis.reachability.pointers import (
    Blocks,
    Candidates,
    Pointers,
    disjoint,
    within,
)
from leaktrace.heap.walked import WalkedHeap
from leaktrace.reach import LostShare
from leaktrace.roots.root_map import places_of_registers
from leaktrace.targets.memory_image import PIECE_WORDS, MemoryImage, Segment
from leaktrace.targets.thread_registers import Registers

Ranges = NDArray[np.uint64]  # [start, end), n x 2

_COLUMNS = (
    BlockClass.DEFINITE,
    BlockClass.INDIRECT,
    BlockClass.POSSIBLE,
    BlockClass.REACHABLE,
)


def find_lost(
    image: MemoryImage,
    blocks: Blocks,
    registers: Registers,
    dead: Ranges,
    owned: Ranges,
    *,
    go_on: Callable[[], None] = lambda: None,
) -> Classes:
    """The class of each block. Parameters as of `find_pointers`."""
    return classify(find_pointers(image, blocks, registers, dead, owned, go_on=go_on))


def find_pointers(
    image: MemoryImage,
    blocks: Blocks,
    registers: Registers,
    dead: Ranges,
    owned: Ranges,
    *,
    details: Details | None = None,
    go_on: Callable[[], None] = lambda: None,
) -> Pointers:
    """What points to the blocks. `dead`: memory whose words are no roots;
    `owned`: memory of an allocator of which all blocks are known. `details`: keeps where the
    pointers are. `go_on`: called now and then, to end it by an exception."""
    pointers = Pointers(blocks, disjoint(dead), disjoint(owned), details=details)
    places = None if details is None else places_of_registers(registers)
    pointers.add_roots(registers.words.ravel(), places)

    def pieces() -> Iterator[Segment]:
        for piece in image.pieces():
            go_on()
            yield piece

    pointers.add_pieces(pieces(), Candidates(blocks, PIECE_WORDS))
    return pointers


def blocks_of(heap: WalkedHeap) -> Blocks:
    """The blocks of the program."""
    is_own = np.zeros(len(heap.addresses), dtype=bool)
    is_own[heap.own_rows] = True
    return Blocks(heap.addresses[~is_own], heap.sizes[~is_own])


def blocks_with(heap: WalkedHeap, known: Blocks) -> Blocks | None:
    """The same, where some are known with the sizes that were asked for. Those of other allocators
    are added. None if one is in the memory of this one, but no block of it: then it is not known
    what else is around it."""
    of_heap = blocks_of(heap)
    at = of_heap.find(known.starts)
    is_same = (at >= 0) & (of_heap.starts[at] == known.starts)
    if (within(disjoint(heap.segments), known.starts) & ~is_same).any():
        return None
    is_other = np.ones(len(of_heap), dtype=bool)
    is_other[at[is_same]] = False
    starts, ends = of_heap.starts[is_other], of_heap.ends[is_other]
    return Blocks(
        np.concatenate([known.starts, starts]),
        np.concatenate([known.ends - known.starts, ends - starts]),
    )


class Shares:
    """How many blocks of each group are of each class, and their bytes.

    Indirectly lost blocks count with the group of the definitely lost block that leads there.
    """

    def __init__(
        self, blocks: Blocks, classes: Classes, group_of: NDArray[np.intp], count: int
    ) -> None:
        self._counts = np.zeros((count, len(_COLUMNS)), dtype=np.int64)
        self._bytes = np.zeros((count, len(_COLUMNS)), dtype=np.int64)
        self._scanned = np.bincount(group_of, minlength=count)
        sizes = (blocks.ends - blocks.starts).astype(np.float64)
        for column, kind in enumerate(_COLUMNS):
            rows = np.nonzero(classes.classes == kind)[0]
            owners = group_of[rows if kind != BlockClass.INDIRECT else classes.leaders[rows]]
            self._counts[:, column] = np.bincount(owners, minlength=count)
            summed = np.bincount(owners, sizes[rows], minlength=count)
            self._bytes[:, column] = np.rint(summed).astype(np.int64)

    def of(self, group: int) -> LostShare:
        """Of one group."""
        return _share(self._counts[group], self._bytes[group], int(self._scanned[group]))

    def total(self, groups: slice = slice(None)) -> LostShare:
        """Of all blocks, or of some groups."""
        counts, sizes = self._counts[groups].sum(axis=0), self._bytes[groups].sum(axis=0)
        return _share(counts, sizes, int(self._scanned[groups].sum()))

    def lost(self) -> NDArray[np.int64]:
        """By group, n x 2: blocks and bytes of what nothing points to, and what only that leads
        to."""
        return np.stack([each[:, :2].sum(axis=1) for each in (self._counts, self._bytes)], axis=1)


def _share(counts: NDArray[np.int64], sizes: NDArray[np.int64], scanned: int) -> LostShare:
    count, size = counts.tolist(), sizes.tolist()
    return LostShare(
        definite_bytes=size[0],
        definite_count=count[0],
        indirect_bytes=size[1],
        indirect_count=count[1],
        possible_bytes=size[2],
        possible_count=count[2],
        reachable_bytes=size[3],
        reachable_count=count[3],
        scanned_count=scanned,
    )
