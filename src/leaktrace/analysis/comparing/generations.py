"""What was allocated between two moments of a run and is still there at a third: of each site.

Counters of a site don't say which blocks were freed, so there are two bounds. Let a site allocate
`new` blocks between A and B, and free some until C:

    at most    what it allocated between A and B, what it held at B, and what it holds at C
    at least   what it holds at C, without what it held at A and what it allocated after B

Ages make them exact where all blocks that are left are from that time (none is older than A, none
younger than B), or none is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from leaktrace.analysis.comparing.go_programs import has_executed
from leaktrace.analysis.comparing.matching import identity
from leaktrace.analysis.quantities import Quantity
from leaktrace.analysis.views.filters import SiteFilter
from leaktrace.analysis.views.parts import not_listed, parts_with_sites, sites_of
from leaktrace.errors import UsageError
from leaktrace.model import Measure, Report
from leaktrace.site import Site, Total

_ROUNDED_NS = 2_000_000  # ages and times may be kept in milliseconds


@dataclass(frozen=True)
class Generation:
    """What one site allocated between A and B."""

    site: Site  # as at C, or at B if it holds nothing at C
    allocated: Total | None  # between A and B; None: A has no figures of it
    at_least: Total  # of it, what is still there at C
    at_most: Total

    @property
    def is_exact(self) -> bool:
        """Whether both bounds are the same."""
        return self.at_least == self.at_most


@dataclass(frozen=True)
class Generations:
    """Of all sites, those that keep most first."""

    begin: Report  # A
    end: Report  # B
    now: Report  # C
    quantity: Quantity
    sites: tuple[Generation, ...]
    unlisted: int = 0  # sites that one of the reports doesn't list
    sections: tuple[str, ...] = ()  # that have sites, and are not looked at

    @property
    def at_least(self) -> Total:
        """Of all sites."""
        return _sum(one.at_least for one in self.sites)

    @property
    def at_most(self) -> Total:
        return _sum(one.at_most for one in self.sites)


def generations(
    begin: Report,
    end: Report,
    now: Report,
    quantity: Quantity = Quantity.IN_USE,
    chosen: SiteFilter | None = None,
) -> Generations:
    """Three reports of one run, in this order, with all their sites. Raises UsageError."""
    if Measure.GOROUTINES in (begin.measure, end.measure, now.measure):
        raise UsageError(
            "goroutines have no counters of how many began and ended, so --still-at can't tell "
            "which are still there",
            "leave --still-at out: how many there are is compared",
        )
    if has_executed(begin, end) or has_executed(end, now):
        raise UsageError(
            "the process executed another program between these moments: nothing is still there",
            "choose moments of one program",
        )
    if not begin.elapsed_s <= end.elapsed_s <= now.elapsed_s:
        raise UsageError(
            "the three moments are not in order: --still-at is after both others",
            "leaktrace diff RUN@EARLIER RUN@LATER --still-at LATEST",
        )
    if quantity not in (Quantity.IN_USE, Quantity.IN_USE_BLOCKS):
        raise UsageError(
            f"--still-at is about what is in use, not about {quantity.in_words}",
            "leave --quantity out",
        )
    at = [{identity(site): site for site in sites_of(report)} for report in (begin, end, now)]
    field = "bytes" if quantity is Quantity.IN_USE else "count"
    listed = [at[2].get(key) or at[1][key] for key in {**at[2], **at[1]}]
    rows = []
    for site in listed if chosen is None else chosen.kept(listed):
        row = _generation(site, [one.get(identity(site)) for one in at], (begin, end, now))
        if row.at_most.count or row.at_most.bytes:
            rows.append(row)
    rows.sort(key=lambda row: (-getattr(row.at_least, field), -getattr(row.at_most, field)))
    unlisted = max(not_listed(one) for one in (begin, end, now))
    others = [one.section or "a section" for one in parts_with_sites(now)[1:]]
    return Generations(begin, end, now, quantity, tuple(rows), unlisted, tuple(others))


def _generation(
    site: Site, at: Sequence[Site | None], reports: tuple[Report, Report, Report]
) -> Generation:
    begin, end, now = at
    since_a, since_b = (round((reports[2].elapsed_s - one.elapsed_s) * 1e9) for one in reports[:2])
    all_or_nothing = None
    # What the age filter leaves out, and whose ages aren't known, came after B.
    if now is not None and since_b >= reports[2].older_ms * 1_000_000:
        all_or_nothing = _by_age(now, since_a, since_b)
    bounds = []
    for unit in ("bytes", "count"):
        held = [_held(one, unit) for one in at]
        # A site that holds nothing is not listed. At A, it may have allocated before.
        most = min(held[1], held[2])
        if begin is not None and end is not None:
            most = min(most, _allocated(end, unit) - _allocated(begin, unit))
        least = 0
        if end is not None and now is not None and (begin is not None or _lists_all(reports[0])):
            after = _allocated(now, unit) - _allocated(end, unit)
            least = held[2] - held[0] - after
        most = max(0, most)
        if all_or_nothing is not None and now is not None:
            most = least = min(most, int(getattr(now, unit))) if all_or_nothing else 0
        bounds.append((min(max(0, least), most), most))
    (least_bytes, most_bytes), (least_count, most_count) = bounds
    allocated = None
    if begin is not None and end is not None:
        allocated = Total(
            end.allocated_bytes - begin.allocated_bytes, end.allocated_count - begin.allocated_count
        )
    return Generation(
        site, allocated, Total(least_bytes, least_count), Total(most_bytes, most_count)
    )


def _sum(totals: Iterable[Total]) -> Total:
    listed = list(totals)
    return Total(sum(one.bytes for one in listed), sum(one.count for one in listed))


def _by_age(now: Site, since_a_ns: int, since_b_ns: int) -> bool | None:
    """Whether all that is left is from between A and B: True or False for all of it, None for a
    part, or if ages aren't known."""
    if now.oldest_ns is None or now.newest_ns is None:
        return None
    if now.oldest_ns + _ROUNDED_NS < since_a_ns and now.newest_ns >= since_b_ns + _ROUNDED_NS:
        return True
    is_after = now.oldest_ns + _ROUNDED_NS < since_b_ns
    is_before = now.newest_ns >= since_a_ns + _ROUNDED_NS
    return False if is_after or is_before else None


def _held(site: Site | None, unit: str) -> int:
    """What it holds, also of blocks that an age filter leaves out."""
    if site is None:
        return 0
    held = int(getattr(site, unit))
    return max(held, _allocated(site, unit) - int(getattr(site, f"freed_{unit}")))


def _allocated(site: Site, unit: str) -> int:
    return int(getattr(site, f"allocated_{unit}"))


def _lists_all(report: Report) -> bool:
    """Whether a site that is not listed holds nothing."""
    return report.site_count <= len(sites_of(report)) and not report.younger.count
