"""The sites of a report, grouped: by site, function, module, line of source, process,
or size of blocks.

Of a function, `own` is what it allocates itself (it calls malloc), and `total` also what functions
allocate that it calls. A site counts once for a function's total, even if the function is several
times on the stack. So the own values add up to what the sites hold; the totals don't.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from leaktrace.analysis.quantities import Quantity
from leaktrace.analysis.views.by_size import size_notes, size_rows
from leaktrace.analysis.views.filters import SiteFilter
from leaktrace.analysis.views.parts import Elsewhere, elsewhere, sites_of
from leaktrace.analysis.views.places import UNKNOWN, Grouping, Place, places_of
from leaktrace.analysis.views.rows import Row
from leaktrace.model import Report
from leaktrace.site import Site


@dataclass(frozen=True)
class Selection:
    """The sites of one part of a report that pass the filter, and what all of them hold."""

    report: Report
    quantity: Quantity
    sites: Sequence[Site]
    shown: int  # what these sites hold
    total: int  # what all sites of the list hold
    total_sites: int
    elsewhere: tuple[Elsewhere, ...] = ()  # what is at no site of the list
    by_id: bool = False  # one site was asked for

    @property
    def filtered(self) -> int:
        """What the filter leaves out."""
        return self.total - self.shown

    @property
    def everything(self) -> int:
        """The total of the report; of other quantities than what is in use, that of its sites."""
        return self.total + sum(one.value for one in self.elsewhere)


@dataclass(frozen=True)
class View:
    """The groups of one part of a report, the largest first."""

    grouping: Grouping
    selection: Selection
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = field(default=())  # what the reader must know


def select(report: Report, quantity: Quantity, chosen: SiteFilter | None = None) -> Selection:
    """The sites that pass the filter. Raises UsageError if comparing them takes too long."""
    sites = sites_of(report)
    kept = list(sites) if chosen is None else chosen.kept(sites)
    return Selection(
        report,
        quantity,
        kept,
        shown=sum(map(quantity.of, kept)),
        total=sum(map(quantity.of, sites)),
        total_sites=len(sites),
        elsewhere=elsewhere(report, quantity),
        by_id=chosen is not None and chosen.site is not None,
    )


def view(selection: Selection, grouping: Grouping) -> View:
    """The selected sites by group."""
    sites, quantity = selection.sites, selection.quantity
    notes: tuple[str, ...] = ()
    match grouping:
        case Grouping.SITE:
            rows = [
                Row(Place(site_id=site.id), value, value, 1, site)
                for site in sites
                if (value := quantity.of(site))
            ]
        case Grouping.PROCESS:
            rows = _grouped(
                [share for site in sites for share in _by_process(site, selection)],
            )
            if any(site.processes for site in sites) and quantity not in _BY_PROCESS:
                notes = (f"{quantity.in_words} are not recorded by process",)
        case Grouping.SIZE:
            rows = size_rows(selection.report, sites, quantity)
            notes = tuple(size_notes(selection.report, sites, quantity))
        case _:
            rows = _by_frame(sites, quantity, grouping)
    rows.sort(key=lambda row: (-row.total, -row.own, -row.site_count, str(row.place)))
    return View(grouping, selection, tuple(rows), notes)


_BY_PROCESS = (Quantity.IN_USE, Quantity.IN_USE_BLOCKS)


@dataclass
class _Sum:
    own: int = 0
    total: int = 0
    sites: int = 0


def _by_frame(sites: Iterable[Site], quantity: Quantity, grouping: Grouping) -> list[Row]:
    sums: dict[Place, _Sum] = {}
    for site in sites:
        value = quantity.of(site)
        if not value:
            continue
        places = list(places_of(site, grouping))
        for place in dict.fromkeys(places):
            one = sums.setdefault(place, _Sum())
            one.total += value
            one.sites += 1
        sums[places[0]].own += value
    return [Row(place, one.own, one.total, one.sites) for place, one in sums.items()]


def _grouped(shares: Iterable[tuple[Place, int]]) -> list[Row]:
    sums: dict[Place, _Sum] = {}
    for place, value in shares:
        one = sums.setdefault(place, _Sum())
        one.own += value
        one.sites += 1
    return [Row(place, one.own, one.own, one.sites) for place, one in sums.items() if one.own]


def _by_process(site: Site, selection: Selection) -> Iterator[tuple[Place, int]]:
    """What each process holds of a site; the rest, of which no process is known, as UNKNOWN."""
    value, quantity = selection.quantity.of(site), selection.quantity
    target = selection.report.target
    if not site.processes:
        is_one = target.kind != "kernel" and len(target.pids) <= 1
        yield Place(pid=target.pid) if is_one else UNKNOWN, value
        return
    if quantity in _BY_PROCESS:
        for share in site.processes:
            held = share.bytes if quantity is Quantity.IN_USE else share.count
            value -= held
            yield Place(pid=share.pid), held
    if value:
        yield UNKNOWN, value
