"""Growth of a total, from its values at the reports.

The slope is the median of those between all pairs of points (Theil, 1950), and its standard error
follows from Kendall's statistic (Sen, 1968, "Estimates of the regression coefficient based on
Kendall's tau"). A total of blocks that come and go wanders, and its values are not independent, so
that a rank test alone would find growth where there is none. A rise also needs many steps upward,
next to none downward, and no slowing down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from leaktrace.analysis.verdicts.cohorts import Floats

_FEWEST_POINTS = 6
_FEWEST_STEPS = 5  # upward
_MOST_FALLEN = 0.05  # of the rise: how far it may have been below an earlier value
_SLOWER = 0.6  # of the rise of the first half, at least, must be that of the second
_CONFIDENCE = 1.96  # standard errors: 95 %


@dataclass(frozen=True)
class Rise:
    """How fast a total rises steadily."""

    per_s: float
    error_per_s: float  # standard error
    first: int  # the first point of the window


def rise_of(times_s: Floats, values: Floats) -> Rise | None:
    """The rise of the last two thirds of a series; None if it doesn't rise steadily."""
    first = int(np.searchsorted(times_s, times_s[-1] / 3))
    return rise_from(first, times_s, values)


def rise_from(first: int, times_s: Floats, values: Floats) -> Rise | None:
    """The same from a point on."""
    times_s, values = times_s[first:], values[first:]
    if len(values) < _FEWEST_POINTS:
        return None
    rise = float(values[-1] - values[0])
    fallen = float((np.maximum.accumulate(values) - values).max())
    steps = int((np.diff(np.maximum.accumulate(values)) > 0).sum())
    if rise <= 0 or fallen > _MOST_FALLEN * rise or steps < _FEWEST_STEPS:
        return None
    if slows_down(times_s, values):
        return None
    slope = slope_of(times_s, values)
    return Rise(slope.per_s, slope.error_per_s, first) if slope.lowest_per_s > 0 else None


def slows_down(times_s: Floats, values: Floats) -> bool:
    """Whether a series of three points or more rises more slowly in the second half of the time."""
    middle = int(np.searchsorted(times_s, (times_s[0] + times_s[-1]) / 2))
    middle = min(max(middle, 1), len(values) - 2)
    first, second = [
        float(values[b] - values[a]) / float(times_s[b] - times_s[a])
        for a, b in ((0, middle), (middle, len(values) - 1))
    ]
    return second < _SLOWER * first


@dataclass(frozen=True)
class Slope:
    """How fast a total rises or falls."""

    per_s: float
    error_per_s: float  # standard error
    lowest_per_s: float  # the lower end of the confidence interval


def slope_of(times_s: Floats, values: Floats) -> Slope:
    """The slope of a series of two points or more."""
    first, second = np.triu_indices(len(values), 1)
    slopes = np.sort((values[second] - values[first]) / (times_s[second] - times_s[first]))
    n = len(values)
    deviation = math.sqrt(n * (n - 1) * (2 * n + 5) / 18)  # of Kendall's S
    rank = (len(slopes) - _CONFIDENCE * deviation) / 2
    lowest = float(slopes[max(int(rank), 0)])
    highest = float(slopes[min(int(len(slopes) - 1 - rank), len(slopes) - 1)])
    return Slope(float(np.median(slopes)), (highest - lowest) / (2 * _CONFIDENCE), lowest)
