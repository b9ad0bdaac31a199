"""What musl's malloc (mallocng, musl 1.2.1 and later) knows of its memory: groups of slots of one
size, each described by a struct meta. Found without symbols.

All struct meta lie in pages (struct meta_area) that form a list and begin with the same random
number, a secret. That number, and where the list begins, is in struct malloc_context, in the data
of libc. Source: src/malloc/mallocng/meta.h.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaktrace.heap.walked import Addresses
from leaktrace.targets.file_memory import writable_data
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.memory_image import WORD_BYTES, MemoryImage

UNIT = 16  # sizes and offsets are multiples of it; a group begins with as many bytes
AREA_BYTES = 4096
# In units, of the slots of each class (size_classes, malloc.c).
_CLASSES = (
    *(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 18, 20, 25, 31, 36, 42, 50, 63, 72, 84, 102, 127),
    *(146, 170, 204, 255, 292, 340, 409, 511, 584, 682, 818, 1023, 1169, 1364, 1637, 2047),
    *(2340, 2730, 3276, 4095, 4680, 5460, 6552, 8191),
)
_NO_CLASS = 63  # a block with a mapping of its own
_CONTEXT_BYTES = 928
# Words from the secret to the list of areas, to its last one, and to how many slots each class has.
# Where the size of pages is no constant (aarch64), it is a word more.
_AREAS, _LAST_AREA, _USAGE = 7, 8, 58
_PAGE_SIZE_WORDS = (0, 1)
_AREA_HEADER_BYTES = 24
_META_BYTES = 40
_METAS = (AREA_BYTES - _AREA_HEADER_BYTES) // _META_BYTES
_PIECE_WORDS = 1 << 17


@dataclass(frozen=True)
class Context:
    """struct malloc_context"""

    address: int
    areas: tuple[int, ...]
    usage: tuple[int, ...]  # slots of each class, of all groups but donated ones
    problems: tuple[str, ...]

    @property
    def end(self) -> int:
        return self.address + _CONTEXT_BYTES


@dataclass(frozen=True, eq=False)
class Groups:
    """A row for each group: where it begins, how many slots it has, of how many bytes, which are
    free (bits), and its bytes if it has a mapping, else 0."""

    at: Addresses
    counts: NDArray[np.int64]
    strides: Addresses
    free: Addresses
    mapped: Addresses
    classes: NDArray[np.int64]
    is_donated: NDArray[np.bool_]  # memory of a library that was left over

    @property
    def is_single(self) -> NDArray[np.bool_]:
        """Whether the group is the mapping of one block."""
        is_single: NDArray[np.bool_] = self.classes == _NO_CLASS
        return is_single

    @property
    def is_nested(self) -> NDArray[np.bool_]:
        """Whether the group is in a slot of another."""
        is_nested: NDArray[np.bool_] = (self.mapped == 0) & ~self.is_donated
        return is_nested


def find_context(image: MemoryImage, mappings: Sequence[Mapping]) -> Context | None:
    """None: there is no such malloc, or it has never been called."""
    for data in writable_data(mappings):
        for segment in image.within(*data):
            for first in range(0, len(segment.words), _PIECE_WORDS):
                words = segment.words[first : first + _PIECE_WORDS + _USAGE]
                for more in _PAGE_SIZE_WORDS:
                    for at in _secrets(image, words, more):
                        address = segment.start + (first + at) * WORD_BYTES
                        context = _context(image, address, more * WORD_BYTES)
                        if context is not None:
                            return context
    return None


def _secrets(image: MemoryImage, words: Addresses, more: int) -> list[int]:
    """Where a word is the same as the one in the page that another word points to."""
    count = len(words) - _LAST_AREA - more
    if count <= 0:
        return []
    areas = words[_AREAS + more :][:count]
    rows = np.nonzero((areas % np.uint64(AREA_BYTES) == 0) & (areas != 0) & (words[:count] != 0))[0]
    rows = rows[image.gather(areas[rows]) == words[rows]]
    found: list[int] = rows.tolist()
    return found


def _context(image: MemoryImage, address: int, more: int) -> Context | None:
    secret = image.word(address)
    at = image.word(address + _AREAS * WORD_BYTES + more)
    last = image.word(address + _LAST_AREA * WORD_BYTES + more)
    areas: dict[int, None] = {}  # in order
    while at % AREA_BYTES == 0 and image.word(at) == secret and at not in areas:
        areas[at] = None
        at = image.word(at + WORD_BYTES)
    if not areas:
        return None
    problems = []
    if at != 0 or next(reversed(areas)) != last:
        problems.append(f"the list of groups breaks off after {len(areas):,} pages")
    usage = tuple(
        image.word(address + (_USAGE + number) * WORD_BYTES + more)
        for number in range(len(_CLASSES))
    )
    return Context(address, tuple(areas), usage, tuple(problems))


def read_groups(image: MemoryImage, context: Context) -> tuple[Groups, list[str]]:
    """All groups, by ascending address, and what was wrong."""
    starts = np.array(context.areas, dtype=np.uint64) + np.uint64(_AREA_HEADER_BYTES)
    slots = np.arange(_METAS, dtype=np.uint64) * np.uint64(_META_BYTES)
    metas = (starts[:, None] + slots).ravel()
    at = image.gather(metas + np.uint64(16))
    metas, at = metas[at != 0], at[at != 0]
    is_group = (image.gather(at) == metas) & (at % np.uint64(UNIT) == 0)
    masks = image.gather(metas + np.uint64(24))
    word = image.gather(metas + np.uint64(32))
    counts = (word & np.uint64(31)).astype(np.int64) + 1
    classes = (word >> np.uint64(6) & np.uint64(63)).astype(np.int64)
    mapped = (word >> np.uint64(12)) * np.uint64(4096)
    is_classless = (classes == _NO_CLASS) & (counts == 1) & (mapped != 0)
    is_group &= is_classless | (classes < len(_CLASSES))
    units = np.array(_CLASSES, dtype=np.uint64)[np.where(classes < len(_CLASSES), classes, 0)]
    is_alone = (counts == 1) & (mapped != 0)
    strides = np.where(is_alone, mapped - np.uint64(UNIT), units * np.uint64(UNIT))
    needed = np.uint64(UNIT) + strides * counts.astype(np.uint64)
    is_group &= (mapped == 0) | ((needed <= mapped) & (mapped < np.uint64(1 << 46)))
    is_freeable = (word >> np.uint64(5) & np.uint64(1)) != 0
    rows = np.nonzero(is_group)[0]
    rows = rows[np.argsort(at[rows], kind="stable")]
    groups = Groups(
        at=at[rows],
        counts=counts[rows],
        strides=strides[rows],
        free=((masks | masks >> np.uint64(32)) & np.uint64(0xFFFFFFFF))[rows],
        mapped=mapped[rows],
        classes=classes[rows],
        is_donated=~is_freeable[rows],
    )
    problems = []
    if len(rows) < len(at):
        problems.append(f"{len(at) - len(rows):,} groups don't agree with what describes them")
    is_counted = (groups.classes < len(_CLASSES)) & ~groups.is_donated
    usage = np.bincount(
        groups.classes[is_counted], weights=groups.counts[is_counted], minlength=len(_CLASSES)
    )
    if usage.astype(np.int64).tolist() != list(context.usage):
        problems.append("there are other slots than the allocator counts")
    return groups, problems
