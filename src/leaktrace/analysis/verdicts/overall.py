"""The verdict on all sites together, and the order in which it puts them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.sites import SiteTable
from leaktrace.verdict import SUSPICIOUS, Verdict, VerdictKind

_RANKS = {kind: float(rank) for rank, kind in enumerate(SUSPICIOUS)}
_LED = 0.5
_OTHERS = len(_RANKS)
_OF_SOME = (
    (VerdictKind.OVERDUE, "with blocks much older than usual"),
    (VerdictKind.FILLING, "still filling, but slowing down or giving back"),
)


def order_by_verdict(table: SiteTable, verdicts: dict[int, Verdict]) -> NDArray[np.intp]:
    """Row numbers: what is lost or grows comes first, the fastest of it first, then all others by
    size."""
    ranks = np.full(len(table), float(_OTHERS))
    rates = np.zeros(len(table))
    rows = {stack_id: row for row, stack_id in enumerate(table.stack_ids.tolist())}
    for stack_id, verdict in verdicts.items():
        row = rows.get(stack_id)
        if row is not None and verdict.is_suspicious:
            ranks[row], rates[row] = _rank(verdict), verdict.bytes_per_s or 0.0
            if verdict.kind is VerdictKind.LEAK and not verdict.lost_count:
                ranks[row] += _LED  # by blocks of other sites, which come before
    return np.lexsort((table.stack_ids, -table.held, -rates, ranks))


def _rank(verdict: Verdict) -> float:
    if verdict.may_grow:  # before what is filling
        return _RANKS[VerdictKind.FILLING] - _LED
    return _RANKS[verdict.kind]


def overall(
    by_site: dict[int, Verdict],
    shown: Iterable[int],
    unknown: Verdict | None = None,
    left_out: int = 0,
    suppressed: int = 0,
) -> Verdict:
    """The verdict on all sites together.

    `shown`: the stack ids of the sites that matter most, which decide whether it is too early.
    `unknown`: the verdict if none can be said to grow, or not to. `left_out`: how many others may
    grow, and were not judged; `suppressed`: how many grow that the user knows.
    """
    judged = f" of {len(by_site):,} that were judged" if left_out else ""
    verdicts = list(by_site.values())
    leaks = [one for one in verdicts if one.kind is VerdictKind.LEAK]
    leading = sum(bool(one.lost_count) for one in leaks)
    if leading:
        number = "one site" if leading == 1 else f"{leading:,} sites"
        return replace(
            _together(VerdictKind.LEAK, number, leaks),
            lost_bytes=sum(one.lost_bytes or 0 for one in leaks),
            lost_count=sum(one.lost_count or 0 for one in leaks),
        )
    growing = [one for one in verdicts if one.kind is VerdictKind.GROWING]
    if growing:
        number = "one site grows" if len(growing) == 1 else f"{len(growing):,} sites grow"
        return _together(VerdictKind.GROWING, number + judged, growing)
    slow = [one for one in verdicts if one.may_grow]
    if unknown is not None:
        return _early(slow) if slow else unknown
    for kind, verb in _OF_SOME:
        if kind is VerdictKind.FILLING and slow:
            return _early(slow)
        found = [one for one in verdicts if one.kind is kind]
        if found:
            number = "one site" if len(found) == 1 else f"{len(found):,} sites"
            return Verdict(kind, f"{number}{judged} {verb}")
    on_shown = [by_site[one] for one in shown if one in by_site]
    early = [one for one in on_shown if one.kind is VerdictKind.TOO_EARLY]
    if early:
        return _early(early)
    if suppressed:
        number = "one suppressed site does" if suppressed == 1 else f"{suppressed} suppressed do"
        return Verdict(VerdictKind.STEADY, f"nothing else{judged} keeps growing ({number})")
    return Verdict(VerdictKind.STEADY, f"nothing{judged} keeps growing")


def _early(verdicts: Sequence[Verdict]) -> Verdict:
    first = max(verdicts, key=lambda one: one.bytes_per_s or 0.0)
    needs = [one.needs_s for one in verdicts if one.needs_s is not None]
    together = _together(VerdictKind.TOO_EARLY, first.reason, verdicts)
    return replace(together, needs_s=max(needs) if needs else None)


def _together(kind: VerdictKind, reason: str, verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on all of these sites, with how fast they grow together; no rate if none of them
    does."""
    known = [one for one in verdicts if one.bytes_per_s is not None]
    if not known:
        return Verdict(kind, reason)
    rate = sum(one.bytes_per_s or 0.0 for one in known)
    error = math.sqrt(sum((one.error_bytes_per_s or 0.0) ** 2 for one in known))
    return Verdict(kind, reason, rate, error, max(one.since_s or 0.0 for one in known))
