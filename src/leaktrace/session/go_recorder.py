"""`leaktrace go --record`: each report with all its groups and sites, as lines of JSON.

A failure to write is told once and counted. It never ends the run.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from leaktrace.analysis.go_reports import listed_at_most, with_top
from leaktrace.go_report import GoReport
from leaktrace.notices import hint, notify
from leaktrace.printable import printable
from leaktrace.recording.format import LONGEST_LINE
from leaktrace.recording.streams import LineFile
from leaktrace.report.go_json import go_object
from leaktrace.report.json_lines import json_line
from leaktrace.report.output import ReportFile, why_unwritable
from leaktrace.session.recorder import refuse_existing


class GoRecorder:
    """Writes reports to a file."""

    def __init__(self, file: ReportFile) -> None:
        """Raises EnvironmentUnfitError if a package is missing."""
        self._shown = printable(str(file.path))
        self._lines = LineFile(file, file.path)
        self._is_failing = False
        self._is_cut = False
        self.missed = 0

    def report(self, report: GoReport) -> None:
        """Record a report that lists everything."""
        try:
            self._lines.write(self._fitting(report))
        except OSError as error:
            self.missed += 1
            self._tell(error)
        else:
            self._is_failing = False

    def _fitting(self, report: GoReport) -> bytes:
        """Its line, without the last entries of long lists where no reader would take all."""
        most = listed_at_most(report)
        while True:
            line = json_line(go_object(replace(with_top(report, most), top=most))).encode()
            if len(line) <= LONGEST_LINE or most <= 1:
                return line
            most //= 2
            if not self._is_cut:
                self._is_cut = True
                notify(f"{self._shown} doesn't list all sites: a report has no more room")

    def close(self) -> None:
        try:
            self._lines.close()
        except OSError as error:
            self._tell(error)
        if self.missed:
            reports = "one report is" if self.missed == 1 else f"{self.missed:,} reports are"
            notify(f"{reports} missing in {self._shown}: it could not be written")

    def _tell(self, error: OSError) -> None:
        if not self._is_failing:
            self._is_failing = True
            notify(f"can't write to {self._shown}: {error.strerror or error}")
            is_limit = error.errno == errno.EFBIG
            what = "raise the limit (ulimit -f)" if is_limit else "free some space there"
            hint(f"the run goes on; each later report is tried again: {what}")


@contextmanager
def opened_go_recorder(path: Path | None) -> Iterator[GoRecorder | None]:
    """The recorder of a file; None: nothing is recorded. Raises OutputError, and
    EnvironmentUnfitError."""
    if path is None:
        yield None
        return
    try:
        refuse_existing(path)
        file = ReportFile(path)
    except OSError as error:
        raise why_unwritable(path, error, "--record") from error
    try:
        recorder = GoRecorder(file)
    except BaseException:
        file.close()
        file.remove_if_never_written()
        raise
    try:
        yield recorder
    finally:
        recorder.close()
        file.remove_if_never_written()
