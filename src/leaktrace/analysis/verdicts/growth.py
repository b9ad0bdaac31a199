"""Does a site leak? A verdict from what time has shown of it.

A leak's blocks stay, and new ones keep coming. What else holds memory gives it back after a while
(a queue, a cache at its bound, a collected heap), stops asking for more (what is set up at the
start, a cache that is full), or asks for ever less (a cache that fills). So the question is not
whether a total has risen between two reports, which may be chance, but:

1. How old must a block be to have settled? An age that nearly none of the freed blocks reached:
   those that did are at most 3 % of the blocks of that age that are still there. (With so few, what
   grows would level off only after sixteen times as long as it was watched.) There may be no such
   age. Then the site gives back what it takes, sooner or later.
2. Do settled blocks keep coming? The second half of the time is compared with the quarter before
   it. Growth needs blocks from the second half, the last of them no longer ago than usual, and not
   ever fewer (settled.py).
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
from leaktrace.analysis.verdicts.cohorts import History
from leaktrace.analysis.verdicts.series import rise_of
from leaktrace.analysis.verdicts.settled import Settled, gone_later, settled_blocks
from leaktrace.verdict import Lifetimes, Verdict, VerdictKind

# Verdicts that no site could have if allocations were not recorded.
_OF_ABSENCE = (VerdictKind.STEADY, VerdictKind.STARTUP, VerdictKind.CHURN, VerdictKind.FILLING)
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
_PAUSE = 3.0  # times the usual gap: what came before is another growth
_LONG_IDLE = 5.0  # times the usual gap without any allocation: growth has ended
_MORE_REGIONS = 2
_FEWEST_OVERDUE = 3
_MANY_FREED = 1000  # so that a lifetime that nearly none exceeded is known
_OVERDUE_TIMES = 16  # older than that by this factor
_TURNOVER = 0.5  # of a site's rate: releases of blocks from before the trace may explain it
_CONFIRMED = 0.5  # of a site's growth: that of the process confirms it
_FREED_OF_CHURN = 0.95  # of all its blocks, at least
_EARLY = 0.1  # of the time: the first moments
_FEW_NEW = 2  # blocks, of which the next may be awaited
_AWAITED = 2.0  # times the time that the last one took to come
_AWAITED_AT_MOST_S = 120.0  # what comes more rarely is called steady for now
_MOSTLY = 0.9


AWAITS_COLLECTION = Verdict(
    VerdictKind.TOO_EARLY,
    "it may belong to the heap of a runtime, of which nothing was given back yet",
)


@dataclass(frozen=True)
class Evidence:
    """What is known of a site beside its history."""

    history: History
    reports: int  # how many there were
    allocated_count: int = 0  # since the start
    lifetimes: Lifetimes | None = None  # of what it freed; None: not measured
    # Releases of blocks from before the trace, lately; 0 where there are none, None: not known.
    unseen_per_s: float | None = 0.0
    process_growth_bytes: int | None = None  # of resident memory, since the start; None: not known
    lost_count: int = 0  # allocations that could not be recorded, lately
    totals_only: bool = False  # no single blocks are known
    is_region: bool = False  # it maps memory, and what counts is the part that is in memory
    has_runtime_heap: bool = False  # the process maps memory for objects that it collects
    was_growing: bool = False  # in the previous report: a verdict doesn't change by chance
    noun: str = "block"
    is_counted: bool = False  # bytes are counts

    @property
    def elapsed_s(self) -> float:
        return float(self.history.edges_s[-1])


def judge(evidence: Evidence) -> Verdict:
    """The verdict on a site."""
    early = too_early(evidence.elapsed_s, evidence.reports)
    if early is not None:
        return early
    verdict = _of_known(evidence)
    if evidence.lost_count and verdict.kind in _OF_ABSENCE:
        return lost(evidence.lost_count)
    return verdict


def too_early(elapsed_s: float, reports: int) -> Verdict | None:
    """The verdict if a trace is too short for any other one."""
    if reports >= _FEWEST_REPORTS or elapsed_s >= _ENOUGH_S:
        return None
    by_reports_s = (_FEWEST_REPORTS - reports) * elapsed_s / max(reports, 1)
    needs_s = max(min(by_reports_s, _ENOUGH_S - elapsed_s), 0.0)
    return Verdict(VerdictKind.TOO_EARLY, f"watched for {_time(elapsed_s)} only", needs_s=needs_s)


def lost(count: int) -> Verdict:
    """The verdict where growth would not be seen, because allocations could not be recorded."""
    return Verdict(
        VerdictKind.TOO_EARLY,
        f"{units.counted(count, 'allocation')} could not be recorded lately: see below, lost",
    )


def _of_known(evidence: Evidence) -> Verdict:
    if evidence.totals_only:
        return _by_totals(evidence)
    settled = settled_blocks(evidence.history, evidence.lifetimes)
    if settled is not None:
        verdict = _of_settled(evidence, settled)
        if verdict is not None:
            return verdict
    grown = _of_few_blocks(evidence)
    return grown if grown is not None else _of_the_rest(evidence, settled)


# --- whether settled blocks keep coming --------------------------------------------------------


def _of_settled(evidence: Evidence, settled: Settled) -> Verdict | None:
    """A verdict if settled blocks keep coming; None if they don't, or are too few."""
    until_s = settled.until_s
    first, second = settled.between(until_s / 4, until_s / 2), settled.between(until_s / 2, until_s)
    window = second
    trend = settled.trend(first, second)
    if abs(trend) < _SIGNIFICANT:
        window = settled.between(until_s / 4, until_s)
        whole = settled.between(0, until_s)
        if abs(settled.trend(settled.between(0, until_s / 4), window)) < _SIGNIFICANT:
            window = whole
    window = settled.without_lead(window)
    if window.stop <= window.start or float(settled.counts[second].sum()) < 1:
        return None
    if settled.has_ended(window):
        return None
    idle = _idle(evidence, settled, window)
    if idle is not None:
        return idle
    blocks = float(settled.counts[window].sum())
    slices = int((settled.counts[window] > 0).sum())
    rate, error = settled.rate(window)
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
    why = _why_it_grows(evidence, settled, window)
    return Verdict(VerdictKind.GROWING, why, rate, error, since_s)


