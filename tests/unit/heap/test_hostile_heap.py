"""Heaps that were written over: a walk ends, adds up, and says that it can't be trusted."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from harness.compiling import Compiler
from harness.target import Target
from stopped_image import image_of

from leaktrace.heap.walk import walk_heap
from leaktrace.heap.walked import WalkedHeap
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.memory_image import MemoryImage, Segment

VARIANTS = 30
MOST_WORDS = 200
_NEXT_ARENA = 112 + 2048  # in struct malloc_state


class Heap:
    """The heap of a program that rests, and ways to write over it."""

    def __init__(self, image: MemoryImage, mappings: Sequence[Mapping]) -> None:
        self.image, self.mappings = image, mappings
        walked = walk_heap(image, mappings)
        assert walked is not None
        assert walked.problems == ()
        self.walked: WalkedHeap = walked

    def with_words(self, words: dict[int, int]) -> WalkedHeap | None:
        """Walked with other words at these addresses."""
        image = MemoryImage([Segment(one.start, one.words.copy()) for one in self.image.segments])
        for address, word in words.items():
            segment = image.segment_at(address)
            if segment is not None:
                segment.words[(address - segment.start) // 8] = np.uint64(word)
        return walk_heap(image, self.mappings)


def heap_with(compiler: str, compiled: Compiler, factory: pytest.TempPathFactory) -> Heap:
    program = compiled("walked.c", compiler=compiler)
    file = factory.mktemp("walked") / "blocks"
    with Target([program, "2", "10000", file]) as target:
        target.await_ready().do()
        return Heap(*image_of(target.pid))


@pytest.fixture(scope="module", params=["gcc", "musl-gcc"])
def heap(
    request: pytest.FixtureRequest, compiled: Compiler, tmp_path_factory: pytest.TempPathFactory
) -> Heap:
    return heap_with(request.param, compiled, tmp_path_factory)


@pytest.fixture(scope="module")
def glibc_heap(compiled: Compiler, tmp_path_factory: pytest.TempPathFactory) -> Heap:
    return heap_with("gcc", compiled, tmp_path_factory)


def check(walked: WalkedHeap | None) -> None:
    if walked is None:
        return
    total = int((walked.segments[:, 1] - walked.segments[:, 0]).sum())
    held = int(walked.sizes.sum()) + int(walked.free_sizes.sum())
    assert total == held + walked.overhead_bytes
    assert walked.overhead_bytes >= 0 or walked.problems


@pytest.mark.parametrize("seed", range(VARIANTS))
def test_any_words_may_be_anything(heap: Heap, seed: int) -> None:
    rng = random.Random(seed)
    known = [
        *rng.sample((heap.walked.addresses - np.uint64(16)).tolist(), 20),
        *rng.sample(heap.walked.free_addresses.tolist(), 20),
        *heap.walked.structures[:, 0].tolist(),
    ]
    values = [0, 1, 17, 33, 1 << 63, (1 << 64) - 1, (1 << 64) - 8, *known]
    check(
        heap.with_words(
            {
                rng.choice(known) + 8 * rng.randrange(300): rng.choice(
                    [rng.choice(values), rng.getrandbits(64)]
                )
                for _ in range(rng.randrange(1, MOST_WORDS))
            }
        )
    )


@pytest.mark.parametrize("size", [0, 1 << 63, (1 << 64) - 16, 48, 40])
def test_a_size_of_a_chunk(glibc_heap: Heap, size: int) -> None:
    walked = glibc_heap.walked
    rows = np.nonzero((walked.arenas_of == 1) & (walked.sizes > 64))[0]
    row = int(rows[len(rows) // 2])
    damaged = glibc_heap.with_words({int(walked.addresses[row]) - 8: size | 5})
    check(damaged)
    assert damaged is not None
    assert damaged.problems


def test_arenas_in_a_loop_without_the_main_one(glibc_heap: Heap) -> None:
    other = glibc_heap.walked.arenas[1].address
    damaged = glibc_heap.with_words({other + _NEXT_ARENA: other})
    check(damaged)
    assert damaged is not None
    assert any("list of arenas" in one for one in damaged.problems)


def test_pages_that_are_missing(heap: Heap) -> None:
    rng = random.Random(1)
    for _ in range(10):
        kept = [one for one in heap.image.segments if rng.random() < 0.9]
        check(walk_heap(MemoryImage(kept), heap.mappings))
