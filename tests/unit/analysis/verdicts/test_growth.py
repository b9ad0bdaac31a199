"""Verdicts on simulated sites, of which it is known what becomes of each block."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable

import pytest
from simulated_sites import Block, arrivals, kinds, verdicts

from leaktrace.verdict import Verdict, VerdictKind

END_S = 24.0
Make = Callable[[random.Random], list[Block]]


def fast_leak(rng: random.Random) -> list[Block]:
    return [Block(at) for at in arrivals(rng, 200, END_S)]


def slow_leak(_: random.Random) -> list[Block]:
    return [Block(1 + n * END_S / 30) for n in range(29)]


def leak_in_bursts(rng: random.Random) -> list[Block]:
    return [Block(at + n * 1e-4) for at in arrivals(rng, 1.5, END_S) for n in range(100)]


def one_in_a_hundred(rng: random.Random) -> list[Block]:
    return [
        Block(at) if rng.random() < 0.01 else Block(at, at + rng.expovariate(200))
        for at in arrivals(rng, 400, END_S)
    ]


def one_in_twenty_of_long_ones(rng: random.Random) -> list[Block]:
    return [
        Block(at) if rng.random() < 0.05 else Block(at, at + rng.expovariate(40 / END_S))
        for at in arrivals(rng, 150, END_S)
    ]


def leak_after_warming_up(rng: random.Random) -> list[Block]:
    return [Block(at) for at in arrivals(rng, 20, END_S, END_S / 3)]


def leak_after_a_large_start(rng: random.Random) -> list[Block]:
    start = [Block(at) for at in arrivals(rng, 2000, END_S / 50)]
    return start + [Block(at) for at in arrivals(rng, 10, END_S)]


def ever_larger_blocks(rng: random.Random) -> list[Block]:
    return [Block(at, size=100 + 10 * n) for n, at in enumerate(arrivals(rng, 10, END_S))]


def buffer_that_grows(_: random.Random) -> list[Block]:
    """realloc: there is always one block, ever larger."""
    times_s = [0.1 * n for n in range(1, 240)]
    return [
        Block(at, following, 1000 * n)
        for n, (at, following) in enumerate(itertools.pairwise([*times_s, math.inf]), start=1)
    ]


LEAKS: list[Make] = [
    fast_leak,
    slow_leak,
    leak_in_bursts,
    one_in_a_hundred,
    one_in_twenty_of_long_ones,
    leak_after_warming_up,
    leak_after_a_large_start,
    ever_larger_blocks,
    buffer_that_grows,
]


def leak_that_stops(rng: random.Random) -> list[Block]:
    return [Block(at) for at in arrivals(rng, 20, END_S / 3)]


def cache_that_fills(rng: random.Random) -> list[Block]:
    known: set[int] = set()
    blocks = []
    for at in arrivals(rng, 400, END_S):
        key = rng.randrange(2000)
        if key not in known:
            known.add(key)
            blocks.append(Block(at))
    return blocks


def cache_at_its_bound(rng: random.Random) -> list[Block]:
    """Of 500 entries, the oldest goes for each new one."""
    times_s = [*arrivals(rng, 120, END_S), *[math.inf] * 500]
    return [Block(at, freed) for at, freed in zip(times_s, times_s[500:], strict=False)]


def random_replacement(rng: random.Random) -> list[Block]:
    blocks: list[Block] = []
    slots: list[int] = []
    for at in arrivals(rng, 120, END_S):
        blocks.append(Block(at))
        if len(slots) < 500:
            slots.append(len(blocks) - 1)
            continue
        slot = rng.randrange(500)
        blocks[slots[slot]] = Block(blocks[slots[slot]].born_s, at)
        slots[slot] = len(blocks) - 1
    return blocks


def pool(_: random.Random) -> list[Block]:
    return [Block(0.01 + n * 0.015, size=4096) for n in range(50)]


def sawtooth(rng: random.Random) -> list[Block]:
    batch_s = END_S / 7
    return [Block(at, (at // batch_s + 1) * batch_s) for at in arrivals(rng, 100, END_S)]


def vector_that_doubles(_: random.Random) -> list[Block]:
    times_s = [0.1 * 2**n for n in range(8)]
    return [
        Block(at, following, 256 << n)
        for n, (at, following) in enumerate(itertools.pairwise([*times_s, math.inf]))
    ]


def start(rng: random.Random) -> list[Block]:
    return [Block(at) for at in arrivals(rng, 5000, END_S / 100)]


def connections(rng: random.Random) -> list[Block]:
    return [Block(at, at + rng.expovariate(15 / END_S)) for at in arrivals(rng, 40, END_S)]


def sessions(rng: random.Random) -> list[Block]:
    return [Block(at, at + END_S / 6) for at in arrivals(rng, 40, END_S)]


def churn(rng: random.Random) -> list[Block]:
    return [Block(at, at + rng.expovariate(100)) for at in arrivals(rng, 300, END_S)]


def busy_and_a_few_that_stay(rng: random.Random) -> list[Block]:
    kept = [Block(at) for at in (0.5, 0.6, 0.7, END_S / 3)]
    return [Block(at, at + 0.003) for at in arrivals(rng, 300, END_S)] + kept


OTHERS: list[Make] = [
    leak_that_stops,
    cache_that_fills,
    cache_at_its_bound,
    random_replacement,
    pool,
    sawtooth,
    vector_that_doubles,
    start,
    connections,
    sessions,
    churn,
    busy_and_a_few_that_stay,
]


@pytest.mark.parametrize("interval_s", [0.5, 2.0])
@pytest.mark.parametrize("with_lifetimes", [True, False])
@pytest.mark.parametrize("make", LEAKS)
def test_leaks_grow(make: Make, with_lifetimes: bool, interval_s: float) -> None:
    for seed in range(2):
        found = verdicts(
            make(random.Random(seed)), END_S, interval_s, with_lifetimes=with_lifetimes
        )
        assert found[-1] is not None
        assert found[-1].kind is VerdictKind.GROWING, (seed, found[-1])


@pytest.mark.parametrize("interval_s", [0.5, 2.0])
@pytest.mark.parametrize("with_lifetimes", [True, False])
@pytest.mark.parametrize("make", OTHERS)
def test_what_else_holds_memory_does_not(
    make: Make, with_lifetimes: bool, interval_s: float
) -> None:
    for seed in range(2):
        blocks = make(random.Random(seed))
        last = verdicts(blocks, END_S, interval_s, with_lifetimes=with_lifetimes)[-1]
        assert last is None or last.kind not in (VerdictKind.GROWING, VerdictKind.OVERDUE), last


@pytest.mark.parametrize("make", [cache_at_its_bound, random_replacement])
def test_what_a_process_held_before_is_turned_over(make: Make) -> None:
    """A cache that is full when the trace begins frees blocks that were never seen allocated: at no
    report does it look like a leak."""
    for seed in range(2):
        found = verdicts(make(random.Random(seed)), END_S, 0.5, attached_s=10.0)
        assert VerdictKind.GROWING not in kinds(found)


def test_the_rate_is_right() -> None:
    """200 blocks of 100 bytes a second; the error is that of a Poisson process."""
    last = verdicts(fast_leak(random.Random(1)), END_S, 1.0)[-1]
    assert last is not None and last.bytes_per_s and last.error_bytes_per_s and last.since_s
    assert abs(last.bytes_per_s - 20_000) < 3 * last.error_bytes_per_s
    expected = 100 * math.sqrt(200 / END_S)
    assert expected * 0.9 < last.error_bytes_per_s < expected * 2
    assert last.since_s == pytest.approx(END_S, abs=0.5)


def test_a_leak_is_dated() -> None:
    last = verdicts(leak_after_warming_up(random.Random(1)), END_S, 1.0)[-1]
    assert last is not None and last.since_s == pytest.approx(END_S * 2 / 3, abs=1.0)


def test_a_fast_leak_is_known_with_the_third_report() -> None:
    early = VerdictKind.TOO_EARLY
    found = verdicts(fast_leak(random.Random(1)), 3.0, 1.0)
    assert kinds(found) == [early, early, VerdictKind.GROWING]
    assert found[0] is not None and found[0].needs_s == pytest.approx(2.0)


def test_one_long_report_is_enough() -> None:
    found = verdicts(fast_leak(random.Random(1)), END_S, END_S)
    assert kinds(found) == [VerdictKind.GROWING]


def test_too_few_blocks_are_no_growth() -> None:
    blocks = [Block(at) for at in (1.0, 6.0, 11.0, 16.0)]
    found = verdicts(blocks, 20.0, 1.0)
    assert VerdictKind.GROWING not in kinds(found)
    last = found[-1]
    assert last is not None and last.kind is VerdictKind.TOO_EARLY
    assert last.needs_s is not None and 10 < last.needs_s < 40
    assert "4 blocks" in last.reason


def test_the_first_blocks_of_a_slow_leak_are_not_called_steady() -> None:
    """One block in 8 s: the verdict does not change with the third one."""
    found = verdicts([Block(at) for at in (8.0, 16.0, 24.0, 32.0)], 38.0, 1.0)
    assert set(kinds(found[8:])) == {VerdictKind.TOO_EARLY}
    first = found[8]
    assert first is not None and "1 block came lately" in first.reason
    assert first.needs_s is not None and 12 < first.needs_s < 18


@pytest.mark.parametrize("came_s", [(8.0,), (8.0, 12.0)])
def test_the_first_blocks_are_steady_if_no_others_come(came_s: tuple[float, ...]) -> None:
    found = verdicts([Block(at) for at in came_s], 38.0, 1.0)
    last = found[-1]
    assert last is not None and last.kind is VerdictKind.STEADY


def test_a_block_of_many_that_came_lately_is_not_awaited() -> None:
    """The site frees what it allocates: its latest block is no first one."""
    churning = [Block(at / 2, at / 2 + 0.6) for at in range(60)]
    assert VerdictKind.TOO_EARLY not in kinds(verdicts(churning, 30.0, 1.0)[3:])


def test_overdue_blocks() -> None:
    """Three blocks of minutes among thousands of milliseconds."""
    rng = random.Random(1)
    busy = [Block(at, at + rng.expovariate(1000)) for at in arrivals(rng, 200, 200.0)]
    found = verdicts([*busy, *(Block(at) for at in (30.0, 90.0, 150.0))], 200.0, 10.0)
    last = found[-1]
    assert last is not None and last.kind is VerdictKind.OVERDUE
    assert VerdictKind.GROWING not in kinds(found)
    only_at_first = verdicts([*busy, *(Block(at) for at in (1.0, 2.0, 3.0))], 200.0, 10.0)
    assert VerdictKind.OVERDUE not in kinds(only_at_first)


@pytest.mark.parametrize("make", [fast_leak, buffer_that_grows, leak_after_warming_up])
def test_leaks_seen_from_totals(make: Make) -> None:
    last = verdicts(make(random.Random(1)), END_S, 1.0, totals_only=True)[-1]
    assert last is not None and last.kind is VerdictKind.GROWING
    assert "totals" in last.reason


@pytest.mark.parametrize(
    "make", [cache_that_fills, sawtooth, connections, churn, start, vector_that_doubles]
)
def test_totals_that_do_not_rise_for_long(make: Make) -> None:
    last = verdicts(make(random.Random(1)), END_S, 1.0, totals_only=True)[-1]
    assert last is None or last.kind is not VerdictKind.GROWING


@pytest.mark.parametrize("make", [fast_leak, start, churn])
def test_every_verdict_says_why(make: Make) -> None:
    found: list[Verdict | None] = verdicts(make(random.Random(1)), END_S, 1.0)
    assert all(one is None or one.reason for one in found)


# --- what a trace goes through -------------------------------------------------------------------


@pytest.mark.parametrize("per_s", [0.02, 0.5])
def test_a_leak_stays_one_in_a_long_trace(per_s: float) -> None:
    """Of some hours, and 600 reports: far more than there are slices."""
    rng = random.Random(1)
    busy = [Block(at, at + rng.expovariate(1)) for at in arrivals(rng, per_s, 6_000.0)]
    found = verdicts([*busy, *(Block(at) for at in arrivals(rng, per_s, 6_000.0))], 6_000.0, 10.0)
    late = kinds(found)[80:]
    assert late.count(VerdictKind.GROWING) >= 0.97 * len(late), late
    last = found[-1]
    assert last is not None and last.kind is VerdictKind.GROWING and last.bytes_per_s is not None
    assert last.bytes_per_s == pytest.approx(100 * per_s, rel=0.2)


def test_a_leak_after_days_of_churn() -> None:
    """It is noticed within a tenth of the length of the trace, and dated."""
    rng = random.Random(1)
    day_s = 86_400.0
    churn = [Block(at, at + rng.expovariate(0.1)) for at in arrivals(rng, 0.05, 2.3 * day_s)]
    leak = [Block(at) for at in arrivals(rng, 0.05, 2.3 * day_s, 2 * day_s)]
    found = verdicts([*churn, *leak], 2.3 * day_s, 300.0)
    before, after = found[: int(2 * day_s / 300)], found[int(2 * day_s / 300) :]
    assert VerdictKind.GROWING not in kinds(before)
    first = kinds(after).index(VerdictKind.GROWING)
    assert first * 300 < 0.2 * day_s
    assert set(kinds(after)[first:]) == {VerdictKind.GROWING}
    last = found[-1]
    assert last is not None and last.kind is VerdictKind.GROWING
    assert last.bytes_per_s == pytest.approx(5, rel=0.3)
    assert last.since_s == pytest.approx(0.3 * day_s, rel=0.2)


def test_a_leak_that_stopped_days_ago() -> None:
    rng = random.Random(1)
    found = verdicts([Block(at) for at in arrivals(rng, 0.1, 10_000.0)], 100_000.0, 300.0)
    assert kinds(found)[30] is VerdictKind.GROWING
    assert VerdictKind.GROWING not in kinds(found)[60:]


def test_blocks_that_go_without_having_been_released() -> None:
    """With a process that ends: no lifetime is counted then. Each lives 3 s, and none is freed."""
    rng = random.Random(1)
    gone = [Block(at, at + 3.0) for at in arrivals(rng, 20, 60.0)]
    found = verdicts(gone, 60.0, 1.0, counts_lifetimes=False)
    assert VerdictKind.GROWING not in kinds(found)[6:]


def test_a_process_that_is_stopped() -> None:
    """What is under way gets older than anything that was freed, and nothing new comes."""
    rng = random.Random(1)
    sessions = [Block(at, at + rng.uniform(5, 10)) for at in arrivals(rng, 4, 42.0)]
    stopped = [
        one if one.freed_s < 42.0 else Block(one.born_s, math.inf, one.size) for one in sessions
    ]
    found = verdicts(stopped, 120.0, 2.0)
    assert VerdictKind.GROWING not in kinds(found)[20:]


def test_where_allocations_are_lost_nothing_is_steady() -> None:
    blocks = start(random.Random(1))
    assert kinds(verdicts(blocks, END_S, 1.0))[-1] is VerdictKind.STARTUP
    last = verdicts(blocks, END_S, 1.0, lost_count=7)[-1]
    assert last is not None and last.kind is VerdictKind.TOO_EARLY
    assert "7 allocations could not be recorded" in last.reason
    leak = verdicts(fast_leak(random.Random(1)), END_S, 1.0, lost_count=7)[-1]
    assert leak is not None and leak.kind is VerdictKind.GROWING


def test_releases_of_older_blocks_that_can_not_be_seen() -> None:
    """As with sampling: the memory of the process has to confirm the growth."""
    cache = cache_at_its_bound(random.Random(1))
    unseen = verdicts(cache, END_S, 0.5, attached_s=10.0, sees_releases=False)
    assert VerdictKind.GROWING not in kinds(unseen)
    leak = fast_leak(random.Random(1))
    for grown_bytes, kind in ((0, VerdictKind.TOO_EARLY), (480_000, VerdictKind.GROWING)):
        found = verdicts(leak, END_S, 1.0, sees_releases=False, process_growth_bytes=grown_bytes)
        assert kinds(found)[-1] is kind


def test_sampling_that_begins_later_is_no_change() -> None:
    """--max-overhead: from 12 s on, one block in ten is recorded, and stands for ten."""
    found = verdicts(
        fast_leak(random.Random(1)), END_S, 0.5, sampled=lambda at: 1 if at < END_S / 2 else 10
    )
    assert set(kinds(found)[3:]) == {VerdictKind.GROWING}
    last = found[-1]
    assert last is not None and last.bytes_per_s == pytest.approx(20_000, rel=0.15)


def test_a_rate_begins_where_growth_does() -> None:
    """A leak of 10 KB a second that begins after 13 s."""
    blocks = [Block(13.0 + 0.01 * n) for n in range(2200)]
    found = verdicts([Block(0.1), *blocks], 35.0, 5.0)
    growing = [one for one in found if one is not None and one.kind is VerdictKind.GROWING]
    assert growing
    for one in growing:
        assert one.bytes_per_s == pytest.approx(10_000, rel=0.2), one
