"""Verdicts on the sites of snapshots, and on all of them together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hand_made_snapshots import Counted, Held, snapshot

from leaktrace.analysis.regions import REGION, Regions
from leaktrace.analysis.sampling import Sampling
from leaktrace.analysis.sites import SiteIndex, SiteTable, combine_counters, group_by_site
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.analysis.verdicts.overall import order_by_verdict, overall
from leaktrace.analysis.verdicts.watch import SiteWatch
from leaktrace.verdict import Verdict, VerdictKind

S = 1_000_000_000
LEAK, CHURN, PAGES, WITH_PAGES = 1, 2, 3, 4


def at(time_s: float, held: dict[int, list[float]], **more: object) -> Snapshot:
    """A snapshot with blocks that these sites allocated at these times."""
    blocks = [
        Held(site, 100, round((time_s - born_s) * 1000)) for site in held for born_s in held[site]
    ]
    counted = [Counted(site, (100 * 999, round(99 * time_s))) for site in held]
    one = snapshot(blocks, counted, **more)
    moved = np.int64(round(time_s * S)) - np.int64(one.time_ns)
    one.records["time_ns"] += moved.view(np.uint64)
    return Snapshot(**{**one.__dict__, "time_ns": round(time_s * S)})


def watched(
    snapshots: Callable[[float], Snapshot], reports: int = 10, watch: SiteWatch | None = None
) -> dict[int, Verdict]:
    watch = SiteWatch() if watch is None else watch
    found: dict[int, Verdict] = {}
    for number in range(1, reports + 1):
        one = snapshots(2.0 * number)
        watch.observe(one, 0, SiteIndex.of(one), Sampling())
        found = watch.judge_all((LEAK, CHURN), one)
    return found


def leak(until_s: float, per_s: float = 10) -> list[float]:
    return [n / per_s for n in range(int(until_s * per_s))]


def kinds(found: dict[int, Verdict]) -> dict[int, VerdictKind]:
    return {site: verdict.kind for site, verdict in found.items()}


def test_sites_are_told_apart() -> None:
    found = watched(
        lambda s: at(s, {LEAK: leak(s), CHURN: [s - 0.01, s - 0.02]}, unseen_releases=0)
    )
    assert kinds(found)[LEAK] is VerdictKind.GROWING
    assert kinds(found)[CHURN] is not VerdictKind.GROWING


def test_a_turned_over_process() -> None:
    """It releases 8 older blocks a second, and a site gains 10: that may be the same."""
    found = watched(lambda s: at(s, {LEAK: leak(s)}, unseen_releases=round(8 * s)))
    assert kinds(found) == {LEAK: VerdictKind.TOO_EARLY}
    few = watched(lambda s: at(s, {LEAK: leak(s)}, unseen_releases=round(2 * s)))
    assert kinds(few) == {LEAK: VerdictKind.GROWING}


def test_the_heap_of_a_runtime() -> None:
    """Its pages come now and then, each with five blocks; a leak comes at other times."""

    def with_heap(time_s: float) -> Snapshot:
        pages = [n * 1.7 for n in range(int(time_s / 1.7))]
        blocks = [born + 0.0001 * n for born in pages for n in range(5)]
        held = {LEAK: leak(time_s), WITH_PAGES: blocks, PAGES: pages}
        rows = np.zeros(len(pages), dtype=REGION)
        rows["stack_id"], rows["size"], rows["resident"] = PAGES, 100, 100
        rows["time_ns"] = [round(born * S) for born in pages]
        one = at(
            time_s,
            held,
            unseen_releases=0,
            has_runtime_heap=True,
            region_count=len(pages),
            regions=Regions(rows),
        )
        assert one.records["time_ns"][-1] == rows["time_ns"][-1]
        return one

    found = kinds(watched(with_heap, 15))
    assert found[LEAK] is VerdictKind.GROWING
    assert found[PAGES] is found[WITH_PAGES] is VerdictKind.TOO_EARLY


def test_a_program_that_was_executed_has_nothing_older() -> None:
    watch = SiteWatch()
    watch.forget()
    watch._begin_ns = 0
    found = watched(lambda s: at(s, {LEAK: leak(s)}, unseen_releases=round(50 * s)), watch=watch)
    assert kinds(found) == {LEAK: VerdictKind.GROWING}


def test_totals_only() -> None:
    watch = SiteWatch(may_replace=False)
    found: dict[int, Verdict] = {}
    for number in range(1, 12):
        one = snapshot([], [Counted(LEAK, (1000 * number, 10 * number))])
        one = Snapshot(**{**one.__dict__, "time_ns": number * S})
        watch.observe(one, 0, combine_counters(one, Sampling()), Sampling())
        found = watch.judge_all((), one)
    assert kinds(found) == {LEAK: VerdictKind.GROWING}


def test_what_grows_comes_first() -> None:
    table: SiteTable = group_by_site(
        snapshot([Held(1, 10), Held(2, 20), Held(3, 30), Held(4, 40)]), 0, Sampling()
    )
    verdicts = {
        1: Verdict(VerdictKind.GROWING, bytes_per_s=1.0),
        2: Verdict(VerdictKind.GROWING, bytes_per_s=5.0),
        3: Verdict(VerdictKind.STEADY),
    }
    order = order_by_verdict(table, verdicts)
    assert table.stack_ids[order].tolist() == [2, 1, 4, 3]


GROWS = Verdict(VerdictKind.GROWING, "", 3.0, 0.3, 7.0)
EARLY = Verdict(VerdictKind.TOO_EARLY, "few", needs_s=9.0)
STEADY = Verdict(VerdictKind.STEADY)


def test_all_together() -> None:
    both = overall({1: GROWS, 2: Verdict(VerdictKind.GROWING, "", 4.0, 0.4, 5.0), 3: STEADY}, [])
    assert (both.kind, both.bytes_per_s, both.since_s) == (VerdictKind.GROWING, 7.0, 7.0)
    assert both.error_bytes_per_s == pytest.approx(0.5) and both.reason == "2 sites grow"
    assert overall({1: EARLY, 2: STEADY}, [1, 2]).needs_s == 9.0
    # Of a site that isn't among the largest, it doesn't matter.
    assert overall({1: EARLY, 2: STEADY}, [2]).kind is VerdictKind.STEADY
    assert overall({}, []).reason == "nothing keeps growing"


def test_all_together_says_what_is_not_known() -> None:
    assert overall({1: STEADY}, [1], EARLY) is EARLY
    assert overall({1: GROWS}, [1], EARLY).kind is VerdictKind.GROWING
    assert overall({1: GROWS}, [1], None, 8).reason == "one site grows of 1 that were judged"
    assert "one suppressed site does" in overall({1: STEADY}, [1], suppressed=1).reason
