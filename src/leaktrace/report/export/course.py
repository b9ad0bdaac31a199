"""What reports say over time, within bounds: the course of the totals and of each site.

At most `2 * MOST_POINTS` reports are kept as points. When there are more, every second one is
dropped, and from then on every second report is kept, and so on. So the points are spread evenly
over the whole time, however long it is; the first and the last report are always among them.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

from leaktrace.model import Report
from leaktrace.site import Site

AnyReport = TypeVar("AnyReport")
Point = TypeVar("Point")

MOST_POINTS = 300
_MOST_GONE = 2_000  # sites that hold nothing any more; of more, those that held most
_GONE_AT_ONCE = 20_000  # so many are kept before they are sorted out


_Key = tuple[str, str | None]  # of a site


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
        self._sites: dict[_Key, _SiteCourse] = {}
        self.dropped = 0  # sites that hold nothing any more, and are not kept

    def put(self, part: Report, at: int) -> None:
        """Take in the sites of the report that is point number `at`."""
        for site in part.sites:
            course = self._sites.get(_key(site))
            if course is None:
                course = self._sites[_key(site)] = _SiteCourse(site)
            course.site = site
            course.put(at, site.held_bytes)
        if len(self._sites) > len(part.sites) + _GONE_AT_ONCE:
            self._drop_gone({_key(site) for site in part.sites})

    def thin(self) -> None:
        """Drop every second point."""
        for course in self._sites.values():
            course.held = course.held[::2]

    def rows(self, last: Report) -> list[Site]:
        """The sites of the last report in its order, then those that hold nothing any more."""
        here = {_key(site) for site in last.sites}
        self._drop_gone(here)
        gone = [one.site for key, one in self._sites.items() if key not in here]
        return [*last.sites, *(_emptied(site) for site in gone)]

    def held(self, site: Site, points: Iterable[int]) -> list[int]:
        """What a site held at these points, in bytes."""
        held = self._sites[_key(site)].held
        return [held[at] if at < len(held) else 0 for at in points]

    def _drop_gone(self, here: set[_Key]) -> None:
        gone = [key for key in self._sites if key not in here]
        gone.sort(key=lambda key: -max(self._sites[key].held, default=0))
        for key in gone[_MOST_GONE:]:
            del self._sites[key]
            self.dropped += 1


class Course(Generic[AnyReport, Point]):
    """All reports so far."""

    def __init__(
        self,
        parts_of: Callable[[AnyReport], Sequence[Report]],
        point_of: Callable[[AnyReport], Point],
    ) -> None:
        """`parts_of`: the sites of a report, by section. `point_of`: its totals."""
        self._parts_of = parts_of
        self._point_of = point_of
        self.points: list[Point] = []
        self.parts: dict[str | None, PartCourse] = {}
        self.report_count = 0
        self._every = 1  # this many reports give a point
        self._last: AnyReport | None = None  # not a point yet

    def add(self, report: AnyReport) -> None:
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

    def _put(self, report: AnyReport) -> None:
        at = len(self.points)
        self.points.append(self._point_of(report))
        for part in self._parts_of(report):
            self.parts.setdefault(part.section, PartCourse()).put(part, at)
        if len(self.points) > 2 * MOST_POINTS:
            self.points = self.points[::2]
            self._every *= 2
            for course in self.parts.values():
                course.thin()


def _key(site: Site) -> _Key:
    """Goroutines of one stack may wait for different things."""
    return site.id, site.state


def _emptied(site: Site) -> Site:
    return replace(site, bytes=0, count=0, regions=None, verdict=None, oldest_ns=None)
