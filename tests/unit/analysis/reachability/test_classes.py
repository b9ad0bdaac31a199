"""The classes of blocks: for graphs made by hand, and compared with a plain model for any."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from leaktrace.analysis.block_classes import BlockClass
from leaktrace.analysis.reachability.classes import Classes, classify
from leaktrace.analysis.reachability.pointers import Blocks, Candidates, Pointers

BASE = 0x7F0000000000
STEP, SIZE = 0x100, 0x80
ROOTS = 0x400000
REACHABLE, POSSIBLE = BlockClass.REACHABLE, BlockClass.POSSIBLE
INDIRECT, DEFINITE = BlockClass.INDIRECT, BlockClass.DEFINITE
INSIDE = 16  # added to a start: into the middle

Memory = dict[int, int]


def start(block: int) -> int:
    return BASE + block * STEP


def classes_of(
    count: int,
    edges: dict[int, list[int]],
    roots: list[int],
    inside: dict[int, list[int]] | None = None,
) -> Classes:
    """Blocks 0 to `count`, who points to whom, exactly and into the `inside`."""
    memory: Memory = {ROOTS + 8 * at: word for at, word in enumerate(roots)}
    for source in range(count):
        targets = [start(one) for one in edges.get(source, [])]
        targets += [start(one) + INSIDE for one in (inside or {}).get(source, [])]
        memory |= {start(source) + 8 * at: word for at, word in enumerate(targets)}
    starts = [start(block) for block in range(count)]
    return classified(starts, [SIZE] * count, memory)


def classified(
    starts: list[int],
    sizes: list[int],
    memory: Memory,
    dead: NDArray[np.uint64] | None = None,
    registers: tuple[int, ...] = (),
    *,
    are_few: bool = False,
    is_ascending: bool = True,
) -> Classes:
    blocks = Blocks(np.array(starts, dtype=np.uint64), np.array(sizes, dtype=np.uint64))
    pointers = Pointers(blocks, *([] if dead is None else [dead]))
    pointers.add_roots(np.array(registers, dtype=np.uint64))
    at = sorted(memory)
    addresses = np.array(at, dtype=np.uint64)
    words = np.array([memory[one] for one in at], dtype=np.uint64)
    chosen = Candidates(blocks, len(words), are_few=are_few).pick(words)
    halves = np.array_split(chosen, 2)
    for half in halves if is_ascending else halves[::-1]:
        pointers.add(addresses[half], words[half])
    return classify(pointers)


def ring(first: int, count: int) -> dict[int, list[int]]:
    """Blocks in a circle that point to the next and to the one before."""
    blocks = range(count)
    return {first + n: [first + (n + 1) % count, first + (n - 1) % count] for n in blocks}


def kinds(classes: Classes) -> list[int]:
    found: list[int] = classes.classes.tolist()
    return found


def test_roots_lead_to_what_they_point_to_and_on() -> None:
    found = classes_of(5, {0: [1], 1: [2], 3: [4]}, [start(0)])
    assert kinds(found) == [REACHABLE, REACHABLE, REACHABLE, DEFINITE, INDIRECT]
    assert found.leaders.tolist() == [-1, -1, -1, -1, 3]


def test_no_blocks_and_no_pointers() -> None:
    assert kinds(classes_of(0, {}, [])) == []
    assert kinds(classes_of(2, {}, [])) == [DEFINITE, DEFINITE]


def test_a_pointer_into_the_middle_makes_possible_and_so_on() -> None:
    """What an exact pointer leads to is reachable, whatever else points to it."""
    inside = {1: [2], 5: [6]}
    found = classes_of(7, {0: [1], 2: [3], 3: [1]}, [start(0), start(4) + INSIDE], inside)
    assert kinds(found) == [REACHABLE, REACHABLE, POSSIBLE, POSSIBLE, POSSIBLE, DEFINITE, INDIRECT]


def test_a_reachable_block_may_be_in_a_lost_one_too() -> None:
    found = classes_of(4, {0: [1], 1: [2, 3]}, [start(2)])
    assert kinds(found) == [DEFINITE, INDIRECT, REACHABLE, INDIRECT]
    assert found.leaders.tolist() == [-1, 0, -1, 0]


def test_a_block_that_points_to_itself_is_lost() -> None:
    found = classes_of(2, {0: [0], 1: [1]}, [])
    assert kinds(found) == [DEFINITE, DEFINITE]


def test_registers_and_dead_ranges() -> None:
    memory = {ROOTS: start(0), ROOTS + 8: start(1), start(2): start(3)}
    dead = np.array([[ROOTS, ROOTS + 8]], dtype=np.uint64)
    starts = [start(block) for block in range(5)]
    found = classified(starts, [SIZE] * 5, memory, dead, (start(4), 7))
    assert kinds(found) == [DEFINITE, REACHABLE, DEFINITE, INDIRECT, REACHABLE]


@pytest.mark.parametrize("count", [3, 511, 512, 513, 5000])
def test_chains(count: int) -> None:
    """One is reachable from its begin, one lost, one reachable from its middle on."""
    chain = range(count - 1)
    edges = {base + n: [base + n + 1] for base in (0, count, 2 * count) for n in chain}
    found = classes_of(3 * count, edges, [start(0), start(2 * count + 1)])
    kind = found.classes
    assert set(kind[:count].tolist()) == {REACHABLE}
    assert kind[count] == DEFINITE
    assert set(kind[count + 1 : 2 * count].tolist()) == {INDIRECT}
    assert set(found.leaders[count + 1 : 2 * count].tolist()) == {count}
    assert kind[2 * count] == DEFINITE
    assert set(kind[2 * count + 1 :].tolist()) == {REACHABLE}


@pytest.mark.parametrize("width", [10, 511, 512, 513, 1024, 3000])
def test_many_chains_side_by_side(width: int) -> None:
    """Fronts that are wide, and that become narrow: chain n has n % 5 blocks after its head."""
    edges: dict[int, list[int]] = {}
    heads, last = [], 0
    for number in range(width):
        heads.append(last)
        for _ in range(number % 5):
            edges[last] = [last + 1]
            last += 1
        last += 1
    lost = classes_of(last, edges, [])
    is_head = np.isin(np.arange(last), heads)
    assert kinds(lost) == np.where(is_head, DEFINITE, INDIRECT).tolist()
    leaders = np.repeat(heads, [1 + number % 5 for number in range(width)])
    assert lost.leaders.tolist() == np.where(is_head, -1, leaders).tolist()
    roots = [start(head) for head in heads]
    assert set(kinds(classes_of(last, edges, roots))) == {REACHABLE}


def test_a_wide_front_on_the_same_blocks() -> None:
    """Each of a thousand lost heads points to the same two."""
    found = classes_of(1002, {head: [1000, 1001] for head in range(1000)}, [])
    assert kinds(found) == [DEFINITE] * 1000 + [INDIRECT] * 2
    assert all(0 <= leader < 1000 for leader in found.leaders[1000:].tolist())


def test_of_a_cycle_the_lowest_address_is_lost() -> None:
    found = classes_of(5, {0: [1], 1: [2], 2: [0], 3: [3], 4: [2]}, [])
    assert kinds(found) == [INDIRECT, INDIRECT, INDIRECT, DEFINITE, DEFINITE]
    assert found.leaders.tolist() == [4, 4, 4, -1, -1]
    assert kinds(classes_of(3, {0: [1], 1: [2], 2: [0]}, [])) == [DEFINITE, INDIRECT, INDIRECT]


@pytest.mark.parametrize("count", [2, 700])
def test_doubly_linked_lists(count: int) -> None:
    found = classes_of(2 * count, ring(0, count) | ring(count, count), [start(count + 1)])
    assert kinds(found) == [DEFINITE] + [INDIRECT] * (count - 1) + [REACHABLE] * count
    assert set(found.leaders[1:count].tolist()) == {0}


def test_what_a_cycle_leads_to_is_never_a_head() -> None:
    """Wherever it lies: blocks 0 and 3 belong to the cycle of 1 and 2; that leads to one of 4 and
    5, which is below another one that leads to it."""
    found = classes_of(4, {1: [2, 0], 2: [1, 3]}, [])
    assert kinds(found) == [INDIRECT, DEFINITE, INDIRECT, INDIRECT]
    assert found.leaders.tolist() == [1, -1, 1, 1]
    cycles = classes_of(6, {0: [1], 1: [0], 2: [3, 0], 3: [2], 4: [5, 3], 5: [4]}, [])
    assert kinds(cycles) == [INDIRECT] * 4 + [DEFINITE, INDIRECT]
    assert cycles.leaders.tolist() == [4, 4, 4, 4, -1, 4]


def test_memory_that_was_not_read_by_ascending_address() -> None:
    memory = {start(block): start(block + 1) for block in range(9)} | {ROOTS: start(5)}
    starts = [start(block) for block in range(10)]
    for is_ascending in (True, False):
        found = classified(starts, [SIZE] * 10, memory, is_ascending=is_ascending)
        assert kinds(found) == [DEFINITE] + [INDIRECT] * 4 + [REACHABLE] * 5


@dataclass(frozen=True)
class Graph:
    """Blocks by ascending address, and words."""

    starts: list[int]
    sizes: list[int]
    memory: Memory
    registers: tuple[int, ...]
    dead: list[tuple[int, int]]


@st.composite
def lost_graphs(draw: st.DrawFn) -> Graph:
    """Without any root: trees and cycles, and cycles that lead to others."""
    count = draw(st.integers(2, 8))
    starts = [start(block) for block in range(count)]
    words = st.sampled_from([0, *starts])
    memory = {begin + at: draw(words) for begin in starts for at in (0, 8)}
    return Graph(starts, [SIZE] * count, memory, (), [])


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Few blocks, so that much happens between them: some in the next page, or far away."""
    if draw(st.booleans()):
        return draw(lost_graphs())
    starts, sizes, at = [], [], BASE
    for _ in range(draw(st.integers(1, 12))):
        at += draw(st.sampled_from([0, 8, 16, 0x1000, 0x5000, 1 << 28]))
        size = draw(st.sampled_from([0, 1, 8, 12, 24, 64, 0x2100]))
        starts.append(at)
        sizes.append(size)
        at += -(-max(size, 1) // 8) * 8
    offsets = st.sampled_from([0, 0, 0, 0, 0, 0, 1, 7, 8, 9, 16, 23, 24, 63, 64, -1, 0x1008])
    pointers = st.builds(int.__add__, st.sampled_from(starts), offsets)
    others = st.sampled_from([0, 1, BASE - 8, starts[0] | 1 << 48, (1 << 64) - 1])
    word = st.one_of(pointers, pointers, pointers, others)
    places = [ROOTS + 8 * n for n in range(3)]
    for begin, size in zip(starts, sizes, strict=True):
        places += [begin + at for at in range(0, min(size, 40), 8)]
        places.append(begin + -(-max(size, 1) // 8) * 8)  # behind it: the next block, or a root
    # The first words of blocks point to others: where they are few, these make cycles.
    memory = {begin: draw(pointers) for begin in starts if draw(st.booleans())}
    memory |= draw(st.dictionaries(st.sampled_from(places), word, max_size=24))
    begins = sorted(draw(st.lists(st.sampled_from(places), max_size=3, unique=True)))
    dead = [(one, one + 8) for one in begins]
    return Graph(starts, sizes, memory, tuple(draw(st.lists(word, max_size=2))), dead)


class Model:
    """The same by the definitions, without any array."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.exact: dict[int, set[int]] = {}
        self.all: dict[int, set[int]] = {}
        roots_exact: set[int] = set()
        roots_within: set[int] = set()
        words: list[tuple[int | None, int]] = [(None, word) for word in graph.registers]
        words += [
            (place, word)
            for place, word in graph.memory.items()
            if not any(low <= place < high for low, high in graph.dead)
        ]
        for place, word in words:
            target = self._pointed(word)
            if target is None:
                continue
            is_exact = word // 8 * 8 == graph.starts[target]
            source = None if place is None else self._block_at(place)
            if source is None:
                (roots_exact if is_exact else roots_within).add(target)
            elif source != target:
                self.all.setdefault(source, set()).add(target)
                if is_exact:
                    self.exact.setdefault(source, set()).add(target)
        self.reachable = self.closure(roots_exact, self.exact)
        into_middle = set().union(*(self.all.get(one, set()) for one in self.reachable))
        seen = self.closure(self.reachable | roots_within | into_middle, self.all)
        self.possible = seen - self.reachable
        self.lost = set(range(len(graph.starts))) - seen

    def _block_at(self, address: int) -> int | None:
        for number, begin in enumerate(self._graph.starts):
            if begin <= address < begin + max(self._graph.sizes[number], 1):
                return number
        return None

    def _pointed(self, word: int) -> int | None:
        """Just behind a block of 8 bytes may be the first object of an empty array."""
        found = self._block_at(word)
        before = self._block_at(word - 8)
        if found is None and before is not None and self._graph.sizes[before] == 8:
            return before if word == self._graph.starts[before] + 8 else None
        return found

    @staticmethod
    def closure(front: set[int], edges: dict[int, set[int]]) -> set[int]:
        seen, left = set(front), list(front)
        while left:
            for target in edges.get(left.pop(), set()) - seen:
                seen.add(target)
                left.append(target)
        return seen

    def leads_to(self, block: int) -> set[int]:
        return self.closure({block}, self.all)

    def heads(self) -> set[int]:
        """Lost blocks that no lost block leads to; of those that all lead to each other, one."""
        led = {block: self.leads_to(block) for block in self.lost}
        above = {block: {one for one in self.lost if block in led[one]} for block in self.lost}
        return {
            block
            for block in self.lost
            if above[block] <= led[block] and block == min(above[block])
        }


@settings(max_examples=400, deadline=None)
@given(graphs(), st.booleans(), st.booleans())
def test_the_same_as_the_model(graph: Graph, are_few: bool, is_ascending: bool) -> None:
    model, dead = Model(graph), np.array(graph.dead, dtype=np.uint64).reshape(-1, 2)
    found = classified(
        graph.starts,
        graph.sizes,
        graph.memory,
        dead,
        graph.registers,
        are_few=are_few,
        is_ascending=is_ascending,
    )
    heads = model.heads()
    expected = [
        REACHABLE
        if block in model.reachable
        else POSSIBLE
        if block in model.possible
        else DEFINITE
        if block in heads
        else INDIRECT
        for block in range(len(graph.starts))
    ]
    assert kinds(found) == expected
    for block, leader in enumerate(found.leaders.tolist()):
        if expected[block] is INDIRECT:
            assert leader in heads
            assert block in model.leads_to(leader)
        else:
            assert leader == -1
