"""The classes of blocks, added up by site."""

from __future__ import annotations

import numpy as np
from hand_made_reach import Seen, looked_at

from leaktrace.analysis.block_classes import BlockClass
from leaktrace.analysis.reachability.lost_sites import LostTable
from leaktrace.analysis.sites import SiteIndex
from leaktrace.reach import LostShare

UNKNOWN, REACHABLE, POSSIBLE = BlockClass.UNKNOWN, BlockClass.REACHABLE, BlockClass.POSSIBLE
INDIRECT, DEFINITE = BlockClass.INDIRECT, BlockClass.DEFINITE

# Heads of site 1 lead to blocks of their own site, and of site 2.
BLOCKS = [
    Seen(2, 0x900, INDIRECT, 7, 0x100),
    Seen(1, 0x100, DEFINITE, 100),
    Seen(1, 0x200, INDIRECT, 100, 0x100),
    Seen(1, 0x300, POSSIBLE, 100),
    Seen(2, 0xA00, REACHABLE, 7),
    Seen(3, 0xB00, UNKNOWN, 5000),
    Seen(5, 0xC00, DEFINITE, 1000),
    Seen(6, 0xD00, REACHABLE, 1),
]


def table(
    blocks: list[Seen], slots: tuple[int, ...] = (), weights: list[float] | None = None
) -> LostTable:
    one = looked_at(blocks, slots)
    return LostTable(one, SiteIndex.of(one), None if weights is None else np.array(weights))


def test_sites() -> None:
    found = table(BLOCKS)
    assert found.of(1) == LostShare(
        definite_bytes=100,
        definite_count=1,
        indirect_bytes=107,  # with that of site 2
        indirect_count=2,
        possible_bytes=100,
        possible_count=1,
        scanned_count=3,
    )
    second = found.of(2)
    assert second == LostShare(reachable_bytes=7, reachable_count=1, scanned_count=2)
    assert second.led_count == 1
    assert found.of(3) is None  # its only block was too young
    assert found.of(4) is None  # there is none
    assert found.of(7) is None


def test_all_together() -> None:
    total = table(BLOCKS).total()
    assert (total.definite_count, total.definite_bytes) == (2, 1100)
    assert (total.indirect_count, total.indirect_bytes, total.led_count) == (2, 107, 2)
    assert (total.possible_count, total.reachable_count, total.scanned_count) == (1, 2, 7)


def test_sites_with_lost_blocks_by_what_is_lost() -> None:
    found = table(BLOCKS)
    assert found.leaking(10) == [5, 1, 2]
    assert found.leaking(1) == [5]
    assert table([Seen(1, 0x10, POSSIBLE), Seen(2, 0x20)]).leaking(10) == []


def test_a_leader_is_of_the_same_process() -> None:
    blocks = [
        Seen(1, 0x100, DEFINITE, slot=1),
        Seen(2, 0x100, DEFINITE, slot=2),
        Seen(2, 0x200, INDIRECT, 30, 0x100, slot=1),
    ]
    found = table(blocks, (1, 2))
    first, second = found.of(1), found.of(2)
    assert first is not None and second is not None
    assert (first.indirect_count, first.indirect_bytes) == (1, 30)
    assert (second.indirect_count, second.definite_count, second.led_count) == (0, 1, 1)


def test_a_leader_that_is_not_lost_has_none_that_follow() -> None:
    """It was freed meanwhile, or another block is there now."""
    found = table(
        [Seen(1, 0x100), Seen(2, 0x200, INDIRECT, 10, 0x100), Seen(2, 0x300, INDIRECT, 10, 0x500)]
    )
    first, second = found.of(1), found.of(2)
    assert first is not None and second is not None
    assert (first.indirect_count, second.indirect_count, second.led_count) == (0, 0, 2)
    assert table([Seen(2, 0x200, INDIRECT, 10, 0x100)]).leaking(9) == [2]


def test_samples_stand_for_more() -> None:
    found = table(BLOCKS[:3], weights=[2.0, 1.4, 3.0])
    first = found.of(1)
    assert first is not None
    assert (first.definite_count, first.definite_bytes) == (1, 140)
    assert (first.indirect_count, first.indirect_bytes) == (5, 314)
