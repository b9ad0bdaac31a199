"""The segments of the main arena: memory from the program break (brk(2)), or, where that was
refused, from mmap(2).

Usually there is one, which ends with the top chunk, and has as many bytes as the arena says that it
got. If the program moves the break itself, malloc goes on behind that memory, and counts it as its
own. If the break can't be moved, each further segment is a mapping.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from leaktrace.heap.glibc.arenas import ArenaState
from leaktrace.heap.glibc.chunks import (
    FENCE_BYTES,
    LEAST_BYTES,
    PREVIOUS_IN_USE,
    Run,
    is_fence,
    is_in_use,
    mapped_memory,
    size_at,
    walk,
)
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.memory_image import WORD_BYTES, MemoryImage
from leaktrace.targets.page_map import merge

_PAGE_BYTES = 4096
_CHUNK_STEP = 16
_FENCE_END = 32  # from where the chunks end to the end of the segment
_FIRST_PIECE, _LAST_PIECE = 1 << 8, 1 << 19  # places that are looked at together
_MOST_VAIN_CHUNKS = 4_000_000  # that are followed from where no segment begins
_MOST_PLACES = 1 << 25  # where a segment could begin


@dataclass(frozen=True, eq=False)
class MainHeap:
    runs: tuple[Run, ...]
    foreign_bytes: int  # that malloc counts, but the program has allocated itself
    problems: tuple[str, ...]


class _Search:
    """Looks for runs, and stops when too much was followed in vain."""

    def __init__(self, image: MemoryImage, arena: ArenaState) -> None:
        self.image = image
        self.top_end = arena.top + size_at(image, arena.top)
        self._arena = arena
        self._left = _MOST_VAIN_CHUNKS
        self._places_left = _MOST_PLACES

    @property
    def is_exhausted(self) -> bool:
        return self._left <= 0 or self._places_left <= 0

    def run_from(self, start: int, first: int, end: int) -> Run | None:
        """Chunks from `first` to the top chunk or to the end of a segment; None: there are none."""
        end = self.top_end if first < self.top_end < end else end  # others may be behind
        sizes, stop = walk(self.image, first, end)
        if len(sizes) and stop == self.top_end:
            return Run(self._arena.number, start, first, sizes, stop, stop, has_top=True)
        if len(sizes) and is_fence(self.image, stop):
            is_last_in_use = is_in_use(self.image, stop)
            behind = stop + _FENCE_END
            return Run(self._arena.number, start, first, sizes, stop, behind, False, is_last_in_use)
        self._left -= len(sizes) + 16
        return None

    def first_run(self, start: int, end: int, step: int) -> Run | None:
        """The first run that begins at a multiple of `step` from `start` on."""
        low, places = start, _FIRST_PIECE
        while low < end and not self.is_exhausted:
            high = min(low + places * step, end)
            self._places_left -= places
            for at in _beginnings(self.image, (low, high), end, step):
                if self.is_exhausted:
                    return None
                if (run := self.run_from(at, at, end)) is not None:
                    return run
            low, places = high, min(2 * places, _LAST_PIECE)
        return None


def walk_main_heap(image: MemoryImage, mappings: Sequence[Mapping], arena: ArenaState) -> MainHeap:
    """All segments of the main arena."""
    if arena.system_bytes == 0:
        return MainHeap((), 0, ())
    search = _Search(image, arena)
    found = _contiguous(search, arena, mappings)
    if found is not None:
        return found
    return _scattered(search, arena, mappings)


def _contiguous(search: _Search, arena: ArenaState, mappings: Sequence[Mapping]) -> MainHeap | None:
    """From the first break to the end of top. None: that is not where the arena is."""
    end = search.top_end
    start = end - arena.system_bytes
    if not any(low <= start and end <= high for low, high, _ in _places(mappings)):
        return None
    run = search.run_from(start, -(-start // _CHUNK_STEP) * _CHUNK_STEP, end)
    runs: list[Run] = []
    while run is not None:
        runs.append(run)
        if run.has_top:
            own = sum(one.end - one.start for one in runs)
            return MainHeap(tuple(runs), arena.system_bytes - own, ())
        run = search.first_run(run.end, end, _CHUNK_STEP)
    return None


def _scattered(search: _Search, arena: ArenaState, mappings: Sequence[Mapping]) -> MainHeap:
    """Segments wherever they are, until they have the bytes that the arena has."""
    runs: list[Run] = []
    for start, end, step in _places(mappings):
        at = start
        while at < end and not search.is_exhausted:
            run = search.first_run(at, end, step)
            if run is None:
                break
            runs.append(run)
            if _is_all(runs, arena):
                return MainHeap(tuple(runs), 0, ())
            at = -(-run.end // step) * step
    problems = []
    if not any(one.has_top for one in runs):
        problems.append("main arena: no chunks lead to its top chunk")
    if search.is_exhausted:
        problems.append("main arena: too much memory looks like the start of a segment")
    return MainHeap(tuple(runs), 0, tuple(problems))


def _is_all(runs: Sequence[Run], arena: ArenaState) -> bool:
    own = sum(one.end - one.start for one in runs)
    return own == arena.system_bytes and any(one.has_top for one in runs)


def _places(mappings: Sequence[Mapping]) -> list[tuple[int, int, int]]:
    """[start, end) of the memory that segments may be in, and of what their start is a multiple."""
    moved = [one for one in mappings if one.path == "[heap]" and one.permissions.startswith("rw")]
    by_break = merge(((one.start, one.end) for one in moved), 0)
    found = [(start, end, _CHUNK_STEP) for start, end in by_break]
    return sorted([*found, *((start, end, _PAGE_BYTES) for start, end in mapped_memory(mappings))])


def _beginnings(image: MemoryImage, piece: tuple[int, int], end: int, step: int) -> list[int]:
    """Where the first chunk of a segment may be: its flags are those of a first chunk, and another
    chunk, or the end of the segment, is behind it."""
    at = np.arange(*piece, step, dtype=np.uint64)
    words = image.gather(at + np.uint64(WORD_BYTES))
    sizes = words & np.uint64(0xFFFF_FFFF_FFFF_FFF8)
    is_first = (words & np.uint64(15)) == np.uint64(PREVIOUS_IN_USE)
    is_first &= (sizes >= np.uint64(LEAST_BYTES)) & (sizes <= np.uint64(end) - at)
    at, sizes = at[is_first], sizes[is_first]
    following = image.gather(at + sizes + np.uint64(WORD_BYTES))
    is_chunk = ((following & np.uint64(14)) == 0) & (following >= np.uint64(FENCE_BYTES))
    found: list[int] = at[is_chunk | (at + sizes == np.uint64(end))].tolist()
    return found