def _idle(evidence: Evidence, settled: Settled, window: slice) -> Verdict | None:
    """A verdict if the site has allocated nothing for long: then blocks that are under way get old,
    in a process that is stopped, or has nothing to do."""
    idle_s = evidence.elapsed_s - evidence.history.allocated_s
    usual_s = settled.usual_gap_s(window)
    longest = _LONG_IDLE * (2 if evidence.was_growing else 1)
    if usual_s is None or idle_s <= longest * usual_s:
        return None
    return Verdict(VerdictKind.STEADY, f"it has allocated nothing for {_time(idle_s)}")


def _slows_down(evidence: Evidence, settled: Settled, window: slice) -> Verdict | None:
    """A verdict if ever fewer blocks come: in the second half of the time than before, or with each
    doubling of the time a little less."""
    until_s = settled.until_s
    early, first, second, third, fourth = (
        settled.between(until_s * begin, until_s * end)
        for begin, end in ((1 / 8, 1 / 4), (1 / 4, 1 / 2), (1 / 2, 1), (1 / 2, 3 / 4), (3 / 4, 1))
    )
    if settled.ratio(third, fourth) > 1:
        return None  # it was slower for a while, and is faster again
    trend, ratio = settled.trend(first, second), settled.ratio(first, second)
    marked = _VERY_MARKED if evidence.was_growing else _MARKED
    if ratio < _MUCH_SLOWER:
        marked = _MARKED if evidence.was_growing else _SIGNIFICANT
    is_slower = trend <= -marked and ratio < _SLOWER
    ratios = (settled.ratio(early, first), ratio)
    is_ever_slower = (
        max(ratios) < _SLIGHTLY_SLOWER
        and ratios[0] * ratios[1] < _SLOWER
        and trend <= -_SLIGHT
        and settled.trend(early, second) <= -_MARKED
    )
    if is_slower or is_ever_slower:
        fewer = f"{round((1 - ratio) * 100)} % fewer"
        reason = f"it grows ever slower: {fewer} {evidence.noun}s in the last {_time(until_s / 2)}"
        rate, error = settled.rate(second)
        since_s = _since(evidence, settled, window)
        return Verdict(VerdictKind.FILLING, reason, rate, error, since_s)
    is_few = settled.counts[window].sum() < _MANY_BLOCKS and not evidence.was_growing
    by_half = settled.ratio(settled.between(0, until_s / 2), second)
    if is_few and min(ratio, by_half) < _SLOWER:
        return Verdict(
            VerdictKind.TOO_EARLY, "it grows, but may be slowing down", needs_s=until_s / 2
        )
    return None


