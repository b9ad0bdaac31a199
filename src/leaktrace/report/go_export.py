"""`leaktrace go` with a format of another tool: the profile of the heap, or the goroutines, as
sites like any others."""

from __future__ import annotations

from typing import TextIO

from leaktrace.analysis.go_sites import goroutine_sites, heap_sites
from leaktrace.go_report import GoReport
from leaktrace.options import GoProfile
from leaktrace.report.export import EXPORTS, ExportOptions
from leaktrace.report.export_reporter import ExportReporter

# The page of all reports has parts of its own for Go (`GoPageReporter`).
PAGE = "html"
GO_EXPORTS = {name: one for name, one in EXPORTS.items() if name != PAGE}


class GoExport:
    """A format of `GO_EXPORTS`. The file is written when no report follows."""

    def __init__(
        self,
        format_name: str,
        options: ExportOptions,
        profile: GoProfile,
        output: TextIO,
        notices: TextIO,
    ) -> None:
        """Raises as `ExportReporter`."""
        self._profile = profile
        self._written: int | None = None  # the number of the last report with a profile
        self._is_missing = False  # in the last report
        self._reporter = ExportReporter(format_name, options, output, notices)

    def go(self, report: GoReport) -> None:
        """Take in a report. One without a profile changes nothing: the program has switched it off,
        or has executed another program."""
        sites = heap_sites(report) if self._profile is GoProfile.HEAP else goroutine_sites(report)
        self._is_missing = sites is None
        if sites is not None:
            self._reporter.report(sites)
            self._written = report.number

    def end(self) -> None:
        """Write the file."""
        if self._is_missing:
            told = "the last report has no profile of the heap"
            if self._written is None:
                self._reporter.notice(f"{told}, nor had another one: no file is written")
            else:
                self._reporter.notice(f"{told}: that of report {self._written:,} is written")
        self._reporter.end()
