"""What of the sites of a report has changed since the one before.

`SiteChanges` writes it, `SiteState` applies it. Both know the sites of one list by numbers that
they have in this recording.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from leaktrace.options import MOST_SITES
from leaktrace.recording.fields import Fields, MalformedError
from leaktrace.recording.format import (
    COUNTERS,
    GROWTHS,
    HISTOGRAMS,
    Object,
    first_of,
    usual_order,
    with_first,
)

_MOST_KNOWN = 4 * MOST_SITES  # sites of a list that a recording may have at a time


@dataclass
class _Known:
    """A site as it was last written."""

    number: int
    fields: Object


class SiteChanges:
    """The sites of one list, as they were last written."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], _Known] = {}  # by id, and which of those with this id
        self._count = 0

    def __len__(self) -> int:
        """How many sites the list had when it was last written."""
        return len(self._known)

    def of(self, sites: Iterable[Object], sort: str, top: int) -> Object:
        """The fields that stand for these sites, in this order, in a line of changes."""
        now: dict[tuple[str, int], _Known] = {}
        seen: dict[str, int] = {}
        entries = []
        for site in sites:
            site_id = site["id"]
            nth = seen[site_id] = seen.get(site_id, -1) + 1
            known = self._known.get((site_id, nth))
            growth, plain = _split_growth(site)
            if known is None:
                known = _Known(self._count, {})
                self._count += 1
            entry = _entry(known.fields, plain) | _unusual_growth(growth, known.fields, plain)
            if entry:
                entries.append({"n": known.number, **entry})
            known.fields = plain
            now[(site_id, nth)] = known
        gone = [one.number for key, one in self._known.items() if key not in now]
        self._known = now
        changes: Object = {"sites": entries}
        if gone:
            changes["gone"] = gone
        by_number = {one.number: one.fields for one in now.values()}
        first = first_of(by_number, usual_order(by_number, sort), top)
        if first is not None:
            changes["first"] = first
        return changes


def _entry(before: Object, now: Object) -> Object:
    """What has changed: all of it, if a field is no longer there, or a number is not known any
    more."""
    if before.keys() - now.keys() or any(_has_other_type(key, before, now) for key in COUNTERS):
        return now
    changed = {}
    for key, value in now.items():
        if key not in before:
            changed[key] = value
        elif before[key] != value:
            if key in HISTOGRAMS:
                changed[key] = _bins(before[key], value)
            elif key in COUNTERS:
                changed[key] = value - before[key]
            else:
                changed[key] = value
    return changed


def _bins(before: Object, now: Object) -> Object:
    """The differences of the bins of a histogram that have changed."""
    differences = {key: now.get(key, 0) - before.get(key, 0) for key in {**before, **now}}
    return {key: difference for key, difference in differences.items() if difference}


def _has_other_type(key: str, before: Object, now: Object) -> bool:
    return key in before and type(before[key]) is not type(now[key])


def _split_growth(site: Object) -> tuple[Object, Object]:
    plain = dict(site)
    return {key: plain.pop(key) for key, _ in GROWTHS if key in plain}, plain


def _unusual_growth(growth: Object, before: Object, now: Object) -> Object:
    return {
        key: growth[key]
        for key, of in GROWTHS
        if key in growth and growth[key] != _change(of, before, now)
    }


def _change(of: str, before: Object, now: Object) -> int | None:
    """How a field has changed; what was not there was 0."""
    value = now.get(of)
    return None if value is None else value - (before.get(of) or 0)


@dataclass
class SiteState:
    """The sites of one list, as far as a recording was read."""

    sites: dict[int, Object] = field(default_factory=dict)
    growth: dict[int, Object] = field(default_factory=dict)  # in the last line
    changed: set[int] = field(default_factory=set)  # since somebody emptied it
    _first: tuple[int, ...] = ()

    def apply(self, part: Fields) -> None:
        """Take in a line of changes. Raises MalformedError."""
        self.growth = {}
        for number in part.integers("gone"):
            self.sites.pop(number, None)
            self.changed.discard(number)
        for entry in part.items("sites"):
            self._take(entry)
        if len(self.sites) > _MOST_KNOWN:
            raise MalformedError(f"it has more than {_MOST_KNOWN:,} sites")
        self._first = part.integers("first")

    def _take(self, entry: object) -> None:
        number = Fields(entry, "a site").integer("n")
        assert isinstance(entry, dict)
        del entry["n"]
        before = self.sites.get(number, {})
        if "id" not in entry and not before:
            raise MalformedError(f"site {number} was not described before")
        growth = {key: entry.pop(key) for key, _ in GROWTHS if key in entry}
        now = entry if "id" in entry else _merged(before, entry)
        for key, of in GROWTHS:
            if key not in growth and of in now:
                growth[key] = _grown(before.get(of), now[of])
        self.sites[number] = now
        self.growth[number] = growth
        self.changed.add(number)

    def stacks(self) -> Iterator[int]:
        """The numbers of the stacks of all sites, as far as they are some."""
        for site in self.sites.values():
            freed_at = site.get("freed_at")
            for one in (site, *(freed_at if isinstance(freed_at, list) else ())):
                number = one.get("stack") if isinstance(one, dict) else None
                if type(number) is int:
                    yield number

    def order(self, sort: str) -> list[int]:
        """The numbers of the sites as the report has them. Raises MalformedError."""
        if any(number not in self.sites for number in self._first):
            raise MalformedError("a site that comes first is not known")
        try:
            return with_first(self._first, usual_order(self.sites, sort))
        except (TypeError, KeyError, AttributeError):
            raise MalformedError("the figures of a site are none") from None


def _merged(before: Object, changed: Object) -> Object:
    now = {**before, **changed}
    for key in COUNTERS:
        if key in changed and key in before:
            now[key] = _added(before[key], changed[key])
    for key in HISTOGRAMS:
        if key in changed and key in before:
            now[key] = _added_bins(before[key], changed[key])
    return now


def _added(before: object, difference: object) -> int:
    if type(before) is not int or type(difference) is not int:
        raise MalformedError("the difference of a figure is none")
    return before + difference


def _added_bins(before: object, differences: object) -> Object:
    if not isinstance(before, dict) or not isinstance(differences, dict):
        raise MalformedError("a histogram is none")
    added = dict(before)
    for key, difference in differences.items():
        added[key] = _added(added.get(key, 0), difference)
    return {key: count for key, count in added.items() if count}


def _grown(before: object, now: object) -> int | None:
    if type(now) is not int:
        return None
    return now - (before if type(before) is int else 0)
