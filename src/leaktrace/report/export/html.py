"""All of a recording as one HTML page, to read in a browser and to send to somebody.

What a reader must know is in the page as HTML, so that it can be read without scripts: the verdict,
what was traced, the top sites, what was lost. Scripts add the chart, the table of all sites, their
stacks and the flame graph (`pages/report_*.js`), from the columns that are made here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from html import escape
from typing import Any, BinaryIO

from rich.text import Text

from leaktrace import units
from leaktrace.analysis.quantities import Quantity
from leaktrace.model import Report
from leaktrace.printable import printable
from leaktrace.report.contents import contents_problems
from leaktrace.report.endings import final_reason_in_words
from leaktrace.report.export import ExportOptions, flamegraph
from leaktrace.report.export.call_tree import CallTree
from leaktrace.report.export.chart import Chart
from leaktrace.report.export.course import Course
from leaktrace.report.export.html_sites import part_data
from leaktrace.report.export.memory_chart import memory_chart, memory_point
from leaktrace.report.export.page_parts import (
    STATIC_SITES,
    class_of,
    facts,
    items,
    missing_in_words,
    place,
    table,
    verdict,
    where_of,
)
from leaktrace.report.export.pages import page_file
from leaktrace.report.export.report_page import write_empty, write_report
from leaktrace.report.export.traced_sites import TracedSites
from leaktrace.report.figures import about, total_in_words
from leaktrace.report.idle import idle_lines
from leaktrace.report.reach import reach_lines
from leaktrace.report.sections import shown_parts
from leaktrace.report.text import report_lines
from leaktrace.report.verdicts import verdict_lines, word_of

_WIDE = 100_000  # columns: one line
_TEXT_WIDTH = 100
_TEXT_SITES = 20
_MOST_MARKS = 200  # that are listed


class HtmlReport:
    """Reports in order become a page."""

    def __init__(self, options: ExportOptions) -> None:
        self._options = options
        self._course = Course(shown_parts, memory_point)
        self._first: Report | None = None
        self._last: Report | None = None
        self._notes: dict[str, None] = {}
        self._marks: list[tuple[datetime, str]] = []

    def add(self, report: Report) -> None:
        """Take in a report. Of all but the last, only figures over time are kept."""
        self._course.add(report)
        self._first = self._first or report
        self._last = report
        self._notes.update(dict.fromkeys(report.target.notes))

    def add_mark(self, time: datetime, text: str) -> None:
        """A moment that somebody marked; the chart shows it."""
        self._marks.append((time, text))

    def write(self, output: BinaryIO) -> None:
        """Write the page. Raises OSError."""
        report, first = self._last, self._first
        if report is None or first is None:
            write_empty(output)
            return
        self._course.finish()
        title = f"{flamegraph.target_in_words(report)}: memory"
        chart = memory_chart(self._course.points, report)
        write_report(
            output,
            title=title,
            data=self._data(report, chart),
            parts={
                "verdict": _verdict(report),
                "facts": facts(self._facts(first, report)),
                "remarks": items(_remarks(report, self._notes)),
                "marks": self._mark_items(report),
                "chart_title": escape(chart.title),
                "sites": _static_sites(report),
                "text": escape("\n".join(_as_text(report))),
                "how": page_file("how_traced.html"),
            },
        )

    def _facts(self, first: Report, report: Report) -> Iterator[tuple[str, str]]:
        target = report.target
        yield "Target", flamegraph.target_in_words(report)
        yield from self._options.facts
        reports = units.counted(self._course.report_count, "report")
        until = f"{report.time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
        yield "Traced", f"{units.elapsed(report.elapsed_s)} until {until}, {reports}"
        if report.final and final_reason_in_words(report):
            yield "Ended", final_reason_in_words(report)
        if target.allocators:
            yield "Allocator", "; ".join(target.allocators)
        total = total_in_words(report, report.outstanding, report.error)
        if report.held_bytes != report.outstanding.bytes:
            total += f" (takes {about(report)}{units.size(report.held_bytes)})"
        yield "Outstanding", f"{total} at {units.counted(report.site_count, 'site')}"
        if report.younger.count:
            age = units.age(report.older_ms * 1_000_000)
            yield "Left out", f"{total_in_words(report, report.younger)}, younger than {age}"
        if report.resident is not None:
            change = ""
            if first.resident is not None and first is not report:
                since = report.resident.bytes - first.resident.bytes
                change = f", {units.size_change(since)} since the first report"
            yield "RSS", f"{units.size(report.resident.bytes)}{change}"
        if report.is_estimate:
            yield "Estimate", f"{units.sample_in_words(report)}; figures with ~ are scaled up"

    def _mark_items(self, report: Report) -> str:
        marks = [
            f"{units.elapsed(at)}: {printable(text)}" for at, text in self._marks_elapsed(report)
        ]
        if len(marks) > _MOST_MARKS:
            marks[_MOST_MARKS:] = [f"and {len(marks) - _MOST_MARKS:,} more"]
        return f"<h3>Marks</h3>{items(marks)}" if marks else ""

    def _marks_elapsed(self, report: Report) -> list[tuple[float, str]]:
        """Marks in seconds since tracing began."""
        return [
            (report.elapsed_s - (report.time - time).total_seconds(), text)
            for time, text in self._marks
        ]

    def _chosen(self) -> str:
        """What the flame graph shows first: like the table, what takes memory."""
        quantity = self._options.quantity
        return flamegraph.HELD if quantity is Quantity.IN_USE else quantity.value

    def _data(self, report: Report, chart: Chart) -> dict[str, Any]:
        course, tree = self._course, CallTree()
        return {
            "chosen": self._chosen(),
            "chart": chart.data(),
            "marks": [
                {"time": round(at, 3), "text": printable(text)}
                for at, text in self._marks_elapsed(report)
            ],
            "parts": [
                part_data(
                    part,
                    course.parts[part.section],
                    len(course.points),
                    tree,
                    TracedSites(part),
                )
                for part in shown_parts(report)
            ],
            "tree": tree.table(),
        }


def create(options: ExportOptions) -> HtmlReport:
    """A page without reports yet."""
    return HtmlReport(options)


# -- what is readable without scripts --


def _verdict(report: Report) -> str:
    found = report.verdict
    if found is None:
        return verdict("plain", "", "There is no verdict.")
    word = word_of(found.kind).upper()
    text = " · ".join(line.plain.strip() for line in verdict_lines(report, _WIDE))
    return verdict(class_of(found.kind), word, text.removeprefix(word).strip())


def _remarks(report: Report, notes: Iterable[str]) -> Iterator[str]:
    """What is missing from the figures, and what makes them uncertain."""
    yield from missing_in_words(report.losses, report.remarks)
    yield from (f"Note: {printable(note)}" for note in notes)
    lines: list[Text] = []
    if report.reach is not None:
        lines += reach_lines(report.reach, _WIDE, about(report))
    if report.contents is not None:
        lines += contents_problems(report.contents, _WIDE)
    if report.idle is not None:
        lines += idle_lines(report.idle, _WIDE)
    yield from (line.plain.strip() for line in lines)


def _static_sites(report: Report) -> str:
    """A table of the top sites."""
    rows = []
    for site in report.sites[:STATIC_SITES]:
        kind = "" if site.verdict is None else word_of(site.verdict.kind)
        size = "" if report.is_counted else f"{about(report)}{units.size(site.held_bytes)}"
        share = units.share(site.held_bytes, report.held_bytes)
        rows.append((kind, size, share, units.number(site.count), place(where_of(site))))
    return table(("Verdict", "In use", "Share", "Blocks", "Where"), rows)


def _as_text(report: Report) -> Iterator[str]:
    """The last report as the terminal shows it."""
    # It says what the sites hold that are left out.
    shown = replace(report, sites=report.sites[:_TEXT_SITES], allocations=None)
    yield from (line.plain for line in report_lines(shown, _TEXT_WIDTH))
