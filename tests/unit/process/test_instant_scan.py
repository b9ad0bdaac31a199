"""What a look at one instant says, of this very process: it needs no stop to be read."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from leaktrace.abi import process as abi
from leaktrace.analysis.block_classes import BlockClass
from leaktrace.process.held_blocks import AskedHolders
from leaktrace.process.instant_scan import scan_instant
from leaktrace.process.scan import AbandonedError, Records, Scan
from leaktrace.reach import HolderKind, HolderStep
from leaktrace.roots.module_data import FileTables
from leaktrace.targets.instant import Instant
from leaktrace.targets.memory_copy import MemoryCopy
from leaktrace.targets.page_map import PAGE_BYTES
from leaktrace.targets.pause import StoppedThread

SIZE = 64
NOW_NS = time.monotonic_ns()


@dataclass
class Memory:
    """Blocks of 64 bytes, and behind them words that are roots."""

    start: int
    words: np.ndarray

    def block(self, number: int) -> int:
        return self.start + number * SIZE

    def point(self, source: int, target: int) -> None:
        """From a block to another."""
        self.words[source * SIZE // 8] = self.block(target)

    def root(self, target: int) -> None:
        self.words[-1 - target] = self.block(target)


@pytest.fixture
def memory() -> Iterator[Memory]:
    mapped = mmap.mmap(-1, 4 * PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    words = np.frombuffer(mapped, dtype=np.uint64)
    words[:] = 0
    yield Memory(words.ctypes.data, words)


def records(memory: Memory, *blocks: tuple[int, int]) -> Records:
    """Numbers, and ages in ns."""
    values = np.zeros(len(blocks), dtype=abi.ALLOCATION)
    values["size"] = SIZE
    values["time_ns"] = [NOW_NS - age for _, age in blocks]
    return np.array([memory.block(one) for one, _ in blocks], dtype=np.uint64), values


def look(
    memory: Memory,
    before: Records,
    after: Records,
    *held: int,
    older_ns: int = 0,
    holders: AskedHolders | None = None,
) -> Scan:
    """`held`: the registers of the only thread."""
    copy = MemoryCopy(len(memory.words) * 8)
    whole = np.array([(memory.start, memory.start + len(memory.words) * 8)], dtype=np.uint64)
    assert copy.take(os.getpid(), whole, lambda: True)
    thread = StoppedThread(os.getpid(), 0, 0, 0, np.array(held, dtype=np.uint64))
    instant = Instant(os.getpid(), NOW_NS, (), (thread,), copy, 0.012)
    return scan_instant(instant, 0, before, after, older_ns, holders=holders)


def classes(memory: Memory, found: Scan) -> dict[int, BlockClass]:
    numbers = ((found.addresses - np.uint64(memory.start)) // np.uint64(SIZE)).tolist()
    return dict(zip(numbers, map(BlockClass, found.classes.tolist()), strict=True))


def test_classes(memory: Memory) -> None:
    memory.root(0)
    memory.point(0, 1)
    memory.point(2, 3)
    same = records(memory, *[(number, 10) for number in range(6)])
    found = look(memory, same, same, memory.block(4), memory.block(5) + 8)
    assert classes(memory, found) == {
        0: BlockClass.REACHABLE,
        1: BlockClass.REACHABLE,
        2: BlockClass.DEFINITE,
        3: BlockClass.INDIRECT,
        4: BlockClass.REACHABLE,
        5: BlockClass.POSSIBLE,
    }
    assert found.leaders.tolist() == [0, 0, 0, memory.block(2), 0, 0]
    assert (found.passes, found.paused_s, found.unread_bytes) == (1, 0.012, 0)
    assert found.read_bytes == 4 * PAGE_BYTES


def test_what_has_changed_is_not_judged(memory: Memory) -> None:
    """One was freed, one is new, and one was freed and its address given out again."""
    before = records(memory, (0, 50), (1, 50), (2, 50))
    after = records(memory, (3, 1), (2, 1), (0, 50))
    assert classes(memory, look(memory, before, after)) == {0: BlockClass.DEFINITE}


def test_what_they_point_to_is_in_use(memory: Memory) -> None:
    memory.point(1, 0)
    memory.point(3, 2)
    before = records(memory, (0, 50), (1, 50), (2, 50))
    after = records(memory, (0, 50), (2, 50), (3, 1))
    found = classes(memory, look(memory, before, after))
    assert found == {0: BlockClass.REACHABLE, 2: BlockClass.REACHABLE}


def test_young_blocks_are_not_judged(memory: Memory) -> None:
    same = records(memory, (0, 1000), (1, 2000))
    found = classes(memory, look(memory, same, same, older_ns=1500))
    assert found == {0: BlockClass.UNKNOWN, 1: BlockClass.DEFINITE}


def test_no_blocks(memory: Memory) -> None:
    none, some = records(memory), records(memory, (0, 1))
    for before, after in ((none, none), (none, some), (some, none)):
        assert len(look(memory, before, after).addresses) == 0


def test_it_is_abandoned(memory: Memory) -> None:
    copy = MemoryCopy(PAGE_BYTES)
    page = np.array([(memory.start, memory.start + PAGE_BYTES)], dtype=np.uint64)
    assert copy.take(os.getpid(), page, lambda: True)
    same = records(memory, (0, 1))
    instant = Instant(os.getpid(), NOW_NS, (), (), copy, 0.0)
    with pytest.raises(AbandonedError):
        scan_instant(instant, 0, same, same, 0, is_abandoned=lambda: True)


def test_what_came_before_the_stop_may_hold_others(memory: Memory) -> None:
    """Blocks of which it is known that they were there at that instant are steps on the way; in the
    place of one that was allocated afterwards, there may have been anything."""
    memory.root(4)  # not in the first reading
    memory.point(4, 0)
    memory.root(3)  # allocated after the stop
    memory.point(3, 1)
    before = of_sites(records(memory, (0, 50), (1, 50), (2, 50), (5, 50)))
    after = of_sites(records(memory, (0, 50), (1, 50), (2, 50), (5, 50), (4, 10), (3, -10)))
    found = look(memory, before, after, memory.block(2), holders=AskedHolders(FileTables()))
    assert classes(memory, found) == {
        0: BlockClass.REACHABLE,
        1: BlockClass.REACHABLE,
        2: BlockClass.REACHABLE,
        5: BlockClass.DEFINITE,
    }
    held = found.held
    assert held is not None
    assert held.sizes.tolist() == 4 * [SIZE]
    paths = [
        [(one.kind, one.site, one.offset) for one in held.steps(path, site_step, lambda _: None)]
        for path in held.of_block.tolist()
    ]
    outside, register = (HolderKind.MAPPING, None), (HolderKind.REGISTER, None)
    assert [[(kind, site) for kind, site, _ in path] for path in paths] == [
        [outside, (HolderKind.BLOCK, "104"), (HolderKind.BLOCK, "100")],
        [outside, (HolderKind.BLOCK, "101")],
        [register, (HolderKind.BLOCK, "102")],
        [],
    ]
    assert paths[0][1][2] == 0  # where the pointer is in the block


def of_sites(some: Records) -> Records:
    """Each block is of a site of its own: 100 and its number. The first one is block 0."""
    addresses, values = some
    first = int(addresses[0])
    values["stack_id"] = 100 + (addresses - np.uint64(first)) // np.uint64(SIZE)
    return addresses, values


def site_step(stack_id: int) -> HolderStep:
    return HolderStep(HolderKind.BLOCK, site=str(stack_id))
