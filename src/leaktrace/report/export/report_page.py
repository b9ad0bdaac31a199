"""The page of several reports: facts, a chart, a table of sites and a flame graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import BinaryIO

from leaktrace.report.export import flamegraph
from leaktrace.report.export.pages import write_page

_STYLES = (*flamegraph.STYLES, "report.css")
_SCRIPTS = (*flamegraph.SCRIPTS, "report_chart.js", "report_table.js", "report_page.js")


def write_report(
    output: BinaryIO, *, title: str, data: Mapping[str, object], parts: Mapping[str, str]
) -> None:
    """`parts`: HTML for the fields of `pages/report.html`. Raises OSError."""
    write_page(
        output,
        "report.html",
        title=title,
        styles=_STYLES,
        scripts=_SCRIPTS,
        data=data,
        parts=parts,
    )


def write_empty(output: BinaryIO) -> None:
    """A page that says that there is no report. Raises OSError."""
    write_page(output, "empty.html", title="leaktrace", styles=("base.css",), scripts=(), data={})
