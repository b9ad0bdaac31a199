"""Does a site leak? A verdict from what time has shown of it.

A leak's blocks stay, and new ones keep coming. What else holds memory gives it back after a while
(a queue, a cache at its bound, a collected heap), stops asking for more (what is set up at the
start, a cache that is full), or asks for ever less (a cache that fills). So the question is not
whether a total has risen between two reports, which may be chance, but:

1. How old must a block be to have settled? An age that nearly none of the freed blocks reached:
   those that did are at most 3 % of the blocks of that age that are still there. (With so few, what
   grows would level off only after sixteen times as long as it was watched.) There may be no such
   age. Then the site gives back what it takes, sooner or later.
2. Do settled blocks keep coming? The time is halved again and again. Growth needs blocks from both
   halves of the window, the last of them no longer ago than usual, and not ever fewer. Numbers are
   compared as those of a Poisson process that may come in bursts: its dispersion is estimated from
   differences of successive slices (von Neumann et al., 1941), which a trend hardly changes.
3. How fast? The bytes of the settled blocks over the window. The standard error is the larger one
   of two: that of a compound Poisson process, sqrt(sum(size**2)), and that of the differences of
   slices. No growth is claimed whose confidence interval (95 %, Student's t) holds 0.

A process that was running before may hold blocks of which nothing is known. If it frees them as
fast as a site's new blocks come, it may only replace what it holds.

A site with few blocks, or of which only totals are known, is judged by the totals of the reports:
`series.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from leaktrace import units
from leaktrace.analysis.verdicts.cohorts import Floats, History
from leaktrace.analysis.verdicts.series import rise_of
from leaktrace.verdict import Lifetimes, Verdict, VerdictKind

# Up to this share of the blocks of an age may have been freed later, for that age to be settled.
_MOST_FREED = 0.03
_FEWEST_BLOCKS = 8  # settled ones, for growth to be claimed
_FEWEST_SLICES = 4  # in which they were allocated
_FEWEST_STEPS = 4  # of a total that rises
_FEWEST_REPORTS = 3
_ENOUGH_S = 20.0  # or this long
_SIGNIFICANT = 2.0  # standard errors
_MARKED = 2.5
_VERY_MARKED = 3.5
_SLIGHT = 1.0
_MUCH_SLOWER = 0.5
_SLIGHTLY_SLOWER = 0.93
_MANY_BLOCKS = 50  # of fewer, chance hides that they come slower
_SLOWER = 0.75  # of the rate before: growth slows down
_LONG_GAP = 5.0  # times the usual gap without a new block: growth has ended
_FEWEST_OVERDUE = 3
_MANY_FREED = 1000  # so that a lifetime that nearly none exceeded is known
_OVERDUE_TIMES = 16  # older than that by this factor
_TURNOVER = 0.5  # of a site's rate: releases of blocks from before the trace may explain it
_FREED_OF_CHURN = 0.95  # of all its blocks, at least
_EARLY = 0.1  # of the time: the first moments
_MOSTLY = 0.9


@dataclass(frozen=True)
class Evidence:
    """What is known of a site beside its history."""

    history: History
    reports: int  # how many there were
    allocated_count: int = 0  # since the start
    lifetimes: Lifetimes | None = None  # of what it freed; None: not measured
    # Releases of blocks from before the trace, lately; 0 where there are none, None: not known
    unseen_per_s: float | None = 0.0
    totals_only: bool = False  # no single blocks are known
    is_region: bool = False  # it maps memory, and what counts is the part that is in memory
    has_runtime_heap: bool = False  # the process maps memory for objects that it collects
    was_growing: bool = False  # in the previous report: a verdict doesn't change by chance
    noun: str = "block"
    is_counted: bool = False  # bytes are counts

    @property
    def elapsed_s(self) -> float:
        return float(self.history.edges_s[-1])


@dataclass(frozen=True)
class Settled:
    """A site's blocks of at least some age, by when they were allocated."""

    age_s: float
    freed_later: float  # how many blocks of at least that age were freed
    edges_s: Floats
    counts: Floats  # as recorded
    weights: Floats
    bytes: Floats
    squares: Floats

    @property
    def until_s(self) -> float:
        """When the youngest of them may have been allocated."""
        return float(self.edges_s[-1])

    def between(self, begin_s: float, end_s: float) -> slice:
        """The slices that begin in [begin_s, end_s)."""
        first, last = np.searchsorted(self.edges_s[:-1], [begin_s - 1e-6, end_s - 1e-6])
        return slice(int(first), int(last))


