"""Formats of other tools: one module and one line in `EXPORTS` each.

An export takes reports in order and then writes one file. It knows neither where the reports come
from (a running trace, a recording) nor where the file goes:

    export = EXPORTS["folded"].create(ExportOptions())
    for report in reports:              # with all their sites
        export.add(report)
    export.write(output)                # a binary stream
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple, Protocol, cast

from leaktrace.analysis.quantities import Quantity
from leaktrace.model import Report


@dataclass(frozen=True)
class ExportOptions:
    """What a file is to show."""

    quantity: Quantity = Quantity.IN_USE
    # What else is known of a recording, name and value, such as ("host", "web1").
    facts: tuple[tuple[str, str], ...] = ()


class Export(Protocol):
    """One file that is made from reports."""

    def add(self, report: Report) -> None:
        """Take in a report. A format of one moment shows the last one."""

    def write(self, output: BinaryIO) -> None:
        """Write the file. Raises OSError."""


class _Module(Protocol):
    """What the module of a format defines."""

    def create(self, options: ExportOptions) -> Export: ...


class ExportFormat(NamedTuple):
    """A format; its module is imported when it is used."""

    module: str
    summary: str  # one line for --help
    is_binary: bool = False  # not to be written to a terminal
    has_time: bool = False  # it shows all reports, not only the last one
    has_sections: bool = False  # it also shows other allocators, pairs, file descriptors…

    def create(self, options: ExportOptions) -> Export:
        """An empty file of this format."""
        return cast(_Module, importlib.import_module(self.module)).create(options)


EXPORTS: Mapping[str, ExportFormat] = {
    "pprof": ExportFormat(
        "leaktrace.report.export.pprof",
        "a heap profile for go tool pprof and others (docs/exports.md)",
        is_binary=True,
        has_sections=True,
    ),
    "folded": ExportFormat(
        "leaktrace.report.export.folded", "one line per stack, for scripts that draw flame graphs"
    ),
    "speedscope": ExportFormat(
        "leaktrace.report.export.speedscope",
        "a profile for speedscope.app, in JSON",
        has_sections=True,
    ),
    "massif": ExportFormat(
        "leaktrace.report.export.massif",
        "memory over time, for valgrind's ms_print and massif-visualizer",
        has_time=True,
    ),
    "flamegraph": ExportFormat(
        "leaktrace.report.export.flamegraph",
        "an HTML page with a flame graph",
        has_sections=True,
    ),
    "html": ExportFormat(
        "leaktrace.report.export.html",
        "an HTML page with all reports: verdict, course, sites, flame graph",
        has_time=True,
        has_sections=True,
    ),
}
