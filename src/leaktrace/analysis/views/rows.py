"""The rows of a view whose sites are grouped."""

from __future__ import annotations

from dataclasses import dataclass

from leaktrace.analysis.views.places import Place
from leaktrace.site import Site


@dataclass(frozen=True)
class Held:
    """Bytes and blocks in use."""

    blocks: int
    bytes: int | None  # None: not known


@dataclass(frozen=True)
class SiteShare:
    """The part of a site that is in a row."""

    site: Site
    held: Held


@dataclass(frozen=True)
class Row:
    """One group. Values are in the unit of the view's quantity."""

    place: Place
    own: int
    total: int
    site_count: int  # sites that are part of `total`
    site: Site | None = None  # if grouped by site
    held: Held | None = None  # if grouped by size
    shares: tuple[SiteShare, ...] = ()  # the same: of which sites, the largest share first