def judge(evidence: Evidence) -> Verdict:
    """The verdict on a site."""
    early = too_early(evidence.elapsed_s, evidence.reports)
    if early is not None:
        return early
    if evidence.totals_only:
        return _by_totals(evidence)
    settled = settled_blocks(evidence)
    if settled is not None:
        verdict = _of_settled(evidence, settled)
        if verdict is not None:
            return verdict
    grown = _of_few_blocks(evidence)
    return grown if grown is not None else _of_the_rest(evidence, settled)


def too_early(elapsed_s: float, reports: int) -> Verdict | None:
    """The verdict if a trace is too short for any other one."""
    if reports >= _FEWEST_REPORTS or elapsed_s >= _ENOUGH_S:
        return None
    by_reports_s = (_FEWEST_REPORTS - reports) * elapsed_s / max(reports, 1)
    needs_s = max(min(by_reports_s, _ENOUGH_S - elapsed_s), 0.0)
    return Verdict(VerdictKind.TOO_EARLY, f"watched for {_time(elapsed_s)} only", needs_s=needs_s)


# --- which blocks have settled ---------------------------------------------------------------


def settled_blocks(evidence: Evidence) -> Settled | None:
    """The blocks that are old enough to stay, for the lowest such age; None if there is none up to
    half of the time that was watched."""
    history, now_s = evidence.history, evidence.elapsed_s
    freed = _freed_by_age(evidence)
    ages_s = 2.0 ** np.arange(len(freed)) / 1e9
    freed_later = np.cumsum(np.append(freed, 0.0)[::-1])[::-1][1:]  # [k]: lived 2**k ns or longer
    first = int(np.searchsorted(history.edges_s[:-1], history.watched_s - 1e-6))
    counts = history.counts.copy()
    counts[:first] = 0
    # How many slices ended at least that long ago, and how many of their blocks are left.
    slices = np.searchsorted(history.edges_s[1:], now_s - ages_s + 1e-9, side="right")
    left = np.append(0.0, np.cumsum(counts))[slices]
    is_settled = (left >= 1) & (freed_later <= _MOST_FREED * left) & (ages_s <= now_s / 2)
    powers = np.nonzero(is_settled)[0]
    if not len(powers):
        return None
    power, end = int(powers[0]), int(slices[powers[0]])
    hidden = np.arange(end) < first
    return Settled(
        float(ages_s[power]),
        float(freed_later[power]),
        history.edges_s[: end + 1],
        counts[:end],
        *(
            np.where(hidden, 0.0, values[:end])
            for values in (history.weights, history.bytes, history.squares)
        ),
    )


def _freed_by_age(evidence: Evidence) -> Floats:
    """How many blocks were freed, by age (verdict.Lifetimes). The kernel side's own histogram, if
    there is one, has all of them, and their exact ages."""
    if evidence.lifetimes is None:
        return evidence.history.freed
    counts = np.zeros(len(evidence.history.freed))
    given = evidence.lifetimes.counts[: len(counts)]
    counts[: len(given)] = given
    return counts


# --- whether they keep coming ------------------------------------------------------------------


def _of_settled(evidence: Evidence, settled: Settled) -> Verdict | None:
    """A verdict if settled blocks keep coming; None if they don't, or are too few."""
    until_s = settled.until_s
    second = settled.between(until_s / 2, until_s)
    first = settled.between(until_s / 4, until_s / 2)
    window = second
    trend = _trend(settled, first, second)
    if trend > -_SIGNIFICANT:
        window = settled.between(until_s / 4, until_s)
        whole = settled.between(0, until_s)
        if _trend(settled, settled.between(0, until_s / 4), window) > -_SIGNIFICANT:
            window = whole
    blocks = float(settled.counts[window].sum())
    recent = float(settled.counts[second].sum())
    if recent < 1 or _has_ended(settled, window):
        return None
    slices = int((settled.counts[window] > 0).sum())
    rate, error = _rate(settled, window)
    is_sure = rate > error * _student(window.stop - window.start - 1)
    if blocks < _FEWEST_BLOCKS or slices < _FEWEST_SLICES or not is_sure:
        return None if trend <= -_SIGNIFICANT else _of_too_few(evidence, settled, window)
    slower = _slows_down(evidence, settled, window)
    if slower is not None:
        return slower
    unknown = _turnover(evidence, settled, window) or _awaits_collection(evidence)
    if unknown is not None:
        return unknown
    since_s = _since(evidence, settled, window)
    return Verdict(
        VerdictKind.GROWING, _why_it_grows(evidence, settled, window), rate, error, since_s
    )


