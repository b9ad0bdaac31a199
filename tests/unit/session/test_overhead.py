"""When --max-overhead samples, and when it stops tracing."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from leaktrace.model import Cost
from leaktrace.session.overhead import OverheadLimit


@dataclass
class Reports:
    """Remembers what was requested."""

    rates: list[int] = field(default_factory=list)

    @property
    def is_sampled(self) -> bool:
        return bool(self.rates)

    def throttle(self, rate: int) -> None:
        self.rates.append(rate)


def cost(share: float | None, programs_s_per_s: float = 0.5) -> Cost:
    return Cost(
        own_cpu_share=0.0,
        own_resident_bytes=0,
        programs_s_per_s=programs_s_per_s,
        traps_s_per_s=0.0,
        target_share=share,
    )


def judge(limit: OverheadLimit, *costs: Cost) -> list[bool]:
    """One interval after another, each with its report in between."""
    verdicts = []
    for one in costs:
        verdicts.append(limit.must_stop(one))
        limit.throttle_if_due(one)
    return verdicts


def test_three_intervals_above_sample_and_three_more_stop() -> None:
    reports = Reports()
    limit = OverheadLimit(10, reports)
    assert judge(limit, cost(0.2), cost(0.2)) == [False, False]
    assert reports.rates == []
    assert judge(limit, cost(0.2)) == [False]
    assert reports.rates == [10]
    assert judge(limit, cost(0.2), cost(0.2), cost(0.2)) == [False, False, True]
    assert reports.rates == [10]


@pytest.mark.parametrize(
    "between", [cost(0.1), cost(0.9, programs_s_per_s=0.001)], ids=["below", "negligible"]
)
def test_one_interval_below_starts_the_count_again(between: Cost) -> None:
    reports = Reports()
    limit = OverheadLimit(10, reports)
    above = cost(0.2)
    assert not any(judge(limit, above, above, between, above, above, between))
    assert reports.rates == []


def test_an_unknown_share_is_not_judged() -> None:
    reports = Reports()
    assert not any(judge(OverheadLimit(10, reports), *[cost(None)] * 9))
    assert reports.rates == []
