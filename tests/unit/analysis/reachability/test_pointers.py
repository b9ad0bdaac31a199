"""Which words point to which blocks, for memory made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from leaktrace.analysis.block_classes import BlockClass
from leaktrace.analysis.reachability.classes import classify
from leaktrace.analysis.reachability.pointers import Blocks, Candidates, Pointers, within

A, B, C = 0x7F0000001000, 0x7F0000002000, 0x7F0000003000
SIZE = 64
ROOT = 0x400000
FAR = 1 << 40


def words(*values: int) -> NDArray[np.uint64]:
    return np.array(values, dtype=np.uint64)


def blocks(*starts: int, size: int = SIZE) -> Blocks:
    return Blocks(words(*starts), words(*[size] * len(starts)))


def collected(
    of: Blocks, memory: dict[int, int], dead: tuple[tuple[int, int], ...] = ()
) -> Pointers:
    """All words of this memory, by address."""
    pointers = Pointers(of, np.array(dead, dtype=np.uint64).reshape(-1, 2))
    at = sorted(memory)
    pointers.add(words(*at), words(*[memory[address] for address in at]))
    return pointers


def between(pointers: Pointers) -> list[tuple[int, int, bool]]:
    sources, targets, is_exact = pointers.between_blocks()
    return list(zip(sources.tolist(), targets.tolist(), is_exact.tolist(), strict=True))


def roots(pointers: Pointers) -> tuple[list[bool], list[bool]]:
    """Which blocks roots point to: exactly, and into the middle."""
    return pointers.roots_exact.tolist(), pointers.roots_within.tolist()


@pytest.mark.parametrize(
    ("word", "exact", "inside"),
    [
        (A, True, False),
        (A + 1, True, False),  # a tag in the low bits
        (A + 7, True, False),
        (A + 8, False, True),
        (A + SIZE - 1, False, True),
        (A + SIZE, False, False),  # one past its end
        (A - 1, False, False),
        (A | 0xABCD << 48, False, False),  # no address of user memory
        (0, False, False),
        ((1 << 64) - 1, False, False),
    ],
)
@pytest.mark.parametrize("is_register", [False, True], ids=["memory", "register"])
def test_a_root(word: int, exact: bool, inside: bool, is_register: bool) -> None:
    pointers = Pointers(blocks(A))
    if is_register:
        pointers.add_roots(words(1, word, 2))
    else:
        pointers.add(words(ROOT), words(word))
    assert roots(pointers) == ([exact], [inside])
    assert between(pointers) == []


def test_one_past_the_end_is_the_next_block() -> None:
    pointers = collected(blocks(A, A + SIZE), {ROOT: A + SIZE})
    assert roots(pointers) == ([False, True], [False, False])


def test_pointers_of_blocks() -> None:
    """Those that lie in a block are its own, also in a last word that is not whole."""
    of = Blocks(words(B, A), words(12, SIZE))
    assert of.starts.tolist() == [A, B]
    assert of.order.tolist() == [1, 0]
    pointers = collected(of, {A: B, A + 56: B + 8, B + 8: A + 3, B + 16: A + 8})
    assert between(pointers) == [(0, 1, True), (0, 1, False), (1, 0, True)]
    assert roots(pointers) == ([False, False], [True, False])


def test_a_pointer_to_its_own_block_counts_nothing() -> None:
    pointers = collected(blocks(A), {A: A, A + 8: A + 16})
    assert between(pointers) == []
    assert roots(pointers) == ([False], [False])


def test_a_pointer_that_repeats_is_one() -> None:
    memory = {A: B, A + 8: B, A + 16: B + 8, A + 24: B, A + 32: A, A + 40: B}
    pointers = collected(blocks(A, B), memory)
    assert between(pointers) == [(0, 1, True), (0, 1, False), (0, 1, True), (0, 1, True)]
    assert between(pointers) == []  # they were handed over


def test_words_in_dead_ranges_are_none() -> None:
    dead = ((ROOT, ROOT + 16), (B, B + 8))
    pointers = collected(
        blocks(A, B), {ROOT: A, ROOT + 8: A, ROOT + 16: A + 8, B: A, B + 8: A}, dead
    )
    assert roots(pointers) == ([False, False], [True, False])
    assert between(pointers) == [(1, 0, True)]


def test_ranges() -> None:
    ranges = np.array([[10, 20], [30, 31]], dtype=np.uint64)
    asked = words(9, 10, 19, 20, 29, 30, 31, 1 << 63)
    assert within(ranges, asked).tolist() == [False, True, True, False, False, True, False, False]
    assert within(ranges[:0], asked).tolist() == [False] * 8


def test_a_block_of_no_bytes_has_one() -> None:
    pointers = collected(blocks(A, B, size=0), {ROOT: A, ROOT + 8: B + 1})
    assert roots(pointers) == ([True, False], [False, False])


def test_no_blocks() -> None:
    none = blocks()
    assert none.spans() == []
    assert none.find(words(A, 0)).tolist() == [-1, -1]
    assert Candidates(none, 4).pick(words(A, 0)).tolist() == []
    pointers = collected(none, {ROOT: A})
    pointers.add_roots(words(A, 0))
    assert between(pointers) == []


def test_more_words_than_are_sorted_at_once() -> None:
    count = 200_000
    of = blocks(A, B)
    pointers = Pointers(of)
    some = np.zeros(count, dtype=np.uint64)
    some[1], some[-1] = A, B + 8
    pointers.add(ROOT + np.arange(count, dtype=np.uint64) * np.uint64(8), some)
    assert roots(pointers) == ([True, False], [False, True])


def test_spans_leave_out_wide_gaps() -> None:
    of = blocks(A, B, A + FAR)
    assert of.spans() == [(A, B + SIZE), (A + FAR, A + FAR + SIZE)]


@pytest.mark.parametrize("are_few", [False, True])
def test_candidates_are_all_words_that_may_point_to_a_block(are_few: bool) -> None:
    of = blocks(A, C, A + FAR)
    candidates = Candidates(of, 8, are_few=are_few)
    some = words(A - 1, A, A + SIZE - 1, C, C + SIZE, A + FAR + 8, A + FAR + SIZE, 5)
    picked = set(candidates.pick(some).tolist())
    assert {1, 2, 3, 5} <= picked
    assert not picked & {0, 6, 7}
    # A page between two blocks that has none of them.
    assert (candidates.pick(words(B)).tolist() == []) is are_few
    assert candidates.pick(words()).tolist() == []


@pytest.mark.parametrize("are_few", [False, True])
def test_candidates_of_a_block_of_many_pages(are_few: bool) -> None:
    of = blocks(A + 0xFF0, size=0x5020)
    picked = Candidates(of, 16, are_few=are_few).pick(
        words(*[A + page * 0x1000 + 0xFF0 for page in range(-1, 9)])
    )
    assert {1, 2, 3, 4, 5, 6} <= set(picked.tolist())
    assert 8 not in picked


@pytest.mark.parametrize(
    ("offset", "points_to", "kind"),
    [
        (0x4F0, 0x20000, BlockClass.REACHABLE),
        (0x500, 0x20000, BlockClass.REACHABLE),  # usable, if the chunk is one unit larger
        (0x500, 0x20030, BlockClass.DEFINITE),  # the header of the chunk behind it
        (0x508, 0x20000, BlockClass.DEFINITE),  # free memory
    ],
)
def test_the_usable_room_of_a_block(offset: int, points_to: int, kind: BlockClass) -> None:
    """In a heap that has nothing else in it."""
    start = 0x10000
    blocks = Blocks(np.array([start, 0x20000], np.uint64), np.array([0x4F8, 60], np.uint64))
    pointers = Pointers(blocks, owned=np.array([(0, 0x100000)], np.uint64))
    pointers.add_roots(np.array([start], np.uint64))
    pointers.add(np.array([start + offset], np.uint64), np.array([points_to], np.uint64))
    assert classify(pointers).classes.tolist() == [BlockClass.REACHABLE, kind]


@pytest.mark.parametrize("seed", range(10))
def test_as_if_only_some_blocks_were_known(seed: int) -> None:
    """What other blocks point to is held by roots."""
    chance = np.random.default_rng(seed)
    count = int(chance.choice([2, 50, 1000]))
    starts = np.arange(count, dtype=np.uint64) * np.uint64(256) + np.uint64(0x10000)
    sizes = np.full(count, 128, dtype=np.uint64)
    places = np.unique(chance.integers(0x1000, 0x10000 + 256 * count, 3 * count))
    addresses = places.astype(np.uint64) & ~np.uint64(7)
    words = starts[chance.integers(0, count, len(addresses))]
    words += chance.choice(np.array([0, 0, 24], dtype=np.uint64), len(addresses))
    chosen = chance.random(count) < chance.choice([0.1, 0.5, 1.0])
    chosen[0] = True
    every, some = Pointers(Blocks(starts, sizes)), Pointers(Blocks(starts[chosen], sizes[chosen]))
    for one in (every, some):
        one.add(addresses, words)
    among, between = every.among(chosen, every.between_blocks())
    assert among.roots_exact.tolist() == some.roots_exact.tolist()
    assert among.roots_within.tolist() == some.roots_within.tolist()
    expected = some.between_blocks()
    for mine, other in zip(between, expected, strict=True):
        assert mine.tolist() == other.tolist()
    found = classify(among, between)
    alone = classify(some, expected)
    assert found.classes.tolist() == alone.classes.tolist()
    assert found.leaders.tolist() == alone.leaders.tolist()


def test_the_first_object_of_an_empty_array_is_behind_its_block() -> None:
    """8 bytes for the number of objects, and the program keeps what is behind."""
    few = blocks(A, C, size=8)
    assert roots(collected(few, {ROOT: A + 8})) == ([False, False], [True, False])
    assert roots(collected(few, {ROOT: A + 9, ROOT + 8: C + 16})) == ([False] * 2, [False] * 2)
    # A block that begins there is meant, and nothing else. A word there is none of the block's.
    assert roots(collected(blocks(A, A + 8, size=8), {ROOT: A + 8})) == ([False, True], [False] * 2)
    assert roots(collected(few, {A + 8: C})) == ([False, True], [False, False])
    for are_few in (False, True):
        picked = Candidates(few, 3, are_few=are_few).pick(words(A + 8, ROOT, C + 8))
        assert picked.tolist() == [0, 2]
