"""`leaktrace go` for programs: one JSON object per line, `leaktrace/go/1`.

The contract is `docs/json.md` with `docs/schema/go-1.schema.json`: within version 1 fields are only
ever added.
"""

from __future__ import annotations

from leaktrace.go_report import GoLine, GoReport, GoroutineGroup, Skip
from leaktrace.printable import printable
from leaktrace.report.go_heap_json import frames_of, heap_object, place_of
from leaktrace.report.json_lines import json_line
from leaktrace.report.json_sites import Object
from leaktrace.report.moment_json import in_utc
from leaktrace.report.reporter import Writer

GO_SCHEMA = "leaktrace/go/1"


class GoJson(Writer):
    """--format json."""

    def go(self, report: GoReport) -> None:
        """Write one report and flush it."""
        self.write(json_line(go_object(report)))


def go_object(report: GoReport) -> Object:
    """The JSON object of a report (schema `leaktrace/go/1`)."""
    section = report.goroutines
    return {
        "schema": GO_SCHEMA,
        "time": in_utc(report.time),
        "elapsed_s": round(report.elapsed_s, 3),
        "number": report.number,
        "final": report.final,
        "reason": printable(report.reason),
        "target": {"pid": report.pid, "command": printable(report.command)},
        "go": {
            "version": printable(report.version),
            "path": printable(report.path),
            "build_id": report.build_id,
        },
        "verdict": section.verdict.value,
        "goroutine_count": section.alive_count - section.system_count,
        "system_goroutine_count": section.system_count,
        "growth_per_s": _rate(section.growth_per_s),
        "stack_bytes": section.stack_bytes,
        "group_count": section.group_count,
        "leaking_group_count": section.leaking_count,
        "top": report.top,
        "goroutines": [_group(one, report.bias) for one in section.groups],
        "skipped": {skip.value: section.skipped.get(skip, 0) for skip in Skip},
        "look_s": round(section.took_s, 3),
        "look_age_s": round(report.look_age_s, 3),
        "heap": None if report.heap is None else heap_object(report.heap, report.bias),
        "notes": [printable(note) for note in report.notes],
    }


def _group(one: GoroutineGroup, bias: int) -> Object:
    growth = one.growth
    wait_ns = growth.longest_wait_ns
    return {
        "count": growth.count,
        "growth": growth.growth,
        "growth_per_s": _rate(growth.growth_per_s),
        "verdict": growth.verdict.value,
        "look_count": growth.look_count,
        "since_s": round(growth.since_s, 3),
        "wait_reason": printable(growth.key.state),
        "oldest_wait_s": None if wait_ns is None else round(wait_ns / 1e9, 3),
        "stack_bytes": growth.stack_bytes,
        "created_by": _line(one.created_by),
        "started_as": _line(one.started_as),
        "frames": frames_of(one.frames, bias),
    }


def _line(line: GoLine | None) -> Object | None:
    return None if line is None else place_of(line)


def _rate(per_s: float | None) -> float | None:
    return None if per_s is None else round(per_s, 3)
