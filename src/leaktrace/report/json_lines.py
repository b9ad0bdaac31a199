"""JSON for programs: one object per line, `leaktrace/report/1` and `leaktrace/event/1`.

The contract is `docs/json.md` with the schemas in `docs/schema/`: within version 1 fields are only
ever added. Names from the traced process are printable and valid UTF-8 (leaktrace/printable.py),
so `jq -r` shows them safely and strict parsers accept them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC
from typing import Any, ClassVar

from leaktrace.memory import MemoryKinds, ResidentMemory, SlabGrowth
from leaktrace.model import (
    Allocation,
    Cost,
    DescriptorInfo,
    Ending,
    Event,
    Frame,
    Loss,
    OpenDescriptor,
    PairInfo,
    ProcessLine,
    Remark,
    Report,
    Site,
    Suppressed,
    TargetInfo,
    Total,
)
from leaktrace.printable import printable
from leaktrace.report.explained import explained_object
from leaktrace.report.lifetimes import lifetimes_as_json
from leaktrace.report.reach import reach_object, share_object
from leaktrace.report.regions_json import in_memory_object, regions_apart
from leaktrace.report.reporter import Reporter
from leaktrace.verdict import Verdict

REPORT_SCHEMA = "leaktrace/report/1"
EVENT_SCHEMA = "leaktrace/event/1"

Object = dict[str, Any]


class JsonReporter(Reporter):
    """--format json."""

    summary: ClassVar[str] = "one JSON object per line, for programs (docs/json.md)"

    def report(self, report: Report) -> None:
        self.write(json_line(report_object(report)))

    def events(self, events: Iterable[Event]) -> None:
        self.write("".join(json_line(event_object(event)) for event in events))


def json_line(value: Object) -> str:
    """One line of output."""
    # ASCII, so that it is valid JSON in any encoding of standard output.
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False) + "\n"


def report_object(report: Report) -> Object:
    """The JSON object of a report (schema `leaktrace/report/1`)."""
    shown: Object = {
        "schema": REPORT_SCHEMA,
        "time": f"{report.time.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "elapsed_s": round(report.elapsed_s, 3),
        "number": report.number,
        "final": report.final,
        "reason": printable(report.reason),
        "ending": _ending(report.ending),
        "target": _target(report.target),
        "measure": report.measure.value,
        "estimate": report.is_estimate,
        "sample_rate": report.sample_rate,
        "sample_bytes": report.sample_bytes,
        "error": None if report.error is None else _total(report.error),
        "combined": report.combined,
        "outstanding": _total(report.outstanding),
        "growth_bytes": report.growth_bytes,
        "older_ms": report.older_ms,
        "younger": _total(report.younger),
        "resident": None if report.resident is None else _resident(report.resident),
        "verdict": _verdict(report.verdict),
        "explained": None if report.explained is None else explained_object(report.explained),
        "suppressed": _suppressed(report.suppressed),
        "cost": None if report.cost is None else cost_object(report.cost),
        "losses": _losses(report.losses),
        "remarks": [_remark(remark) for remark in report.remarks],
        "stack_ends": {end.value: count for end, count in report.stack_ends.items()},
        "site_count": report.site_count,
        "top": report.top,
        "sort": report.sort,
        "sites": [_site(site) for site in report.sites],
    }
    shown |= regions_apart(report, _site)
    if report.reach is not None:
        shown["reach"] = reach_object(report.reach)
        shown["lost_then_freed"] = report.reach.lost_then_freed
    if report.allocations is not None:
        shown["allocations"] = [_allocation(allocation) for allocation in report.allocations]
    if report.processes:
        shown["processes"] = [_process(line) for line in report.processes]
    if report.by_process:
        shown["by_process"] = [
            {"pid": part.target.pid, **_part(part)} for part in report.by_process
        ]
    is_section = report.pair is not None or report.descriptors is not None
    if is_section:
        shown["section"] = printable(report.section or "")
        shown = _as_section(shown, report)
    if report.other_memory:
        shown["other_memory"] = [
            {"backing": one.backing, "name": one.section, **_part(one)}
            for one in report.other_memory
        ]
    if is_section or (report.sections and report.target.kind != "kernel"):
        shown["sections"] = [
            {"section": printable(section.section or ""), **_part(section)}
            for section in report.sections
        ]
    if report.target.kind == "kernel":
        shown["section"] = report.section
        shown["sections"] = [
            {"section": section.section, **_part(section)} for section in report.sections
        ]
        shown["slab"] = None if report.slab is None else _slab(report.slab)
        shown["untraced"] = [
            {"section": one.section, "option": one.option, "grown_bytes": one.bytes}
            for one in report.untraced
        ]
    return shown


def _part(report: Report) -> Object:
    """Another allocator of the kernel, a pair of functions, or one of several processes: the fields
    that differ from the main report."""
    shown: Object = {
        "outstanding": _total(report.outstanding),
        "growth_bytes": report.growth_bytes,
        "verdict": _verdict(report.verdict),
        "suppressed": _suppressed(report.suppressed),
        "younger": _total(report.younger),
        "stack_ends": {end.value: count for end, count in report.stack_ends.items()},
        "site_count": report.site_count,
        "sites": [_site(site) for site in report.sites],
    }
    shown |= regions_apart(report, _site)
    if report.allocations is not None:
        shown["allocations"] = [_allocation(allocation) for allocation in report.allocations]
    return _as_section(shown, report)


def _as_section(shown: Object, report: Report) -> Object:
    """With what only sections about a pair of functions or about file descriptors have."""
    if report.pair is not None:
        shown["pair"] = _pair(report.pair)
    if report.descriptors is not None:
        shown["descriptors"] = _descriptors(report.descriptors)
    return _counted(shown) if report.is_counted else shown


def _descriptors(info: DescriptorInfo) -> Object:
    return {
        "processes": [
            {
                "pid": one.pid,
                "open": one.open_count,
                "limit": one.limit,
                "near_limit": one.is_near_limit,
                "older": one.older,
                "unexplained": one.unexplained,
            }
            for one in info.use
        ],
        "unseen_closes": info.unseen_closes,
    }


def _example(one: OpenDescriptor) -> Object:
    shown: Object = {
        "fd": one.number,
        "kind": one.kind,
        "age_ms": _milliseconds(one.age_ns),
        "target": _name(one.target),
    }
    if one.pid is not None:
        shown["pid"] = one.pid
    return shown


def _process(line: ProcessLine) -> Object:
    return {
        "pid": line.pid,
        "parent_pid": line.parent_pid,
        "command": printable(line.command),
        "outstanding": _total(line.outstanding),
        "growth_bytes": line.growth_bytes,
        "resident": None if line.resident is None else _resident(line.resident),
        "site_count": line.site_count,
        "traced_s": round(line.traced_s, 3),
        "started_under_trace": line.started_under_trace,
        "has_ended": line.has_ended,
        "ending": _ending(line.ending),
    }


def _ending(ending: Ending | None) -> Object | None:
    if ending is None:
        return None
    return {
        "status": ending.status,
        "signal": ending.signal,
        "oom_killed": ending.by_oom_killer,
    }


def _pair(pair: PairInfo) -> Object:
    return {
        "allocate": printable(pair.allocate),
        "release": printable(pair.release),
        "objects": [printable(one) for one in pair.objects],
        "sized": pair.is_sized,
        "other_releases": pair.other_releases,
        "returned_again": pair.returned_again,
    }


_SIZES = ("bytes", "growth_bytes", "allocated_bytes", "freed_bytes")


def _counted(shown: Object) -> Object:
    """The figures of objects without sizes: no bytes, and growth as a count."""
    plain: Object = {}
    for key, value in shown.items():
        if key in ("outstanding", "younger"):
            plain[key] = {**value, "bytes": None}
        elif key in ("sites", "allocations", "processes"):
            plain[key] = [_counted(one) for one in value]
        elif key == "suppressed" and value is not None:
            patterns = [{**one, "bytes": None} for one in value["patterns"]]
            plain[key] = {**value, "bytes": None, "patterns": patterns}
        elif key in _SIZES:
            plain[key] = None
            if key == "growth_bytes":
                plain["growth_count"] = value
        elif key == "verdict" and value is not None:
            plain[key] = {
                **value,
                "bytes_per_s": None,
                "error_bytes_per_s": None,
                "count_per_s": value["bytes_per_s"],
                "error_count_per_s": value["error_bytes_per_s"],
            }
        else:
            plain[key] = value
    return plain


def _verdict(verdict: Verdict | None) -> Object | None:
    if verdict is None:
        return None
    return {
        "kind": verdict.kind.value,
        "bytes_per_s": _rounded(verdict.bytes_per_s),
        "error_bytes_per_s": _rounded(verdict.error_bytes_per_s),
        "since_s": None if verdict.since_s is None else round(verdict.since_s, 3),
        "needs_s": None if verdict.needs_s is None else round(verdict.needs_s, 3),
        "reason": printable(verdict.reason),
        **({} if verdict.lost_count is None else _lost(verdict)),
    }


def _lost(verdict: Verdict) -> Object:
    return {"lost_bytes": verdict.lost_bytes, "lost_count": verdict.lost_count}


def _suppressed(suppressed: Suppressed | None) -> Object | None:
    if suppressed is None:
        return None
    return {
        "site_count": suppressed.site_count,
        **_total(suppressed.held),
        "patterns": [
            {"pattern": printable(one.pattern), "site_count": one.site_count, **_total(one.held)}
            for one in suppressed.patterns
        ],
    }


def _slab(slab: SlabGrowth) -> Object:
    return {
        "grown_bytes": slab.grown_bytes,
        "tracked_bytes": slab.tracked_bytes,
        "older_releases": slab.older_releases,
    }


def event_object(event: Event) -> Object:
    """The JSON object of an event (schema `leaktrace/event/1`)."""
    return {
        "schema": EVENT_SCHEMA,
        "time_ns": event.time_ns,
        "tid": event.tid,
        "kind": event.kind.value,
        "function": printable(event.function),
        "bytes": event.size_bytes,
        "address": f"{event.address:#x}",
        "frames": [_frame(frame) for frame in event.frames],
    }


def _target(target: TargetInfo) -> Object:
    shown: Object = {
        "kind": target.kind,
        "pid": target.pid,
        "command": printable(target.command),
        "allocators": [printable(allocator) for allocator in target.allocators],
        "notes": [printable(note) for note in target.notes],
    }
    if target.pids:
        shown["pids"] = list(target.pids)
    return shown


def _total(total: Total) -> Object:
    return {"bytes": total.bytes, "count": total.count}


def _resident(resident: ResidentMemory) -> Object:
    return {
        "bytes": resident.bytes,
        "growth_bytes": resident.growth_bytes,
        "since_attach_bytes": resident.since_attach_bytes,
        "kinds": None if resident.kinds is None else _memory_kinds(resident.kinds),
        "kinds_since_attach": (
            None if resident.since_attach is None else _memory_kinds(resident.since_attach)
        ),
        "at_exit": resident.is_at_exit,
    }


def _memory_kinds(kinds: MemoryKinds) -> Object:
    return {
        "anonymous_bytes": kinds.anonymous,
        "file_bytes": kinds.file,
        "shared_bytes": kinds.shared,
    }


def _remark(remark: Remark) -> Object:
    return {
        "kind": remark.kind.value,
        "text": printable(remark.text),
        "hint": printable(remark.hint),
    }


def cost_object(cost: Cost) -> Object:
    """What tracing costs."""
    return {
        "own_cpu_share": round(cost.own_cpu_share, 4),
        "own_resident_bytes": cost.own_resident_bytes,
        "events_per_s": _rounded(cost.events_per_s),
        "programs_s_per_s": _rounded(cost.programs_s_per_s),
        "traps_s_per_s": _rounded(cost.traps_s_per_s),
        "target_share": _rounded(cost.target_share),
        "known_stack_share": _rounded(cost.known_stack_share),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _losses(losses: Iterable[Loss]) -> Object:
    shown: Object = {}
    for loss in losses:
        shown[loss.name] = loss.count
        if loss.bytes is not None:
            # This name has no plural s: it is part of the schema.
            stem = "allocation" if loss.name == "allocations" else loss.name
            shown[f"{stem}_bytes"] = loss.bytes
    return shown


def _site(site: Site) -> Object:
    shown: Object = {
        "id": site.id,
        "bytes": site.bytes,
        "count": site.count,
        "growth_bytes": site.growth_bytes,
        "verdict": _verdict(site.verdict),
        "oldest_ms": _milliseconds(site.oldest_ns),
        "newest_ms": _milliseconds(site.newest_ns),
        "allocated_bytes": site.allocated_bytes,
        "allocated_count": site.allocated_count,
        "freed_bytes": site.freed_bytes,
        "freed_count": site.freed_count,
        "error": None if site.error is None else _total(site.error),
        "lifetimes": lifetimes_as_json(site.lifetimes),
        "freed_at": [
            {
                "count": one.count,
                "of_count": one.of_count,
                "frames": [_frame(frame) for frame in one.stack.frames],
            }
            for one in site.freed_at
        ],
        "stack_end": site.stack.end.value,
        "frames": [_frame(frame) for frame in site.stack.frames],
    }
    if site.regions is not None:
        shown |= {"is_region": site.is_region, **in_memory_object(site.regions)}
    if site.lost is not None:
        shown["lost"] = share_object(site.lost)
    if site.processes:
        shown["processes"] = [
            {"pid": share.pid, "bytes": share.bytes, "count": share.count}
            for share in site.processes
        ]
    if site.kinds:  # of file descriptors
        shown["kinds"] = dict(site.kinds)
        shown["examples"] = [_example(one) for one in site.examples]
    if site.context is not None:  # in the kernel
        shown |= {
            "requested_bytes": site.requested_bytes,
            "cache": _name(site.cache),
            "context": site.context,
            "unconfirmed": site.unconfirmed,
        }
    return shown


def _frame(frame: Frame) -> Object:
    shown: Object = {
        "address": f"{frame.address:#x}",
        "function": _name(frame.function),
        "offset": frame.offset,
        "module": _name(frame.module),
        "module_offset": None if frame.module_offset is None else f"{frame.module_offset:#x}",
        "build_id": _name(frame.build_id),
        "file": _name(frame.source.file) if frame.source else None,
        "line": frame.source.line if frame.source else None,
        "inlined": frame.inlined,
    }
    if frame.function is None:
        shown["unknown"] = printable(frame.unknown or "no name is known")
    return shown


def _allocation(allocation: Allocation) -> Object:
    shown: Object = {
        "address": f"{allocation.address:#x}",
        "bytes": allocation.size_bytes,
        "age_ms": _milliseconds(allocation.age_ns),
        "site": allocation.site_id,
    }
    if allocation.pid is not None:
        shown["pid"] = allocation.pid
    return shown


def _name(name: str | None) -> str | None:
    return None if name is None else printable(name)


def _milliseconds(time_ns: int | None) -> int | None:
    return None if time_ns is None else time_ns // 1_000_000
