"""Verdicts from what the memory says, and how they rank."""

from __future__ import annotations

import pytest
from hand_made_reach import Seen, looked_at

from leaktrace.analysis.block_classes import BlockClass
from leaktrace.analysis.reachability.called_lost import CalledLost
from leaktrace.analysis.reachability.lost_sites import LostTable
from leaktrace.analysis.sampling import Sampling
from leaktrace.analysis.sites import SiteIndex, group_by_site
from leaktrace.analysis.verdicts.lost import lost_in_words, with_lost
from leaktrace.analysis.verdicts.overall import order_by_verdict, overall
from leaktrace.reach import LostShare
from leaktrace.verdict import Verdict, VerdictKind

REACHABLE, POSSIBLE = BlockClass.REACHABLE, BlockClass.POSSIBLE
INDIRECT, DEFINITE = BlockClass.INDIRECT, BlockClass.DEFINITE
LEAK, GROWING, STEADY = VerdictKind.LEAK, VerdictKind.GROWING, VerdictKind.STEADY
GROWS = Verdict(GROWING, "it grows", 5.0, 0.5, 9.0)
STAYS = Verdict(STEADY, "it stays")


def judged(
    blocks: list[Seen], by_time: dict[int, Verdict], called: CalledLost | None = None
) -> dict[int, Verdict]:
    one = looked_at(blocks)
    return with_lost(by_time, LostTable(one, SiteIndex.of(one)), called or CalledLost())


def test_lost_blocks_are_a_leak_whatever_time_says() -> None:
    blocks = [Seen(site, 16 * site, DEFINITE) for site in (1, 2, 3)]
    found = judged(blocks, {1: GROWS, 2: STAYS})
    assert {site: one.kind for site, one in found.items()} == {1: LEAK, 2: LEAK, 3: LEAK}
    assert (found[1].bytes_per_s, found[1].since_s, found[1].lost_bytes) == (5.0, 9.0, 10)
    assert (found[2].bytes_per_s, found[2].lost_count) == (None, 1)
    assert found[3].reason == "nothing points to its only block (10 B)"


def test_what_is_led_to_counts_with_what_leads() -> None:
    found = judged([Seen(1, 0x10, DEFINITE), Seen(2, 0x20, INDIRECT, 90, 0x10), Seen(2, 0x30)], {})
    assert (found[1].lost_bytes, found[1].lost_count) == (100, 2)
    assert (found[2].kind, found[2].lost_bytes, found[2].lost_count) == (LEAK, 0, 0)
    assert found[2].reason == "only lost blocks point to 1 of its 2 blocks"


def test_growth_that_is_slow() -> None:
    slow = Verdict(VerdictKind.TOO_EARLY, "it is slow", 5.0, 0.5, 9.0, needs_s=90.0)
    found = judged([Seen(1, 0x10, DEFINITE), Seen(2, 0x20)], {1: slow, 2: slow})
    assert (found[1].kind, found[1].bytes_per_s, found[1].needs_s) == (LEAK, 5.0, None)
    assert (found[2].kind, found[2].needs_s) == (VerdictKind.TOO_EARLY, 90.0)
    assert "still referenced" in found[2].reason


def test_what_grows_and_is_referenced() -> None:
    found = judged(
        [Seen(1, 0x10), Seen(1, 0x20, POSSIBLE), Seen(2, 0x30), Seen(3, 0x40)],
        {1: GROWS, 2: GROWS, 3: STAYS, 4: GROWS},
    )
    assert found[1].kind is GROWING
    assert found[1].reason == (
        "it grows; still referenced: something points to each of the 2 examined, but only into the "
        "middle of 1"
    )
    assert (
        found[2].reason == "it grows; still referenced: something points to each of the 1 examined"
    )
    assert (found[3], found[4]) == (STAYS, GROWS)


def test_a_site_whose_lost_blocks_were_freed_is_not_believed() -> None:
    called = CalledLost()
    blocks = [Seen(site, 16 * (10 * site + n), DEFINITE) for site in (1, 2, 3) for n in range(3)]
    called.observe(looked_at(blocks))
    left = [one for one in blocks if one.address not in (16 * 10, 16 * 20)]
    called.observe(looked_at(left))
    found = judged(left, {1: STAYS}, called)
    assert found[1].kind is STEADY
    assert found[1].reason.startswith("it stays; pointers to its blocks can't be found: some that")
    assert 2 not in found
    assert found[3].kind is LEAK


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (LostShare(2048, 2, scanned_count=2), "nothing points to any of its 2 blocks (2.0 KiB)"),
        (LostShare(10, 1, scanned_count=1234), "nothing points to 1 of its 1,234 blocks (10 B)"),
        (
            LostShare(10, 1, 20, 2, scanned_count=1),
            "nothing points to its only block (10 B), and only they lead to 2 other blocks (20 B)",
        ),
        (LostShare(scanned_count=3), "only lost blocks point to its 3 blocks"),
    ],
)
def test_in_words(share: LostShare, text: str) -> None:
    assert lost_in_words(share) == text


def test_lost_sites_come_first() -> None:
    """What is lost, the fastest first; what only that leads to; what grows; then by size."""
    one = looked_at([Seen(site, 16 * site, size=100 * site) for site in range(1, 8)])
    table = group_by_site(one, 0, Sampling())
    verdicts = {
        1: Verdict(LEAK, lost_bytes=1, lost_count=1),
        2: Verdict(LEAK, bytes_per_s=3.0, lost_bytes=1, lost_count=1),
        3: Verdict(LEAK, lost_bytes=0, lost_count=0),
        4: Verdict(LEAK, lost_bytes=1, lost_count=1),
        5: GROWS,
        6: STAYS,
    }
    order = order_by_verdict(table, verdicts)
    assert table.stack_ids[order].tolist() == [2, 4, 1, 3, 5, 7, 6]


def test_all_together() -> None:
    lost = Verdict(LEAK, "", 1.0, 0.1, 2.0, lost_bytes=30, lost_count=3)
    led = Verdict(LEAK, lost_bytes=0, lost_count=0)
    found = overall({1: lost, 2: GROWS, 3: led, 4: Verdict(LEAK, lost_bytes=4, lost_count=1)}, [])
    assert (found.kind, found.reason, found.lost_bytes, found.lost_count) == (
        LEAK,
        "2 sites",
        34,
        4,
    )
    assert (found.bytes_per_s, found.since_s) == (1.0, 2.0)
    alone = overall({3: STAYS, 4: Verdict(LEAK, lost_bytes=4, lost_count=1)}, [])
    assert (alone.kind, alone.reason, alone.bytes_per_s) == (LEAK, "one site", None)
    assert overall({2: GROWS, 3: led}, []).kind is GROWING
