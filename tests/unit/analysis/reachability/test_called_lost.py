"""What reports called lost and was freed later."""

from __future__ import annotations

from dataclasses import replace

from hand_made_reach import Seen, looked_at

from leaktrace.analysis.block_classes import BlockClass
from leaktrace.analysis.reachability.called_lost import CalledLost

DEFINITE, INDIRECT, REACHABLE = BlockClass.DEFINITE, BlockClass.INDIRECT, BlockClass.REACHABLE


def lost(count: int, site: int = 1, first: int = 0, slot: int | None = None) -> list[Seen]:
    return [Seen(site, 0x1000 + 16 * n, DEFINITE, slot=slot) for n in range(first, count)]


def counts(called: CalledLost) -> tuple[int, int]:
    return called.called, called.freed


def test_blocks_that_stay_are_called_once() -> None:
    called = CalledLost()
    for _ in range(3):
        called.observe(looked_at([*lost(5), Seen(2, 0x10), Seen(2, 0x20, INDIRECT)]))
    assert counts(called) == (6, 0)
    assert called.is_believed(1) and called.is_believed(9)


def test_a_block_that_is_freed_later() -> None:
    called = CalledLost()
    called.observe(looked_at(lost(5)))
    called.observe(looked_at(lost(5, first=2)))
    assert counts(called) == (5, 2)
    called.observe(looked_at(lost(5, first=2)))
    assert counts(called) == (5, 2)  # each counts once
    called.observe(looked_at([]))
    assert counts(called) == (5, 5)


def test_another_block_at_the_same_address() -> None:
    called = CalledLost()
    called.observe(looked_at([Seen(1, 0x10, DEFINITE)]))
    called.observe(looked_at([Seen(1, 0x10, DEFINITE, age_ms=1)]))
    assert counts(called) == (2, 1)


def test_without_a_look_frees_are_seen_too() -> None:
    called = CalledLost()
    called.observe(looked_at(lost(2)))
    called.observe(replace(looked_at(lost(1)), reach=None))
    assert counts(called) == (2, 1)


def test_what_is_reachable_again_is_no_free() -> None:
    called = CalledLost()
    called.observe(looked_at([Seen(1, 0x10, DEFINITE)]))
    called.observe(looked_at([Seen(1, 0x10, REACHABLE)]))
    assert counts(called) == (1, 0)


def test_few_mistakes_are_forgiven() -> None:
    called = CalledLost()
    called.observe(
        looked_at([*lost(200), *[replace(one, stack_id=2) for one in lost(300, first=200)]])
    )
    called.observe(looked_at(lost(200, first=2)))
    assert counts(called) == (300, 102)
    assert called.is_believed(1)  # 2 of 200
    assert not called.is_believed(2)
    called.observe(looked_at(lost(200, first=3)))
    assert not called.is_believed(1)


def test_blocks_of_a_process_that_is_gone_were_not_freed() -> None:
    called = CalledLost()
    both = [*lost(3, slot=1), *lost(4, site=2, slot=2)]
    called.observe(looked_at(both, (1, 2)))
    assert counts(called) == (7, 0)
    called.observe(looked_at(lost(2, slot=1), (1,)))
    assert counts(called) == (7, 1)
    called.observe(looked_at(lost(4, site=2, slot=2), (1, 2)))  # another one has its number
    assert counts(called) == (11, 3)


def test_other_stack_ids() -> None:
    called = CalledLost()
    called.observe(looked_at([*lost(2), *[replace(one, stack_id=2) for one in lost(4, first=2)]]))
    called.rename({1: 7, 2: 7}.__getitem__)
    called.observe(looked_at([replace(one, stack_id=7) for one in lost(4, first=1)]))
    assert counts(called) == (4, 1)
    assert called.is_believed(1) and not called.is_believed(7)
