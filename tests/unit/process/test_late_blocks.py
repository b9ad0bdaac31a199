"""Blocks that come while memory is read: paths are as if they had been known from the start."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from leaktrace.abi import process as abi
from leaktrace.analysis.reachability import kept_details
from leaktrace.analysis.reachability.holders import Held, find_holders
from leaktrace.analysis.reachability.kept_details import Details, RootRank
from leaktrace.analysis.reachability.pointers import Blocks, Pointers
from leaktrace.process import late_blocks
from leaktrace.process.block_records import BlockRecords
from leaktrace.process.late_blocks import BlockGraph, with_late_blocks
from leaktrace.targets.bulk_memory import Piece

BASE, STEP, SIZE = 0x10_0000, 0x80, 0x40
ROOTS = 0x1000
NO_RECORD = (1 << 64) - 1
TIME = 1000
Words = NDArray[np.uint64]


class Memory:
    """Blocks in a row, with pointers to each other, and roots."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        self.count = chance.choice([2, 20, 400])
        self.words: dict[int, int] = {}
        for block in range(self.count):
            for place in chance.sample(range(0, SIZE, 8), chance.choice([0, 1, 2])):
                target = chance.choice([chance.randrange(self.count), (block + 1) % self.count])
                inside = chance.choice([0, 0, 0, 16])
                if target != block:
                    self.words[self.start(block) + place] = self.start(target) + inside
        for at in range(3):
            self.words[ROOTS + 8 * at] = self.start(chance.randrange(self.count))

    @staticmethod
    def start(block: int) -> int:
        return BASE + block * STEP

    def starts(self, blocks: list[int]) -> Words:
        return np.array([self.start(block) for block in blocks], dtype=np.uint64)

    def all_words(self) -> tuple[Words, Words]:
        addresses = sorted(self.words)
        values = [self.words[one] for one in addresses]
        return np.array(addresses, dtype=np.uint64), np.array(values, dtype=np.uint64)

    def read(self, ranges: Words) -> Iterator[Piece]:
        for low, high in ranges.tolist():
            words = [self.words.get(at, 0) for at in range(low, high, 8)]
            yield Piece(np.array(words, dtype=np.uint64), np.array([(low, high)], np.uint64), 0)


def rank_of(addresses: Words) -> NDArray[np.uint8]:
    return np.zeros(len(addresses), dtype=np.uint8)


def sizes(count: int) -> Words:
    return np.full(count, SIZE, dtype=np.uint64)


def graph_of(memory: Memory, known: list[int]) -> tuple[BlockGraph, Details]:
    blocks = Blocks(memory.starts(known), sizes(len(known)))
    details = Details(len(known), rank_of)
    pointers = Pointers(blocks, details=details)
    pointers.add(*memory.all_words())
    ids = np.array(sorted(known), dtype=np.uint64)
    return BlockGraph(
        blocks,
        ids,
        np.full(len(known), TIME, dtype=np.uint64),
        pointers.between_blocks(),
        details.places(),
        details.insides(),
        details.roots(),
    ), details


def records_of(
    starts: Words, wide: Words | None = None, ids: Words | None = None, time_ns: int = TIME
) -> BlockRecords:
    values = np.zeros(len(starts), dtype=abi.ALLOCATION)
    values["size"] = sizes(len(starts)) if wide is None else wide
    values["stack_id"] = 0 if ids is None else ids
    values["time_ns"] = time_ns
    return BlockRecords.of(starts, values)


def held_in(graph: BlockGraph) -> Held:
    return find_holders(
        graph.stack_ids.astype(np.int32),
        graph.between,
        graph.places,
        roots=graph.roots,
        owners=np.zeros(len(graph.roots.targets), dtype=np.int32),
        root_offsets=np.zeros(len(graph.roots.targets), dtype=np.int64),
    )


def depths(held: Held) -> list[int]:
    return [held.paths.depths[path] if path >= 0 else -1 for path in held.of_block.tolist()]


