"""All that `leaktrace go` has seen as one HTML page: the verdicts, heap and goroutines over time,
allocation sites and groups of goroutines, flame graphs of both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC
from html import escape
from typing import BinaryIO

from leaktrace import units
from leaktrace.analysis.go_reports import with_top
from leaktrace.analysis.go_sites import GoSites
from leaktrace.analysis.quantities import Quantity
from leaktrace.analysis.views.parts import not_listed
from leaktrace.go_report import EXECUTED, GoReport, GoVerdict
from leaktrace.model import Measure, Report
from leaktrace.printable import printable
from leaktrace.report.export import ExportOptions
from leaktrace.report.export.call_tree import CallTree
from leaktrace.report.export.course import Course
from leaktrace.report.export.go_chart import GoPoint, go_chart, go_point
from leaktrace.report.export.go_page_sites import (
    GoroutineSites,
    HeapSites,
    goroutine_class,
    goroutine_word,
    own_frame,
)
from leaktrace.report.export.html_sites import part_data
from leaktrace.report.export.page_parts import (
    STATIC_SITES,
    class_of,
    facts,
    items,
    missing_in_words,
    place,
    table,
    verdict,
)
from leaktrace.report.export.pages import page_file
from leaktrace.report.export.report_page import write_empty, write_report
from leaktrace.report.figures import about
from leaktrace.report.go_heap_text import collector_in_words, memory_in_words
from leaktrace.report.go_heap_verdict import heap_reason, heap_word
from leaktrace.report.go_rows import rate_in_words
from leaktrace.report.go_text import go_lines, goroutines_in_words
from leaktrace.verdict import VerdictKind

HEAP = "heap: allocation sites"
GOROUTINES = "goroutines"

_TEXT_WIDTH = 100
_TEXT_SITES = 20


def _as_it_is(part: Report) -> Report:
    return part


class GoPage:
    """Reports in order become a page. They need all sites and groups."""

    def __init__(
        self, options: ExportOptions, narrowed: Callable[[Report], Report] = _as_it_is
    ) -> None:
        """`narrowed` leaves out what isn't to be shown."""
        self._options = options
        self._narrowed = narrowed
        self._notes: dict[str, None] = {}
        self._begin()

    def _begin(self) -> None:
        self._course: Course[GoSites, GoPoint] = Course(self._parts, _point)
        self._last: GoSites | None = None

    def add(self, report: GoReport) -> None:
        """Take in a report. Of all but the last, only figures over time are kept."""
        if self._last is not None and any(note.startswith(EXECUTED) for note in report.notes):
            self._begin()  # another program: its stacks and figures have nothing in common
        self._last = GoSites(report)
        self._course.add(self._last)
        self._notes.update(dict.fromkeys(report.notes))

    def write(self, output: BinaryIO) -> None:
        """Write the page. Raises OSError."""
        sites = self._last
        if sites is None:
            write_empty(output)
            return
        self._course.finish()
        report, parts, chart = sites.report, self._parts(sites), go_chart(self._course.points)
        write_report(
            output,
            title=f"{_target(report)}: goroutines and heap",
            data={
                "chosen": Quantity.IN_USE.value,
                "chart": chart.data(),
                "marks": [],
                **self._columns(sites, parts),
            },
            parts={
                "verdict": "".join(_verdicts(report)),
                "facts": facts(self._facts(report)),
                "remarks": items(self._remarks(report, parts)),
                "marks": "",
                "chart_title": escape(chart.title),
                "sites": "".join(_static_sites(part) for part in parts),
                "text": escape("\n".join(_as_text(report))),
                "how": page_file("how_go.html"),
            },
        )

    def _parts(self, sites: GoSites) -> Sequence[Report]:
        """What leaks first."""
        goroutines, heap = replace(sites.goroutines, section=GOROUTINES), sites.heap
        parts = [goroutines] if heap is None else [replace(heap, section=HEAP), goroutines]
        if sites.report.goroutines.verdict is GoVerdict.LEAKING:
            parts.reverse()
        return [self._narrowed(part) for part in parts]

    def _columns(self, sites: GoSites, parts: Sequence[Report]) -> dict[str, object]:
        tree, points = CallTree(), len(self._course.points)
        columns = [
            part_data(
                part,
                self._course.parts[part.section],
                points,
                tree,
                HeapSites(sites, part)
                if part.measure is Measure.GO_HEAP
                else GoroutineSites(sites),
            )
            for part in parts
        ]
        return {"parts": columns, "tree": tree.table()}

    def _facts(self, report: GoReport) -> Iterator[tuple[str, str]]:
        section, heap = report.goroutines, report.heap
        yield "Target", f"{_target(report)}, {report.version}"
        yield from self._options.facts
        looks = units.counted(self._course.report_count, "report")
        until = f"{report.time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
        yield "Looked at", f"{units.elapsed(report.elapsed_s)} until {until}, {looks}"
        if report.final and report.reason:
            yield "Ended", report.reason
        count = units.counted(section.alive_count - section.system_count, "goroutine")
        if section.growth_per_s is not None:
            count += f", {rate_in_words(section.growth_per_s)}"
        yield "Goroutines", f"{count}; stacks {units.size(section.stack_bytes)}"
        if heap is None:
            return
        objects = units.counted(heap.look.object_count, "object")
        yield "Heap in use", f"{units.size(heap.look.in_use_bytes)} in {objects}"
        if heap.look.collector.collections:
            live = units.size(heap.look.collector.live_bytes)
            if heap.live_change_bytes is not None:
                live += f" ({units.size_change(heap.live_change_bytes)} since the first look)"
            yield "Live at the last collection", live
        yield "Collector", collector_in_words(heap.look.collector, heap.collections_since)
        yield "Memory", memory_in_words(heap)

    def _remarks(self, report: GoReport, parts: Sequence[Report]) -> Iterator[str]:
        heap = report.heap
        losses = [loss for part in parts for loss in part.losses]
        yield from missing_in_words(losses, [remark for part in parts for remark in part.remarks])
        for part in parts:
            if missing := not_listed(part):
                yield f"Left out: {units.counted(missing, 'site')} of {part.section}: not recorded"
        if report.look_age_s:
            yield f"The figures are of {units.elapsed(report.look_age_s)} before the end."
        if heap is not None:
            profile, spans = heap.look.profile, heap.look.skipped_span_count
            if spans:
                left = units.counted(spans, "span")
                yield f"Lost: {left} of the heap, which changed each time they were read"
            if profile is None and heap.look.profile_problem:
                yield f"Allocation sites: {printable(heap.look.profile_problem)}"
            if profile is not None and profile.rate_bytes > 1:
                rate = units.size(profile.rate_bytes)
                yield f"Allocation sites are estimates: Go records one allocation in {rate}."
        yield from (f"Note: {printable(note)}" for note in self._notes)


