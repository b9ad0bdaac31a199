"""What glibc's malloc knows of its arenas (struct malloc_state, malloc/malloc.c), found without
symbols and without the version of glibc.

The bins of the main arena are found by what they contain. (targets/glibc_arenas.py does so with
single pages of a running process, this with all words of an image.) Other fields
lie at fixed distances from the bins since glibc 2.23; only what is before the lists of small
chunks (fastbins) has changed. The distance follows from the ring that all arenas form: the arena
after the last one is the main arena.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from leaktrace.heap.walked import Addresses
from leaktrace.targets.file_memory import writable_data
from leaktrace.targets.glibc_arenas import AFTER_BYTES, BINS
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.memory_image import WORD_BYTES, MemoryImage

# Distances from the first bin, in bytes.
_FASTBINS, _TOP, _NEXT, _SYSTEM = -96, -16, 2048, 2072
_FASTBIN_COUNT = 10
_LEAST_WITH_FASTBINS = 104  # bytes before the bins; without them it is 24 (later than glibc 2.42)
_MOST_BEFORE = 256
_MOST_ODD = 4  # bins that are about to change
_MOST_ARENAS = 1 << 14
_PIECE_BYTES = 1 << 20
# A bin is the header of a chunk that has only the pointers.
_HEAD_BYTES, _FORWARD, _BACK = 16, 16, 24


@dataclass(frozen=True)
class ArenaState:
    """One struct malloc_state."""

    number: int
    address: int
    end: int
    top: int  # the address of the top chunk
    system_bytes: int
    fastbins: tuple[int, ...]  # the first chunk of each list, 0: none. From 32 bytes on, by 16
    is_locked: bool

    @property
    def is_main(self) -> bool:
        return self.number == 0


@dataclass(frozen=True)
class Ring:
    """All arenas, the main arena first."""

    states: tuple[ArenaState, ...]
    data: tuple[int, int]  # the memory that the main arena is in: writable data of a file
    problems: tuple[str, ...]


def find_ring(image: MemoryImage, mappings: Sequence[Mapping]) -> Ring | None:
    """The arenas of the malloc that has most memory; None: there is no glibc malloc, or it has
    never been called."""
    found = [ring for data in writable_data(mappings) for ring in _rings(image, data)]
    if not found:
        return None
    found.sort(key=lambda one: sum(state.system_bytes for state in one.states), reverse=True)
    first, *others = found
    in_others = sum(state.system_bytes for one in others for state in one.states)
    if in_others == 0:
        return first
    problem = f"there is more than one malloc of glibc: another has {in_others:,} bytes"
    return Ring(first.states, first.data, (*first.problems, problem))


def _rings(image: MemoryImage, data: tuple[int, int]) -> Iterator[Ring]:
    seen = set()
    for segment in image.within(*data):
        # Pieces overlap by more than the bins: these are whole in one of them.
        for at in range(segment.start, segment.end, _PIECE_BYTES - _NEXT):
            first = (at - segment.start) // WORD_BYTES
            words = segment.words[first : first + _PIECE_BYTES // WORD_BYTES]
            for places in _find_bins(image, at, words):
                if places[0] in seen:
                    continue
                seen.add(places[0])
                distances = ((bins, _bytes_before(image, bins)) for bins in places)
                rings = [
                    _follow(image, bins - before, before, data)
                    for bins, before in distances
                    if before is not None
                ]
                yield from sorted(rings, key=lambda one: len(one.problems))[:1]


def _find_bins(image: MemoryImage, start: int, words: Addresses) -> list[list[int]]:
    """Where the bins of arenas begin: 127 pairs of words, each the first and the last chunk of a
    list that point back to it. An empty list is its own first and last one. Where bins are about to
    change, several places may be as likely."""
    found: list[list[int]] = []
    if len(words) < 2 * BINS:
        return found
    first, last = words[:-1], words[1:]
    places = np.uint64(start) + np.arange(len(first), dtype=np.uint64) * np.uint64(WORD_BYTES)
    heads = places - np.uint64(_HEAD_BYTES)
    # Chunks are at multiples of 16, but heads of empty lists need not be.
    is_list = (first != 0) & (last != 0) & ((first | last) % np.uint64(WORD_BYTES) == 0)
    rows = np.nonzero(is_list)[0]
    is_list[rows] = image.gather(first[rows] + np.uint64(_BACK)) == heads[rows]
    is_list[rows] &= image.gather(last[rows] + np.uint64(_FORWARD)) == heads[rows]
    for offset in (0, 1):
        sums = np.concatenate([[0], np.cumsum(is_list[offset::2])])
        counts = sums[BINS:] - sums[:-BINS]
        likely = np.nonzero(counts >= BINS - _MOST_ODD)[0]
        for near in np.split(likely, np.nonzero(np.diff(likely) > BINS)[0] + 1):
            if len(near):
                best = near[counts[near] == counts[near].max()]
                found.append(places[offset + 2 * best].tolist())
    return found


def _bytes_before(image: MemoryImage, bins: int) -> int | None:
    """How far the bins are from the start of the structure."""
    following = image.word(bins + _NEXT)
    if 0 < bins - following < _MOST_BEFORE:
        return bins - following  # there is only this arena
    return next(
        (
            distance
            for distance in range(16, _MOST_BEFORE, WORD_BYTES)
            if _has_bins(image, following + distance)
        ),
        None,
    )


def _has_bins(image: MemoryImage, at: int) -> bool:
    """Whether the first bin is here, and no other."""
    if _is_bin(image, at - 16) or not _is_bin(image, at):
        return False
    odd = 0
    for number in range(BINS):
        odd += not _is_bin(image, at + 16 * number)
        if odd > _MOST_ODD:
            return False
    return True


def _is_bin(image: MemoryImage, at: int) -> bool:
    first, last, head = image.word(at), image.word(at + 8), at - 16
    if first == last == head:
        return True
    if not first or first % 16 or last % 16:
        return False
    return image.word(first + 24) == head and image.word(last + 16) == head


def _follow(image: MemoryImage, main: int, before: int, data: tuple[int, int]) -> Ring:
    states: list[ArenaState] = []
    at, seen = main, set[int]()
    while len(states) < _MOST_ARENAS:
        seen.add(at)
        states.append(_state(image, len(states), at, before))
        at = image.word(at + before + _NEXT)
        if at == main:
            return Ring(tuple(states), data, ())
        if at in seen or at % WORD_BYTES or image.word(at + before + _NEXT) == 0:
            break
    problem = f"the list of arenas breaks off after {len(states):,}"
    return Ring(tuple(states), data, (problem,))


def _state(image: MemoryImage, number: int, address: int, before: int) -> ArenaState:
    bins = address + before
    fastbins = (
        tuple(image.word(bins + _FASTBINS + WORD_BYTES * at) for at in range(_FASTBIN_COUNT))
        if before >= _LEAST_WITH_FASTBINS
        else ()
    )
    return ArenaState(
        number=number,
        address=address,
        end=bins + AFTER_BYTES,
        top=image.word(bins + _TOP),
        system_bytes=image.word(bins + _SYSTEM),
        fastbins=fastbins,
        is_locked=image.word(address & ~7) & 0xFFFFFFFF != 0,
    )
