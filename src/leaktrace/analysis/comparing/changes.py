"""What the sites of one report hold more or less than those of another.

The differences of all sites, and of what is at no listed site, add up to that of the totals.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from leaktrace.analysis.comparing.go_heaps import GoHeapDiff, compare_go_heaps
from leaktrace.analysis.comparing.go_programs import both_with_goroutines, has_executed
from leaktrace.analysis.comparing.matching import Match, Rule, Side, match
from leaktrace.analysis.comparing.same_names import command_of
from leaktrace.analysis.quantities import Quantity, refuse_counters
from leaktrace.analysis.views.filters import SiteFilter
from leaktrace.analysis.views.groups import Selection, select
from leaktrace.analysis.views.parts import parts_of
from leaktrace.errors import UsageError
from leaktrace.model import Measure, Report
from leaktrace.site import Site, Stack, Total

_HOUR_S = 3600
# Below so many standard errors, a difference of estimates may be chance.
_CLEAR = 2.0


class Change(StrEnum):
    """What has become of a site."""

    GREW = "grew"
    SHRANK = "shrank"
    CAME = "came"  # only in the new report
    WENT = "went"  # only in the base report
    SAME = "same"


@dataclass(frozen=True)
class Figures:
    """Of one call site in one report."""

    held: Total
    allocated: Total
    freed: Total

    @classmethod
    def of(cls, sites: Iterable[Site]) -> Figures:
        listed = list(sites)
        return cls(
            Total(sum(s.bytes for s in listed), sum(s.count for s in listed)),
            Total(sum(s.allocated_bytes for s in listed), sum(s.allocated_count for s in listed)),
            Total(sum(s.freed_bytes for s in listed), sum(s.freed_count for s in listed)),
        )

    def value(self, quantity: Quantity) -> int:
        """In the unit of the quantity, which is not GROWTH."""
        total = {
            Quantity.IN_USE: self.held.bytes,
            Quantity.IN_USE_BLOCKS: self.held.count,
            Quantity.ALLOCATED: self.allocated.bytes,
            Quantity.ALLOCATED_BLOCKS: self.allocated.count,
            Quantity.FREED: self.freed.bytes,
            Quantity.FREED_BLOCKS: self.freed.count,
        }
        return total[quantity]


@dataclass(frozen=True)
class SiteChange:
    """One call site in both reports."""

    match: Match
    base: Figures
    new: Figures
    base_value: int  # of the quantity that is compared
    new_value: int
    error: Total | None = None  # standard error of the difference, of estimates of what is held

    @property
    def difference(self) -> int:
        """Of the quantity that is compared."""
        return self.new_value - self.base_value

    @property
    def change(self) -> Change:
        if not self.match.base:
            return Change.CAME
        if not self.match.new:
            return Change.WENT
        if self.difference == 0:
            return Change.SAME
        return Change.GREW if self.difference > 0 else Change.SHRANK

    @property
    def site(self) -> Site:
        """The one whose stack is shown: of the new report, if it is there."""
        return (self.match.new or self.match.base)[0]

    @property
    def stack(self) -> Stack:
        return self.site.stack

    @property
    def unconfirmed(self) -> str | None:
        """In the kernel: why one of the reports doubts that the site holds what it shows."""
        doubts = (one.unconfirmed for one in (*self.match.new, *self.match.base))
        return next((doubt for doubt in doubts if doubt is not None), None)


@dataclass(frozen=True)
class PartDiff:
    """A report, or one of its sections, compared. `changes` are those of the sites that pass the
    filter, the largest difference first."""

    base: Selection
    new: Selection
    changes: tuple[SiteChange, ...]
    rules: Counter[Rule]  # how many call sites were matched by each
    incomparable: int  # sites that can't be compared: code without names, in builds that differ

    @property
    def difference(self) -> int:
        """Of everything, also of what is at no listed site or left out by the filter."""
        return self.new.everything - self.base.everything

    @property
    def shown_difference(self) -> int:
        """Of the sites that pass the filter."""
        return sum(one.difference for one in self.changes)

    @property
    def error(self) -> float | None:
        """The standard error of the difference, if the totals are estimates of what is held."""
        errors = [side.report.error for side in (self.base, self.new)]
        fields = {Quantity.IN_USE: "bytes", Quantity.IN_USE_BLOCKS: "count"}
        field = fields.get(self.new.quantity)
        if field is None or not any(errors):
            return None
        return math.hypot(*(getattr(one, field) for one in errors if one is not None))

    @property
    def is_clear(self) -> bool:
        """False if the difference may be chance, because figures are estimates."""
        return self.error is None or abs(self.difference) >= _CLEAR * self.error


@dataclass(frozen=True)
class Diff:
    """Two reports compared."""

    base: Report
    new: Report
    quantity: Quantity
    same_run: bool  # of one program
    parts: tuple[PartDiff, ...]  # the report itself, and each section that both have
    only_base: tuple[Report, ...] = ()  # sections
    only_new: tuple[Report, ...] = ()
    has_executed: bool = False  # another program, between the two reports of one recording
    go_heap: GoHeapDiff | None = None  # of what `leaktrace go` has reported

    @property
    def between_s(self) -> float | None:
        """Seconds from one to the other, which rates refer to; None for two runs."""
        return self.new.elapsed_s - self.base.elapsed_s if self.same_run else None

    def per_hour(self, difference: int) -> float | None:
        """A difference as a rate; None for two runs, and if the new report is not the later one."""
        between_s = self.between_s
        return difference * _HOUR_S / between_s if between_s and between_s > 0 else None


def compare(
    base: Report,
    new: Report,
    quantity: Quantity = Quantity.IN_USE,
    chosen: SiteFilter | None = None,
    *,
    same_run: bool = False,
    force: bool = False,
) -> Diff:
    """Compare two reports, which need all their sites.

    `same_run`: both are of one recording. Raises UsageError for different targets, unless forced,
    and for a quantity that has no difference.
    """
    if quantity is Quantity.GROWTH:
        raise UsageError(
            "rates of two reports are not compared: what is in use says what has grown",
            "leave --quantity out, or choose another one",
        )
    executed = same_run and has_executed(base, new)
    (base, *only_base), (new, *only_new) = both_with_goroutines(base, new)
    _refuse_others(base, new, force)
    refuse_counters(base, quantity, "compared")
    same_run = same_run and not executed
    older, newer = _by_name(base), _by_name(new)
    parts = [
        _compare_part(older[name], newer[name], quantity, chosen, same_run)
        for name in older
        if name in newer
    ]
    return Diff(
        base,
        new,
        quantity,
        same_run,
        tuple(parts),
        (*only_base, *(part for name, part in older.items() if name not in newer)),
        (*only_new, *(part for name, part in newer.items() if name not in older)),
        executed,
        compare_go_heaps(base, new),
    )


def _refuse_others(base: Report, new: Report, force: bool) -> None:
    names = [command_of(one) for one in (base, new)]
    if names[0] != names[1] and not force:
        raise UsageError(
            f"these are different targets: {names[0]} and {names[1]}",
            "compare two runs of one program; if it was renamed, add --force",
        )
    if base.measure is not new.measure or base.is_counted is not new.is_counted:
        raise UsageError(
            f"one measures {base.measure.value}, the other {new.measure.value}: they have nothing "
            "in common",
            "compare recordings that were made with the same options",
        )


def _by_name(report: Report) -> dict[tuple[str, int], Report]:
    """The report and its sections, by what they are about. The report itself is the first one."""
    parts: dict[tuple[str, int], Report] = {}
    for part in parts_of(report):
        pair = "" if part.pair is None else f"{part.pair.allocate}:{part.pair.release}"
        name = f"{part.section or ''}:{part.backing or ''}:{pair}" if parts else ""
        number = 0
        while (name, number) in parts:
            number += 1
        parts[name, number] = part
    return parts


def _compare_part(
    base: Report, new: Report, quantity: Quantity, chosen: SiteFilter | None, same_run: bool
) -> PartDiff:
    if base.measure is Measure.GOROUTINES:  # beside a heap: there is one figure, how many there are
        quantity = Quantity.IN_USE_BLOCKS
    if base.is_counted and quantity.is_bytes:  # objects without sizes
        quantity = Quantity(f"{quantity.value}-blocks")
    sides = select(base, quantity, chosen), select(new, quantity, chosen)
    matches = match(
        Side(sides[0].sites, base.target.command),
        Side(sides[1].sites, new.target.command),
        same_run=same_run,
    )
    changes = [_change(one, quantity) for one in matches]
    changes.sort(key=_order)
    return PartDiff(
        *sides,
        tuple(changes),
        Counter(one.rule for one in matches),
        sum(not one.is_comparable for one in matches),
    )


def _order(change: SiteChange) -> tuple[int, int, int, str]:
    """What has grown first, then what has shrunk, the largest of each first."""
    difference = change.difference
    return (difference <= 0, -abs(difference), -change.new_value, change.site.id)


def _change(one: Match, quantity: Quantity) -> SiteChange:
    base, new = Figures.of(one.base), Figures.of(one.new)
    return SiteChange(
        one, base, new, base.value(quantity), new.value(quantity), _error((*one.base, *one.new))
    )


def _error(sites: Sequence[Site]) -> Total | None:
    errors = [site.error for site in sites if site.error is not None]
    if not errors:
        return None
    return Total(
        round(math.hypot(*(one.bytes for one in errors))),
        round(math.hypot(*(one.count for one in errors))),
    )
