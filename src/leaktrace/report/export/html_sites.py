"""The sites of a recording as columns of values, for the table of the HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from leaktrace import units
from leaktrace.model import Report
from leaktrace.printable import printable
from leaktrace.report.export.call_tree import CallTree
from leaktrace.report.export.course import PartCourse
from leaktrace.report.export.flamegraph import flame_part
from leaktrace.report.folding import summary
from leaktrace.report.holders import holder_lines
from leaktrace.report.idle import idle_in_words
from leaktrace.report.lifetimes import freed_at_in_words, lifetimes_in_words
from leaktrace.report.processes import shares_in_words
from leaktrace.report.regions import region_in_words
from leaktrace.report.runtimes import is_own
from leaktrace.report.site_lines import STACK_ENDS
from leaktrace.report.verdicts import evidence_lines, rate_in_words, word_of
from leaktrace.site import Frame, Site
from leaktrace.verdict import LEAKING, SUSPICIOUS, VerdictKind

_WIDE = 100_000  # columns: one line
# Values over time that are written for all sites together: about five characters each.
_MOST_VALUES = 400_000
_LEAST_POINTS = 24


def part_data(part: Report, course: PartCourse, points: int, tree: CallTree) -> dict[str, Any]:
    """The sites of a part as columns."""
    rows = course.rows(part)
    grid = _grid(points, len(rows))
    texts: dict[str, int] = {"": 0}

    def text(words: str) -> int:
        return texts.setdefault(words, len(texts))

    kinds = list(VerdictKind)
    sites = {
        "id": [printable(site.id) for site in rows],
        "verdict": [-1 if one.verdict is None else kinds.index(one.verdict.kind) for one in rows],
        "where": [-1 if (one := where_of(site)) is None else tree.frame(one) for site in rows],
        "held": [site.held_bytes for site in rows],
        "count": [site.count for site in rows],
        "oldest_ms": [_in_ms(site.oldest_ns) for site in rows],
        "rate": [_rate(site) for site in rows],
        "rate_text": [text(_rate_text(site, part)) for site in rows],
        "evidence": [text(_evidence(site, part)) for site in rows],
        "details": [[text(line) for line in _details(site, part)] for site in rows],
        "course": [_differences(course.held(site, grid)) for site in rows],
    }
    shown = flame_part(part, tree, rows)
    return {
        **shown,
        "counted": part.is_counted,
        "total": part.held_bytes if not part.is_counted else part.outstanding.count,
        "grid": grid,
        "texts": list(texts),
        "sites": sites,
        "in_last": len(part.sites),
        "dropped": course.dropped,
        "kinds": [
            {
                "word": word_of(kind),
                "class": class_of(kind),
            }
            for kind in kinds
        ],
    }


def _grid(points: int, sites: int) -> list[int]:
    """The points at which the sites' values are written: fewer if there are many sites."""
    number = min(points, max(_LEAST_POINTS, _MOST_VALUES // max(sites, 1)))
    if number < 2:
        return list(range(points))
    return sorted({round(at * (points - 1) / (number - 1)) for at in range(number)})


def _differences(values: Sequence[int]) -> list[int]:
    """The first value, and the change from each to the next; no zeros at the end."""
    changes = [now - before for before, now in zip([0, *values], values, strict=False)]
    while len(changes) > 1 and changes[-1] == 0:
        changes.pop()
    return changes


def _in_ms(age_ns: int | None) -> int | None:
    return None if age_ns is None else age_ns // 1_000_000


def _rate(site: Site) -> int:
    """Bytes per hour, to sort by."""
    rate = None if site.verdict is None else site.verdict.bytes_per_s
    return 0 if rate is None else round(rate * 3600)


def _rate_text(site: Site, part: Report) -> str:
    return "" if site.verdict is None else rate_in_words(site.verdict, part, with_error=False)


def _evidence(site: Site, part: Report) -> str:
    verdict = site.verdict
    if verdict is None:
        return ""
    if verdict.is_suspicious:
        return " ".join(line.plain.strip() for line in evidence_lines(site, part, _WIDE))
    return printable(verdict.reason)


def _details(site: Site, part: Report) -> Iterator[str]:
    """What else is known of a site, a sentence each."""
    if site.idle is not None and part.idle is not None:
        yield idle_in_words(site.idle, part.idle)
    if site.regions is not None:
        yield region_in_words(site)
    if site.cache is not None:
        yield f"slab cache {printable(site.cache)}"
    if site.requested_bytes is not None and site.requested_bytes < site.bytes:
        yield f"{units.size(site.bytes - site.requested_bytes)} lost to rounding up"
    if site.unconfirmed is not None:
        yield f"unconfirmed: {printable(site.unconfirmed)}"
    if site.processes:
        yield shares_in_words(site, part)
    if site.lifetimes is not None and site.lifetimes.total:
        yield lifetimes_in_words(site, round(part.elapsed_s * 1e9))
    yield from freed_at_in_words(site)
    if site.holders:
        yield from (line.plain.strip() for line in holder_lines(site.holders, _WIDE, None))
    if site.stack.end in STACK_ENDS:
        yield STACK_ENDS[site.stack.end]


def where_of(site: Site) -> Frame | None:
    """The frame that says most; None if the stack has none."""
    frames = site.stack.frames
    own = (frame for frame in frames if frame.function is not None and is_own(frame))
    first = next(own, None)
    if first is not None:  # what `summary` would say, but sooner
        return first
    return next((one for one in summary(frames) if isinstance(one, Frame)), None)


def class_of(kind: VerdictKind) -> str:
    if kind in LEAKING:
        return "bad"
    if kind in SUSPICIOUS:
        return "warn"
    return "plain" if kind is VerdictKind.TOO_EARLY else "good"
