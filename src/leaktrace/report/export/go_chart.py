"""The chart of a Go program: its heap and RSS over time, and how many goroutines there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leaktrace.go_report import GoReport, HeapLook
from leaktrace.report.export.chart import Chart, Layer, Line


@dataclass(frozen=True)
class GoPoint:
    """The totals of one report. None: the heap could not be read."""

    elapsed_s: float
    goroutine_count: int
    heap: HeapPoint | None


@dataclass(frozen=True)
class HeapPoint:
    """The totals of one heap, in bytes."""

    live: int  # of what is in use: what the last collection left
    in_use: int
    kept: int  # free memory and stacks
    resident: int | None  # RSS


def go_point(report: GoReport) -> GoPoint:
    """The totals of a report."""
    section = report.goroutines
    heap = None if report.heap is None else _heap_point(report.heap.look)
    return GoPoint(report.elapsed_s, section.alive_count - section.system_count, heap)


def _heap_point(look: HeapLook) -> HeapPoint:
    return HeapPoint(
        live=min(look.collector.live_bytes, look.in_use_bytes),
        in_use=look.in_use_bytes,
        kept=look.idle_bytes + look.stacks_bytes,
        resident=look.resident_bytes,
    )


def go_chart(points: Sequence[GoPoint]) -> Chart:
    """The heap, and the goroutines below it; only these if a report has no heap."""
    times = [one.elapsed_s for one in points]
    counts = [one.goroutine_count for one in points]
    heaps = [one.heap for one in points if one.heap is not None]
    if len(heaps) < len(points):
        return Chart("Goroutines over time", times, [Layer("goroutines", 1, counts)], True)
    return Chart(
        "Heap over time",
        times,
        [
            Layer("live at the last collection", 1, [one.live for one in heaps]),
            Layer("allocated since, or garbage", 2, [one.in_use - one.live for one in heaps]),
            Layer("stacks, and memory kept free", 3, [one.kept for one in heaps]),
        ],
        is_counted=False,
        line=Line("RSS", [one.resident for one in heaps]),
        below=Line("goroutines", counts, is_counted=True),
    )