def _rate(settled: Settled, window: slice) -> tuple[float, float]:
    """Bytes per second of a window, and its standard error."""
    length_s = float(settled.edges_s[window.stop] - settled.edges_s[window.start])
    of_slices = settled.bytes[window]
    variance = float(settled.squares[window].sum())
    if len(of_slices) > 2:
        variance = max(variance, _variance_by_differences(of_slices) * len(of_slices))
    return float(of_slices.sum()) / length_s, math.sqrt(variance) / length_s


def _variance_by_differences(values: Floats) -> float:
    """The variance of single values, which a trend hardly changes (von Neumann et al., 1941)."""
    return float((np.diff(values) ** 2).sum()) / (2 * (len(values) - 1))


def _trend(settled: Settled, before: slice, after: slice) -> float:
    """By how many standard errors blocks come faster after than before; negative: slower."""
    lengths_s = [float(settled.edges_s[w.stop] - settled.edges_s[w.start]) for w in (before, after)]
    counts = [float(settled.counts[w].sum()) for w in (before, after)]
    if min(lengths_s) <= 0 or sum(counts) == 0:
        return 0.0
    both = settled.counts[before.start : after.stop]
    dispersion = 1.0
    if len(both) > 2 and both.mean() > 0:
        dispersion = max(1.0, _variance_by_differences(both) / float(both.mean()))
    rates = [count / length_s for count, length_s in zip(counts, lengths_s, strict=True)]
    pooled = sum(counts) / sum(lengths_s)
    error = math.sqrt(pooled * dispersion * sum(1 / length_s for length_s in lengths_s))
    return (rates[1] - rates[0]) / error


def _ratio(settled: Settled, before: slice, after: slice) -> float:
    """How many times as fast blocks come after as before."""
    rates = [
        float(settled.counts[w].sum()) / float(settled.edges_s[w.stop] - settled.edges_s[w.start])
        for w in (before, after)
    ]
    return rates[1] / rates[0] if rates[0] else math.inf


def _slows_down(evidence: Evidence, settled: Settled, window: slice) -> Verdict | None:
    """A verdict if ever fewer blocks come: in the second half of the time than before, or with each
    doubling of the time a little less."""
    until_s = settled.until_s
    early, first = (
        settled.between(until_s / 8, until_s / 4),
        settled.between(until_s / 4, until_s / 2),
    )
    second = settled.between(until_s / 2, until_s)
    third, fourth = (
        settled.between(until_s / 2, until_s * 3 / 4),
        settled.between(until_s * 3 / 4, until_s),
    )
    if _ratio(settled, third, fourth) > 1:
        return None  # it was slower for a while, and is faster again
    trend, ratio = _trend(settled, first, second), _ratio(settled, first, second)
    marked = _VERY_MARKED if evidence.was_growing else _MARKED
    if ratio < _MUCH_SLOWER:
        marked = _MARKED if evidence.was_growing else _SIGNIFICANT
    is_slower = trend <= -marked and ratio < _SLOWER
    ratios = (_ratio(settled, early, first), ratio)
    is_ever_slower = (
        max(ratios) < _SLIGHTLY_SLOWER
        and ratios[0] * ratios[1] < _SLOWER
        and trend <= -_SLIGHT
        and _trend(settled, early, second) <= -_MARKED
    )
    if is_slower or is_ever_slower:
        fewer = f"{round((1 - ratio) * 100)} % fewer"
        reason = f"it grows ever slower: {fewer} {evidence.noun}s in the last {_time(until_s / 2)}"
        rate, error = _rate(settled, second)
        since_s = _since(evidence, settled, window)
        return Verdict(VerdictKind.FILLING, reason, rate, error, since_s)
    is_few = settled.counts[window].sum() < _MANY_BLOCKS and not evidence.was_growing
    by_half = _ratio(settled, settled.between(0, until_s / 2), second)
    if is_few and min(ratio, by_half) < _SLOWER:
        return Verdict(
            VerdictKind.TOO_EARLY, "it grows, but may be slowing down", needs_s=until_s / 2
        )
    return None