def _since(evidence: Evidence, settled: Settled, window: slice) -> float:
    """For how long blocks have been coming, in seconds: also before the window, without a pause
    that is much longer than usual."""
    occupied = np.nonzero(settled.counts[: window.stop])[0]
    begin = window.start
    usual_s = settled.usual_gap_s(window)
    for at in reversed(occupied.tolist()):
        pause_s = float(settled.edges_s[begin] - settled.edges_s[at + 1])
        if usual_s is None or pause_s > _PAUSE * usual_s:
            break
        begin = min(at, begin)
    return evidence.elapsed_s - float(settled.edges_s[begin])


def _turnover(evidence: Evidence, settled: Settled, window: slice) -> Verdict | None:
    """A verdict if the process may free blocks from before the trace about as fast as new ones
    come: a cache at its bound does that until all of its blocks are new."""
    length_s = settled.length_s(window)
    if evidence.unseen_per_s is None:
        # Which blocks are released isn't known. A cache that replaces its entries leaves the
        # process as large as it was.
        grown = float(settled.bytes[window].sum())
        process = evidence.process_growth_bytes
        if process is not None and process >= _CONFIRMED * grown:
            return None
        return Verdict(
            VerdictKind.TOO_EARLY,
            f"releases of older {evidence.noun}s can't be seen, and the process has not grown as "
            "much: it may only replace them",
        )
    per_s = float(settled.weights[window].sum()) / length_s
    if evidence.unseen_per_s < _TURNOVER * per_s or not evidence.unseen_per_s:
        return None
    return Verdict(
        VerdictKind.TOO_EARLY,
        f"the process frees {evidence.unseen_per_s:,.1f} {evidence.noun}s a second that are older "
        "than the trace: it may only replace them",
    )


def _awaits_collection(evidence: Evidence) -> Verdict | None:
    """A verdict if the site maps memory that may be the heap of a runtime, which gives none back
    before it has collected garbage for the first time."""
    is_heap = evidence.is_region and evidence.has_runtime_heap
    if not is_heap or evidence.history.gone.any():
        return None
    return AWAITS_COLLECTION


