"""Which sites a report has, and which of its memory is at none of them."""

from __future__ import annotations

from dataclasses import dataclass

from leaktrace.analysis.quantities import Quantity
from leaktrace.model import Report
from leaktrace.site import Site


@dataclass(frozen=True)
class Elsewhere:
    """A part of a report's total that is at no site of its list."""

    what: str  # "younger", "suppressed", "not listed"
    value: int


def sites_of(report: Report) -> tuple[Site, ...]:
    """The sites of a report, with those that create threads, which reports keep apart."""
    group = report.thread_stacks
    return report.sites if group is None else (*report.sites, *group.sites)


def elsewhere(report: Report, quantity: Quantity) -> tuple[Elsewhere, ...]:
    """What is in use, but at no listed site. With the values of the sites it makes up the report's
    total. Nothing for other quantities: reports have no totals of them."""
    if quantity not in (Quantity.IN_USE, Quantity.IN_USE_BLOCKS):
        return ()
    field = "bytes" if quantity is Quantity.IN_USE else "count"
    known = {"younger": int(getattr(report.younger, field))}
    if report.suppressed is not None:
        known["suppressed"] = int(getattr(report.suppressed.held, field))
    total = int(getattr(report.outstanding, field))
    listed = sum(quantity.of(site) for site in sites_of(report))
    known["not listed"] = total - sum(known.values()) - listed
    return tuple(Elsewhere(what, value) for what, value in known.items() if value)


def not_listed(report: Report) -> int:
    """How many sites hold memory and are not listed."""
    hidden = 0 if report.suppressed is None else report.suppressed.site_count
    return max(0, report.site_count - hidden - len(sites_of(report)))


def parts_with_sites(report: Report) -> tuple[Report, ...]:
    """The same without sections that have nothing."""
    return (report, *(one for one in parts_of(report)[1:] if one.site_count or one.sites))


def parts_of(report: Report) -> tuple[Report, ...]:
    """A report and its sections. Their figures are never added up: an object of a pool is part of
    a block, and pages hold slabs."""
    return (report, *report.sections, *report.other_memory)
