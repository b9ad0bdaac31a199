"""Sites whose blocks are known from birth to death, and the verdicts on them at each report."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from leaktrace.analysis.verdicts.cohorts import Cohorts, Survivors
from leaktrace.analysis.verdicts.growth import Evidence, judge
from leaktrace.verdict import Lifetimes, Verdict, VerdictKind

NEVER = math.inf
_SITE = 7
_START_S = 1_000.0  # of the trace, on the clock of the machine


@dataclass(frozen=True)
class Block:
    """Allocated and freed at these times, in seconds since the process began."""

    born_s: float
    freed_s: float = NEVER
    size: int = 100


def verdicts(
    blocks: Sequence[Block],
    until_s: float,
    interval_s: float,
    *,
    attached_s: float = 0.0,
    with_lifetimes: bool = True,
    totals_only: bool = False,
    sampled: Callable[[float], int] = lambda _: 1,
    process_growth_bytes: int | None = None,
    sees_releases: bool = True,
    lost_count: int = 0,
    counts_lifetimes: bool = True,
) -> list[Verdict | None]:
    """The verdict at each report; None where the site holds nothing yet.

    `with_lifetimes`: False: it isn't measured how long blocks lived; `sampled`: one block in how
    many is recorded, by the time of its allocation; `counts_lifetimes`: False: they are measured,
    but these blocks go without being released; the others as in `Evidence`.
    """
    born = np.array([one.born_s for one in blocks])
    freed = np.array([one.freed_s for one in blocks])
    sizes = np.array([one.size for one in blocks], dtype=np.float64)
    rates = np.array([sampled(one) for one in born])
    is_seen = (born >= attached_s) & (np.arange(len(born)) % rates == 0)
    older_freed = np.sort(freed[born < attached_s])
    born, freed, sizes, rates = born[is_seen], freed[is_seen], sizes[is_seen], rates[is_seen]
    cohorts = Cohorts(_ns(attached_s))
    found: list[Verdict | None] = []
    was_growing = False
    count = round((until_s - attached_s) / interval_s)
    for number in range(1, count + 1):
        now_s = attached_s + number * interval_s
        is_there = (born <= now_s) & (freed > now_s)
        number_there = int(is_there.sum())
        ids = np.array([_SITE] if number_there else [], dtype=np.uint64)
        if totals_only:
            totals = [
                np.array([value], float)[: len(ids)]
                for value in (sizes[is_there].sum(), number_there)
            ]
            cohorts.add_totals(_ns(now_s), ids, *totals)
        else:
            survivors = Survivors(
                np.zeros(number_there, dtype=np.intp),
                np.array([_ns(one) for one in born[is_there]], dtype=np.int64),
                rates[is_there].astype(np.float64),
                sizes[is_there],
            )
            cohorts.add_blocks(_ns(now_s), ids, survivors)
        allocated = int((born <= now_s).sum())
        cohorts.note_allocated(np.array([_SITE], dtype=np.uint64), np.array([allocated]))
        history = cohorts.history(_SITE)
        if history is None:
            found.append(None)
            continue
        since_s = now_s - (now_s - attached_s) / 2
        unseen = int(((older_freed > since_s) & (older_freed <= now_s)).sum())
        verdict = judge(
            Evidence(
                history,
                number,
                allocated,
                _lifetimes(born, freed, now_s if counts_lifetimes else -1.0)
                if with_lifetimes
                else None,
                unseen / (now_s - since_s) if sees_releases else None,
                process_growth_bytes,
                lost_count,
                totals_only=totals_only,
                was_growing=was_growing,
            )
        )
        was_growing = verdict.kind is VerdictKind.GROWING
        found.append(verdict)
    return found


def _lifetimes(born: np.ndarray, freed: np.ndarray, now_s: float) -> Lifetimes:
    lived_ns = ((freed - born)[freed <= now_s] * 1e9).clip(1)
    powers = np.floor(np.log2(lived_ns)).astype(int) + 1
    return Lifetimes(tuple(np.bincount(powers, minlength=64).tolist()))


def _ns(time_s: float) -> int:
    return round((_START_S + time_s) * 1e9)


def kinds(found: Sequence[Verdict | None]) -> list[VerdictKind | None]:
    """What the verdicts say."""
    return [None if one is None else one.kind for one in found]


def arrivals(
    rng: random.Random, per_s: float, until_s: float, since_s: float = 0.0
) -> Iterator[float]:
    """The times of a Poisson process."""
    time_s = since_s + rng.expovariate(per_s)
    while time_s < until_s:
        yield time_s
        time_s += rng.expovariate(per_s)
