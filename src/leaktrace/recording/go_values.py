"""What a report says about Go, from its JSON objects: the other way of report/go_summary.py."""

from __future__ import annotations

from leaktrace.go_report import (
    Change,
    Collector,
    GoLine,
    GoSummary,
    GoVerdict,
    GrownPart,
    LeakingGoroutines,
)
from leaktrace.recording.fields import Fields
from leaktrace.recording.site_values import verdict_from


def go_from(fields: Fields) -> GoSummary:
    """The Go code of one process. Raises MalformedError."""
    heap = None if fields.is_null("heap") else fields.inner("heap")
    return GoSummary(
        pid=fields.integer("pid"),
        version=fields.text("version"),
        goroutine_count=fields.integer("goroutine_count"),
        growth_per_s=fields.optional_number("growth_per_s"),
        verdict=fields.word("verdict", GoVerdict, GoVerdict.TOO_EARLY),
        leaking_group_count=fields.integer("leaking_group_count"),
        leaking=tuple(_group(one) for one in fields.objects("leaking")),
        collector=None if heap is None else _collector(heap),
        heap_bytes=None if heap is None else heap.optional_integer("in_use_bytes"),
        heap_change=None if heap is None or heap.is_null("growth_bytes") else _change(heap),
        heap_verdict=None if heap is None else heap.optional("verdict", verdict_from),
        heap_grown_most=(None if heap is None else heap.optional("grown_most", grown_part_from)),
        notes=fields.texts("notes"),
        problem=fields.text("problem", ""),
    )


def _group(fields: Fields) -> LeakingGoroutines:
    return LeakingGoroutines(
        count=fields.integer("count"),
        growth_per_s=fields.optional_number("growth_per_s"),
        wait_reason=fields.text("wait_reason"),
        created_by=fields.optional("created_by", _line),
        started_as=fields.optional("started_as", _line),
    )


def grown_part_from(fields: Fields) -> GrownPart:
    """The part of a heap that has grown most."""
    return GrownPart(
        _change(fields),
        fields.optional("allocated_at", _line),
        fields.optional_text("type") or "",
        fields.optional_integer("object_bytes"),
    )


def _line(fields: Fields) -> GoLine:
    return GoLine(
        fields.text("function"),
        fields.optional_text("file") or "",
        fields.optional_integer("line") or 0,
    )


def _collector(fields: Fields) -> Collector:
    return Collector(
        percent=fields.integer("gc_percent"),
        memory_limit_bytes=fields.optional_integer("memory_limit_bytes"),
        collections=fields.integer("collections"),
        live_bytes=fields.integer("live_bytes"),
    )


def _change(fields: Fields) -> Change:
    return Change(
        fields.integer("growth_count"),
        fields.integer("growth_bytes"),
        fields.number("growth_bytes_per_s"),
    )
