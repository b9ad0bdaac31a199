"""The sections of a text report: which there are, and what they are called."""

from __future__ import annotations

from leaktrace.model import Report
from leaktrace.printable import printable


def other_memory(report: Report) -> list[Report]:
    """The sections about memory that is not the allocators', if there is anything to say."""
    return [one for one in report.other_memory if one.outstanding.count or one.growth_bytes]


def shown_parts(report: Report) -> list[Report]:
    """The report and its sections that have anything to say. Their figures are never added up."""
    return [report, *other_memory(report), *report.sections]


def section_name(report: Report) -> str:
    """The allocator of the kernel; or the function of a pair, and which objects define it."""
    if report.pair is None:
        return printable(report.section or "")
    where = ", ".join(printable(one) for one in report.pair.objects) or "not hooked"
    return f"{printable(report.pair.allocate)} ({where})"
