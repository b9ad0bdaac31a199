"""Does a heap that is collected leak? A verdict from what its collections found in use.

What is in use at a moment is mostly garbage that waits for the next collection: it says little.
What a collection has marked is exact, and what is never dropped is marked each time. So each
collection is one point of a series: the bytes that it marked, at the look that saw it first. When
the last collection before the first look was isn't known, so it is no point.

Where nothing is ever collected, all that is allocated stays: the points are then the bytes in use
at the looks.
"""

from __future__ import annotations

import numpy as np

from leaktrace import units
from leaktrace.analysis.verdicts.bounded import thinned
from leaktrace.analysis.verdicts.cohorts import Floats
from leaktrace.analysis.verdicts.series import rise_from, rise_of, slope_of, slows_down
from leaktrace.go_report import HeapLook
from leaktrace.verdict import Verdict, VerdictKind

_MOST_POINTS = 64
_FEWEST_LOOKS = 3  # where nothing is collected
_FEWEST = 4  # collections
_FEWEST_OF_GROWTH = 6  # for it to be claimed
_FORCED_S = 120.0  # Go collects at least as often (runtime/proc.go, forcegcperiod)


class LiveHeap:
    """The heap of one program, over some looks."""

    def __init__(self) -> None:
        self._first: HeapLook | None = None
        self._last: HeapLook | None = None
        self._marked = _Series()
        self._in_use = _Series()

    def add(self, look: HeapLook) -> None:
        """Take in a look."""
        if self._first is None or self._last is None:
            self._first = look
        elif look.collector.collections > self._last.collector.collections:
            self._marked.add(look.time_s - self._first.time_s, look.collector.live_bytes)
        self._in_use.add(look.time_s - self._first.time_s, look.in_use_bytes)
        self._last = look

    def verdict(self) -> Verdict:
        """The verdict with the last look. Callers have looked."""
        first, last = self._first, self._last
        assert first is not None and last is not None
        collections = last.collector.collections - first.collector.collections
        elapsed_s = last.time_s - first.time_s
        if last.collector.percent < 0 and not collections:
            return self._uncollected(last, elapsed_s)
        if len(self._marked) < _FEWEST:
            return _awaits(len(self._marked), elapsed_s)
        return _judge(self._marked.times_s, self._marked.values, elapsed_s)

    def _uncollected(self, last: HeapLook, elapsed_s: float) -> Verdict:
        limit = last.collector.memory_limit_bytes
        if limit is not None:
            return Verdict(
                VerdictKind.TOO_EARLY,
                f"it is collected only near {units.size(limit)}: what stays is not known before",
            )
        series = self._in_use
        if len(series) < _FEWEST_LOOKS:
            return Verdict(VerdictKind.TOO_EARLY, "it takes three looks")
        slope = slope_of(series.times_s, series.values)
        if slope.lowest_per_s <= 0:
            return Verdict(VerdictKind.STEADY, "next to nothing was allocated")
        reason = "GOGC=off: nothing was collected, so all that was allocated stays"
        return Verdict(VerdictKind.GROWING, reason, slope.per_s, slope.error_per_s, elapsed_s)


class _Series:
    """Values at some times; bounded, however long it gets."""

    def __init__(self) -> None:
        self._points: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._points)

    def add(self, time_s: float, value: int) -> None:
        self._points.append((time_s, value))
        if len(self._points) > 2 * _MOST_POINTS:
            times = np.array([round(at * 1e9) for at, _ in self._points], dtype=np.int64)
            self._points = [self._points[one] for one in thinned(times, _MOST_POINTS)]

    @property
    def times_s(self) -> Floats:
        return np.array([at for at, _ in self._points], dtype=np.float64)

    @property
    def values(self) -> Floats:
        return np.array([value for _, value in self._points], dtype=np.float64)


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
