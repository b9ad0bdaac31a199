"""What blocks begin with: the first word of each says most about what it is, at a cost that allows
to look at millions of them.

An object of a C++ class with virtual functions begins with a pointer to its vtable, a string with
its text, a node of a list or tree with a pointer to another node.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.reachability.pointers import Blocks, within
from leaktrace.targets.memory_image import MemoryImage

Words = NDArray[np.uint64]

_LEAST_TEXT = 4  # bytes
_PREFIX = np.uint64(0xFFFF_FFFF)  # its first four bytes, on a machine that is little-endian
_FEW = 8  # texts that begin alike
_GOOD_PART = 0.02
OF_BITS = np.uint64(1 << 58)
_ADDRESS_BITS = np.uint64(48)
_KEY_BITS = np.uint64(60)  # of a packed number: user addresses and sizes have fewer


class Beginning(IntEnum):
    """What the first word of a block is."""

    OTHER = 0
    ZERO = 1
    BLOCK = 2  # a pointer to a block
    FILE = 3  # a pointer into memory of a file: a vtable, a function, a constant
    TEXT = 4


@dataclass(frozen=True)
class Grouped:
    """The groups of some blocks, and the group of each."""

    packed: Words  # ascending: a kind and its key
    group_of: NDArray[np.intp]  # of each block; len(packed): it is in none of them

    def __len__(self) -> int:
        return len(self.packed)

    @property
    def number_count(self) -> int:
        """How many numbers `group_of` may have: one more than groups."""
        return len(self.packed) + 1

    def kind(self, row: int) -> Beginning:
        """What the blocks of a group begin with."""
        return Beginning(int(self.packed[row] >> _KEY_BITS))

    def key(self, row: int) -> int:
        """Of FILE the word; of TEXT its first four bytes, or 0 for all others; else the size, or
        its bits with OF_BITS."""
        return int(self.packed[row] & ((np.uint64(1) << _KEY_BITS) - np.uint64(1)))


def group(
    image: MemoryImage, blocks: Blocks, file_ranges: Words, every: Blocks | None = None
) -> Grouped:
    """`file_ranges`: [start, end), n x 2, ascending: memory of files, and of the data behind it.
    `every`: all blocks that these may point to, if there are others.

    Blocks are of one group if they point to the same place in a file; if they are texts whose first
    four bytes are the same, or are of no such group; otherwise if they begin with the same kind of
    word and have the same size, or one of many sizes that are about the same.
    """
    words = image.gather(blocks.starts)
    kinds = _kinds(words, blocks if every is None else every, file_ranges)
    keys = np.empty(len(words), dtype=np.uint64)
    for kind in (Beginning.ZERO, Beginning.BLOCK, Beginning.OTHER):
        rows = np.nonzero(kinds == kind)[0]
        keys[rows] = _size_keys(blocks.ends[rows] - blocks.starts[rows])
    is_file, is_text = kinds == Beginning.FILE, kinds == Beginning.TEXT
    keys[is_file] = words[is_file]
    keys[is_text] = _text_keys(words[is_text])
    packed = keys | kinds.astype(np.uint64) << _KEY_BITS
    found, group_of = np.unique(packed, return_inverse=True)
    return Grouped(found, group_of)


def group_some(
    image: MemoryImage, blocks: Blocks, rows: NDArray[np.intp], file_ranges: Words
) -> Grouped:
    """The same of some of the blocks. All others are in no group."""
    some = Blocks(blocks.starts[rows], blocks.ends[rows] - blocks.starts[rows])
    grouped = group(image, some, file_ranges, blocks)
    group_of = np.full(len(blocks), len(grouped), dtype=np.intp)
    group_of[rows] = grouped.group_of
    return Grouped(grouped.packed, group_of)


def _kinds(words: Words, blocks: Blocks, file_ranges: Words) -> NDArray[np.uint8]:
    kinds = np.full(len(words), Beginning.OTHER, dtype=np.uint8)
    kinds[words == 0] = Beginning.ZERO
    kinds[_is_text(words)] = Beginning.TEXT
    kinds[within(file_ranges, words)] = Beginning.FILE
    # The six bytes of an address may be printable by chance. A text that is an address is rarer.
    is_address = words >> _ADDRESS_BITS == 0
    rows = np.nonzero(is_address & (kinds != Beginning.ZERO))[0]
    kinds[rows[blocks.find(words[rows]) >= 0]] = Beginning.BLOCK
    return kinds


def _is_text(words: Words) -> NDArray[np.bool_]:
    """Whether they begin with at least four printable bytes (ASCII or UTF-8), and have zeros after
    them, or none others."""
    each = np.ascontiguousarray(words).view(np.uint8).reshape(-1, 8)
    is_ascii = (each >= 0x20) & (each < 0x7F) | (each == 0x09) | (each == 0x0A) | (each == 0x0D)
    # Of UTF-8 (RFC 3629): bytes that begin a character of several, and those that go on with it.
    begins, goes_on = (each >= 0xC2) & (each <= 0xF4), (each & 0xC0) == 0x80
    may_follow = np.zeros_like(goes_on)
    may_follow[:, 1:] = begins[:, :-1] | goes_on[:, :-1]
    is_followed = np.ones_like(begins)
    is_followed[:, :-1] = goes_on[:, 1:]
    is_printable = is_ascii | (begins & is_followed) | (goes_on & may_follow)
    length = np.where(is_printable.all(axis=1), 8, is_printable.argmin(axis=1))
    shift = np.minimum(length, 7).astype(np.uint64) * np.uint64(8)
    is_text: NDArray[np.bool_] = (length == 8) | (words >> shift == 0)
    return is_text & (length >= _LEAST_TEXT)


def _size_keys(sizes: Words) -> Words:
    """The size, if blocks of this size hold a good part of all; else how many bits it has, and a
    mark that no size has."""
    found, group_of, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    held = counts * found.astype(np.float64)
    bits = np.frexp(found.astype(np.float64))[1].astype(np.uint64) | OF_BITS
    keys = np.where(held >= _GOOD_PART * held.sum(), found, bits) if len(found) else found
    chosen: Words = keys[group_of]
    return chosen


def _text_keys(words: Words) -> Words:
    """The first four bytes, where enough texts have the same; 0: all others."""
    prefixes: Words = words & _PREFIX
    _, group_of, counts = np.unique(prefixes, return_inverse=True, return_counts=True)
    prefixes[counts[group_of] < _FEW] = 0
    return prefixes