@pytest.mark.parametrize("seed", range(20))
def test_as_if_they_had_been_known(seed: int) -> None:
    memory, chance = Memory(seed), random.Random(seed)
    blocks = list(range(memory.count))
    known = sorted(chance.sample(blocks, chance.choice([1, memory.count // 2, memory.count])))
    early, details = graph_of(memory, known)
    chance.shuffle(blocks)
    records = records_of(memory.starts(blocks), ids=np.array(blocks, dtype=np.uint64))
    late, numbers = with_late_blocks(early, details, records, memory.read)
    whole, _ = graph_of(memory, list(range(memory.count)))
    assert late.blocks.starts.tolist() == whole.blocks.starts.tolist()
    assert late.stack_ids.tolist() == whole.stack_ids.tolist()
    assert numbers.tolist() == known

    def edges(graph: BlockGraph) -> set[tuple[object, ...]]:
        columns = (*graph.between, graph.places)
        return set(zip(*(one.tolist() for one in columns), strict=True))

    assert edges(late) == edges(whole)
    assert set(late.roots.targets.tolist()) == set(whole.roots.targets.tolist())
    if memory.count <= 20:  # longer paths are others
        assert depths(held_in(late)) == depths(held_in(whole))


def test_the_head_of_a_list() -> None:
    memory = Memory(0)
    memory.count = 300
    memory.words = {memory.start(one): memory.start(one - 1) for one in range(1, 300)}
    memory.words[ROOTS] = memory.start(299)
    early, details = graph_of(memory, list(range(290)))
    assert early.roots.addresses.tolist() == [memory.start(290)]  # nobody knows that it is a block
    records = records_of(memory.starts(list(range(300))))
    late, numbers = with_late_blocks(early, details, records, memory.read)
    assert len(numbers) == 290
    assert late.roots.addresses.tolist() == [ROOTS]
    assert (held_in(late).of_block >= 0).all()


def test_a_large_block_does_not_hide_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late_blocks, "_MOST_LATE_BYTES", 1000)
    memory = Memory(0)
    memory.count = 300
    memory.words = {memory.start(one): memory.start(one - 1) for one in range(21, 300)}
    memory.words[ROOTS] = memory.start(299)
    early, details = graph_of(memory, list(range(20, 290)))
    new = [0, *range(20, 300)]
    wide = sizes(len(new))
    wide[0] = 15 * STEP
    late, _ = with_late_blocks(early, details, records_of(memory.starts(new), wide), memory.read)
    assert late.blocks.starts.tolist() == memory.starts(new[1:]).tolist()
    assert (held_in(late).of_block >= 0).all()
    assert (late.left_out_count, late.left_out_bytes) == (1, 15 * STEP)


def test_all_new_blocks_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is read, and all are counted."""
    monkeypatch.setattr(late_blocks, "_MOST_LATE_BYTES", SIZE - 1)
    memory = Memory(4)
    memory.count = 300
    known = list(range(290))
    early, details = graph_of(memory, known)
    every = memory.starts(list(range(300)))
    late, numbers = with_late_blocks(early, details, records_of(every), memory.read)
    assert (late.left_out_count, late.left_out_bytes) == (10, 10 * SIZE)
    assert (len(late.blocks), numbers.tolist()) == (290, known)
    nothing, _ = with_late_blocks(early, details, records_of(every[:290]), memory.read)
    assert (nothing.left_out_count, nothing.left_out_bytes) == (0, 0)


def test_words_that_were_too_many_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_details, "_MOST_UNRESOLVED", 1)
    details = Details(1, lambda addresses: np.full(len(addresses), RootRank.OTHER, dtype=np.uint8))
    for count in (5, 3, 4):
        words = np.arange(count, dtype=np.uint64)
        details.add_unresolved(words, words)
    assert details.left_out_words == 3 + 4
    assert len(details.unresolved()[0]) == 5


def test_a_block_that_had_no_record_at_first() -> None:
    memory = Memory(1)
    memory.count = 20
    early, details = graph_of(memory, list(range(memory.count)))
    early.stack_ids[:3] = NO_RECORD
    early.times_ns[:3] = 0
    named = [1, *range(3, memory.count)]
    ids = np.array([77, *named[1:]], dtype=np.uint64)
    smaller = sizes(len(named))
    smaller[0] -= np.uint64(24)
    records = records_of(memory.starts(named), smaller, ids)
    late, numbers = with_late_blocks(early, details, records, memory.read)
    assert late.stack_ids[:3].tolist() == [NO_RECORD, 77, NO_RECORD]
    assert late.blocks.ends[1] - late.blocks.starts[1] == SIZE - 24
    assert numbers.tolist() == [0, -1, *range(2, memory.count)]


def test_memory_that_was_given_out_again() -> None:
    """Nothing of a block that was freed meanwhile counts, but what is there now does."""
    memory = Memory(0)
    memory.count = 5
    first, middle, last = (memory.start(one) for one in (1, 2, 3))
    # A large block was in the middle; now there are two small ones, and one leads to the last.
    memory.words = {
        ROOTS: first,
        first: middle + 0x20,
        middle + 0x20: last,
        middle + 0x28: memory.start(4),
    }
    early, details = graph_of(memory, [1, 2, 3, 4])
    del memory.words[middle + 0x28]
    places = np.array([first, middle, middle + 0x20, last, memory.start(4)], dtype=np.uint64)
    wide = np.array([SIZE, 16, 16, SIZE, SIZE], dtype=np.uint64)
    ids = np.array([1, 20, 21, 3, 4], dtype=np.uint64)
    records = records_of(places, wide, ids)
    records.times_ns[1:3] = TIME + 1
    late, numbers = with_late_blocks(early, details, records, memory.read)
    assert numbers.tolist() == [0, -1, 3, 4]
    assert late.stack_ids.tolist() == [1, 20, 21, 3, 4]
    assert {tuple(one) for one in zip(*(each.tolist() for each in late.between), strict=True)} == {
        (0, 2, True),
        (2, 3, True),
    }
    assert (held_in(late).of_block >= 0).tolist() == [True, False, True, True, False]


def test_a_chunk_that_is_in_the_way() -> None:
    """It had no record, and was freed: its memory is in use for another block now."""
    memory = Memory(2)
    early, details = graph_of(memory, list(range(memory.count)))
    early.stack_ids[0], early.times_ns[0] = NO_RECORD, 0
    others = list(range(1, memory.count))
    places = np.append(memory.starts(others), np.uint64(memory.start(0) + 16))
    wide = np.append(sizes(len(others)), np.uint64(16))
    ids = np.append(np.array(others, dtype=np.uint64), np.uint64(500))
    late, numbers = with_late_blocks(early, details, records_of(places, wide, ids), memory.read)
    assert numbers[0] == -1
    assert (numbers[1:] > 0).all()
    assert int(late.stack_ids[0]) == 500


def test_no_records() -> None:
    """All blocks were freed; those without a record stay."""
    memory = Memory(3)
    early, details = graph_of(memory, list(range(memory.count)))
    early.stack_ids[0], early.times_ns[0] = NO_RECORD, 0
    nothing = np.empty(0, dtype=np.uint64)
    late, numbers = with_late_blocks(early, details, records_of(nothing), memory.read)
    assert numbers.tolist() == [0] + [-1] * (memory.count - 1)
    assert late.blocks.starts.tolist() == [memory.start(0)]
