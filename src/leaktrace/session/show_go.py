"""Shows what `leaktrace go` has recorded, as it was printed then (leaktrace show)."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from leaktrace.analysis import top_sites
from leaktrace.analysis.go_reports import with_top
from leaktrace.analysis.quantities import Quantity
from leaktrace.analysis.views.filters import filtered
from leaktrace.errors import UsageError
from leaktrace.model import Report
from leaktrace.options import GoOptions, ShowOptions
from leaktrace.printable import printable
from leaktrace.recording.reader import Moment
from leaktrace.report import Output, create_go_reporter
from leaktrace.report.export import EXPORTS, ExportOptions
from leaktrace.report.go_export import GO_EXPORTS
from leaktrace.report.go_page import GoPageReporter
from leaktrace.report.view_reporter import ViewOptions

_FORMATS = ("text", "json", *EXPORTS)


def refuse_for_go(options: ShowOptions, view: ViewOptions | None) -> None:
    """What is asked for must be there. Raises UsageError."""
    what = f"{printable(str(options.recording))} is JSON of leaktrace go"
    if options.format not in _FORMATS:
        raise UsageError(
            f"{what}, which is not shown as {options.format}",
            f"use -f {', '.join(_FORMATS)}; leaktrace diff compares two reports",
        )
    for name in _without_effect(options, view):
        raise UsageError(f"{what}, for which there is no {name}", "leave it out")
    if view is not None and view.quantity is Quantity.GROWTH:
        raise UsageError(
            f"{what}, which has no rates of sites", "leaktrace diff shows what has grown"
        )


def show_go(moments: Iterable[Moment], options: ShowOptions, output: Output) -> None:
    """The reports as text, or as JSON with all that was recorded."""
    reporter = create_go_reporter(options.format, output.stream, sys.stderr)
    for moment in moments:
        report = moment.go_report()
        if options.format == "json" and options.top is None:
            reporter.go(report)
        else:
            reporter.go(with_top(report, options.top or GoOptions.top))


def show_go_page(
    moments: Iterable[Moment],
    options: ShowOptions,
    output: Output,
    shown: ExportOptions,
    view: ViewOptions,
) -> None:
    """The reports as a page."""

    def narrowed(part: Report) -> Report:
        found = part if view.filter is None else filtered(part, view.filter)
        return found if options.top is None else top_sites.with_top(found, options.top)

    page = GoPageReporter(output.stream, shown, narrowed)
    for moment in moments:
        page.go(moment.go_report())
    page.end()


def _without_effect(options: ShowOptions, view: ViewOptions | None) -> Iterator[str]:
    if options.marks:
        yield "--marks"
    if options.late_names.are_wanted:
        yield "--sysroot or --debuginfod: all names are known"
    if options.full_stacks:
        yield "--full-stacks"
    if options.site is not None and view is None and options.format not in GO_EXPORTS:
        yield "--site without --by"
