"""Who holds each block, compared with a plain search over the same pointers."""

from __future__ import annotations

import random
from collections import Counter, deque
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest

from leaktrace.analysis.reachability.classes import classify
from leaktrace.analysis.reachability.holders import Held, find_holders
from leaktrace.analysis.reachability.kept_details import Details, RootRank
from leaktrace.analysis.reachability.paths import OTHERS, PathStep
from leaktrace.analysis.reachability.pointers import Blocks, Pointers

BLOCK_BYTES = 64
BASE = 0x1000_0000
# Where roots are, by rank: each 16 bytes have an owner of their own.
PLACES = {RootRank.VARIABLE: 0x1000, RootRank.THREAD: 0x7000_0000, RootRank.OTHER: 0x2000}


@dataclass(frozen=True)
class Word:
    """A word that points to a block."""

    source: int  # the block that it is in; -1: a root
    offset: int  # in that block, or the address of the root
    target: int
    is_exact: bool


@dataclass(frozen=True)
class Graph:
    count: int
    sites: list[int]
    words: list[Word]


def rank_of(address: int) -> RootRank:
    return max((start, rank) for rank, start in PLACES.items() if start <= address)[1]


def random_graph(seed: int, *, sites: int | None = None) -> Graph:
    """`sites`: how many; None: each block has its own."""
    chance = random.Random(seed)
    count = chance.choice([3, 30, 300, 3000])
    words = []
    for source in range(count):
        for offset in chance.sample(range(0, BLOCK_BYTES, 8), chance.choice([0, 1, 1, 2, 3])):
            target = chance.randrange(count)
            # Lists, too, which have many steps of one block each.
            target = chance.choice([target, min(source + 1, count - 1)])
            if target != source:
                words.append(Word(source, offset, target, chance.random() < 0.8))
    for start in PLACES.values():
        for number in range(chance.randrange(1 + count // 10)):
            words.append(
                Word(-1, start + 8 * number, chance.randrange(count), chance.random() < 0.7)
            )
    of_blocks = [chance.randrange(sites) if sites else one for one in range(count)]
    return Graph(count, of_blocks, sorted(words, key=address_of))


def start_of(block: int) -> int:
    return BASE + block * 2 * BLOCK_BYTES


def address_of(word: Word) -> int:
    return word.offset if word.source < 0 else start_of(word.source) + word.offset


def held_in(graph: Graph, *, is_ascending: bool = True, no_site: int = -1) -> tuple[Held, Pointers]:
    starts = np.array([start_of(block) for block in range(graph.count)], dtype=np.uint64)
    blocks = Blocks(starts, np.full(graph.count, BLOCK_BYTES, dtype=np.uint64))
    ranks = np.vectorize(lambda address: int(rank_of(int(address))), otypes=[np.uint8])
    details = Details(graph.count, ranks)
    pointers = Pointers(blocks, details=details)
    addresses = np.array([address_of(word) for word in graph.words], dtype=np.uint64)
    values = np.array(
        [start_of(word.target) + (0 if word.is_exact else 24) for word in graph.words],
        dtype=np.uint64,
    )
    cut = len(addresses) // 2
    for part in (slice(None, cut), slice(cut, None))[:: 1 if is_ascending else -1]:
        pointers.add(addresses[part], values[part])
    between = pointers.between_blocks()
    roots = details.roots()
    owners = (roots.addresses // np.uint64(16)).astype(np.int32)
    offsets = (roots.addresses % np.uint64(16)).astype(np.int64)
    sites = np.array(graph.sites, dtype=np.int32)
    held = find_holders(
        sites,
        between,
        details.places(),
        roots=roots,
        owners=owners,
        root_offsets=offsets,
        no_site=no_site,
    )
    classify(pointers, between)
    return held, pointers


def distances(graph: Graph) -> dict[int, tuple[int, bool, int]]:
    """The plain model: of each block its rank, whether exact pointers alone lead to it, and how
    many steps that takes, without those to blocks of the same site; otherwise the steps from the
    next block to which they do, or from a root."""
    found: dict[int, tuple[int, bool, int]] = {}
    by_source: dict[int, list[Word]] = {}
    for word in graph.words:
        by_source.setdefault(word.source, []).append(word)
    for rank in RootRank:
        roots = [word for word in by_source.get(-1, []) if rank_of(word.offset) is rank]
        for is_exact in (True, False):
            before = set(found)
            starts = {word.target for word in roots if word.is_exact or not is_exact}
            if not is_exact:
                starts |= {
                    word.target
                    for block in before
                    for word in by_source.get(block, [])
                    if not word.is_exact
                }
            queue = deque((block, 1) for block in sorted(starts - before))
            while queue:
                block, steps = queue.popleft()
                if block in found:
                    continue
                found[block] = (int(rank), is_exact, steps)
                for word in by_source.get(block, []):
                    if word.target in found or (is_exact and not word.is_exact):
                        continue
                    if graph.sites[word.target] == graph.sites[block]:
                        queue.appendleft((word.target, steps))
                    else:
                        queue.append((word.target, steps + 1))
    return found


@pytest.mark.parametrize("seed", range(24))
def test_paths_are_real_and_the_shortest(seed: int) -> None:
    """Each block has its own site, so that a path is one of single blocks."""
    graph = random_graph(seed)
    if graph.count > 300:
        return_depth_of_a_path(graph)
        return
    held, _ = held_in(graph, is_ascending=seed % 2 == 0)
    expected = distances(graph)
    pointers = {(word.source, word.offset, word.target): word for word in graph.words}
    for block in range(graph.count):
        path = int(held.of_block[block])
        assert (path >= 0) == (block in expected)
        if path in (-1, OTHERS):
            continue
        root, *steps = held.paths.steps(path)
        assert root.is_root
        assert not any(step.is_root or step.repeats for step in steps)
        assert steps[-1].number == block
        address = root.number * 16 + (root.next_low or 0)
        used = [pointers[-1, address, steps[0].number]]
        for step, following in pairwise(steps):
            assert step.next_low is not None
            assert step.next_low == step.next_high
            used.append(pointers[step.number, step.next_low, following.number])
        assert [word.is_exact for word in used] == [
            not step.to_middle for step in (root, *steps[:-1])
        ]
        rank, is_exact, least = expected[block]
        assert rank_of(address) == rank
        if is_exact:
            assert all(word.is_exact for word in used)
            assert len(steps) == least
        else:
            assert not all(word.is_exact for word in used)


def return_depth_of_a_path(graph: Graph) -> None:
    held, _ = held_in(graph)
    expected = distances(graph)
    assert {int(one) for one in np.nonzero(held.of_block >= 0)[0]} == set(expected)
    most = max((steps for _, is_exact, steps in expected.values() if is_exact), default=0)
    assert most == 0 or len(held.paths) > 1


def sites_of(steps: list[PathStep]) -> tuple[int, ...]:
    return tuple(step.number for step in steps if not step.is_root)


@pytest.mark.parametrize("seed", range(100, 116))
def test_counts_by_path(seed: int) -> None:
    """Few sites: what repeats is one step."""
    graph = random_graph(seed, sites=4)
    held, pointers = held_in(graph)
    expected = distances(graph)
    assert {int(one) for one in np.nonzero(held.of_block >= 0)[0]} == set(expected)
    counts = Counter(held.of_block[held.of_block >= 0].tolist())
    assert counts.total() == len(expected)
    for path in counts:
        steps = held.paths.steps(path)
        sites = sites_of(steps)
        assert len(set(sites)) == len(sites) <= 4
        assert steps[0].is_root
    for block in expected:
        assert sites_of(held.paths.steps(int(held.of_block[block])))[-1] == graph.sites[block]
    # What is the least number of steps is also the least number of sites.
    for block, (rank, _, least) in expected.items():
        steps = held.paths.steps(int(held.of_block[block]))
        assert rank_of(steps[0].number * 16) == rank
        assert len(steps) - 1 <= least or not expected[block][1]
    assert len(pointers.blocks) == graph.count


def list_of(count: int) -> Graph:
    words = [Word(-1, PLACES[RootRank.VARIABLE], 0, is_exact=True)]
    words += [Word(one, 8, one + 1, is_exact=True) for one in range(count - 1)]
    return Graph(count, [7] * count, words)


def test_a_list_is_one_step_that_repeats() -> None:
    held, _ = held_in(list_of(20_000))
    (path,) = set(held.of_block.tolist())
    root, blocks = held.paths.steps(path)
    assert (root.next_low, root.repeats) == (0, False)
    assert (blocks.number, blocks.repeats, blocks.next_low, blocks.next_high) == (7, True, 8, 8)
    assert len(held.paths) == 3  # with that of others


def test_two_sites_that_alternate() -> None:
    graph = list_of(1000)
    graph = Graph(graph.count, [1 + one % 2 for one in range(1000)], graph.words)
    held, _ = held_in(graph)
    counts = Counter(held.of_block.tolist())
    found = {sites_of(held.paths.steps(path)): count for path, count in counts.items()}
    assert found == {(1,): 500, (1, 2): 500}
    assert all(held.paths.steps(path)[1].repeats for path in counts)


def test_where_pointers_are_in_an_array() -> None:
    """A table of 6 words that point to blocks of one site, which lead to others at their end."""
    words = [Word(-1, PLACES[RootRank.VARIABLE] + 8, 0, is_exact=True)]
    words += [Word(0, 8 * at, 1 + at, is_exact=True) for at in range(6)]
    words += [Word(1 + at, 56, 7 + at, is_exact=at != 3) for at in range(6)]
    held, _ = held_in(Graph(13, [1, *[2] * 6, *[3] * 6], words))
    path = held.paths.steps(int(held.of_block[7]))
    assert [(one.number, one.next_low, one.next_high, one.to_middle) for one in path[1:3]] == [
        (1, 0, 40, False),
        (2, 56, 56, True),
    ]
    assert set(held.of_block[7:].tolist()) == {int(held.of_block[7])}


def test_variables_come_before_stacks_although_they_are_farther_away() -> None:
    words = [Word(-1, PLACES[RootRank.VARIABLE], 0, is_exact=True)]
    words += [Word(one, 0, one + 1, is_exact=True) for one in range(5)]
    words += [Word(-1, PLACES[RootRank.THREAD], 5, is_exact=True)]
    words += [Word(-1, PLACES[RootRank.OTHER], 4, is_exact=True)]
    held, _ = held_in(Graph(6, list(range(6)), sorted(words, key=address_of)))
    steps = held.paths.steps(int(held.of_block[5]))
    assert rank_of(steps[0].number * 16) is RootRank.VARIABLE
    assert sites_of(steps) == tuple(range(6))


def test_a_stray_pointer_into_a_list() -> None:
    """The list is still held by its variable."""
    graph = list_of(1000)
    stray = [
        Word(-1, PLACES[RootRank.VARIABLE] + 64, 1000, is_exact=True),
        Word(1000, 0, 500, is_exact=True),
    ]
    words = sorted([*graph.words, *stray], key=address_of)
    held, _ = held_in(Graph(1001, [*graph.sites, 8], words))
    assert len(set(held.of_block[:1000].tolist())) == 1
    assert sites_of(held.paths.steps(int(held.of_block[999]))) == (7,)


def test_blocks_of_which_nothing_is_known_are_steps_each() -> None:
    """A way over many of them is not a short one."""
    unknown, known = 9, 1
    words = [Word(-1, PLACES[RootRank.VARIABLE] + 32 * one, one, is_exact=True) for one in (0, 5)]
    words += [Word(one, 0, one + 1, is_exact=True) for one in range(4)]
    words += [Word(4, 0, 7, is_exact=True)]
    words += [Word(5, 0, 6, is_exact=True), Word(6, 0, 7, is_exact=True)]
    graph = Graph(8, [unknown] * 5 + [known, 2, 3], sorted(words, key=address_of))
    for no_site, expected in ((-1, (unknown, 3)), (unknown, (known, 2, 3))):
        held, _ = held_in(graph, no_site=no_site)
        assert sites_of(held.paths.steps(int(held.of_block[7]))) == expected


def test_too_many_steps_are_others() -> None:
    graph = list_of(40)
    held, _ = held_in(Graph(40, list(range(40)), graph.words))
    lengths = [len(held.paths.steps(path)) for path in held.of_block.tolist()]
    assert lengths == [*range(2, 18), *[0] * 24]


def test_of_many_roots_few_are_kept() -> None:
    """A thousand words that point to one block: one of each rank, exact or not."""
    words = [
        Word(-1, start + 8 * number, 0, is_exact=number % 2 == 0)
        for start in PLACES.values()
        for number in range(200)
    ]
    graph = Graph(1, [0], sorted(words, key=address_of))
    starts = np.array([start_of(0)], dtype=np.uint64)
    ranks = np.vectorize(lambda address: int(rank_of(int(address))), otypes=[np.uint8])
    details = Details(1, ranks)
    pointers = Pointers(Blocks(starts, np.array([BLOCK_BYTES], dtype=np.uint64)), details=details)
    for word in graph.words:
        value = start_of(0) + (0 if word.is_exact else 8)
        pointers.add(np.array([word.offset], dtype=np.uint64), np.array([value], dtype=np.uint64))
    roots = details.roots()
    assert sorted(roots.addresses.tolist()) == sorted(
        start + 8 * number for start in PLACES.values() for number in range(2)
    )
