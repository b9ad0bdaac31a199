"""Growth that is slow for its process waits for more evidence."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hand_made_snapshots import Counted, Held, snapshot

from leaktrace.analysis.sampling import Sampling
from leaktrace.analysis.sites import SiteIndex, group_by_site
from leaktrace.analysis.snapshot import Snapshot
from leaktrace.analysis.verdicts.overall import overall
from leaktrace.analysis.verdicts.watch import SiteWatch
from leaktrace.memory import MemoryGrowth, MemoryKinds
from leaktrace.verdict import Verdict, VerdictKind

MIB = 1024 * 1024
SITE, OTHER = 1, 1000


def memory(resident_bytes: int) -> MemoryGrowth:
    return MemoryGrowth(MemoryKinds(anonymous=resident_bytes), MemoryKinds())


def at(time_s: float, rates_per_s: dict[int, float], size: int) -> Snapshot:
    """Blocks of this size that each site has got at its even rate, and kept."""
    numbers = {site: int(time_s * per_s) for site, per_s in rates_per_s.items()}
    born_s = [
        (site, number / rates_per_s[site])
        for site, count in numbers.items()
        for number in range(count)
    ]
    counted = [Counted(site, (size * count, count)) for site, count in numbers.items()]
    held = [Held(site, size) for site, _ in born_s]
    one = snapshot(held, counted, unseen_releases=0)
    one.records["time_ns"] = [round(born * 1e9) for _, born in born_s]
    return Snapshot(**{**one.__dict__, "time_ns": round(time_s * 1e9)})


def watched(
    rates_per_s: dict[int, float],
    until_s: float,
    of: MemoryGrowth | Callable[[float], MemoryGrowth] | None,
    interval_s: float = 5.0,
    *,
    size: int = 100,
    totals_only: bool = False,
) -> dict[int, Verdict]:
    watch = SiteWatch()
    found: dict[int, Verdict] = {}
    for number in range(1, round(until_s / interval_s) + 1):
        time_s = number * interval_s
        one = at(time_s, rates_per_s, size)
        sites = group_by_site(one, 0, Sampling()) if totals_only else SiteIndex.of(one)
        watch.observe(one, 0, sites, Sampling())
        found = watch.judge_all((), one, of(time_s) if callable(of) else of)
    return found


@pytest.mark.parametrize(
    ("resident_bytes", "kind"),
    [
        # 50 bytes a second are 2.06 MiB in half a day.
        (2 * MIB, VerdictKind.GROWING),
        (3 * MIB, VerdictKind.TOO_EARLY),
        (100 * MIB, VerdictKind.TOO_EARLY),
    ],
)
def test_the_rate_is_compared_with_the_process(resident_bytes: int, kind: VerdictKind) -> None:
    found = watched({SITE: 0.5}, 60, memory(resident_bytes))[SITE]
    assert found.kind is kind
    assert found.bytes_per_s == pytest.approx(50, rel=0.1)
    assert found.is_suspicious


def test_it_says_how_much_longer_it_takes() -> None:
    found = watched({SITE: 0.5}, 60, memory(100 * MIB))[SITE]
    assert found.needs_s == pytest.approx(14 * 60, abs=10)
    assert "slow for 100.0 MiB in memory" in found.reason
    whole = overall({SITE: found}, ())
    assert (whole.kind, whole.reason) == (VerdictKind.TOO_EARLY, found.reason)
    assert (whole.needs_s, whole.bytes_per_s) == (found.needs_s, found.bytes_per_s)
    # Also where what is not known leaves no verdict on others.
    unknown = Verdict(VerdictKind.TOO_EARLY, "allocations were lost")
    assert overall({SITE: found}, (), unknown).may_grow
    assert overall({}, (), unknown) == unknown


def test_after_a_quarter_of_an_hour_it_is_growth() -> None:
    before = watched({SITE: 0.1}, 13 * 60, memory(100 * MIB), interval_s=30)
    after = watched({SITE: 0.1}, 17 * 60, memory(100 * MIB), interval_s=30)
    assert before[SITE].kind is VerdictKind.TOO_EARLY
    assert after[SITE].kind is VerdictKind.GROWING


@pytest.mark.parametrize("totals_only", [False, True])
def test_many_blocks_are_growth(totals_only: bool) -> None:
    few = watched({SITE: 4.0}, 50, memory(1000 * MIB), totals_only=totals_only)
    many = watched({SITE: 4.0}, 110, memory(1000 * MIB), totals_only=totals_only)
    assert few[SITE].kind is VerdictKind.TOO_EARLY
    assert many[SITE].kind is VerdictKind.GROWING


def test_all_slow_sites_count_together() -> None:
    """An object of many blocks, each of another site."""
    one = watched({SITE: 0.5}, 60, memory(20 * MIB))
    together = watched(dict.fromkeys(range(1, 21), 0.5), 60, memory(20 * MIB))
    assert one[SITE].kind is VerdictKind.TOO_EARLY
    assert {verdict.kind for verdict in together.values()} == {VerdictKind.GROWING}


def test_a_verdict_of_growth_stays() -> None:
    """The process gets larger: what was growth before is still growth."""

    def larger(time_s: float) -> MemoryGrowth:
        return memory(MIB if time_s < 40 else 100 * MIB)

    assert watched({SITE: 0.5}, 60, larger)[SITE].kind is VerdictKind.GROWING


def test_unknown_memory_holds_nothing_back() -> None:
    assert watched({SITE: 0.5}, 60, None)[SITE].kind is VerdictKind.GROWING


def test_it_is_shown_before_what_fills_and_after_what_grows() -> None:
    slow = Verdict(VerdictKind.TOO_EARLY, "slow", bytes_per_s=1.0, needs_s=9.0)
    filling = Verdict(VerdictKind.FILLING, "fills", bytes_per_s=5.0)
    growing = Verdict(VerdictKind.GROWING, "grows", bytes_per_s=5.0)
    assert overall({SITE: slow, OTHER: filling}, ()).reason == "slow"
    assert overall({SITE: slow, OTHER: growing}, ()).kind is VerdictKind.GROWING