def _has_ended(settled: Settled, window: slice) -> bool:
    """Whether there have been no new blocks for much longer than usual."""
    at = np.nonzero(settled.counts[window])[0] + window.start
    if len(at) < _FEWEST_SLICES:
        return False
    first_s, last_s = float(settled.edges_s[at[0]]), float(settled.edges_s[at[-1] + 1])
    usual_s = (last_s - first_s) / len(at)
    # The fewer there were, the less certain is what is usual.
    return settled.until_s - last_s > _LONG_GAP * (1 + 3 / len(at)) * usual_s


def _since(evidence: Evidence, settled: Settled, window: slice) -> float:
    """For how long blocks have been coming as in the window, in seconds."""
    begin = window.start
    occupied = np.nonzero(settled.counts[begin : window.stop])[0]
    if len(occupied):
        begin += int(occupied[0])
    return evidence.elapsed_s - float(settled.edges_s[begin])


def _turnover(evidence: Evidence, settled: Settled, window: slice) -> Verdict | None:
    """A verdict if the process frees blocks from before the trace about as fast as new ones come:
    a cache at its bound does that until all of its blocks are new."""
    if not evidence.unseen_per_s:
        return None
    length_s = float(settled.edges_s[window.stop] - settled.edges_s[window.start])
    per_s = float(settled.weights[window].sum()) / length_s
    if evidence.unseen_per_s < _TURNOVER * per_s:
        return None
    return Verdict(
        VerdictKind.TOO_EARLY,
        f"the process frees {evidence.unseen_per_s:,.1f} {evidence.noun}s a second that are older "
        "than the trace: it may only replace them",
        needs_s=None,
    )


def _awaits_collection(evidence: Evidence) -> Verdict | None:
    """A verdict if the site maps memory that may be the heap of a runtime, which gives none back
    before it has collected garbage for the first time."""
    is_heap = evidence.is_region and evidence.has_runtime_heap
    if not is_heap or evidence.history.freed.any():
        return None
    return Verdict(
        VerdictKind.TOO_EARLY,
        "it may map the heap of a runtime, of which nothing was given back yet",
    )


def _of_too_few(evidence: Evidence, settled: Settled, window: slice) -> Verdict | None:
    """Settled blocks keep coming, but they are too few to be sure."""
    blocks = float(settled.counts[window].sum())
    overdue = _overdue(evidence, settled, window)
    if overdue is not None:
        return overdue
    if blocks < 2 or settled.freed_later > 0:
        return None
    length_s = float(settled.edges_s[window.stop] - settled.edges_s[window.start])
    needs_s = max(_FEWEST_BLOCKS - blocks, 1.0) * length_s / blocks
    number = units.counted(round(blocks), evidence.noun)
    return Verdict(
        VerdictKind.TOO_EARLY,
        f"{number} in {_time(length_s)} may be chance",
        needs_s=needs_s,
    )


def _overdue(evidence: Evidence, settled: Settled, window: slice) -> Verdict | None:
    lifetimes = evidence.lifetimes
    if lifetimes is None or lifetimes.total < _MANY_FREED:
        return None
    usual_s = lifetimes.within_ns(0.999) / 1e9
    is_old = settled.edges_s[1:] <= evidence.elapsed_s - _OVERDUE_TIMES * usual_s
    old = np.where(is_old, settled.counts, 0.0)
    number = round(float(old[window].sum()))
    if number < _FEWEST_OVERDUE or int((old[window] > 0).sum()) < _FEWEST_OVERDUE:
        return None
    halves = [settled.between(0, settled.until_s / 2), settled.between(settled.until_s / 2, 1e99)]
    if any(float(old[half].sum()) < 1 for half in halves):
        return None
    rate, error = _rate(settled, window)
    reason = (
        f"{units.counted(number, evidence.noun)} are older than nearly all of the "
        f"{lifetimes.total:,} that were freed: 99.9 % of these within {_time(usual_s)}"
    )
    return Verdict(VerdictKind.OVERDUE, reason, rate, error, _since(evidence, settled, window))


