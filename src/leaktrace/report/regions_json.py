"""Mapped regions in the JSON report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from leaktrace.memory import RegionBytes
from leaktrace.model import Report
from leaktrace.site import Site


def regions_apart(report: Report, site_object: Callable[[Site], dict[str, Any]]) -> dict[str, Any]:
    """What is mapped, if anything is, and the stacks of threads, if there are any."""
    shown: dict[str, Any] = {}
    if report.regions is not None:
        shown["regions"] = _regions_object(report.regions)
    if report.other_regions is not None:
        shown["other_regions"] = _regions_object(report.other_regions)
    stacks = report.thread_stacks
    if stacks is not None:
        shown["thread_stacks"] = {
            **_regions_object(stacks.regions),
            "each_bytes": stacks.each_bytes,
            "idle_count": stacks.idle_count,
            "idle_bytes": stacks.idle_bytes,
            "is_detailed": stacks.is_detailed,
            "site_count": stacks.site_count,
            "sites": [site_object(site) for site in stacks.sites],
        }
    return shown


def in_memory_object(regions: RegionBytes) -> dict[str, Any]:
    """Figures that are not known are null."""
    return {
        "reserved_bytes": regions.reserved,
        "resident_bytes": regions.resident if regions.is_known else None,
        "swapped_bytes": regions.swapped if regions.is_known else None,
        "unread_bytes": regions.unread,
    }


def _regions_object(regions: RegionBytes) -> dict[str, Any]:
    return {
        "count": regions.count,
        **in_memory_object(regions),
        "age_ms": regions.age_ns // 1_000_000,
    }
