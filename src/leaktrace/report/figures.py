"""Figures of a report in words: what is counted, how much, and how sure it is."""

from __future__ import annotations

from leaktrace import units
from leaktrace.analysis.quantities import Quantity
from leaktrace.memory import Backing
from leaktrace.model import Measure, Report
from leaktrace.site import Total


def noun(report: Report) -> str:
    """What is counted, in the singular."""
    if report.pair is not None:
        return "object"
    if report.measure is Measure.GOROUTINES:
        return "goroutine"
    if report.measure is Measure.GO_HEAP:
        return "object"
    if report.backing in (Backing.SYSV, Backing.SHARED_FILE):
        return "mapping"
    if report.descriptors is not None:
        return "descriptor"
    return "fault" if report.measure is Measure.FAULTS else "allocation"


def quantity_in_words(quantity: Quantity, report: Report) -> str:
    """What a figure of the sites is, with its unit."""
    if report.measure is Measure.GOROUTINES:
        return "goroutines"
    if report.measure is Measure.GO_HEAP:
        words = quantity.in_words.replace("blocks", "objects")
        return words.replace("since tracing began", "since the profile is on")
    return quantity.in_words


def short_noun(report: Report) -> str:
    """The same where there is little room."""
    return "alloc" if noun(report) == "allocation" else noun(report)


def about(report: Report) -> str:
    """The mark of a figure that is an estimate."""
    return "~" if report.is_estimate else ""


def error_in_words(error: Total) -> str:
    """The standard error of a size."""
    return f"±{units.size(error.bytes)}"


def total_in_words(report: Report, total: Total, error: Total | None = None) -> str:
    """Such as "12.0 MiB in 1,024 allocations"; of objects without sizes "1,024 objects"."""
    mark = about(report)
    count = f"{mark}{units.counted(total.count, noun(report))}"
    if report.is_counted:
        return count
    size = f"{mark}{units.size(total.bytes)}{'' if error is None else f' {error_in_words(error)}'}"
    return f"{size} in {count}"
