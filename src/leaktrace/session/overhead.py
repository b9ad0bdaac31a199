"""--max-overhead: sample when tracing costs too much, and stop when that is not enough."""

from __future__ import annotations

from typing import Protocol

from leaktrace.model import Cost
from leaktrace.notices import notify

_PATIENCE_INTERVALS = 3
_SAMPLE_RATE = 10
_NEGLIGIBLE_S_PER_S = 0.01  # of one CPU: too little to do anything about


class Sampled(Protocol):
    """Reports that can be made from a sample of the allocations."""

    @property
    def is_sampled(self) -> bool:
        """Whether reports are based on a sample now."""

    def throttle(self, rate: int) -> None:
        """Record one allocation in `rate` from now on."""


class OverheadLimit:
    """Judges the cost of each interval. After three intervals in a row above the limit, leaktrace
    samples; after three more, it stops."""

    def __init__(self, percent: float, reports: Sampled) -> None:
        """`percent`: of the target's CPU time."""
        self._percent = percent
        self._reports = reports
        self._intervals_above = 0

    def must_stop(self, cost: Cost) -> bool:
        """Count this interval. Returns whether tracing has to end, because it costs too much even
        with sampling."""
        share = cost.target_share
        if share is None:
            return False
        taken_s_per_s = (cost.programs_s_per_s or 0) + (cost.traps_s_per_s or 0)
        if share * 100 <= self._percent or taken_s_per_s < _NEGLIGIBLE_S_PER_S:
            self._intervals_above = 0
            return False
        self._intervals_above += 1
        return self._intervals_above >= _PATIENCE_INTERVALS and self._reports.is_sampled

    def throttle_if_due(self, cost: Cost) -> None:
        """Sample from now on if it is due. Call it after the interval's report, because that is
        about allocations that were recorded in full."""
        if self._intervals_above < _PATIENCE_INTERVALS or self._reports.is_sampled:
            return
        self._intervals_above = 0
        self._reports.throttle(_SAMPLE_RATE)
        notify(
            f"tracing takes {cost.target_share or 0:.0%} of the process's CPU time: "
            f"from now on one allocation in {_SAMPLE_RATE} is recorded"
        )
