"""Growth that is slow for its process, and of few blocks, is not called growth at once.

A cache that fills at an even rate looks like a leak until it is full. Servers that have just been
started have many of those: the locks, files and statements that they keep for reuse. At first, few
blocks of a site have come, and nothing in them says which it is. What can be known is how much
depends on a quick answer: at such a rate the process needs days to double. So these sites are
`too_early` until they have grown for a quarter of an hour, or until there are many blocks; with
their rate, so that the reader can decide otherwise.

The rates of all such sites count together: an object that is leaked may consist of many blocks,
each from a site of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from leaktrace import units
from leaktrace.analysis.verdicts.cohorts import History
from leaktrace.verdict import Verdict, VerdictKind

_DOUBLES_S = 12 * 3600.0  # the process would need longer than this to become twice as large
_LONG_S = 15 * 60.0  # growth that has lasted for so long is growth
_MANY_BLOCKS = 256  # and so is growth of so many


def held_back(
    verdicts: Mapping[int, Verdict],
    history_of: Callable[[int], History | None],
    resident_bytes: int,
) -> dict[int, Verdict]:
    """Verdicts that replace those on sites whose growth is slow and of few blocks, by stack id.

    `verdicts`: those that are new, of sites with sizes in bytes; `resident_bytes`: what the process
    has in memory.
    """
    few = {
        one: verdict
        for one, verdict in verdicts.items()
        if verdict.kind is VerdictKind.GROWING
        and (verdict.since_s or 0.0) < _LONG_S
        and _blocks(history_of(one), verdict) < _MANY_BLOCKS
    }
    together = sum(verdict.bytes_per_s or 0.0 for verdict in few.values())
    if together * _DOUBLES_S >= resident_bytes:
        return {}
    return {one: _waits(verdict, resident_bytes) for one, verdict in few.items()}


def _blocks(history: History | None, verdict: Verdict) -> float:
    """How many blocks it has got since it grows, and kept."""
    if history is None:
        return 0.0
    since_s = float(history.edges_s[-1]) - (verdict.since_s or 0.0)
    if history.counts.any():
        return float(history.counts[history.edges_s[1:] > since_s].sum())
    # Of each report, only the totals are known.
    first = min(int(np.searchsorted(history.times_s, since_s)), len(history.times_s) - 1)
    return float(history.held_counts[-1] - history.held_counts[first])


def _waits(verdict: Verdict, resident_bytes: int) -> Verdict:
    size = units.size(resident_bytes)
    return replace(
        verdict,
        kind=VerdictKind.TOO_EARLY,
        reason=f"{verdict.reason}. That is slow for {size} in memory: it may still be filling",
        needs_s=_LONG_S - (verdict.since_s or 0.0),
    )
