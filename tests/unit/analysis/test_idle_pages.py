"""Which pages are watched, and which blocks are on them, compared with sets of Python."""

from __future__ import annotations

import random

import numpy as np
import pytest

from leaktrace.abi.process import ALLOCATION, SITE
from leaktrace.analysis.block_use import BlockUse
from leaktrace.analysis.idle_pages import (
    MOST_SITES,
    PAGES_PER_SITE,
    pages_to_watch,
    use_of_blocks,
)
from leaktrace.analysis.idle_sites import IdleTable, with_idle
from leaktrace.analysis.sites import SiteIndex
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.verdict import Verdict, VerdictKind

PAGE = 4096
Block = tuple[int, int, int, int]  # address, size, stack id, slot


def snapshot_of(blocks: list[Block], regions: int = 0) -> Snapshot:
    return Snapshot(
        time_ns=100,
        generation=0,
        addresses=np.array([one[0] for one in blocks], dtype=np.uint64),
        records=np.array([(one[1], 10, one[2]) for one in blocks], dtype=ALLOCATION),
        site_ids=np.empty(0, dtype=np.uint64),
        sites=np.empty(0, dtype=SITE),
        losses=np.empty(0, dtype=np.uint64),
        region_count=regions,
        record_slots=np.array([one[3] for one in blocks], dtype=np.uint16),
    )


