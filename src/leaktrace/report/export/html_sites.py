"""The sites of a report as columns of values, for the table of an HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from leaktrace.model import Report
from leaktrace.printable import printable
from leaktrace.report.export.call_tree import CallTree
from leaktrace.report.export.course import PartCourse
from leaktrace.report.export.flamegraph import flame_part
from leaktrace.site import Frame, Site

_HOUR_S = 3600
# Values over time that are written for all sites together: about five characters each.
_MOST_VALUES = 400_000
_LEAST_POINTS = 24


class SiteWords(Protocol):
    """What is said of the sites of a part."""

    @property
    def kinds(self) -> Sequence[tuple[str, str]]:
        """The word of each verdict, gravest first, and its style."""

    @property
    def allocated_since(self) -> str:
        """From when on it counts what is allocated."""

    @property
    def is_age_at_least(self) -> bool:
        """Whether ages are lower bounds."""

    def kind(self, site: Site) -> int | None:
        """Which of the kinds; None: there is no verdict."""

    def where(self, site: Site) -> Frame | None:
        """The frame that says most; None if the stack has none."""

    def oldest_ns(self, site: Site) -> int | None:
        """The age of the oldest of what the site holds; None: not known."""

    def rate(self, site: Site) -> float:
        """Per second, to sort by."""

    def rate_text(self, site: Site) -> str:
        """The rate, short."""

    def evidence(self, site: Site) -> str:
        """Why the verdict is what it is."""

    def details(self, site: Site) -> Iterator[str]:
        """What else is known, a sentence each."""


def part_data(
    part: Report, course: PartCourse, points: int, tree: CallTree, words: SiteWords
) -> dict[str, Any]:
    """The sites of a part as columns."""
    rows = course.rows(part)
    grid = _grid(points, len(rows))
    texts: dict[str, int] = {"": 0}

    def text(said: str) -> int:
        return texts.setdefault(said, len(texts))

    sites = {
        "id": [printable(site.id) for site in rows],
        "verdict": [-1 if (kind := words.kind(site)) is None else kind for site in rows],
        "where": [-1 if (one := words.where(site)) is None else tree.frame(one) for site in rows],
        "held": [site.held_bytes for site in rows],
        "count": [site.count for site in rows],
        "oldest_ms": [_in_ms(words.oldest_ns(site)) for site in rows],
        "rate": [round(words.rate(site) * _HOUR_S) for site in rows],
        "rate_text": [text(words.rate_text(site)) for site in rows],
        "evidence": [text(words.evidence(site)) for site in rows],
        "details": [[text(line) for line in words.details(site)] for site in rows],
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
        "kinds": [{"word": word, "class": css_class} for word, css_class in words.kinds],
        "since": words.allocated_since,
        "at_least": words.is_age_at_least,
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
