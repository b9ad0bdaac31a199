"""Ids of sites as text shows them: the first digits, as many as tell the sites apart.

An id has 16 digits. JSON and pages have all of them, text the first six, or more where another site
begins with these. What takes an id, takes the beginning of one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from leaktrace.analysis.views.parts import parts_of, sites_of
from leaktrace.model import Report
from leaktrace.printable import printable

DIGITS = 6  # at least


class ShortIds:
    """Shortens the ids of some sites, and of others that are mentioned with them."""

    def __init__(self, ids: Iterable[str]) -> None:
        self._ids = sorted({printable(one) for one in ids})

    @classmethod
    def of_report(cls, report: Report) -> ShortIds:
        """Of the sites of a report or a section, and of the sections in it."""
        return cls(site.id for part in parts_of(report) for site in sites_of(part))

    def of(self, site_id: str) -> str:
        """The first digits of an id, with which no other site's id begins."""
        whole = printable(site_id)
        at = bisect_left(self._ids, whole)
        others = [one for one in self._ids[max(at - 1, 0) : at + 2] if one != whole]
        shared = max((_shared(whole, one) for one in others), default=0)
        return whole[: max(DIGITS, shared + 1)]


def _shared(one: str, other: str) -> int:
    """How many characters two ids share from their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def shown_id(site_id: str, ids: ShortIds | None) -> str:
    """An id for people: short, or without `ids` whole."""
    return printable(site_id) if ids is None else ids.of(site_id)
