"""Shows reports of a recording (leaktrace show)."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

from leaktrace import units
from leaktrace.analysis.top_sites import with_top
from leaktrace.analysis.views.filters import SiteFilter, filtered
from leaktrace.analysis.views.one_site import OneSite
from leaktrace.model import Report
from leaktrace.notices import notify
from leaktrace.options import ShowOptions
from leaktrace.printable import printable
from leaktrace.recording.format import MARK
from leaktrace.recording.gaps import Gap, local, with_gaps
from leaktrace.recording.late_names import LateNames
from leaktrace.recording.moments import Choice, Points, choose, choose_range
from leaktrace.recording.reader import Moment, Recording, read_recording
from leaktrace.recording.streams import NotReadableError
from leaktrace.report import PAGE, Output, create_reporter, open_output
from leaktrace.report.export import EXPORTS, ExportOptions
from leaktrace.report.export.html import HtmlReport
from leaktrace.report.export_reporter import refuse_terminal
from leaktrace.report.json_lines import json_line
from leaktrace.report.moment_json import in_utc
from leaktrace.report.output import write_content
from leaktrace.report.view_reporter import ViewOptions, ViewReporter
from leaktrace.session.show_go import refuse_for_go, show_go, show_go_page


def run_show(options: ShowOptions, view: ViewOptions | None = None) -> int:
    """`view`: how sites are seen, if not as usual. Returns the exit code, 0.

    Raises LeaktraceError.
    """
    recording = read_recording(options.recording)
    if recording.is_of_go:
        refuse_for_go(options, view)
    export = EXPORTS.get(options.format)
    with open_output(options.output, is_waiting=True) as output:
        if options.marks:
            _show_marks(recording, options, output)
        elif recording.is_of_go and view is None and export is None:
            show_go((moment for moment, _ in _chosen(recording, options)), options, output)
        elif recording.is_of_go and options.format == PAGE:
            moments = (moment for moment, _ in _chosen(recording, _over_time(options)))
            shown = ExportOptions(facts=tuple(_facts(recording)))
            show_go_page(moments, options, output, shown, view or ViewOptions())
        elif export is None:
            _show(recording, options, output, view)
        else:
            refuse_terminal(options.format, output.stream)
            _export(recording, options, output, view or ViewOptions())
    for problem in recording.problems:
        notify(problem)
    return 0


def _show(
    recording: Recording, options: ShowOptions, output: Output, view: ViewOptions | None
) -> None:
    if view is not None:
        is_json = options.format == "json"
        views = ViewReporter(view, output.stream, sys.stderr, is_json=is_json)
        for report in _reports(recording, options):
            views.report(report)
        return
    reporter = create_reporter(options.format, output.stream, sys.stderr)
    is_first = True
    for report in _reports(recording, options):
        if is_first:
            reporter.begin(report.target)
            is_first = False
        found = filtered(report, SiteFilter(site=options.site))
        shown = with_top(found, options.top or report.top)
        reporter.report(replace(shown, full_stacks=True) if options.full_stacks else shown)
    reporter.end()


def _export(recording: Recording, options: ShowOptions, output: Output, view: ViewOptions) -> None:
    """A file of another tool, of all sites unless fewer are asked for."""
    facts = tuple(_facts(recording))
    export = EXPORTS[options.format].create(ExportOptions(view.quantity, facts=facts))
    asked = _over_time(options) if EXPORTS[options.format].has_time else options
    for report in _reports(recording, asked):
        shown = report if view.filter is None else filtered(report, view.filter)
        export.add(shown if options.top is None else with_top(shown, options.top))
    if isinstance(export, HtmlReport):
        for mark in recording.marks:
            export.add_mark(mark.time, mark.name)
    content = io.BytesIO()
    export.write(content)
    write_content(output.stream, content.getbuffer())


def _over_time(options: ShowOptions) -> ShowOptions:
    """All reports, if none was asked for."""
    if options.at != "last" or options.first is not None or options.last is not None:
        return options
    return replace(options, first="first")


def _facts(recording: Recording) -> Iterator[tuple[str, str]]:
    """What the recording says about itself, for a page."""
    header = recording.header
    if header is None:
        return
    yield "Recorded by", f"leaktrace {printable(header.version)}"
    if header.host:
        yield "Machine", printable(" ".join(str(one) for one in header.host.values()))


def _reports(recording: Recording, options: ShowOptions) -> Iterator[Report]:
    """The reports that are asked for, with the names that are asked for."""
    chosen: Iterator[Report] = (
        with_gaps(moment.report(), gaps) for moment, gaps in _chosen(recording, options)
    )
    if options.site is not None:
        chosen = _with_site(chosen, options.site)
    if not options.late_names.are_wanted:
        yield from chosen
        return
    names = LateNames(options.late_names)
    for report in chosen:
        yield names.added_to(report)
    for problem in names.problems:
        notify(problem)


def _with_site(reports: Iterator[Report], digits: str) -> Iterator[Report]:
    """The reports from the first one on that has a site. Raises UsageError if none has it, or if
    several sites are meant."""
    site, numbers = OneSite(digits), list[int]()
    for report in reports:
        numbers.append(report.number)
        site.look(report)
        if site.is_found:
            yield report
    several = f"reports {numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else ""
    site.refuse_unknown(several or f"report {numbers[0]}")


def _chosen(recording: Recording, options: ShowOptions) -> Iterator[tuple[Moment, Sequence[Gap]]]:
    """The reports that are asked for, with what is missing before them, and on stderr which these
    are."""
    is_range = options.first is not None or options.last is not None
    if options.at == "last" and not is_range:
        last = _last(recording)
        yield last, recording.gaps
        return
    points = _points(recording)
    if is_range:
        wanted = choose_range(options.first, options.last, points, recording.marks)
        count = units.counted(len(wanted), "report")
        notify(f"{count}, from {_where(points, wanted[0])} to {_where(points, wanted[-1])}")
    else:
        choice = choose(options.at, points, recording.marks)
        wanted = range(choice.at, choice.at + 1)
        _tell(choice, points)
    problems, gaps = recording.problems, recording.gaps
    told = 0  # gaps: each is told once, those at the end with the last report
    for at, moment in enumerate(recording.moments()):
        if at in wanted:
            until = sum(gap.at <= at for gap in gaps) if at < wanted[-1] else len(gaps)
            yield moment, gaps[told:until]
            told = until
        if at >= wanted[-1]:
            break
    recording.problems, recording.gaps = problems, gaps  # it was not read to its end this time


def _last(recording: Recording) -> Moment:
    last = None
    for moment in recording.moments():
        last = moment
    if last is None:
        raise _empty(recording)
    said = f"report {last.number} of {printable(str(recording.path))}, {local(last.time)}"
    notify(said if last.is_final or not recording.problems else f"{said}, the last one that it has")
    return last


def _points(recording: Recording) -> Points:
    points = Points(recording.moments())
    if not points:
        raise _empty(recording)
    return points


def _empty(recording: Recording) -> NotReadableError:
    why = "; ".join(recording.problems)
    return NotReadableError(
        f"{printable(str(recording.path))} has no report" + (f": {why}" if why else ""),
        "record for longer than one INTERVAL",
    )


def _where(points: Points, at: int) -> str:
    return f"report {points[at].number} ({local(points[at].time)})"


def _tell(choice: Choice, points: Points) -> None:
    point = points[choice.at]
    said = f"report {point.number} of {points[-1].number}, {local(point.time)}"
    notify(f"{said}: {choice.said}" if choice.said else said)


def _show_marks(recording: Recording, options: ShowOptions, output: Output) -> None:
    """All marks, a line each."""
    for _ in recording.moments():
        pass
    if options.format == "json":
        lines = [
            json_line(
                {
                    "schema": MARK,
                    "name": mark.name,
                    "time": in_utc(mark.time),
                    "elapsed_s": mark.elapsed_s,
                    "report": mark.report,
                }
            )
            for mark in recording.marks
        ]
    else:
        lines = [
            f"{local(mark.time)}  {units.elapsed(mark.elapsed_s):>8}  report {mark.report:<6}  "
            f"{mark.name}\n"
            for mark in recording.marks
        ]
    if not lines:
        notify("the recording has no marks")
    reporter = create_reporter("text", output.stream, sys.stderr)
    reporter.write("".join(lines))
