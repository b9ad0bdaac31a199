"""`leaktrace go` with a format of another tool: the profile of the heap, or the goroutines, as
sites like any others."""

from __future__ import annotations

from typing import TextIO

from leaktrace.analysis.go_sites import goroutine_sites, heap_sites
from leaktrace.go_report import GoReport
from leaktrace.options import GoProfile
from leaktrace.report.export import EXPORTS, ExportOptions
from leaktrace.report.export_reporter import ExportReporter

# html shows verdicts and totals that a look from outside doesn't have.
GO_EXPORTS = {name: one for name, one in EXPORTS.items() if name != "html"}


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
        self._reporter = ExportReporter(format_name, options, output, notices)

    def go(self, report: GoReport) -> None:
        """Take in a report. One without a profile, of which a note says why, changes nothing."""
        sites = heap_sites(report) if self._profile is GoProfile.HEAP else goroutine_sites(report)
        if sites is not None:
            self._reporter.report(sites)
        else:
            self._reporter.notice("the profile is switched off by now: that of before is written")

    def end(self) -> None:
        """Write the file."""
        self._reporter.end()
