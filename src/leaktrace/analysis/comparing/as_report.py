"""A diff as a report of differences, for formats that show reports: as `pprof -diff_base` does."""

from __future__ import annotations

from dataclasses import replace

from leaktrace.analysis.comparing.changes import Diff, PartDiff, SiteChange
from leaktrace.model import Report
from leaktrace.site import Site, Total


def difference_report(diff: Diff) -> Report:
    """A report whose sites have the differences as figures, which may be negative. Its sections are
    those that both reports have."""
    first, *others = (_part(part) for part in diff.parts)
    sections = tuple(one for one in others if one.backing is None)
    other_memory = tuple(one for one in others if one.backing is not None)
    return replace(first, sections=sections, other_memory=other_memory)


def _part(part: PartDiff) -> Report:
    base, new = part.base.report, part.new.report
    return replace(
        new,
        outstanding=_minus(new.outstanding, base.outstanding),
        younger=_minus(new.younger, base.younger),
        site_count=len(part.changes),
        sites=tuple(_site(change) for change in part.changes),
        top=len(part.changes),
        thread_stacks=None,
        growth_bytes=None,
        allocations=None,
        error=None,
        verdict=None,
        leaking=(),
        suppressed=None,
        processes=(),
        by_process=(),
        sections=(),
        other_memory=(),
    )


def _site(change: SiteChange) -> Site:
    base, new = change.base, change.new
    held = _minus(new.held, base.held)
    allocated = _minus(new.allocated, base.allocated)
    freed = _minus(new.freed, base.freed)
    shown = change.site
    return Site(
        shown.id,
        shown.stack,
        held.bytes,
        held.count,
        allocated_bytes=allocated.bytes,
        allocated_count=allocated.count,
        freed_bytes=freed.bytes,
        freed_count=freed.count,
        error=change.error,
        cache=shown.cache,
        context=shown.context,
        state=shown.state,
    )


def _minus(one: Total, other: Total) -> Total:
    return Total(one.bytes - other.bytes, one.count - other.count)
