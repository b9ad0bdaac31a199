"""Does a heap that is collected leak? A verdict from what its collections found in use.

What is in use at a moment is mostly garbage that waits for the next collection: it says little.
What a collection has marked is exact, and what is never dropped is marked each time. So each
collection is one point of a series: the bytes that it marked, at the look that saw it first. When
the last collection before the first look was isn't known, so it is no point.

Where nothing is ever collected, all that is allocated stays: the points are then the bytes in use
at the looks.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from leaktrace import units
from leaktrace.analysis.verdicts.bounded import Course
from leaktrace.analysis.verdicts.cohorts import Floats
from leaktrace.analysis.verdicts.series import rise_from, rise_of, slope_of, slows_down
from leaktrace.go_report import Collector, HeapLook
from leaktrace.verdict import Verdict, VerdictKind

_MOST_POINTS = 64
_FEWEST_LOOKS = 3  # where nothing is collected
_FEWEST = 4  # collections
_FEWEST_OF_GROWTH = 6  # for it to be claimed
_MUCH_LONGER = 3.0  # times the longest time between two collections
_FORCED_S = 120.0  # Go collects at least as often (runtime/proc.go, forcegcperiod)


class LiveHeap:
    """The heap of one program, over some looks."""

    def __init__(self) -> None:
        self._first: HeapLook | None = None
        self._last: HeapLook | None = None
        self._marked = Course[int](_MOST_POINTS)
        self._in_use = Course[int](_MOST_POINTS)  # since the last collection

    def add(self, look: HeapLook) -> None:
        """Take in a look."""
        if self._first is None or self._last is None:
            self._first = self._last = look
        time_s = look.time_s - self._first.time_s
        if look.collector.collections > self._last.collector.collections:
            self._marked.add(time_s, look.collector.live_bytes)
            self._in_use = Course(_MOST_POINTS)
        self._in_use.add(time_s, look.in_use_bytes)
        self._last = look

    def verdict(self) -> Verdict:
        """The verdict with the last look. Callers have looked."""
        assert self._first is not None and self._last is not None
        elapsed_s = self._last.time_s - self._first.time_s
        if self._is_off(elapsed_s):
            return self._uncollected(self._last.collector)
        if len(self._marked) < _FEWEST:
            return _awaits(len(self._marked), elapsed_s)
        return _judge(*_columns(self._marked), elapsed_s)

    def _is_off(self, elapsed_s: float) -> bool:
        """Whether nothing is collected: the collector is off, and the program has not run it for
        much longer than usual."""
        assert self._last is not None
        if self._last.collector.percent >= 0:
            return False
        seen_s = [0.0, *(at for at, _ in self._marked.points)]
        if len(seen_s) == 1:
            return True
        longest_s = max(later - earlier for earlier, later in pairwise(seen_s))
        return elapsed_s - seen_s[-1] > _MUCH_LONGER * longest_s

    def _uncollected(self, collector: Collector) -> Verdict:
        limit = collector.memory_limit_bytes
        if limit is not None:
            return Verdict(
                VerdictKind.TOO_EARLY,
                f"it is collected only near {units.size(limit)}: what stays is not known before",
            )
        if len(self._in_use) < _FEWEST_LOOKS:
            return Verdict(VerdictKind.TOO_EARLY, "it takes three looks")
        times_s, values = _columns(self._in_use)
        slope = slope_of(times_s, values)
        if slope.lowest_per_s <= 0:
            return Verdict(VerdictKind.STEADY, "next to nothing was allocated")
        reason = "GOGC=off: nothing was collected, so all that was allocated stays"
        since_s = float(times_s[-1] - times_s[0])
        return Verdict(VerdictKind.GROWING, reason, slope.per_s, slope.error_per_s, since_s)


def _columns(course: Course[int]) -> tuple[Floats, Floats]:
    """Times in seconds, and values."""
    times, values = zip(*course.points, strict=True)
    return np.array(times, dtype=np.float64), np.array(values, dtype=np.float64)


def _awaits(number: int, elapsed_s: float) -> Verdict:
    """The verdict on too few points."""
    seen = f"at {units.counted(number, 'look')} only" if number else "at no look yet"
    gap_s = min(elapsed_s / number, _FORCED_S) if number else _FORCED_S
    return Verdict(
        VerdictKind.TOO_EARLY,
        f"collections were seen {seen}, and it takes {_FEWEST}",
        needs_s=(_FEWEST - number) * gap_s,
    )


def _judge(times_s: Floats, values: Floats, elapsed_s: float) -> Verdict:
    """The verdict on what collections left at some looks."""
    number = len(values)
    rise = rise_of(times_s, values) or rise_from(0, times_s, values)
    if rise is not None:
        reason = f"collections left ever more, at {number - rise.first} looks"
        since_s = elapsed_s - float(times_s[rise.first])
        return Verdict(VerdictKind.GROWING, reason, rise.per_s, rise.error_per_s, since_s)
    half = number // 2
    slope = slope_of(times_s, values)
    is_more = float(np.median(values[half:])) > float(values[:half].max())
    if slope.lowest_per_s <= 0 or not is_more:
        low, high = (units.size(round(float(one))) for one in (values.min(), values.max()))
        left = f"{low} to {high}" if low != high else low
        return Verdict(VerdictKind.STEADY, f"collections left {left}, at {number} looks")
    since_s = elapsed_s - float(times_s[0])
    if number < _FEWEST_OF_GROWTH:
        reason = f"collections left ever more, at {number} looks, and it takes {_FEWEST_OF_GROWTH}"
        needs_s = (_FEWEST_OF_GROWTH - number) * since_s / (number - 1)
    elif slows_down(times_s, values):
        reason = f"collections left more, but ever less more, at {number} looks"
        return Verdict(VerdictKind.FILLING, reason, slope.per_s, slope.error_per_s, since_s)
    else:
        reason = f"collections left more, with ups and downs, at {number} looks"
        needs_s = elapsed_s
    kind = VerdictKind.TOO_EARLY
    return Verdict(kind, reason, slope.per_s, slope.error_per_s, since_s, needs_s)
