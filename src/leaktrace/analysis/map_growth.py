"""Reports of `leaktrace maps` from looks: totals by kind, and what has grown.

A mapping changes its addresses as it grows, and the kernel joins and splits mappings. So one look
is compared with another by places: mappings that overlap, of the same file or all of no file, are
one place, and the growth of a place is what its mappings hold now minus what they held before. The
growth of all places adds up to that of the process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import chain

from leaktrace.memory_map import (
    Figures,
    KindLine,
    Look,
    MapKind,
    MapsReport,
    MemoryRange,
    RangeGrowth,
)

_NOTHING = Figures()
_EXECUTED = "it has executed another program: growth counts from this look"


@dataclass
class _Place:
    """Overlapping mappings of several looks."""

    end: int
    looks: tuple[list[MemoryRange], ...] = field(default_factory=lambda: ([], [], []))

    def held(self, look: int) -> int:
        return sum(one.figures.held for one in self.looks[look])


_FIRST, _PREVIOUS, _NOW = range(3)


class MapsBuilder:
    """Builds reports, and keeps the looks that the next one is compared with."""

    def __init__(self, pid: int, top: int) -> None:
        self._pid = pid
        self._top = top
        self._first: Look | None = None
        self._previous: Look | None = None
        self._number = 0

    def begin(self, look: Look) -> None:
        """Growth counts from this look."""
        self._first = self._previous = look

    @property
    def last(self) -> Look | None:
        return self._previous

    def single(self, look: Look, command: str) -> MapsReport:
        """The report about one look, without growth."""
        self._number += 1
        return self._report(look, command, 0.0)

    def build(
        self, look: Look, command: str, final_reason: str | None, look_age_s: float = 0.0
    ) -> MapsReport:
        """A report of this look, compared with the first and the previous one. `final_reason`: why
        it is the last one; None: it isn't. `look_age_s`: how old the look is, if the process has
        ended since."""
        assert self._first is not None
        assert self._previous is not None
        has_executed = look.program != self._previous.program
        if has_executed:
            self.begin(look)
        first, previous = self._first, self._previous
        self._number += 1
        report = self._report(look, command, look.time_s - first.time_s)
        now, before, last = (_by_kind(one) for one in (look, first, previous))
        kinds = tuple(
            KindLine(
                kind,
                now.get(kind, (0, _NOTHING))[0],
                now.get(kind, (0, _NOTHING))[1],
                now.get(kind, (0, _NOTHING))[1].since(before.get(kind, (0, _NOTHING))[1]),
                now.get(kind, (0, _NOTHING))[1].since(last.get(kind, (0, _NOTHING))[1]),
            )
            for kind in MapKind
            if kind in now or kind in before or kind in last
        )
        self._previous = look
        return replace(
            report,
            final=final_reason is not None,
            reason=final_reason or "",
            kinds=kinds,
            since_first=report.total.since(_sum(first.ranges)),
            since_previous=report.total.since(_sum(previous.ranges)),
            grown=tuple(_grown(first, previous, look))[: self._top],
            look_age_s=look_age_s,
            notes=(*([_EXECUTED] if has_executed else []), *look.notes),
        )

    def _report(self, look: Look, command: str, elapsed_s: float) -> MapsReport:
        largest = sorted(look.ranges, key=lambda one: (-one.figures.held, one.start))
        return MapsReport(
            time=datetime.now().astimezone(),
            elapsed_s=elapsed_s,
            number=self._number,
            final=False,
            reason="",
            pid=self._pid,
            command=command,
            mapping_count=len(look.ranges),
            thread_count=look.thread_count,
            total=_sum(look.ranges),
            kinds=tuple(KindLine(kind, *found) for kind, found in sorted_kinds(_by_kind(look))),
            largest=tuple(one for one in largest[: self._top] if one.figures.held),
            top=self._top,
            notes=look.notes,
        )


def sorted_kinds(
    kinds: dict[MapKind, tuple[int, Figures]],
) -> Iterator[tuple[MapKind, tuple[int, Figures]]]:
    """In the order of reports."""
    return ((kind, kinds[kind]) for kind in MapKind if kind in kinds)


def _by_kind(look: Look) -> dict[MapKind, tuple[int, Figures]]:
    found: dict[MapKind, tuple[int, Figures]] = {}
    for one in look.ranges:
        count, figures = found.get(one.kind, (0, _NOTHING))
        found[one.kind] = count + 1, figures.plus(one.figures)
    return found


def _sum(ranges: Iterable[MemoryRange]) -> Figures:
    total = _NOTHING
    for one in ranges:
        total = total.plus(one.figures)
    return total


def _grown(first: Look, previous: Look, now: Look) -> list[RangeGrowth]:
    """The places that hold more than in the first look, the most growing first."""
    grown = [
        RangeGrowth(
            _joined(place.looks[_NOW]),
            place.held(_NOW) - place.held(_FIRST),
            place.held(_NOW) - place.held(_PREVIOUS),
            is_new=not place.looks[_FIRST],
        )
        for place in places(first, previous, now)
        if place.looks[_NOW] and place.held(_NOW) > place.held(_FIRST)
    ]
    return sorted(grown, key=lambda one: (-one.growth, -one.since_previous, one.range.start))


def places(*looks: Look) -> Iterator[_Place]:
    """The places of several looks. A mapping that holds nothing and can't be accessed belongs to
    none: it would join the arenas that it lies between."""
    items = chain.from_iterable(
        ((one.file or ("", 0), one.start, number, one) for one in look.ranges)
        for number, look in enumerate(looks)
    )
    file, place = None, _Place(0)
    for one_file, start, number, one in sorted(items, key=lambda item: item[:3]):
        if one.kind is MapKind.INACCESSIBLE and not one.figures.held:
            continue
        if one_file != file or start >= place.end:
            if any(place.looks):
                yield place
            file, place = one_file, _Place(one.end)
        place.end = max(place.end, one.end)
        place.looks[number].append(one)
    if any(place.looks):
        yield place


def _joined(ranges: list[MemoryRange]) -> MemoryRange:
    most = max(ranges, key=lambda one: one.figures.held)
    return replace(
        most,
        start=min(one.start for one in ranges),
        end=max(one.end for one in ranges),
        figures=_sum(ranges),
    )
