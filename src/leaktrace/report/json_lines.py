"""JSON for programs: one object per line, `leaktrace/report/1` and `leaktrace/event/1`.

The contract is `docs/json.md` with the schemas in `docs/schema/`: within version 1 fields are only
ever added. Names from the traced process are printable and valid UTF-8 (leaktrace/printable.py),
so `jq -r` shows them safely and strict parsers accept them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import ClassVar

from leaktrace.memory import MemoryKinds, ResidentMemory, SlabGrowth
from leaktrace.model import (
    Cost,
    DescriptorInfo,
    Ending,
    Event,
    Loss,
    PairInfo,
    ProcessLine,
    Remark,
    Report,
    Suppressed,
    TargetInfo,
)
from leaktrace.printable import printable
from leaktrace.report.contents import contents_info_object
from leaktrace.report.explained import explained_object
from leaktrace.report.go_summary import go_objects
from leaktrace.report.idle import idle_object
from leaktrace.report.json_sites import (
    Object,
    frame_object,
    milliseconds,
    rounded,
    site_object,
    total_object,
    verdict_object,
)
from leaktrace.report.moment_json import in_utc, missing_object, target_object
from leaktrace.report.older import older_objects
from leaktrace.report.reach import reach_object
from leaktrace.report.regions_json import regions_apart
from leaktrace.report.reporter import Reporter
from leaktrace.site import Allocation, Site

REPORT_SCHEMA = "leaktrace/report/1"
EVENT_SCHEMA = "leaktrace/event/1"

OfSite = Callable[[Site], Object]


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


def report_object(report: Report, of_site: OfSite = site_object) -> Object:
    """The JSON object of a report (schema `leaktrace/report/1`). `of_site` returns that of a
    site."""
    shown: Object = {
        "schema": REPORT_SCHEMA,
        "time": in_utc(report.time),
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
        "error": None if report.error is None else total_object(report.error),
        "combined": report.combined,
        "outstanding": total_object(report.outstanding),
        "growth_bytes": report.growth_bytes,
        "older_ms": report.older_ms,
        "younger": total_object(report.younger),
        "resident": None if report.resident is None else _resident(report.resident),
        "verdict": verdict_object(report.verdict),
        "explained": None if report.explained is None else explained_object(report.explained),
        "suppressed": _suppressed(report.suppressed),
        "cost": None if report.cost is None else cost_object(report.cost),
        "losses": _losses(report.losses),
        "remarks": [_remark(remark) for remark in report.remarks],
        "stack_ends": {end.value: count for end, count in report.stack_ends.items()},
        "site_count": report.site_count,
        "top": report.top,
        "sort": report.sort,
        "sites": [of_site(site) for site in report.sites],
    }
    shown |= regions_apart(report, of_site)
    if report.full_stacks:
        shown["full_stacks"] = True
    if report.depth is not None:
        shown["depth"] = report.depth
    shown |= _loss_details(report.losses) | _leaking(report) | missing_object(report)
    if report.reach is not None:
        shown["reach"] = reach_object(report.reach)
        shown["lost_then_freed"] = report.reach.lost_then_freed
    if report.go:
        shown["go"] = go_objects(report)
    if report.older_blocks:
        shown["older_blocks"] = older_objects(report)
    if report.contents is not None:
        shown["contents"] = contents_info_object(report.contents)
    if report.idle is not None:
        shown["idle"] = idle_object(report.idle)
    if report.allocations is not None:
        shown["allocations"] = [_allocation(allocation) for allocation in report.allocations]
    if report.processes:
        shown["processes"] = [_process(line) for line in report.processes]
    if report.by_process:
        shown["by_process"] = [
            {"pid": part.target.pid, **_part(part, of_site)} for part in report.by_process
        ]
    is_section = report.pair is not None or report.descriptors is not None
    if is_section:
        shown["section"] = printable(report.section or "")
        shown = _as_section(shown, report)
    if report.other_memory:
        shown["other_memory"] = [
            {"backing": one.backing, "name": one.section, **_part(one, of_site)}
            for one in report.other_memory
        ]
    if is_section or (report.sections and report.target.kind != "kernel"):
        shown["sections"] = [
            {"section": printable(section.section or ""), **_part(section, of_site)}
            for section in report.sections
        ]
    if report.target.kind == "kernel":
        shown["section"] = report.section
        shown["sections"] = [
            {"section": section.section, **_part(section, of_site)} for section in report.sections
        ]
        shown["slab"] = None if report.slab is None else _slab(report.slab)
        shown["untraced"] = [
            {"section": one.section, "option": one.option, "grown_bytes": one.bytes}
            for one in report.untraced
        ]
    return shown


def _part(report: Report, of_site: OfSite) -> Object:
    """Another allocator of the kernel, a pair of functions, or one of several processes: the fields
    that differ from the main report."""
    shown: Object = {
        "outstanding": total_object(report.outstanding),
        "growth_bytes": report.growth_bytes,
        "verdict": verdict_object(report.verdict),
        "suppressed": _suppressed(report.suppressed),
        "younger": total_object(report.younger),
        "stack_ends": {end.value: count for end, count in report.stack_ends.items()},
        "site_count": report.site_count,
        "sites": [of_site(site) for site in report.sites],
    }
    shown |= regions_apart(report, of_site)
    if report.allocations is not None:
        shown["allocations"] = [_allocation(allocation) for allocation in report.allocations]
    if report.explained is not None:  # of one of several processes
        shown["explained"] = explained_object(report.explained)
    if report.error is not None:
        shown["error"] = total_object(report.error)
    return _as_section(shown | _leaking(report), report)


def _leaking(report: Report) -> Object:
    """The verdicts on all sites that leak, also on those that are not in `sites`."""
    leaking = [verdict_object(one) for one in report.leaking]
    return {"leaking": leaking} if leaking else {}


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
                **({"has_executed": True} if one.has_executed else {}),
            }
            for one in info.use
        ],
        "unseen_closes": info.unseen_closes,
    }


def _process(line: ProcessLine) -> Object:
    return {
        "pid": line.pid,
        "parent_pid": line.parent_pid,
        "command": printable(line.command),
        "outstanding": total_object(line.outstanding),
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
        elif key == "sizes":
            continue
        elif key in _SIZES:
            plain[key] = None
            if key == "growth_bytes":
                plain["growth_count"] = value
        elif key == "verdict" and value is not None:
            plain[key] = _counted_verdict(value)
        elif key == "leaking":
            plain[key] = [_counted_verdict(one) for one in value]
        else:
            plain[key] = value
    return plain


def _counted_verdict(verdict: Object) -> Object:
    return {
        **verdict,
        "bytes_per_s": None,
        "error_bytes_per_s": None,
        "count_per_s": verdict["bytes_per_s"],
        "error_count_per_s": verdict["error_bytes_per_s"],
    }


def _suppressed(suppressed: Suppressed | None) -> Object | None:
    if suppressed is None:
        return None
    return {
        "site_count": suppressed.site_count,
        **total_object(suppressed.held),
        "patterns": [
            {
                "pattern": printable(one.pattern),
                "site_count": one.site_count,
                **total_object(one.held),
            }
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
        "frames": [frame_object(frame) for frame in event.frames],
    }


def _target(target: TargetInfo) -> Object:
    shown: Object = {
        **target_object(target),
        "allocators": [printable(allocator) for allocator in target.allocators],
        "notes": [printable(note) for note in target.notes],
    }
    if target.stopped:
        shown["stopped"] = printable(target.stopped)
    if target.pids:
        shown["pids"] = list(target.pids)
    return shown


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
        "events_per_s": rounded(cost.events_per_s),
        "programs_s_per_s": rounded(cost.programs_s_per_s),
        "traps_s_per_s": rounded(cost.traps_s_per_s),
        "target_share": rounded(cost.target_share),
        "known_stack_share": rounded(cost.known_stack_share),
    }


def _losses(losses: Iterable[Loss]) -> Object:
    shown: Object = {}
    for loss in losses:
        shown[loss.name] = loss.count
        if loss.bytes is not None:
            # This name has no plural s: it is part of the schema.
            stem = "allocation" if loss.name == "allocations" else loss.name
            shown[f"{stem}_bytes"] = loss.bytes
    return shown


def _loss_details(losses: Iterable[Loss]) -> Object:
    """In words, what was lost and what can be done about it."""
    details = [
        {
            "name": loss.name,
            "meaning": printable(loss.meaning),
            "hint": printable(loss.hint),
            "is_lost": loss.is_lost,
        }
        for loss in losses
        if loss.count
    ]
    return {"loss_details": details} if details else {}


def _allocation(allocation: Allocation) -> Object:
    shown: Object = {
        "address": f"{allocation.address:#x}",
        "bytes": allocation.size_bytes,
        "age_ms": milliseconds(allocation.age_ns),
        "site": allocation.site_id,
    }
    if allocation.pid is not None:
        shown["pid"] = allocation.pid
    return shown
