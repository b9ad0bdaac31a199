"""Verdicts on heaps that are collected, from looks made by hand."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
from sample_go import HEAP

from leaktrace.analysis.verdicts.live_heap import LiveHeap
from leaktrace.go_report import Collector, HeapLook
from leaktrace.verdict import Verdict, VerdictKind

MIB = 1 << 20


def look(time_s: float, collections: int, live: int, in_use: int, percent: int = 100) -> HeapLook:
    collector = Collector(percent, None, collections, live)
    return replace(HEAP.look, time_s=time_s, collector=collector, in_use_bytes=in_use)


def verdict_on(looks: Iterable[HeapLook]) -> Verdict:
    heap = LiveHeap()
    for one in looks:
        heap.add(one)
    return heap.verdict()


def collected(
    kept: Callable[[float], float], *, looks: int, every_s: float = 5.0, gap_s: float = 4.0
) -> list[HeapLook]:
    """Looks at a program that keeps so many bytes at a time, and fills twice that with garbage from
    one collection to the next, which come at even gaps."""
    found = []
    for number in range(looks):
        now_s = number * every_s
        collections = int(now_s / gap_s)
        live = kept(collections * gap_s)
        since = (now_s - collections * gap_s) / gap_s
        in_use = round(live * (1 + since) + kept(now_s) - live)
        found.append(look(1000 + now_s, 7 + collections, round(live), in_use))
    return found


def test_what_each_collection_finds_more_of_grows() -> None:
    """1 MiB a second, under garbage that comes and goes."""
    verdict = verdict_on(collected(lambda s: 50 * MIB + s * MIB, looks=10))
    assert verdict.kind is VerdictKind.GROWING
    assert verdict.bytes_per_s == pytest.approx(MIB, rel=0.15)
    assert verdict.since_s == pytest.approx(40, abs=15)
    assert "collections left ever more, at" in verdict.reason


def test_garbage_is_no_growth() -> None:
    """What is in use rises from the first look to the last, but only garbage does."""
    looks = collected(lambda _: 50.0 * MIB, looks=8, gap_s=4.4)
    assert looks[-1].in_use_bytes > looks[0].in_use_bytes + 10 * MIB
    verdict = verdict_on(looks)
    assert verdict.kind is VerdictKind.STEADY
    assert "collections left 50.0 MiB, at 7 looks" in verdict.reason


def test_a_heap_that_wanders_is_not_called_growing() -> None:
    """Of 200 programs that keep now more and now less, by chance."""
    kinds = []
    for seed in range(200):
        rng = random.Random(seed)
        kept = [80.0 * MIB]
        for _ in range(30):
            kept.append(kept[0] * rng.uniform(0.7, 1.3))
        looks = collected(lambda s, kept=kept: kept[int(s / 4)], looks=15)  # type: ignore[misc]
        kinds.append(verdict_on(looks).kind)
    assert kinds.count(VerdictKind.GROWING) == 0
    assert kinds.count(VerdictKind.STEADY) > 150


def test_a_cache_that_fills_is_not_called_growing_once_it_is_full() -> None:
    verdict = verdict_on(collected(lambda s: MIB * (20 + min(s, 40)), looks=30))
    assert verdict.kind is VerdictKind.STEADY or verdict.kind is VerdictKind.FILLING


def test_ever_slower_growth_is_filling() -> None:
    verdict = verdict_on(collected(lambda s: MIB * (20 + 30 * s / (10 + s)), looks=12))
    assert verdict.kind is VerdictKind.FILLING
    assert verdict.bytes_per_s is not None and verdict.bytes_per_s > 0


@pytest.mark.parametrize("looks", [1, 2, 3])
def test_few_collections_are_too_few(looks: int) -> None:
    verdict = verdict_on(collected(lambda s: 50 * MIB + s * MIB, looks=looks))
    assert verdict.kind is VerdictKind.TOO_EARLY
    assert verdict.bytes_per_s is None
    assert verdict.needs_s is not None and verdict.needs_s > 0


def test_some_collections_may_show_growth() -> None:
    verdict = verdict_on(collected(lambda s: 50 * MIB + s * MIB, looks=6))
    assert verdict.kind is VerdictKind.TOO_EARLY
    assert verdict.may_grow
    assert verdict.bytes_per_s == pytest.approx(MIB, rel=0.2)


def test_the_collection_before_the_first_look_is_no_point() -> None:
    """It may have been minutes ago: what was kept since is not what is kept in a second."""
    looks = [look(0, 3, 10 * MIB, 15 * MIB)]
    looks += [look(5.0 * n, 3 + n, 90 * MIB + n, 95 * MIB) for n in range(1, 8)]
    verdict = verdict_on(looks)
    assert verdict.bytes_per_s is None or verdict.bytes_per_s < 1000


def test_where_nothing_is_collected_all_stays() -> None:
    looks = [look(n, 0, 0, 10 * MIB + n * MIB, percent=-1) for n in range(5)]
    verdict = verdict_on(looks)
    assert verdict.kind is VerdictKind.GROWING
    assert verdict.bytes_per_s == pytest.approx(MIB)
    assert "GOGC=off" in verdict.reason
    idle = [look(n, 0, 0, 10 * MIB, percent=-1) for n in range(5)]
    assert verdict_on(idle).kind is VerdictKind.STEADY
    assert verdict_on(looks[:2]).kind is VerdictKind.TOO_EARLY


def test_a_collector_that_is_switched_off_while_it_is_watched() -> None:
    """What collections left before says nothing of what is allocated since."""
    before = collected(lambda _: 50.0 * MIB, looks=12)
    last = before[-1]
    off = [
        look(last.time_s + 5 * n, last.collector.collections, 50 * MIB, (100 + n) * MIB, percent=-1)
        for n in range(1, 8)
    ]
    assert verdict_on(before).kind is VerdictKind.STEADY
    verdict = verdict_on([*before, *off])
    assert verdict.kind is VerdictKind.GROWING
    assert verdict.bytes_per_s == pytest.approx(MIB / 5, rel=0.2)


def test_a_program_that_collects_by_itself_is_judged_by_that() -> None:
    """GOGC=off, and runtime.GC every 20 s: garbage piles up for four looks."""
    looks = [
        replace(one, collector=replace(one.collector, percent=-1))
        for one in collected(lambda _: 50.0 * MIB, looks=40, gap_s=20.0)
    ]
    verdicts = [verdict_on(looks[:count]) for count in range(10, len(looks) + 1)]
    assert VerdictKind.GROWING not in {one.kind for one in verdicts}
    assert verdicts[-1].kind is VerdictKind.STEADY


def test_near_a_limit_it_is_not_known_what_stays() -> None:
    looks = [look(n, 0, 0, 10 * MIB + n * MIB, percent=-1) for n in range(5)]
    limited = [
        replace(one, collector=replace(one.collector, memory_limit_bytes=1 << 30)) for one in looks
    ]
    verdict = verdict_on(limited)
    assert verdict.kind is VerdictKind.TOO_EARLY
    assert "1.0 GiB" in verdict.reason


def test_a_long_run_is_bounded_and_still_judged() -> None:
    verdict = verdict_on(collected(lambda s: 50 * MIB + s * 1000, looks=5000))
    assert verdict.kind is VerdictKind.GROWING
    assert verdict.bytes_per_s == pytest.approx(1000, rel=0.05)
