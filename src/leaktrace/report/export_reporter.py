"""An export of a running trace: the file is written when the trace ends, also by Ctrl-C."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, TextIO

from leaktrace import units
from leaktrace.analysis.views.parts import sites_of
from leaktrace.errors import UsageError
from leaktrace.model import Event, Report, TargetInfo
from leaktrace.report.export import EXPORTS, ExportOptions
from leaktrace.report.export.remarks import remarks
from leaktrace.report.export.sites import sections_of
from leaktrace.report.output import write_content
from leaktrace.report.reporter import Reporter


class ExportReporter(Reporter):
    """A format of `EXPORTS` as a report format. Losses and estimates also go to the notices."""

    summary: ClassVar[str] = "a file for another tool, written at the end"

    def __init__(
        self, format_name: str, options: ExportOptions, output: TextIO, notices: TextIO
    ) -> None:
        """Raises UsageError if the output is a terminal and the format is binary, and
        EnvironmentUnfitError if a package is missing that the format needs."""
        super().__init__(output, notices)
        refuse_terminal(format_name, output)
        self._name = format_name
        self._export = EXPORTS[format_name].create(options)
        self._last: Report | None = None

    def begin(self, target: TargetInfo, command: Sequence[str] = ()) -> None:
        pass

    def report(self, report: Report) -> None:
        self._export.add(report)
        self._last = report

    def events(self, events: Iterable[Event]) -> None:
        """These formats have no place for single calls; --trace is refused with them."""

    def end(self) -> None:
        if self._last is None:
            return
        # Made in memory first: a file is complete, or the old one is still there.
        content = io.BytesIO()
        self._export.write(content)
        for sentence in (*remarks(self._last), *self._left_out(self._last)):
            self.notice(sentence)
        write_content(self.output, content.getbuffer())

    def _left_out(self, report: Report) -> Iterator[str]:
        """The sections that have sites, if the format has no sections."""
        if EXPORTS[self._name].has_sections:
            return
        others = ", ".join(name for name, one in EXPORTS.items() if one.has_sections)
        for name, section in sections_of(report):
            if sites := sites_of(section):
                number = units.counted(len(sites), "site")
                yield f"left out: {number} of {name}, not in this format; in {others} they are"


def refuse_terminal(format_name: str, output: TextIO) -> None:
    """Raise UsageError if a binary format would be written to a terminal."""
    if EXPORTS[format_name].is_binary and output.isatty():
        raise UsageError(
            f"{format_name} is a binary format, and the output is a terminal",
            "write it to a file with --output FILE, or into a pipe",
        )
