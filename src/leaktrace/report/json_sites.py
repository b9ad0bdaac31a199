"""A site as JSON: its figures, its verdict, its stack."""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest
from typing import Any

from leaktrace.printable import printable
from leaktrace.report.contents import contents_object
from leaktrace.report.holders import holder_objects
from leaktrace.report.idle import idle_share_object
from leaktrace.report.lifetimes import lifetimes_as_json
from leaktrace.report.reach import share_object
from leaktrace.report.regions_json import in_memory_object
from leaktrace.site import Frame, OpenDescriptor, Site, Stack, Total
from leaktrace.verdict import Verdict

Object = dict[str, Any]


def stack_object(stack: Stack) -> Object:
    """The fields of a site that are its stack."""
    return {
        "stack_end": stack.end.value,
        "frames": [frame_object(frame) for frame in stack.frames],
    }


def site_object(site: Site, of_stack: Callable[[Stack], Object] = stack_object) -> Object:
    """A site. `of_stack` returns the fields that say its stack."""
    shown: Object = {
        "id": site.id,
        "bytes": site.bytes,
        "count": site.count,
        "growth_bytes": site.growth_bytes,
        "verdict": verdict_object(site.verdict),
        "oldest_ms": milliseconds(site.oldest_ns),
        "newest_ms": milliseconds(site.newest_ns),
        "allocated_bytes": site.allocated_bytes,
        "allocated_count": site.allocated_count,
        "freed_bytes": site.freed_bytes,
        "freed_count": site.freed_count,
        "error": None if site.error is None else total_object(site.error),
        "lifetimes": lifetimes_as_json(site.lifetimes),
        "freed_at": [
            {
                "count": one.count,
                "of_count": one.of_count,
                **_without_end(of_stack(one.stack)),
            }
            for one in site.freed_at
        ],
        **of_stack(site.stack),
    }
    if site.regions is not None:
        shown |= {"is_region": site.is_region, **in_memory_object(site.regions)}
        shown["region_count"] = site.regions.count
        if site.regions.age_ns:
            shown["region_age_ms"] = milliseconds(site.regions.age_ns)
    if site.sizes:
        shown["sizes"] = _sizes(site)
    if site.lost is not None:
        shown["lost"] = share_object(site.lost)
    if site.holders:
        shown["holders"] = holder_objects(site.holders)
    if site.contents is not None:
        shown["contents"] = contents_object(site.contents)
    if site.idle is not None:
        shown["idle"] = idle_share_object(site.idle)
    if site.processes:
        shown["processes"] = [
            {"pid": share.pid, "bytes": share.bytes, "count": share.count}
            for share in site.processes
        ]
    if site.kinds:  # of file descriptors
        shown["kinds"] = dict(site.kinds)
        shown["examples"] = [example_object(one) for one in site.examples]
    if site.context is not None:  # in the kernel
        shown |= {"requested_bytes": site.requested_bytes, **kernel_fields(site, site.unconfirmed)}
    return shown


def kernel_fields(site: Site, unconfirmed: str | None) -> Object:
    """What tells sites in the kernel apart that share a stack, and a doubt."""
    return {"cache": name(site.cache), "context": site.context, "unconfirmed": unconfirmed}


def _sizes(site: Site) -> Object:
    """The histogram without its empty parts."""
    each = zip_longest(site.sizes, site.size_bytes, fillvalue=0)
    filled = [(bits, *one) for bits, one in enumerate(each) if any(one)]
    shown: Object = {
        "below_bytes": [1 << bits for bits, _, _ in filled],
        "counts": [count for _, count, _ in filled],
    }
    if site.size_bytes:
        shown["bytes"] = [size for _, _, size in filled]
    return shown


def _without_end(stack: Object) -> Object:
    return {key: value for key, value in stack.items() if key != "stack_end"}


def verdict_object(verdict: Verdict | None) -> Object | None:
    """A verdict, on a site or on all."""
    if verdict is None:
        return None
    return {
        "kind": verdict.kind.value,
        "bytes_per_s": rounded(verdict.bytes_per_s),
        "error_bytes_per_s": rounded(verdict.error_bytes_per_s),
        "since_s": None if verdict.since_s is None else round(verdict.since_s, 3),
        "needs_s": None if verdict.needs_s is None else round(verdict.needs_s, 3),
        "reason": printable(verdict.reason),
        **({} if verdict.lost_count is None else _lost(verdict)),
    }


def _lost(verdict: Verdict) -> Object:
    return {"lost_bytes": verdict.lost_bytes, "lost_count": verdict.lost_count}


def frame_object(frame: Frame) -> Object:
    """A frame of its stack."""
    shown: Object = {
        "address": f"{frame.address:#x}",
        "function": name(frame.function),
        "offset": frame.offset,
        "module": name(frame.module),
        "module_offset": None if frame.module_offset is None else f"{frame.module_offset:#x}",
        "build_id": name(frame.build_id),
        "file": name(frame.source.file) if frame.source else None,
        "line": frame.source.line if frame.source else None,
        "inlined": frame.inlined,
    }
    if frame.function is None:
        shown["unknown"] = printable(frame.unknown or "no name is known")
    return shown


def example_object(one: OpenDescriptor) -> Object:
    """A file descriptor that is open."""
    shown: Object = {
        "fd": one.number,
        "kind": one.kind,
        "age_ms": milliseconds(one.age_ns),
        "target": name(one.target),
    }
    if one.pid is not None:
        shown["pid"] = one.pid
    return shown


def total_object(total: Total) -> Object:
    """Bytes and number."""
    return {"bytes": total.bytes, "count": total.count}


def name(name: str | None) -> str | None:
    """A name of the target, without control characters."""
    return None if name is None else printable(name)


def milliseconds(time_ns: int | None) -> int | None:
    """Whole ones."""
    return None if time_ns is None else time_ns // 1_000_000


def rounded(value: float | None) -> float | None:
    """Four digits are enough."""
    return None if value is None else round(value, 4)