def keys_of(block: Block) -> set[int]:
    address, size, _, slot = block
    pages = range(address // PAGE, (address + max(size, 1) - 1) // PAGE + 1)
    return {(slot << 48) + page * PAGE for page in pages}


def some_blocks(seed: int, count: int = 300) -> list[Block]:
    """They don't overlap. Sizes are from bytes to several pages."""
    chance, at, blocks = random.Random(seed), 0x7F00_0000_0000, []
    for _ in range(count):
        size = chance.choice([0, 1, 24, 100, 1000, PAGE, 3 * PAGE + 5])
        blocks.append((at, size, chance.randrange(4), chance.randrange(3)))
        at += size + chance.choice([16, 64, 5000])
    chance.shuffle(blocks)
    return blocks


@pytest.mark.parametrize("seed", range(5))
def test_all_pages_of_small_sites(seed: int) -> None:
    blocks = some_blocks(seed, 60)
    found = pages_to_watch(snapshot_of(blocks), PAGE).tolist()
    assert found == sorted(set().union(*map(keys_of, blocks)))


def test_a_sample_of_large_ones_that_stays() -> None:
    large = (0x1234_0000_0010, 3000 * PAGE, 1, 2)
    small = (0x5000_0000_0000, 10 * PAGE, 2, 2)
    chosen = set(pages_to_watch(snapshot_of([large, small]), PAGE).tolist())
    assert keys_of(small) <= chosen
    assert len(chosen & keys_of(large)) == PAGES_PER_SITE == len(chosen - keys_of(small))
    # From all parts of it.
    parts = {(key - (2 << 48) - large[0]) // (600 * PAGE) for key in chosen & keys_of(large)}
    assert {max(part, 0) for part in parts} == set(range(5))
    # Most of them stay when the site grows.
    grown = [large, small, (0x6000_0000_0000, 300 * PAGE, 1, 2)]
    later = set(pages_to_watch(snapshot_of(grown), PAGE).tolist())
    assert len(chosen & later & keys_of(large)) > PAGES_PER_SITE * 3 / 4
    assert len(later) == len(chosen)


def test_the_largest_sites_only_and_no_regions() -> None:
    blocks = [(n << 32, PAGE * (n % 40 + 1), n, 0) for n in range(1, 80)]
    blocks.append((200 << 32, 1 << 30, 99, 0))
    found = pages_to_watch(snapshot_of(blocks, regions=1), PAGE).tolist()
    largest = sorted(blocks[:-1], key=lambda one: -one[1])[:MOST_SITES]
    assert {key >> 32 for key in found} == {one[0] >> 32 for one in largest}
    assert not len(pages_to_watch(snapshot_of([]), PAGE))


def test_a_huge_block_and_one_of_an_impossible_size() -> None:
    blocks = [(0x1000_0000_0000, 1 << 40, 1, 5), (0x2000_0000_0000, (1 << 64) - 1, 2, 6)]
    found = pages_to_watch(snapshot_of(blocks), PAGE)
    slots = (found >> np.uint64(48)).tolist()
    assert slots.count(5) == PAGES_PER_SITE
    assert set(slots) == {5, 6}  # and no other process
    assert set((found % np.uint64(PAGE)).tolist()) == {0}


@pytest.mark.parametrize("seed", range(5))
def test_use(seed: int) -> None:
    """By site: pages that are known and idle, and the bytes of its blocks on them."""
    blocks, chance = some_blocks(seed), random.Random(seed)
    pages = sorted(set().union(*map(keys_of, blocks)))
    known = sorted(chance.sample(pages, len(pages) // 2))
    idle = {key for key in known if chance.random() < 0.5}
    snapshot = snapshot_of(blocks)
    is_idle = np.array([key in idle for key in known])
    use = use_of_blocks(snapshot, np.array(known, dtype=np.uint64), is_idle, 50, PAGE)
    whole = Snapshot(**{**vars(snapshot), "idle": BlockUse(use, 300)})
    table = IdleTable(whole, SiteIndex.of(whole))
    for stack_id in range(4):
        own = [one for one in blocks if one[2] == stack_id]
        looked = set().union(*map(keys_of, own)) & set(known)
        share = table.of(stack_id)
        assert share is not None
        assert (share.looked_pages, share.idle_pages) == (len(looked), len(looked & idle))
        for which, expected in ((looked, share.looked_bytes), (looked & idle, share.idle_bytes)):
            inside = 0
            for address, size, _, slot in own:
                start = (slot << 48) + address
                for key in which:
                    inside += max(min(start + size, key + PAGE) - max(start, key), 0)
            assert inside == expected
    assert table.of(77) is None


def test_blocks_after_the_look_are_not_judged() -> None:
    snapshot = snapshot_of([(0x1000, 64, 1, 0), (0x1040, 64, 1, 0)])
    snapshot.records["time_ns"][1] = 60
    use = use_of_blocks(snapshot, np.array([0x1000], dtype=np.uint64), np.array([True]), 50, PAGE)
    assert use["idle_bytes"].tolist() == [64, 0]
    nothing = use_of_blocks(snapshot, np.empty(0, dtype=np.uint64), np.empty(0, bool), 50, PAGE)
    assert not nothing["looked_pages"].any()


@pytest.mark.parametrize(
    ("kind", "pages", "idle", "says"),
    [
        (VerdictKind.GROWING, 20, 19, True),
        (VerdictKind.GROWING, 20, 17, False),
        (VerdictKind.GROWING, 10, 10, False),  # few
        (VerdictKind.STEADY, 20, 20, False),
    ],
)
def test_evidence(kind: VerdictKind, pages: int, idle: int, says: bool) -> None:
    snapshot = snapshot_of([(0x10000 + n * PAGE, PAGE, 1, 0) for n in range(pages)])
    keys = pages_to_watch(snapshot, PAGE)
    use = use_of_blocks(snapshot, keys, np.arange(pages) < idle, 50, PAGE)
    snapshot = Snapshot(**{**vars(snapshot), "idle": BlockUse(use, 300)})
    verdict = Verdict(kind, reason="it grows")
    (found,) = with_idle({1: verdict}, IdleTable(snapshot, SiteIndex.of(snapshot))).values()
    assert found.kind is kind  # what is not used may be kept for later
    expected = f"it grows; not used for 5 min ({idle} of {pages} pages)" if says else "it grows"
    assert found.reason == expected
