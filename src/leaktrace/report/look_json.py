"""What the JSON of all looks at a process begins with: of `leaktrace heap`, of `leaktrace maps`."""

from __future__ import annotations

from leaktrace.heap_report import HeapReport
from leaktrace.memory_map import MapsReport
from leaktrace.printable import printable
from leaktrace.report.json_sites import Object
from leaktrace.report.moment_json import in_utc


def look_header(schema: str, report: HeapReport | MapsReport) -> Object:
    """Which look it is, when, and at what."""
    return {
        "schema": schema,
        "time": in_utc(report.time),
        "elapsed_s": round(report.elapsed_s, 3),
        "number": report.number,
        "final": report.final,
        "reason": printable(report.reason),
        "pid": report.pid,
        "command": printable(report.command),
    }
