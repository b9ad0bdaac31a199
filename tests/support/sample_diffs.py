"""Reports that are compared, and what comes out."""

from __future__ import annotations

from dataclasses import replace

from sample_reports import BUSY, CACHE_SITE, KERNEL, LOST_SITE, NO_LOSSES, PARSE_SITE, WEIGHTED

from leaktrace.analysis.comparing.changes import Diff, compare
from leaktrace.analysis.quantities import Quantity
from leaktrace.analysis.views.filters import site_filter
from leaktrace.model import Report
from leaktrace.site import Site, SourceLine, Total

NAMES = ("v1.rec@first", "v2.rec@last")


def report_of(*sites: Site, report: Report = BUSY) -> Report:
    """A report with exactly these sites."""
    held = Total(
        sum(s.bytes for s in sites) + report.younger.bytes,
        sum(s.count for s in sites) + report.younger.count,
    )
    return replace(
        report, sites=sites, site_count=len(sites), top=len(sites), outstanding=held,
        losses=NO_LOSSES,
    )  # fmt: skip


def grown(site: Site, by: Total) -> Site:
    """The site with more."""
    return replace(
        site,
        bytes=site.bytes + by.bytes,
        count=site.count + by.count,
        allocated_bytes=site.allocated_bytes + by.bytes,
        allocated_count=site.allocated_count + by.count,
    )


def rebuilt(site: Site) -> Site:
    """The same site in a build with one more line."""
    frames = [
        replace(
            frame,
            offset=frame.offset + 8,
            module_offset=frame.module_offset and frame.module_offset + 8,
            build_id=frame.build_id and "77aa01",
            source=frame.source and SourceLine(frame.source.file, frame.source.line + 1),
        )
        for frame in site.stack.frames
    ]
    stack = replace(site.stack, frames=tuple(frames))
    return replace(site, id="aaaaaaaaaaaaaaaa", stack=stack)


_TOKENS = replace(
    PARSE_SITE,
    id="1234567890abcdef",
    bytes=300_000,
    count=100,
    stack=replace(PARSE_SITE.stack, frames=PARSE_SITE.stack.frames[1:]),
)
BASE = report_of(PARSE_SITE, CACHE_SITE, LOST_SITE)
LATER = replace(
    report_of(grown(PARSE_SITE, Total(18_000_000, 18_000)), grown(CACHE_SITE, Total(-97_152, 0)),
              _TOKENS),
    elapsed_s=1815.0, number=364,
)  # fmt: skip
OTHER_BUILD = replace(
    report_of(rebuilt(grown(PARSE_SITE, Total(2_000_000, 2_000))), rebuilt(_TOKENS), LOST_SITE),
    elapsed_s=1815.0, number=364, target=replace(BUSY.target, pid=5151),
)  # fmt: skip
_KERNEL_LATER = replace(
    KERNEL,
    elapsed_s=75.0,
    outstanding=Total(KERNEL.outstanding.bytes + 96_000, KERNEL.outstanding.count + 500),
    sites=(grown(KERNEL.sites[0], Total(96_000, 500)), KERNEL.sites[1]),
)
_SURE = replace(
    WEIGHTED,
    outstanding=Total(66_777_216, 4_234_567),
    sites=(grown(WEIGHTED.sites[0], Total(50_000_000, 3_000_000)), WEIGHTED.sites[1]),
)

DIFFS: dict[str, Diff] = {
    "one-run": compare(BASE, LATER, same_run=True),
    "two-builds": compare(report_of(PARSE_SITE, _TOKENS), OTHER_BUILD),
    "blocks": compare(BASE, LATER, Quantity.IN_USE_BLOCKS, same_run=True),
    "allocated": compare(BASE, LATER, Quantity.ALLOCATED, site_filter("cache"), same_run=True),
    "shrunk": compare(LATER, BASE),
    "nothing": compare(BASE, BASE),
    "kernel": compare(KERNEL, _KERNEL_LATER, same_run=True),
    "unclear": compare(WEIGHTED, replace(WEIGHTED, outstanding=Total(16_977_216, 1_234_567))),
    "estimated": compare(WEIGHTED, _SURE),
}
