"""Which report it is, when and of what, as all JSON says it."""

from __future__ import annotations

from datetime import UTC, datetime

from leaktrace.model import Report, TargetInfo
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