def _of_too_few(evidence: Evidence, settled: Settled, window: slice) -> Verdict | None:
    """Settled blocks keep coming, but they are too few to be sure."""
    blocks = float(settled.counts[window].sum())
    overdue = _overdue(evidence, settled, window)
    if overdue is not None:
        return overdue
    is_few = blocks < _FEWEST_BLOCKS
    if blocks < 2 or (is_few and settled.freed_later > 0):
        return None
    length_s = settled.length_s(window)
    needs_s = max((_FEWEST_BLOCKS - blocks) * length_s / blocks, length_s / 2)
    number = units.counted(round(blocks), evidence.noun)
    return Verdict(
        VerdictKind.TOO_EARLY,
        f"{number} in {_time(length_s)} "
        + ("may be chance" if is_few else "came too few times to be sure"),
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
    until_s = settled.until_s
    halves = [settled.between(0, until_s / 2), settled.between(until_s / 2, until_s)]
    if any(float(old[half].sum()) < 1 for half in halves):
        return None
    rate, error = settled.rate(window)
    reason = (
        f"{units.counted(number, evidence.noun)} are older than nearly all of the "
        f"{lifetimes.total:,} that were freed: 99.9 % of these within {_time(usual_s)}"
    )
    return Verdict(VerdictKind.OVERDUE, reason, rate, error, _since(evidence, settled, window))


def _why_it_grows(evidence: Evidence, settled: Settled, window: slice) -> str:
    number = units.counted(round(float(settled.weights[window].sum())), evidence.noun)
    stayed = f"{number} came in {_time(settled.length_s(window))} and stayed"
    freed = round(settled.freed_later)
    if not gone_later(evidence.history, evidence.lifetimes).any():
        return f"{stayed}; none was freed"
    if not freed:
        return f"{stayed}; none older than {_time(settled.age_s)} was freed"
    return (
        f"{stayed}; {freed:,} of those that were freed had lived longer than {_time(settled.age_s)}"
    )


# --- other verdicts ----------------------------------------------------------------------------


def _of_few_blocks(evidence: Evidence) -> Verdict | None:
    """Growth of a site whose blocks get larger, instead of more: realloc, mremap; or of what is in
    memory of the regions that it has mapped."""
    history = evidence.history
    rise = rise_of(history.times_s, history.held_bytes)
    if rise is None or evidence.is_counted:
        return None
    counts = history.held_counts[rise.first :]
    since_s = evidence.elapsed_s - float(history.times_s[rise.first])
    if evidence.is_region:
        # One that is filled may be all that is ever needed.
        is_more = counts[-1] - counts[0] >= _MORE_REGIONS and not evidence.has_runtime_heap
        kind = VerdictKind.GROWING if is_more else VerdictKind.FILLING
        reason = "ever more of what it has mapped is in memory"
        return Verdict(kind, reason, rise.per_s, rise.error_per_s, since_s)
    if counts.min() < 1 or counts.max() - counts.min() > max(1.0, 0.1 * counts.max()):
        return None
    reason = f"the same number of {evidence.noun}s gets larger with nearly each report"
    return Verdict(VerdictKind.GROWING, reason, rise.per_s, rise.error_per_s, since_s)


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
    awaited = _awaits_the_next(evidence)
    if awaited is not None:
        return awaited
    if settled is None and _rises(history):
        return Verdict(VerdictKind.FILLING, "it grows, but its blocks are freed after a while")
    return Verdict(VerdictKind.STEADY, "what it holds does not keep growing")


def _awaits_the_next(evidence: Evidence) -> Verdict | None:
    """A verdict if a site has just got its first block or two, and has freed none: it is not known
    whether more come."""
    history = evidence.history
    number = round(float(history.weights.sum()))
    has_freed = evidence.allocated_count > number or history.gone.any()
    if evidence.totals_only or has_freed or not 0 < number <= _FEW_NEW:
        return None
    came = np.nonzero(history.counts)[0]
    last_s = float(history.edges_s[came[-1] + 1])
    before_s = float(history.edges_s[came[-2] + 1]) if len(came) > 1 else history.watched_s
    awaited_s = min(_AWAITED * (last_s - before_s), _AWAITED_AT_MOST_S)
    idle_s = evidence.elapsed_s - last_s
    if idle_s >= awaited_s:
        return None
    number_in_words = units.counted(number, evidence.noun)
    return Verdict(
        VerdictKind.TOO_EARLY,
        f"{number_in_words} came lately, the first ones: more may come",
        needs_s=awaited_s - idle_s,
    )


def _rises(history: History) -> bool:
    """Whether what is held has risen in several steps, and was more in the second half of the
    reports than ever in the first."""
    held = history.held_bytes
    half = int(np.searchsorted(history.times_s, history.times_s[-1] / 2))
    steps = int((np.diff(np.maximum.accumulate(held)) > 0).sum())
    is_more = half >= 2 and float(np.median(held[half:])) > float(held[:half].max())
    lately = int(np.searchsorted(history.times_s, history.times_s[-1] * 3 / 4))
    return is_more and steps >= _FEWEST_STEPS and held[-1] > held[min(lately, len(held) - 2)]


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
