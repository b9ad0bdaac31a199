"""`leaktrace maps` for programs: one JSON object per line, `leaktrace/maps/1`.

The contract is `docs/json.md` with `docs/schema/maps-1.schema.json`: within version 1 fields are
only ever added.
"""

from __future__ import annotations

from leaktrace.memory_map import Figures, KindLine, MapsReport, MemoryRange, RangeGrowth
from leaktrace.printable import printable
from leaktrace.report.json_lines import json_line
from leaktrace.report.json_sites import Object
from leaktrace.report.look_json import look_header
from leaktrace.report.reporter import Writer

MAPS_SCHEMA = "leaktrace/maps/1"


class MapsJson(Writer):
    """--format json."""

    def maps(self, report: MapsReport) -> None:
        """Write one report and flush it."""
        self.write(json_line(maps_object(report)))


def maps_object(report: MapsReport) -> Object:
    """The JSON object of a report (schema `leaktrace/maps/1`)."""
    return {
        **look_header(MAPS_SCHEMA, report),
        "mapping_count": report.mapping_count,
        "thread_count": report.thread_count,
        "total": _figures(report.total),
        "since_first": _change(report.since_first),
        "since_previous": _change(report.since_previous),
        "kinds": [_kind(line) for line in report.kinds],
        "top": report.top,
        "largest": [_range(one) for one in report.largest],
        "grown": [_growth(one) for one in report.grown],
        "look_age_s": round(report.look_age_s, 3),
        "notes": [printable(note) for note in report.notes],
    }


def _figures(figures: Figures) -> Object:
    return {
        "reserved_bytes": figures.reserved,
        "resident_bytes": figures.resident,
        "proportional_bytes": figures.proportional,
        "swapped_bytes": figures.swapped,
        "huge_page_bytes": figures.huge,
        "hugetlb_bytes": figures.hugetlb,
        "lazily_freed_bytes": figures.lazily_freed,
    }


def _change(figures: Figures | None) -> Object | None:
    return None if figures is None else _figures(figures)


def _kind(line: KindLine) -> Object:
    return {
        "kind": line.kind.value,
        "mapping_count": line.count,
        **_figures(line.figures),
        "since_first": _change(line.since_first),
        "since_previous": _change(line.since_previous),
    }


def _range(one: MemoryRange) -> Object:
    return {
        "start": f"{one.start:#x}",
        "end": f"{one.end:#x}",
        "kind": one.kind.value,
        "permissions": one.permissions,
        "name": printable(one.name),
        "deleted": one.deleted,
        **_figures(one.figures),
    }


def _growth(one: RangeGrowth) -> Object:
    return {
        **_range(one.range),
        "growth_bytes": one.growth,
        "since_previous_bytes": one.since_previous,
        "is_new": one.is_new,
    }
