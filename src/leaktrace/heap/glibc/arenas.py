"""What glibc's malloc knows of its arenas (struct malloc_state, malloc/malloc.c), found without
symbols and without the version of glibc.

The bins of the main arena are found by what they contain (targets/glibc_arenas.py). Other fields
lie at fixed distances from the bins since glibc 2.23; only what is before the lists of small
chunks (fastbins) has changed. The distance follows from the ring that all arenas form: the arena
after the last one is the main arena.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from leaktrace.targets.file_memory import writable_data
from leaktrace.targets.glibc_arenas import AFTER_BYTES, BINS, find_bins
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.memory_image import WORD_BYTES, MemoryImage

# Distances from the first bin, in bytes.
_FASTBINS, _TOP, _NEXT, _SYSTEM = -96, -16, 2048, 2072
_FASTBIN_COUNT = 10
_LEAST_WITH_FASTBINS = 104  # bytes before the bins; without them it is 24 (later than glibc 2.42)
_MOST_BEFORE = 256
_BINS_BYTES = 16 * BINS
_MOST_ARENAS = 1 << 14
_PIECE_BYTES = 1 << 20


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
            for places in find_bins(at, words, image.gather):
                if places[0] in seen:
                    continue
                seen.add(places[0])
                rings = [
                    _follow(image, bins - before, before, data)
                    for bins in places
                    for before in _distances(image, bins)
                ]
                yield from sorted(rings, key=lambda one: len(one.problems))[:1]


def _distances(image: MemoryImage, bins: int) -> list[int]:
    """How far the bins may be from the start of the structure."""
    following = image.word(bins + _NEXT)
    if 0 < bins - following < _MOST_BEFORE:
        return [bins - following]  # there is only this arena
    if following % WORD_BYTES:
        return []
    return [
        at - following
        for segment in image.within(following, following + _MOST_BEFORE + _BINS_BYTES)
        for places in find_bins(segment.start, segment.words, image.gather)
        for at in places
    ]


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
