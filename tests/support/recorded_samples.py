"""Recordings of reports that were built by hand."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path

from leaktrace.model import Report
from leaktrace.recording.streams import LineFile
from leaktrace.recording.writer import RecordingWriter, RunInfo

INFO = RunInfo("1.0", datetime(2026, 3, 1, 6, tzinfo=UTC), {"kernel": "6.1"}, {"pid": 1}, {})


def record(path: Path, *reports: Report) -> Path:
    """Write a recording that ended properly."""
    file = LineFile(io.FileIO(path, "w"), path)
    writer = RecordingWriter(file, INFO)
    writer.begin()
    for report in reports:
        writer.report(report)
    writer.end()
    file.close()
    return path
