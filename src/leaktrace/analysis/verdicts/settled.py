"""Which blocks of a site have settled, and whether more of them keep coming.

Rates are compared as those of a Poisson process that may come in bursts: its dispersion is
estimated from differences of successive slices (von Neumann et al., 1941), which a trend hardly
changes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from leaktrace.analysis.verdicts.cohorts import Floats, History
from leaktrace.verdict import Lifetimes

# Up to this share of the blocks of an age may have been freed later, for that age to be settled.
_MOST_FREED = 0.03
_LONG_GAP = 5.0  # times the usual gap without a new block
_TOLERANCE_S = 1e-6


@dataclass(frozen=True)
class Settled:
    """A site's blocks of at least some age, by when they were allocated."""

    age_s: float
    freed_later: float  # how many blocks of at least that age were freed
    edges_s: Floats
    counts: Floats  # as recorded
    weights: Floats  # how many they stand for
    bytes: Floats
    squares: Floats

    @property
    def until_s(self) -> float:
        """When the youngest of them may have been allocated."""
        return float(self.edges_s[-1])

    def between(self, begin_s: float, end_s: float) -> slice:
        """The slices that begin in [begin_s, end_s)."""
        first, last = np.searchsorted(
            self.edges_s[:-1], [begin_s - _TOLERANCE_S, end_s - _TOLERANCE_S]
        )
        return slice(int(first), int(last))

    def length_s(self, window: slice) -> float:
        """How long a window is."""
        return float(self.edges_s[window.stop] - self.edges_s[window.start])

    def without_lead(self, window: slice) -> slice:
        """A window without the time before its first blocks, if that is longer than usual."""
        at = np.nonzero(self.counts[window])[0] + window.start
        usual_s = self.usual_gap_s(window)
        if usual_s is None:
            return window
        lead_s = float(self.edges_s[at[0]] - self.edges_s[window.start])
        return slice(int(at[0]), window.stop) if lead_s > 2 * usual_s else window

    def rate(self, window: slice) -> tuple[float, float]:
        """Bytes per second of a window, and the standard error: that of a compound Poisson process,
        or that of the slices' differences, if that is larger."""
        of_slices = self.bytes[window]
        variance = float(self.squares[window].sum())
        if len(of_slices) > 2:
            variance = max(variance, _variance_by_differences(of_slices) * len(of_slices))
        length_s = self.length_s(window)
        return float(of_slices.sum()) / length_s, math.sqrt(variance) / length_s

    def trend(self, before: slice, after: slice) -> float:
        """By how many standard errors blocks come faster after than before; negative: slower. 0 if
        that can't be known."""
        lengths_s = [self.length_s(before), self.length_s(after)]
        weights = [float(self.weights[window].sum()) for window in (before, after)]
        if min(lengths_s) <= 0 or sum(weights) == 0:
            return 0.0
        rates = [weight / length_s for weight, length_s in zip(weights, lengths_s, strict=True)]
        pooled = sum(weights) / sum(lengths_s)
        dispersion = self._dispersion(slice(before.start, after.stop))
        error = math.sqrt(pooled * dispersion * sum(1 / length_s for length_s in lengths_s))
        return (rates[1] - rates[0]) / error

    def ratio(self, before: slice, after: slice) -> float:
        """How many times as fast blocks come after as before; 1 if that can't be known."""
        lengths_s = [self.length_s(before), self.length_s(after)]
        if min(lengths_s) <= 0:
            return 1.0
        earlier, later = (
            float(self.weights[window].sum()) / length_s
            for window, length_s in zip((before, after), lengths_s, strict=True)
        )
        return later / earlier if earlier else math.inf

    def _dispersion(self, window: slice) -> float:
        """The variance of a number of blocks, in terms of its mean. A sampled block stands for
        several, which is a burst."""
        weights, counts = self.weights[window], self.counts[window]
        total = float(weights.sum())
        each = np.divide(weights, counts, out=np.ones_like(weights), where=counts > 0)
        of_sample = float((weights * each).sum()) / total
        if len(weights) <= 2:
            return max(1.0, of_sample)
        return max(1.0, of_sample, _variance_by_differences(weights) / float(weights.mean()))

    def usual_gap_s(self, window: slice) -> float | None:
        """How long it usually takes until more blocks come; None if too few came to know. The fewer
        they are, the less certain that is, and the longer the gap."""
        at = np.nonzero(self.counts[window])[0] + window.start
        if len(at) < 2:
            return None
        first_s, last_s = float(self.edges_s[at[0]]), float(self.edges_s[at[-1] + 1])
        return (last_s - first_s) / len(at) * (1 + 3 / len(at))

    def has_ended(self, window: slice) -> bool:
        """Whether there have been no new blocks for much longer than usual."""
        usual_s = self.usual_gap_s(window)
        at = np.nonzero(self.counts[window])[0] + window.start
        if usual_s is None or len(at) < 4:
            return False
        return self.until_s - float(self.edges_s[at[-1] + 1]) > _LONG_GAP * usual_s


def _variance_by_differences(values: Floats) -> float:
    """The variance of single values, which a trend hardly changes (von Neumann et al., 1941)."""
    return float((np.diff(values) ** 2).sum()) / (2 * (len(values) - 1))


def settled_blocks(history: History, lifetimes: Lifetimes | None) -> Settled | None:
    """The blocks that are old enough to stay, for the lowest such age; None if there is none up to
    half of the time that was watched. `lifetimes`: of what was freed, if that is measured."""
    now_s = float(history.edges_s[-1])
    later = gone_later(history, lifetimes)
    ages_s = 2.0 ** np.arange(len(later)) / 1e9
    first = int(np.searchsorted(history.edges_s[:-1], history.watched_s - _TOLERANCE_S))
    counts = history.counts.copy()
    counts[:first] = 0
    # How many slices ended at least that long ago, and how many of their blocks are left.
    slices = np.searchsorted(history.edges_s[1:], now_s - ages_s + 1e-9, side="right")
    left = np.append(0.0, np.cumsum(counts))[slices]
    is_settled = (left >= 1) & (later <= _MOST_FREED * left) & (ages_s <= now_s / 2)
    powers = np.nonzero(is_settled)[0]
    if not len(powers):
        return None
    power, end = int(powers[0]), int(slices[powers[0]])
    hidden = np.arange(end) < first
    return Settled(
        float(ages_s[power]),
        float(later[power]),
        history.edges_s[: end + 1],
        counts[:end],
        *(
            np.where(hidden, 0.0, values[:end])
            for values in (history.weights, history.bytes, history.squares)
        ),
    )


def gone_later(history: History, lifetimes: Lifetimes | None) -> Floats:
    """How many blocks lived 2**k ns or longer, and are gone, for each k.

    The kernel side's histogram has exact ages. But blocks also go without having been released one
    by one: with a process that ends, or when descriptors are closed as a range. The reports show
    that these are gone, and how old they were at least. Without a histogram, the highest age that
    they may have had counts.
    """
    if lifetimes is None:
        return _or_longer(history.gone)
    counts = np.zeros(len(history.gone))
    given = lifetimes.counts[: len(counts)]
    counts[: len(given)] = given
    return np.maximum(_or_longer(counts), _or_longer(history.gone_least))


def _or_longer(counts: Floats) -> Floats:
    """[k]: how many lived 2**k ns or longer, of a histogram as in verdict.Lifetimes."""
    return np.cumsum(np.append(counts, 0.0)[::-1])[::-1][1:]
