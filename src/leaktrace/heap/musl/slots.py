"""The blocks in the slots of musl's malloc (mallocng, src/malloc/mallocng/meta.h).

The four bytes before a block say in which slot of its group it is, and where in the group; and how
many bytes at the end of the slot are not the program's. A block need not begin where its slot does:
then the bytes before the slot say how far from there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaktrace.heap.musl.groups import UNIT, Groups
from leaktrace.heap.walked import Addresses
from leaktrace.targets.memory_image import MemoryImage

_AFTER_BYTES = 4  # at the end of a slot, for the next one
_MOVED = 7  # the block is elsewhere in the slot
_NESTED = 6  # the slot is a group itself
_LONG = 5  # the unused bytes are counted at the end of the slot
_FREED = 255  # free() has begun
_FAR = np.uint64(1 << 16)  # units: what the distance within a slot is counted modulo
_MOST_FAR = 1 << 12


@dataclass(frozen=True, eq=False)
class Slots:
    """Blocks in use, free slots, and slots that are groups themselves: each in the order of the
    groups that they are in."""

    blocks: Addresses
    sizes: Addresses  # that the program asked for
    groups: NDArray[np.intp]  # the row of the group of each block
    free: Addresses
    free_sizes: Addresses
    nested: Addresses
    problems: tuple[str, ...]


def read_slots(image: MemoryImage, groups: Groups) -> Slots:
    """All slots of all groups."""
    rows = np.repeat(np.arange(len(groups.at)), groups.counts)
    firsts = np.cumsum(groups.counts) - groups.counts
    numbers = np.arange(len(rows)) - firsts[rows]
    strides = groups.strides[rows]
    starts = groups.at[rows] + np.uint64(UNIT) + strides * numbers.astype(np.uint64)
    is_free = (groups.free[rows] >> numbers.astype(np.uint64) & np.uint64(1)) != 0

    header = image.gather(starts - np.uint64(8))
    units = (header >> np.uint64(48)) * (_high(header) == _MOVED)
    blocks: Addresses = starts + units * np.uint64(UNIT)
    single = np.nonzero(groups.is_single[rows] & ~is_free)[0]
    blocks[single] = _far(image, groups, rows[single], blocks[single])
    header = image.gather(blocks - np.uint64(8))
    is_freed = (header >> np.uint64(40) & np.uint64(255)) == np.uint64(_FREED)
    is_free |= is_freed
    is_nested = ~is_free & (_high(header) == _NESTED)
    is_block = ~is_free & ~is_nested

    ends = starts + strides - np.uint64(_AFTER_BYTES)
    spare = _high(header)
    long = image.gather(starts + strides - np.uint64(8)) & np.uint64(0xFFFFFFFF)
    spare = np.where(spare == _LONG, long, spare)
    is_right = _is_here(image, groups, rows, blocks)
    is_right &= (header >> np.uint64(40) & np.uint64(31)) == numbers.astype(np.uint64)
    is_right &= blocks + spare <= ends
    wrong = int(np.count_nonzero(is_block & ~is_right))
    is_block &= is_right
    problems = [f"{wrong:,} blocks are not where they say"] if wrong else []
    return Slots(
        blocks=blocks[is_block],
        sizes=(ends - spare - blocks)[is_block],
        groups=rows[is_block],
        free=starts[is_free],
        free_sizes=strides[is_free],
        nested=starts[is_nested],
        problems=tuple(problems),
    )


def _high(header: Addresses) -> Addresses:
    """The three highest bits of the third byte before a block; `header`: the eight bytes before."""
    return header >> np.uint64(45) & np.uint64(7)


def _is_here(
    image: MemoryImage, groups: Groups, rows: NDArray[np.intp], blocks: Addresses
) -> NDArray[np.bool_]:
    """Whether the bytes before a block say that it is here."""
    header = image.gather(blocks - np.uint64(8))
    units = (blocks - groups.at[rows]) // np.uint64(UNIT) - np.uint64(1)
    is_far = (header >> np.uint64(32) & np.uint64(255)) != 0
    said = np.where(is_far, header & np.uint64(0xFFFFFFFF), header >> np.uint64(48))
    is_here: NDArray[np.bool_] = said == units
    return is_here


def _far(
    image: MemoryImage, groups: Groups, rows: NDArray[np.intp], blocks: Addresses
) -> Addresses:
    """Where blocks with mappings of their own are: with an alignment of more than a MiB the
    distance doesn't fit, and they are further on."""
    found = blocks.copy()
    ends = groups.at[rows] + np.uint64(UNIT) + groups.strides[rows]
    at = np.nonzero(~_is_here(image, groups, rows, blocks))[0]
    for _ in range(_MOST_FAR):
        if not len(at):
            break
        found[at] += _FAR * np.uint64(UNIT)
        at = at[found[at] < ends[at]]
        at = at[~_is_here(image, groups, rows[at], found[at])]
    return found
