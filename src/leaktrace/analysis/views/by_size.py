"""The sites of a report by the sizes of their blocks: a row for each power of two.

A site is in the row of each size that its blocks have, with these blocks. Only what is in use is
known by size. Older recordings have how many blocks have which size, not their bytes: of a site
whose blocks have several sizes, only the blocks can be shown by size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from leaktrace.analysis.quantities import Quantity
from leaktrace.analysis.views.parts import parts_of, sites_of
from leaktrace.analysis.views.places import UNKNOWN, Place
from leaktrace.analysis.views.rows import Held, Row, SiteShare
from leaktrace.errors import UsageError
from leaktrace.model import Report
from leaktrace.site import Site

BY_SIZE = (Quantity.IN_USE, Quantity.IN_USE_BLOCKS)
_NO_BYTES = (
    "recorded by an older leaktrace: it counted the blocks of each size, not their bytes; "
    "--quantity in-use-blocks shows all of them by size"
)
_OTHER_VIEWS = "show it by something else, such as --by function"


def size_rows(report: Report, sites: Sequence[Site], quantity: Quantity) -> list[Row]:
    """The rows, in any order. `quantity`: one of BY_SIZE."""
    shares: dict[Place, list[SiteShare]] = {}
    for site in sites:
        if report.is_counted:
            shares.setdefault(UNKNOWN, []).append(SiteShare(site, Held(site.count, None)))
            continue
        for place, held in _by_size(site, quantity):
            shares.setdefault(place, []).append(SiteShare(site, held))
    rows = (_row(place, of_place, quantity) for place, of_place in shares.items())
    return [row for row in rows if row.own or (row.held and row.held.blocks)]


def size_notes(report: Report, sites: Sequence[Site], quantity: Quantity) -> Iterator[str]:
    """What the reader of these rows must know."""
    if report.is_counted:
        yield "these objects have no sizes"
    elif quantity is Quantity.IN_USE and any(map(_lacks_bytes, sites)):
        yield _NO_BYTES


def refuse_without_sizes(report: Report) -> None:
    """Raise UsageError for a report that has blocks, and no block's size."""
    parts = [part for part in parts_of(report) if any(site.count for site in sites_of(part))]
    if not parts or any(_has_sizes(part) for part in parts):
        return
    what = f"report {report.number} can't be shown by size"
    if all(part.is_counted for part in parts):
        raise UsageError(f"{what}: its objects have no sizes", _OTHER_VIEWS)
    if report.combined:
        raise UsageError(
            f"{what}: with --combined-only, single blocks are not known",
            f"record without --combined-only, or {_OTHER_VIEWS}",
        )
    raise UsageError(
        f"{what}: it has no sizes of blocks, which only --record writes, for up to 50,000 sites",
        f"use a recording, or {_OTHER_VIEWS}",
    )


def _has_sizes(part: Report) -> bool:
    return not part.is_counted and any(site.sizes for site in sites_of(part))


def _by_size(site: Site, quantity: Quantity) -> Iterator[tuple[Place, Held]]:
    """What a site holds in blocks of each size; what is beyond that, as UNKNOWN."""
    if not site.sizes or (quantity is Quantity.IN_USE and _lacks_bytes(site)):
        yield UNKNOWN, Held(site.count, site.bytes)
        return
    counts = list(site.sizes)
    # Estimates of older versions were rounded one by one.
    beyond = site.count - sum(counts)
    if beyond < 0:
        counts[counts.index(max(counts))] += beyond
    known = _bytes_of(site)
    for bits, (count, held) in enumerate(zip_longest(counts, known, fillvalue=0)):
        if count or held:
            yield Place(below_bytes=1 << bits), Held(count, held)
    if beyond > 0:
        yield UNKNOWN, Held(beyond, 0)


def _bytes_of(site: Site) -> Sequence[int | None]:
    """The bytes of each size that the blocks of a site have, as far as they are known."""
    if site.size_bytes:
        return site.size_bytes
    is_one = not _lacks_bytes(site)
    return [None if not count else site.bytes if is_one else None for count in site.sizes]


def _lacks_bytes(site: Site) -> bool:
    """Whether the blocks of each size are known, and not their bytes."""
    return not site.size_bytes and sum(map(bool, site.sizes)) > 1


def _row(place: Place, shares: list[SiteShare], quantity: Quantity) -> Row:
    def value(held: Held) -> int:
        return (held.bytes or 0) if quantity is Quantity.IN_USE else held.blocks

    shares.sort(key=lambda one: (-value(one.held), -one.held.blocks, one.site.id))
    each = [one.held.bytes for one in shares]
    known = [one for one in each if one is not None]
    whole = Held(
        sum(one.held.blocks for one in shares), sum(known) if len(known) == len(each) else None
    )
    return Row(place, value(whole), value(whole), len(shares), held=whole, shares=tuple(shares))
