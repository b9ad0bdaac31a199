"""The chart of a recording: what is outstanding, beside the growth of RSS, and RSS itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from leaktrace.model import Report
from leaktrace.report.export.chart import Chart, Layer, Line
from leaktrace.report.figures import about


@dataclass(frozen=True)
class MemoryPoint:
    """The totals of one report, in bytes. None: not known."""

    elapsed_s: float
    held: int  # what takes memory
    count: int
    resident: int | None  # RSS
    growth: int | None  # of RSS since the attach
    other_memory: int  # beside the allocator's, held
    allocator_at_most: int  # free memory that the allocator keeps


def memory_point(report: Report) -> MemoryPoint:
    """The totals of a report."""
    explained, resident = report.explained, report.resident
    return MemoryPoint(
        report.elapsed_s,
        report.held_bytes,
        report.outstanding.count,
        None if resident is None else resident.bytes,
        None if explained is None else explained.resident_growth,
        0 if explained is None else explained.other_memory,
        0 if explained is None else explained.allocator_at_most,
    )


def memory_chart(points: Sequence[MemoryPoint], last: Report) -> Chart:
    """The totals of all reports. `last`: the last of these."""
    is_counted = last.is_counted
    growth = Line("RSS since tracing began", [one.growth for one in points], is_change=True)
    return Chart(
        "Memory over time",
        [one.elapsed_s for one in points],
        list(_layers(points, last)),
        is_counted,
        about(last),
        None if is_counted else growth,
        None if is_counted else Line("RSS", [one.resident for one in points]),
    )


def _layers(points: Sequence[MemoryPoint], last: Report) -> Iterator[Layer]:
    if last.is_counted:
        yield Layer("open", 1, [one.count for one in points])
    else:
        takes = last.held_bytes != last.outstanding.bytes
        name = "outstanding takes" if takes else "outstanding"
        yield Layer(name, 1, [one.held for one in points])
    if any(one.other_memory for one in points):
        yield Layer("other memory", 2, [one.other_memory for one in points])
    if any(one.allocator_at_most for one in points):
        values = [one.allocator_at_most for one in points]
        yield Layer("free memory of the allocator, at most", 3, values, is_part=False)
