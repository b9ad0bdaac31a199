"""A report of the live view, saved in a file."""

from __future__ import annotations

import io
from pathlib import Path

from leaktrace.model import Report
from leaktrace.report import create_reporter

_ENDINGS = {"text": "txt", "json": "json"}
_TRIES = 100


def save(report: Report, format_name: str, folder: Path) -> Path:
    """Write a report to a new file in `folder`, in a format of FORMATS. Returns the file. Raises
    OSError."""
    text = io.StringIO()
    create_reporter(format_name, text, io.StringIO()).report(report)
    who = "kernel" if report.target.kind == "kernel" else str(report.target.pid)
    when = report.time.astimezone().strftime("%Y%m%d-%H%M%S")
    name = f"leaktrace-{who}-{when}"
    for number in range(1, _TRIES):
        suffix = "" if number == 1 else f"-{number}"
        path = folder / f"{name}{suffix}.{_ENDINGS[format_name]}"
        try:
            with path.open("x", encoding="utf-8", errors="backslashreplace") as file:
                try:
                    file.write(text.getvalue())
                    file.flush()
                except OSError:
                    path.unlink(missing_ok=True)
                    raise
        except FileExistsError:
            continue
        return path
    raise FileExistsError(17, "there are a hundred of this second already")
