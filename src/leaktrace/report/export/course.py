"""What reports say over time, within bounds: the course of the totals and of each site.

At most `2 * MOST_POINTS` reports are kept as points. When there are more, every second one is
dropped, and from then on every second report is kept, and so on. So the points are spread evenly
over the whole time, however long it is; the first and the last report are always among them.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, replace

from leaktrace.model import Report
from leaktrace.report.sections import shown_parts
from leaktrace.site import Site

MOST_POINTS = 300
_MOST_GONE = 2_000  # sites that hold nothing any more; of more, those that held most
_GONE_AT_ONCE = 20_000  # so many are kept before they are sorted out


@dataclass(frozen=True)
class Point:
    """The totals of one report, in bytes. None: not known."""

    elapsed_s: float
    held: int  # what takes memory
    count: int
    resident: int | None  # RSS
    growth: int | None  # of RSS since the attach
    other_memory: int  # beside the allocator's, held
    allocator_at_most: int  # free memory that the allocator keeps


class _SiteCourse:
    """A site as it was last seen, and what it held at each point."""

    __slots__ = ("held", "site")

    def __init__(self, site: Site) -> None:
        self.site = site
        self.held = array("q")

    def put(self, at: int, held: int) -> None:
        """Its value at a point; it held nothing at points that are missing."""
        self.held.extend(0 for _ in range(at + 1 - len(self.held)))
        self.held[at] = held


class PartCourse:
    """The course of the sites of one part of the reports."""

    def __init__(self) -> None:
        self._sites: dict[str, _SiteCourse] = {}
        self.dropped = 0  # sites that hold nothing any more, and are not kept

    def put(self, part: Report, at: int) -> None:
        """Take in the sites of the report that is point number `at`."""
        for site in part.sites:
            course = self._sites.get(site.id)
            if course is None:
                course = self._sites[site.id] = _SiteCourse(site)
            course.site = site
            course.put(at, site.held_bytes)
        if len(self._sites) > len(part.sites) + _GONE_AT_ONCE:
            self._drop_gone({site.id for site in part.sites})

    def thin(self) -> None:
        """Drop every second point."""
        for course in self._sites.values():
            course.held = course.held[::2]

    def rows(self, last: Report) -> list[Site]:
        """The sites of the last report in its order, then those that hold nothing any more."""
        here = {site.id for site in last.sites}
        self._drop_gone(here)
        gone = [one.site for key, one in self._sites.items() if key not in here]
        return [*last.sites, *(_emptied(site) for site in gone)]

    def held(self, site: Site, points: Iterable[int]) -> list[int]:
        """What a site held at these points, in bytes."""
        held = self._sites[site.id].held
        return [held[at] if at < len(held) else 0 for at in points]

    def _drop_gone(self, here: set[str]) -> None:
        gone = [key for key in self._sites if key not in here]
        gone.sort(key=lambda key: -max(self._sites[key].held, default=0))
        for key in gone[_MOST_GONE:]:
            del self._sites[key]
            self.dropped += 1


class Course:
    """All reports so far."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.parts: dict[str | None, PartCourse] = {}
        self.report_count = 0
        self._every = 1  # this many reports give a point
        self._last: Report | None = None  # not a point yet

    def add(self, report: Report) -> None:
        """Take in a report; they come in order."""
        if self.report_count % self._every == 0:
            self._put(report)
            self._last = None
        else:
            self._last = report
        self.report_count += 1

    def finish(self) -> None:
        """Make the last report a point."""
        if self._last is not None:
            self._put(self._last)
            self._last = None

    def _put(self, report: Report) -> None:
        at = len(self.points)
        self.points.append(_point(report))
        for part in shown_parts(report):
            self.parts.setdefault(part.section, PartCourse()).put(part, at)
        if len(self.points) > 2 * MOST_POINTS:
            self.points = self.points[::2]
            self._every *= 2
            for course in self.parts.values():
                course.thin()


def _point(report: Report) -> Point:
    explained, resident = report.explained, report.resident
    return Point(
        report.elapsed_s,
        report.held_bytes,
        report.outstanding.count,
        None if resident is None else resident.bytes,
        None if explained is None else explained.resident_growth,
        0 if explained is None else explained.other_memory,
        0 if explained is None else explained.allocator_at_most,
    )


def _emptied(site: Site) -> Site:
    return replace(site, bytes=0, count=0, regions=None, verdict=None, oldest_ns=None)
