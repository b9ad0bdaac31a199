"""The lines of a recording: what they are called, and what both sides must know of them.

A recording is text, one JSON object per line (docs/recordings.md):

    {"schema":"leaktrace/recording/1", …}    first: who made it, when, of what
    {"schema":"leaktrace/stack/1", …}        a stack, before the first line that refers to it
    {"schema":"leaktrace/forget/1", …}       stacks that the last report hasn't are not used again
    {"schema":"leaktrace/mark/1", …}         before the report that was made for it
    {"schema":"leaktrace/changes/1", …}      a report: what has changed since the one before
    {"schema":"leaktrace/end/1", …}          last, unless the recording was cut off

A line of changes is a report of `--format json`, in which each list of sites has only those that
have changed, each with the fields that have. Of counters it has the difference. Ages are absolute
times, so that a site at which nothing happens does not change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

Object = dict[str, Any]

RECORDING = "leaktrace/recording/1"
STACK = "leaktrace/stack/1"
FORGET = "leaktrace/forget/1"
MARK = "leaktrace/mark/1"
CHANGES = "leaktrace/changes/1"
END = "leaktrace/end/1"

# Figures of which the difference is written if they have changed: it has fewer digits.
COUNTERS = (
    *("bytes", "count", "allocated_bytes", "allocated_count", "freed_bytes", "freed_count"),
    *("oldest_at_ns", "newest_at_ns"),
)
# Objects of counts, likewise: the differences of those that have changed.
HISTOGRAMS = ("lived", "sizes", "size_bytes")
# What a growth is the change of. It is written only if it is another number.
GROWTHS = (("growth_bytes", "bytes"), ("growth_count", "count"))
# What is freed is usually what was allocated and is not held: only otherwise it is written.
FREED = (
    ("freed_bytes", "allocated_bytes", "bytes"),
    ("freed_count", "allocated_count", "count"),
)
# What no line of a recording is longer than.
LONGEST_LINE = 32 << 20
# How many of the first sites keep exactly the place that they had.
_FIRST = 100

_RANKS = {"leak": 0, "growing": 1, "overdue": 2, "filling": 3}
_LED = 0.5
_OTHERS = len(_RANKS)


def site_lists(report: Object) -> Iterator[tuple[str, Object]]:
    """The objects of a report that have a list of sites, each with a name that stays the same from
    report to report."""
    yield from _with_stacks("", report)
    for one in _objects(report, "by_process"):
        yield from _with_stacks(f"process {one.get('pid')}", one)
    for one in _objects(report, "other_memory"):
        yield from _with_stacks(f"memory {one.get('backing')}", one)
    for number, one in enumerate(_objects(report, "sections")):
        yield from _with_stacks(f"section {number}", one)


def _with_stacks(name: str, part: Object) -> Iterator[tuple[str, Object]]:
    yield name, part
    stacks = part.get("thread_stacks")
    if isinstance(stacks, dict):
        yield f"{name} stacks", stacks


def _objects(report: Object, key: str) -> Iterator[Object]:
    value = report.get(key)
    for one in value if isinstance(value, list) else ():
        if isinstance(one, dict):
            yield one


def usual_order(sites: Mapping[int, Object], sort: str) -> list[int]:
    """The numbers of sites in the order that a report has, but for ties (by number). What is lost
    or grows comes first, the fastest first; then the largest."""
    key = _ORDERS.get(sort, _by_verdict)
    return sorted(sites, key=lambda number: (*key(sites[number]), number))


def usually_freed(site: Object, allocated: str, held: str) -> int | None:
    """What a site has freed, if nothing else is known of it."""
    whole, kept = site.get(allocated), site.get(held)
    return whole - kept if type(whole) is int and type(kept) is int else None


def first_of(order: Iterable[int], usual: Iterable[int], top: int) -> list[int] | None:
    """The first sites, if they are others than usual, as far as their places matter."""
    first, usually = (list(one)[: max(top, _FIRST)] for one in (order, usual))
    return None if first == usually else first


def with_first(first: Iterable[int], usual: list[int]) -> list[int]:
    """All sites, these first."""
    return list(dict.fromkeys([*first, *usual]))


def _by_verdict(site: Object) -> tuple[float, ...]:
    verdict = site.get("verdict") or {}
    rank, rate = float(_RANKS.get(str(verdict.get("kind")), _OTHERS)), 0.0
    if rank < _OTHERS:
        rate = verdict.get("bytes_per_s") or verdict.get("count_per_s") or 0.0
        if rank == 0 and not verdict.get("lost_count"):
            rank += _LED
    return rank, -rate, *_by_size(site)


def _by_size(site: Object) -> tuple[float, ...]:
    held = site.get("bytes")
    if held is None:
        return -site["count"], 0
    if site.get("reserved_bytes"):
        held -= site["reserved_bytes"]
        held += (site.get("resident_bytes") or 0) + (site.get("swapped_bytes") or 0)
        held += site.get("unread_bytes") or 0
    return -held, -site["bytes"]


def _by_count(site: Object) -> tuple[float, ...]:
    return -site["count"], *_by_size(site)


def _by_age(site: Object) -> tuple[float, ...]:
    return site.get("oldest_at_ns") or 0, *_by_size(site)


_ORDERS: Mapping[str, Callable[[Object], tuple[float, ...]]] = {
    "growth": _by_verdict,
    "size": _by_size,
    "count": _by_count,
    "age": _by_age,
}
