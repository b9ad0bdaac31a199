"""The C++ classes of the blocks that have no record, by their first words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.reachability.pointers import within
from leaktrace.process.looked_at import LookedAt
from leaktrace.symbols.class_names import WORD_BYTES, ClassNames
from leaktrace.targets.mappings import Mapping


def classes_of(
    memory: LookedAt,
    starts: NDArray[np.uint64],
    pages: NDArray[np.uint64],
    mappings: Sequence[Mapping],
) -> tuple[list[str], NDArray[np.intp]]:
    """Names, and the number of that of each block; -1: it is no object of a class that is known.
    `pages`: [start, end), n x 2, ascending: memory that is there.

    Raises OSError when the process has ended, or its memory must not be read.
    """
    words = np.zeros(len(starts), dtype=np.uint64)
    there = np.nonzero(within(pages, starts) & (starts % np.uint64(WORD_BYTES) == 0))[0]
    words[there] = memory.first_words(starts[there])
    known = ClassNames(memory.read, mappings).classes_of(words)
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