def _why_it_grows(evidence: Evidence, settled: Settled, window: slice) -> str:
    number = units.counted(round(float(settled.weights[window].sum())), evidence.noun)
    length_s = float(settled.edges_s[window.stop] - settled.edges_s[window.start])
    stayed = f"{number} came in {_time(length_s)} and stayed"
    freed = round(settled.freed_later)
    if not _freed_by_age(evidence).any():
        return f"{stayed}; none was freed"
    if not freed:
        return f"{stayed}; none older than {_time(settled.age_s)} was freed"
    were = "was" if freed == 1 else "were"
    return f"{stayed}; of those older than {_time(settled.age_s)}, {freed:,} {were} freed"


# --- other verdicts ----------------------------------------------------------------------------


def _of_few_blocks(evidence: Evidence) -> Verdict | None:
    """Growth of a site whose blocks get larger, instead of more: realloc, mremap."""
    history = evidence.history
    rise = rise_of(history.times_s, history.held_bytes)
    # A region that is being filled does not get larger.
    if rise is None or evidence.is_counted or evidence.is_region:
        return None
    counts = history.held_counts[rise.first :]
    if counts.min() < 1 or counts.max() - counts.min() > max(1.0, 0.1 * counts.max()):
        return None
    reason = f"the same number of {evidence.noun}s gets larger with nearly each report"
    return Verdict(
        VerdictKind.GROWING,
        reason,
        rise.per_s,
        rise.error_per_s,
        evidence.elapsed_s - float(history.times_s[rise.first]),
    )


def _by_totals(evidence: Evidence) -> Verdict:
    """Of a site of which only totals are known."""
    history = evidence.history
    rise = rise_of(history.times_s, history.held_bytes)
    if rise is not None:
        reason = "its total rises steadily; whether old blocks are freed can't be known from totals"
        since_s = evidence.elapsed_s - float(history.times_s[rise.first])
        return Verdict(VerdictKind.GROWING, reason, rise.per_s, rise.error_per_s, since_s)
    return _of_the_rest(evidence, None)


def _of_the_rest(evidence: Evidence, settled: Settled | None) -> Verdict:
    """Of a site that does not grow."""
    history, elapsed_s = evidence.history, evidence.elapsed_s
    held = float(history.held_bytes[-1])
    freed = evidence.allocated_count - float(history.held_counts[-1])
    is_early = history.edges_s[:-1] < _EARLY * elapsed_s
    of_beginning = float(history.bytes[is_early].sum())
    if not evidence.totals_only and held and of_beginning >= _MOSTLY * held:
        begun = _time(_EARLY * elapsed_s)
        return Verdict(VerdictKind.STARTUP, f"what it holds is from the first {begun}")
    if evidence.allocated_count and freed >= _FREED_OF_CHURN * evidence.allocated_count:
        share = math.floor(100 * freed / evidence.allocated_count)
        return Verdict(VerdictKind.CHURN, f"it has freed {share} % of what it allocated")
    if settled is None and _rises(history):
        return Verdict(VerdictKind.FILLING, "it grows, but its blocks are freed after a while")
    return Verdict(VerdictKind.STEADY, "what it holds does not keep growing")


def _rises(history: History) -> bool:
    """Whether what is held has risen in several steps, and was more in the second half of the
    reports than ever in the first."""
    held = history.held_bytes
    half = len(held) // 2
    steps = int((np.diff(np.maximum.accumulate(held)) > 0).sum())
    is_more = half >= 2 and float(np.median(held[half:])) > float(held[:half].max())
    return is_more and steps >= _FEWEST_STEPS


def _time(seconds: float) -> str:
    return units.duration(round(seconds * 1e9)) if seconds < 1 else units.age(round(seconds * 1e9))


# Student's t for 95 %, two-sided, by degrees of freedom (Fisher and Yates, 1938).
_STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
_STUDENT_BEYOND = ((15, 2.23), (20, 2.13), (30, 2.09), (60, 2.04))


def _student(freedom: int) -> float:
    if freedom < 1:
        return math.inf
    if freedom <= len(_STUDENT):
        return _STUDENT[freedom - 1]
    return next((t for most, t in _STUDENT_BEYOND if freedom < most), 2.0)