def _point(sites: GoSites) -> GoPoint:
    return go_point(sites.report)


def _target(report: GoReport) -> str:
    return f"{printable(report.command)} (pid {report.pid})"


def _verdicts(report: GoReport) -> Iterator[str]:
    """On the goroutines and on the heap: what leaks comes first."""
    section, heap = report.goroutines, report.heap
    word = goroutine_word(section.verdict).upper()
    boxes = [
        verdict(goroutine_class(section.verdict), f"GOROUTINES {word}", goroutines_in_words(report))
    ]
    if heap is not None and heap.verdict is not None and heap.change is not None:
        found = heap.verdict
        reason = heap_reason(found, heap.grown_most, final=report.final)
        box = verdict(class_of(found.kind), f"HEAP {heap_word(found).upper()}", reason)
        is_first = found.kind is VerdictKind.GROWING and section.verdict is not GoVerdict.LEAKING
        boxes.insert(0 if is_first else 1, box)
    yield from boxes


def _static_sites(part: Report) -> str:
    """A table of the top sites of a part."""
    sites = part.sites[:STATIC_SITES]
    title = f"<h3>{escape(part.section or '')}</h3>"
    if part.measure is Measure.GOROUTINES:
        rows = [
            (units.number(one.count), printable(one.state or ""), place(own_frame(one)))
            for one in sites
        ]
        return title + table(("Number", "State", "Where"), rows)
    mark = about(part)
    rows = [
        (mark + units.size(one.bytes), mark + units.number(one.count), place(own_frame(one)))
        for one in sites
    ]
    return title + table(("In use", "Objects", "Where"), rows)


def _as_text(report: GoReport) -> Iterator[str]:
    """The last report as the terminal shows it."""
    from_all = with_top(report, _TEXT_SITES)
    yield from (line.plain for line in go_lines(from_all, _TEXT_WIDTH))
