"""The heap in the JSON of `leaktrace go`."""

from __future__ import annotations

from collections.abc import Sequence

from leaktrace.go_report import (
    Change,
    GoHeap,
    GoLine,
    GrownPart,
    HeapLook,
    RefillSection,
    SeenObjects,
    SizeKey,
    TypeKey,
)
from leaktrace.printable import printable
from leaktrace.report.json_sites import Object, verdict_object


def heap_object(heap: GoHeap, bias: int = 0) -> Object:
    """The value of `heap` (schema `leaktrace/go/1`). `bias`: what addresses in the process are more
    than in its file."""
    look = heap.look
    return {
        "verdict": verdict_object(heap.verdict),
        "grown_most": grown_object(heap.grown_most),
        **totals_object(look),
        "gc_count_since": heap.collections_since,
        "live_growth_bytes": heap.live_change_bytes,
        **_growth(heap.change),
        "size_count": heap.size_count,
        "sizes": [
            {**size_object(one.key), **objects_object(one.now), **_growth(one.change)}
            for one in heap.sizes
        ],
        "types": _types(heap),
        "profile": _profile(heap, bias),
        "profile_problem": printable(look.profile_problem),
        "refills": _refills(heap.refills, bias),
        "skipped_span_count": look.skipped_span_count,
        "moved_bytes": look.moved_bytes,
        "look_s": round(look.took_s, 3),
    }


def totals_object(look: HeapLook) -> Object:
    """A heap as a whole."""
    collector = look.collector
    return {
        "gc_percent": collector.percent,
        "memory_limit_bytes": collector.memory_limit_bytes,
        "gc_count": collector.collections,
        "live_bytes": collector.live_bytes,
        "in_use_bytes": look.in_use_bytes,
        "object_count": look.object_count,
        "spans_bytes": look.spans_bytes,
        "idle_bytes": look.idle_bytes,
        "released_bytes": look.released_bytes,
        "stacks_bytes": look.stacks_bytes,
        "allocated_bytes": look.allocated_bytes,
        "resident_bytes": look.resident_bytes,
    }


def size_object(key: SizeKey) -> Object:
    """Which size of objects it is."""
    return {
        "object_bytes": key.object_bytes,
        "has_pointers": key.has_pointers,
        "is_large": key.is_large,
    }


def type_object(key: TypeKey) -> Object:
    """Which type of objects it is."""
    return {"name": printable(key.name), "type_bytes": key.size_bytes}


def _types(heap: GoHeap) -> Object | None:
    types = heap.look.types
    if types is None:
        return None
    return {
        "type_count": heap.type_count,
        "largest": [
            {**type_object(one.key), **objects_object(one.now), **_growth(one.change)}
            for one in heap.types
        ],
        "unknown": objects_object(types.unknown),
        "not_read_count": types.not_read_count,
    }


def _profile(heap: GoHeap, bias: int) -> Object | None:
    profile = heap.look.profile
    if profile is None:
        return None
    return {
        "rate_bytes": profile.rate_bytes,
        "record_count": profile.record_count,
        "skipped_count": profile.skipped_count,
        "in_use_count": sum(one.in_use_count for one in profile.sites.values()),
        "in_use_bytes": sum(one.in_use_bytes for one in profile.sites.values()),
        "site_count": heap.site_count,
        "sites": [
            {
                "in_use_count": one.now.in_use_count,
                "in_use_bytes": one.now.in_use_bytes,
                "allocated_count": one.now.allocated_count,
                "allocated_bytes": one.now.allocated_bytes,
                **_growth(one.change),
                "object_sizes": [
                    {
                        "object_bytes": part.size_bytes,
                        "in_use_count": part.in_use_count,
                        "in_use_bytes": part.in_use_bytes,
                        "allocated_count": part.allocated_count,
                        "allocated_bytes": part.allocated_bytes,
                    }
                    for part in one.now.sizes
                ],
                "frames": frames_of(one.frames, bias),
            }
            for one in heap.sites
        ],
    }


def _refills(section: RefillSection | None, bias: int) -> Object | None:
    if section is None:
        return None
    look = section.look
    return {
        "elapsed_s": round(look.elapsed_s, 3),
        "allocated_bytes": section.allocated_bytes,
        "allocated_bytes_per_s": round(section.bytes_per_s, 3),
        "runtime_allocated_bytes": look.runtime_bytes,
        "thinned_count": look.thinned_count,
        "unknown_count": look.unknown_count,
        "lost_count": look.lost_count,
        "lost_bytes": look.lost_bytes,
        "site_count": section.site_count,
        "sites": [
            {
                "source": "refills",
                "sample_count": one.now.seen_count,
                "allocated_count": one.now.allocated_count,
                "allocated_bytes": one.now.allocated_bytes,
                "allocated_bytes_per_s": round(one.bytes_per_s, 3),
                "recent_bytes_per_s": (
                    None if one.recent_bytes_per_s is None else round(one.recent_bytes_per_s, 3)
                ),
                "object_bytes": one.object_bytes or None,
                "is_large": one.object_bytes == 0,
                "is_complete": one.is_complete,
                "frames": frames_of(one.frames, bias),
            }
            for one in section.sites
        ],
    }


def frames_of(frames: Sequence[GoLine], bias: int) -> list[Object]:
    """A stack, the innermost function first."""
    return [_frame(line, line.address - bias if line.address else 0) for line in frames]


def _frame(line: GoLine, at: int) -> Object:
    return {
        **place_of(line),
        "inlined": line.is_inlined,
        "offset": at - line.start if 0 < line.start <= at else None,
        "module_offset": f"{at:#x}" if at > 0 else None,
        "wrapper": line.is_wrapper,
    }


def grown_object(most: GrownPart | None) -> Object | None:
    """The value of `grown_most`."""
    if most is None:
        return None
    return {
        **_growth(most.change),
        "allocated_at": None if most.allocated_at is None else place_of(most.allocated_at),
        "type": printable(most.type_name) or None,
        "object_bytes": most.object_bytes,
    }


def place_of(line: GoLine) -> Object:
    """A function, and where in the source."""
    known = bool(line.file)
    return {
        "function": printable(line.function),
        "file": printable(line.file) if known else None,
        "line": line.line if known else None,
    }


def objects_object(seen: SeenObjects) -> Object:
    """Objects in one look."""
    return {"count": seen.count, "bytes": seen.size_bytes}


def _growth(change: Change | None) -> Object:
    if change is None:
        return {"growth_count": None, "growth_bytes": None, "growth_bytes_per_s": None}
    return {
        "growth_count": change.count,
        "growth_bytes": change.size_bytes,
        "growth_bytes_per_s": round(change.bytes_per_s, 3),
    }
