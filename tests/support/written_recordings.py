"""Recordings of reports that were built by hand."""

from __future__ import annotations

import io
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from leaktrace.model import Report
from leaktrace.recording.streams import LineFile
from leaktrace.recording.writer import RecordingWriter, RunInfo

INFO = RunInfo("1.0", datetime(2026, 3, 1, 6, tzinfo=UTC), {"kernel": "6.1"}, {"pid": 1}, {})


def write(
    path: Path, reports: Iterable[Report], *, ends: bool = True, marks: Iterable[str | None] = ()
) -> Path:
    """Write a recording, with a mark before each report that has one. Returns its path."""
    file = LineFile(io.FileIO(path, "w"), path)
    writer = RecordingWriter(file, INFO)
    writer.begin()
    names = iter(marks)
    for report in reports:
        writer.report(report, next(names, None))
    if ends:
        writer.end()
        file.close()
    return path
