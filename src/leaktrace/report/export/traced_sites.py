"""What an HTML page says of the sites of a trace."""

from __future__ import annotations

from collections.abc import Iterator

from leaktrace import units
from leaktrace.model import Report
from leaktrace.printable import printable
from leaktrace.report.export.page_parts import class_of, where_of
from leaktrace.report.holders import holder_lines
from leaktrace.report.idle import idle_in_words
from leaktrace.report.lifetimes import freed_at_in_words, lifetimes_in_words
from leaktrace.report.processes import shares_in_words
from leaktrace.report.regions import region_in_words
from leaktrace.report.site_lines import STACK_ENDS
from leaktrace.report.verdicts import evidence_lines, rate_in_words, word_of
from leaktrace.site import Frame, Site
from leaktrace.verdict import VerdictKind

_WIDE = 100_000  # columns: one line
_KINDS = list(VerdictKind)


class TracedSites:
    """See `SiteWords`."""

    kinds = tuple((word_of(kind), class_of(kind)) for kind in _KINDS)
    allocated_since = "tracing began"
    is_age_at_least = False

    def __init__(self, part: Report) -> None:
        self._part = part

    def kind(self, site: Site) -> int | None:
        return None if site.verdict is None else _KINDS.index(site.verdict.kind)

    def where(self, site: Site) -> Frame | None:
        return where_of(site)

    def oldest_ns(self, site: Site) -> int | None:
        return site.oldest_ns

    def rate(self, site: Site) -> float:
        rate = None if site.verdict is None else site.verdict.bytes_per_s
        return 0.0 if rate is None else rate

    def rate_text(self, site: Site) -> str:
        verdict = site.verdict
        return "" if verdict is None else rate_in_words(verdict, self._part, with_error=False)

    def evidence(self, site: Site) -> str:
        verdict = site.verdict
        if verdict is None:
            return ""
        if verdict.is_suspicious:
            return " ".join(line.plain.strip() for line in evidence_lines(site, self._part, _WIDE))
        return printable(verdict.reason)

    def details(self, site: Site) -> Iterator[str]:
        part = self._part
        if site.idle is not None and part.idle is not None:
            yield idle_in_words(site.idle, part.idle)
        if site.regions is not None:
            yield region_in_words(site)
        if site.cache is not None:
            yield f"slab cache {printable(site.cache)}"
        if site.requested_bytes is not None and site.requested_bytes < site.bytes:
            yield f"{units.size(site.bytes - site.requested_bytes)} lost to rounding up"
        if site.unconfirmed is not None:
            yield f"unconfirmed: {printable(site.unconfirmed)}"
        if site.processes:
            yield shares_in_words(site, part)
        if site.lifetimes is not None and site.lifetimes.total:
            yield lifetimes_in_words(site, round(part.elapsed_s * 1e9))
        yield from freed_at_in_words(site)
        if site.holders:
            yield from (line.plain.strip() for line in holder_lines(site.holders, _WIDE, None))
        if site.stack.end in STACK_ENDS:
            yield STACK_ENDS[site.stack.end]
