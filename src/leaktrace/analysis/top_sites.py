"""The part of a report that is shown of one with more sites."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from leaktrace.memory import RegionBytes
from leaktrace.model import Report, ThreadStacks
from leaktrace.site import Site


def with_top(report: Report, top: int) -> Report:
    """The report with its first `top` sites, and those of its sections likewise."""
    stacks, left_out = report.thread_stacks, report.sites[top:]
    return replace(
        report,
        top=top,
        sites=report.sites[:top],
        other_regions=_together(report.other_regions, left_out),
        thread_stacks=None if stacks is None else _of_stacks(stacks, top),
        by_process=tuple(with_top(one, top) for one in report.by_process),
        sections=tuple(with_top(one, top) for one in report.sections),
        other_memory=tuple(with_top(one, top) for one in report.other_memory),
    )


def _of_stacks(stacks: ThreadStacks, top: int) -> ThreadStacks:
    return replace(stacks, sites=stacks.sites[:top])


def _together(others: RegionBytes | None, left_out: Sequence[Site]) -> RegionBytes | None:
    """The regions at the sites that are not shown."""
    regions = [] if others is None else [others]
    regions += [site.regions for site in left_out if site.regions is not None]
    if not regions:
        return None
    return RegionBytes(
        count=sum(one.count for one in regions),
        reserved=sum(one.reserved for one in regions),
        resident=sum(one.resident for one in regions),
        swapped=sum(one.swapped for one in regions),
        unread=sum(one.unread for one in regions),
        age_ns=max(one.age_ns for one in regions),
    )
