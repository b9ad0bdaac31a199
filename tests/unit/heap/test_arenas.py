"""Where the main arena is found, in memory laid out as struct malloc_state of several glibcs."""

from __future__ import annotations

import numpy as np
import pytest

from leaktrace.heap.glibc.arenas import find_ring
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.memory_image import MemoryImage, Segment

DATA, CHUNKS = 0x7F00_0000_0000, 0x5500_0000_0000
ARENA = DATA + 0xC60
BINS, PAIR_BYTES = 127, 16
NEXT, SYSTEM = 2048, 2072  # behind the first bin
MAPPINGS = (Mapping(DATA, DATA + 0x2000, "rw-p", 0, "08:01", 7, "/usr/lib/libc.so.6"),)


def image_of(before: int, filled: int, odd: tuple[int, ...] = ()) -> MemoryImage:
    """An arena with its bins `before` bytes from its start, of which the first `filled` have one
    chunk each. `odd`: bins whose chunk doesn't point back."""
    data = np.zeros(0x2000 // 8, dtype=np.uint64)
    chunks = np.zeros(BINS * 8, dtype=np.uint64)
    bins = ARENA + before

    def put(address: int, word: int) -> None:
        data[(address - DATA) // 8] = word

    for number in range(BINS):
        at = bins + PAIR_BYTES * number
        head = at - PAIR_BYTES
        chunk = CHUNKS + 64 * number if number < filled else head
        put(at, chunk)
        put(at + 8, chunk)
        if number < filled and number not in odd:
            chunks[8 * number + 2 : 8 * number + 4] = head
    put(bins + NEXT, ARENA)
    put(bins + SYSTEM, 135168)
    put(bins - 16, CHUNKS + 0x1000)
    return MemoryImage([Segment(DATA, data), Segment(CHUNKS, chunks)])


@pytest.mark.parametrize("filled", [0, 60, 126, 127])
@pytest.mark.parametrize(("before", "fastbins"), [(112, 10), (104, 10), (24, 0)])
def test_with_any_number_of_empty_bins(before: int, fastbins: int, filled: int) -> None:
    ring = find_ring(image_of(before, filled), MAPPINGS)
    assert ring is not None
    (state,) = ring.states
    assert ring.problems == ()
    assert (state.address, state.end) == (ARENA, ARENA + before + 2088)
    assert (state.system_bytes, state.top) == (135168, CHUNKS + 0x1000)
    assert len(state.fastbins) == fastbins


@pytest.mark.parametrize("odd", [(0,), (126,), (0, 126), (3, 50, 51)])
def test_while_bins_are_about_to_change(odd: tuple[int, ...]) -> None:
    ring = find_ring(image_of(112, BINS, odd), MAPPINGS)
    assert ring is not None
    assert (ring.states[0].address, ring.problems) == (ARENA, ())


def test_too_many_bins_that_are_none() -> None:
    assert find_ring(image_of(112, BINS, tuple(range(0, 60, 10))), MAPPINGS) is None
