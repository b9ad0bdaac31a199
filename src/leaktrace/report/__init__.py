"""Report formats: one module and one line in `FORMATS` each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TextIO

from leaktrace.analysis.quantities import Quantity
from leaktrace.errors import UsageError
from leaktrace.options import GoProfile
from leaktrace.report.export import EXPORTS, ExportOptions
from leaktrace.report.export_reporter import ExportReporter
from leaktrace.report.go_export import GO_EXPORTS, PAGE, GoExport
from leaktrace.report.go_json import GoJson
from leaktrace.report.go_text import GoText
from leaktrace.report.heap_json import HeapJson
from leaktrace.report.heap_text import HeapText
from leaktrace.report.json_lines import JsonReporter
from leaktrace.report.maps_json import MapsJson
from leaktrace.report.maps_text import MapsText
from leaktrace.report.memleak import MemleakReporter
from leaktrace.report.output import Output, open_output
from leaktrace.report.ranking_json import RankingJson
from leaktrace.report.ranking_text import RankingText
from leaktrace.report.reporter import Reporter
from leaktrace.report.text import TextReporter

if TYPE_CHECKING:
    from leaktrace.report.go_page import GoPageReporter

__all__ = [
    "EXPORTS",
    "FORMATS",
    "GO_EXPORTS",
    "GO_FORMATS",
    "MAPS_FORMATS",
    "PAGE",
    "RANKING_FORMATS",
    "Output",
    "Reporter",
    "create_go_reporter",
    "create_heap_reporter",
    "create_maps_reporter",
    "create_ranking_reporter",
    "create_reporter",
    "open_output",
]

FORMATS: Mapping[str, type[Reporter]] = {
    "text": TextReporter,
    "memleak": MemleakReporter,
    "json": JsonReporter,
}

# --all-processes; memleak's format has no place for several processes.
RANKING_FORMATS: Mapping[str, type[RankingText | RankingJson]] = {
    "text": RankingText,
    "json": RankingJson,
}

# leaktrace maps
MAPS_FORMATS: Mapping[str, type[MapsText | MapsJson]] = {
    "text": MapsText,
    "json": MapsJson,
}

# leaktrace go
GO_FORMATS: Mapping[str, type[GoText | GoJson]] = {
    "text": GoText,
    "json": GoJson,
}

# leaktrace heap
HEAP_FORMATS: Mapping[str, type[HeapText | HeapJson]] = {
    "text": HeapText,
    "json": HeapJson,
}


def create_reporter(
    format_name: str, output: TextIO, notices: TextIO, *, quantity: str = Quantity.IN_USE
) -> Reporter:
    """The reporter of a format; `notices` is the stream for everything else (stderr).

    `quantity` is for formats of one quantity. Raises UsageError for a name that is neither in
    `FORMATS` nor in `EXPORTS`, and for a binary format on a terminal.
    """
    if format_name in EXPORTS:
        options = ExportOptions(Quantity(quantity))
        return ExportReporter(format_name, options, output, notices)
    try:
        reporter = FORMATS[format_name]
    except KeyError:
        raise UsageError(
            f"there is no report format {format_name!r}",
            f"choose one of {', '.join((*FORMATS, *EXPORTS))}",
        ) from None
    return reporter(output, notices)


def create_ranking_reporter(
    format_name: str, output: TextIO, notices: TextIO
) -> RankingText | RankingJson:
    """The reporter of a format in `RANKING_FORMATS`."""
    return RANKING_FORMATS[format_name](output, notices)


def create_maps_reporter(format_name: str, output: TextIO, notices: TextIO) -> MapsText | MapsJson:
    """The reporter of a format in `MAPS_FORMATS`."""
    return MAPS_FORMATS[format_name](output, notices)


def create_heap_reporter(format_name: str, output: TextIO, notices: TextIO) -> HeapText | HeapJson:
    """The reporter of a format in `HEAP_FORMATS`."""
    return HEAP_FORMATS[format_name](output, notices)


def create_go_reporter(
    format_name: str,
    output: TextIO,
    notices: TextIO,
    *,
    profile: GoProfile | None = None,
    quantity: str = Quantity.IN_USE,
) -> GoText | GoJson | GoExport | GoPageReporter:
    """The reporter of a format in `GO_FORMATS`, or of `PAGE`, or in `GO_EXPORTS`: of these,
    `profile` is what is exported. Raises as `create_reporter`."""
    if format_name == PAGE:
        from leaktrace.report.go_page import GoPageReporter  # noqa: PLC0415

        return GoPageReporter(output, ExportOptions())
    if format_name in GO_EXPORTS:
        options = ExportOptions(Quantity(quantity))
        which = profile or GoProfile.HEAP
        return GoExport(format_name, options, which, output, notices)
    return GO_FORMATS[format_name](output, notices)
