"""`leaktrace go -f html`: a page with all that was seen, written at the end."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TextIO

from leaktrace.go_report import GoReport
from leaktrace.model import Report
from leaktrace.report.export import ExportOptions
from leaktrace.report.export.go_html import GoPage
from leaktrace.report.output import write_content


class GoPageReporter:
    """Takes reports with all their sites and groups."""

    def __init__(
        self,
        output: TextIO,
        options: ExportOptions,
        narrowed: Callable[[Report], Report] | None = None,
    ) -> None:
        """`narrowed` leaves out what isn't to be shown, of each part of a report."""
        self._output = output
        self._page = GoPage(options) if narrowed is None else GoPage(options, narrowed)
        self._is_empty = True

    def go(self, report: GoReport) -> None:
        """Take in a report."""
        self._page.add(report)
        self._is_empty = False

    def end(self) -> None:
        """Write the page, if there was a report."""
        if self._is_empty:
            return
        # Made in memory first: a file is complete, or the old one is still there.
        content = io.BytesIO()
        self._page.write(content)
        write_content(self._output, content.getbuffer())
