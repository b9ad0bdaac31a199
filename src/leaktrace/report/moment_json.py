"""Which report it is, when and of what, as all JSON says it."""

from __future__ import annotations

from datetime import UTC, datetime

from leaktrace.model import Report, ReportTime, TargetInfo
from leaktrace.printable import printable
from leaktrace.report.json_sites import Object


def in_utc(time: datetime) -> str:
    """Such as "2026-03-01T14:05:00Z"."""
    return f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def target_object(target: TargetInfo) -> Object:
    """What was traced, by name."""
    return {"kind": target.kind, "pid": target.pid, "command": printable(target.command)}


def moment_object(report: Report) -> Object:
    """Which report it is."""
    return {
        "time": in_utc(report.time),
        "elapsed_s": round(report.elapsed_s, 3),
        "number": report.number,
        "target": target_object(report.target),
        "estimate": report.is_estimate,
    }


def missing_object(report: Report) -> Object:
    """Which reports of its recording are missing before or after it, if there are any."""
    if not report.missing_reports:
        return {}
    return {
        "missing_reports": [
            {"count": one.count, "after": _when(one.after), "before": _when(one.before)}
            for one in report.missing_reports
        ]
    }


def _when(report: ReportTime | None) -> Object | None:
    if report is None:
        return None
    return {
        "number": report.number,
        "time": in_utc(report.time),
        "elapsed_s": round(report.elapsed_s, 3),
    }
