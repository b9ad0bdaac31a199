"""The C++ classes of the blocks that have no record, by their first words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.reachability.pointers import within
from leaktrace.symbols.class_names import WORD_BYTES, ClassNames
from leaktrace.targets.dead_stacks import ReadMemory
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.remote_read import MOST_RANGES, read_into


def classes_of(
    pid: int,
    starts: NDArray[np.uint64],
    pages: NDArray[np.uint64],
    mappings: Sequence[Mapping],
    read: ReadMemory,
) -> tuple[list[str], NDArray[np.intp]]:
    """Names, and the number of that of each block; -1: it is no object of a class that is known.
    `pages`: [start, end), n x 2, ascending: memory that is there; `read`: within a page.

    Raises OSError when the process has ended, or its memory must not be read.
    """
    words = np.zeros(len(starts), dtype=np.uint64)
    there = np.nonzero(within(pages, starts) & (starts % np.uint64(WORD_BYTES) == 0))[0]
    words[there] = _first_words(pid, starts[there])
    known = ClassNames(read, mappings).classes_of(words)
    names = sorted(set(known.values()))
    number_of = {word: names.index(name) for word, name in known.items()}
    vtables = np.array(sorted(number_of), dtype=np.uint64)
    numbers = np.full(len(starts), -1, dtype=np.intp)
    if len(vtables):
        at = np.searchsorted(vtables, words).clip(max=len(vtables) - 1)
        of_vtable = np.array([number_of[word] for word in vtables.tolist()], dtype=np.intp)
        is_known = vtables[at] == words
        numbers[is_known] = of_vtable[at[is_known]]
    return names, numbers


def _first_words(pid: int, starts: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """0 for those that can't be read."""
    words = np.zeros(len(starts), dtype=np.uint64)
    ranges = np.stack([starts, starts + np.uint64(WORD_BYTES)], axis=1)
    row = 0
    while row < len(ranges):
        some = ranges[row : row + MOST_RANGES]
        got = read_into(words[row:].ctypes.data, pid, some) // WORD_BYTES
        row += got if got == len(some) else got + 1
    return words
