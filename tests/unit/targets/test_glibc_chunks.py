"""Chunks of a heap built by hand, as malloc lays them out."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from leaktrace.targets.bulk_memory import Piece
from leaktrace.targets.glibc_chunks import apart_from, find_chunks, find_mapped_chunks
from leaktrace.targets.mappings import Mapping

PAGE = 4096
START = 0x5555_0000_0000


class Heap:
    """Memory with chunks one after the other; the last one is what is left."""

    def __init__(self, pages: int) -> None:
        self.words = np.zeros(pages * PAGE // 8, dtype=np.uint64)
        self.at = START
        self.chunks: list[tuple[int, int, bool]] = []  # start of the block, its end, in use

    @property
    def end(self) -> int:
        return START + self.words.nbytes

    def add(self, size: int, *, in_use: bool = True) -> tuple[int, int]:
        """A chunk. Returns its block."""
        before_in_use = not self.chunks or self.chunks[-1][2]
        self.put(self.at + 8, size | before_in_use)
        block = (self.at + 16, self.at + size + 8)
        self.chunks.append((*block, in_use))
        self.at += size
        return block

    def finish(self) -> None:
        self.add(self.end - self.at, in_use=False)

    def put(self, address: int, word: int) -> None:
        self.words[(address - START) // 8] = word

    def read(self, address: int, size: int) -> bytes:
        assert address // PAGE == (address + size - 1) // PAGE
        offset = address - START
        return self.words.view(np.uint8)[max(offset, 0) : offset + size].tobytes()

    def pieces(self, ranges: NDArray[np.uint64]) -> Iterator[Piece]:
        parts = [
            self.words[(low - START) // 8 : (high - START) // 8] for low, high in ranges.tolist()
        ]
        if parts:
            yield Piece(np.concatenate(parts), ranges, 0)


def found_in(heap: Heap, known: Iterable[tuple[int, int]], first: bool = True) -> list[list[int]]:
    blocks = np.array(sorted(known), dtype=np.uint64).reshape(-1, 2)
    found = find_chunks(
        [(START, heap.end)],
        [START] if first else [],
        blocks[:, 0],
        blocks[:, 1] - blocks[:, 0],
        heap.read,
    )
    listed: list[list[int]] = found.tolist()
    return listed


def random_heap(seed: int) -> Heap:
    chance = random.Random(seed)
    heap = Heap(64)
    while heap.at < heap.end - 3 * PAGE:
        was_free = bool(heap.chunks) and not heap.chunks[-1][2]
        size = 16 * chance.randrange(2, chance.choice([4, 20, 300]))
        heap.add(size, in_use=was_free or chance.random() < 0.8)
    heap.add(32)
    heap.finish()
    return heap


@pytest.mark.parametrize("seed", range(12))
def test_what_is_between_known_blocks(seed: int) -> None:
    heap, chance = random_heap(seed), random.Random(seed)
    in_use = [(start, end) for start, end, is_used in heap.chunks if is_used]
    share = chance.choice([0.0, 0.1, 0.9])
    # A program asks for up to 24 bytes less than it gets.
    known = {
        block: block[1] - chance.choice([0, 1, 8, 15])
        for block in in_use
        if chance.random() < share
    }
    found = found_in(heap, [(start, end) for (start, _), end in known.items()])
    assert found == [list(block) for block in in_use if block not in known]


def test_without_a_beginning() -> None:
    """Nothing is known of what is before the first known block."""
    heap = Heap(2)
    heap.add(64)
    known = heap.add(48)
    after = heap.add(80)
    heap.finish()
    assert found_in(heap, [known], first=False) == [list(after)]


def test_a_gap_that_does_not_lead_to_the_next_block_is_left_out() -> None:
    heap = Heap(2)
    first, wrong, second = heap.add(64), heap.add(48), heap.add(64)
    between, last = heap.add(96), heap.add(64)
    heap.finish()
    for size in (0, 8, 16, 40, 64, 1 << 63, (1 << 64) - 16):
        heap.put(wrong[0] - 8, size | 1)
        assert found_in(heap, [first, second, last]) == [list(between)]


def test_pages_that_can_not_be_read() -> None:
    heap = Heap(4)
    first = heap.add(PAGE * 2)
    heap.add(64)
    last = heap.add(64)
    heap.finish()
    found = find_chunks(
        [(START, heap.end)],
        [START],
        np.array([first[0], last[0]], dtype=np.uint64),
        np.array([PAGE, 40], dtype=np.uint64),
        lambda address, size: b"" if address >= START + 2 * PAGE else heap.read(address, size),
    )
    assert not len(found)


def mapped_in(heap: Heap, *present: tuple[int, int]) -> list[list[int]]:
    mapping = Mapping(START, heap.end, "rw-p", 0, "00:00", 0, "")
    ranges = np.array(present or [(START, heap.end)], dtype=np.uint64)
    listed: list[list[int]] = find_mapped_chunks([mapping], ranges, heap.pieces).tolist()
    return listed


def test_blocks_that_are_mapped() -> None:
    heap = Heap(200)
    for page, pages in ((3, 40), (43, 33), (100, 64)):
        heap.put(START + page * PAGE + 8, pages * PAGE | 2)
    heap.put(START + 20 * PAGE + 8, 50 * PAGE | 2)  # within a block
    heap.put(START + 90 * PAGE + 8, 8 * PAGE | 2)  # too small
    heap.put(START + 180 * PAGE + 8, 64 * PAGE | 2)  # too large
    heap.put(START + 170 * PAGE, 1)
    heap.put(START + 170 * PAGE + 8, 29 * PAGE | 2)  # not at its beginning
    expected = [
        [START + page * PAGE + 16, START + (page + pages) * PAGE]
        for page, pages in ((3, 40), (43, 33), (100, 64))
    ]
    assert mapped_in(heap) == expected
    # Pages that are not in memory are not read.
    assert mapped_in(heap, (START + 50 * PAGE, heap.end)) == expected[2:]


def test_apart() -> None:
    known = np.array([(10, 20), (30, 40)], dtype=np.uint64)
    blocks = np.array(
        [(0, 10), (0, 11), (15, 16), (19, 25), (20, 30), (25, 31), (5, 50), (40, 41)],
        dtype=np.uint64,
    )
    assert apart_from(blocks, known).tolist() == [[0, 10], [20, 30], [40, 41]]
    assert apart_from(blocks, known[:0]).tolist() == blocks.tolist()
