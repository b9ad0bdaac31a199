"""Reports from their JSON objects: the other way of report/json_lines.py.

What a report of `--format json` says in JSON, the value says again, so that every format can show
it. Nothing is assumed about who wrote the object.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from leaktrace.contents import ContentsInfo
from leaktrace.idle import IdleInfo
from leaktrace.memory import (
    Backing,
    Explained,
    HugePages,
    MemoryKinds,
    ResidentMemory,
    SlabGrowth,
    UntracedGrowth,
)
from leaktrace.model import (
    Cost,
    DescriptorInfo,
    DescriptorUse,
    Ending,
    Loss,
    Measure,
    PairInfo,
    ProcessLine,
    Remark,
    RemarkKind,
    Report,
    Suppressed,
    SuppressedByPattern,
    TargetInfo,
    ThreadStacks,
)
from leaktrace.reach import ReachInfo
from leaktrace.recording.fields import Fields, MalformedError
from leaktrace.recording.go_values import go_from
from leaktrace.recording.older_values import older_from
from leaktrace.recording.site_values import (
    allocation_from,
    lost_from,
    regions_from,
    site_from,
    total_from,
    verdict_from,
)
from leaktrace.site import Site, StackEnd, Total

OfSite = Callable[[Fields], Site]

# Times that datetime still has in every time zone, and a while before and after.
_FIRST_YEAR, _LAST_YEAR = 1970, 9998


def report_from(value: object, of_site: OfSite = site_from) -> Report:
    """The report that a JSON object (schema `leaktrace/report/1`) is. `of_site` makes a site of its
    object. Raises MalformedError."""
    fields = Fields(value, "the report")
    target = _target(fields.inner("target"))
    main = Report(
        time=time_from(fields),
        elapsed_s=fields.number("elapsed_s"),
        number=fields.integer("number"),
        final=fields.flag("final"),
        reason=fields.text("reason", ""),
        target=target,
        outstanding=Total(),
        younger=Total(),
        older_ms=fields.integer("older_ms"),
        site_count=0,
        sites=(),
        top=fields.integer("top"),
        full_stacks=fields.flag("full_stacks", default=False),
        depth=fields.optional_integer("depth"),
        combined=fields.flag("combined"),
        sort=fields.text("sort"),
        sample_rate=fields.integer("sample_rate"),
        sample_bytes=fields.optional_integer("sample_bytes"),
        measure=fields.word("measure", Measure),
    )
    report = replace(
        _filled(main, fields, of_site),
        resident=fields.optional("resident", _resident),
        losses=_losses(fields),
        remarks=tuple(_remark(one) for one in fields.objects("remarks")),
        error=fields.optional("error", total_from),
        cost=fields.optional("cost", _cost),
        explained=fields.optional("explained", _explained),
        ending=fields.optional("ending", _ending),
        reach=fields.optional("reach", _reach),
        contents=fields.optional("contents", lambda one: ContentsInfo(one.texts("problems"))),
        idle=fields.optional("idle", _idle),
        go=tuple(go_from(one) for one in fields.objects("go")),
        older_blocks=tuple(older_from(one) for one in fields.objects("older_blocks")),
        processes=tuple(_process(one) for one in fields.objects("processes")),
        slab=fields.optional("slab", _slab),
        untraced=tuple(
            UntracedGrowth(one.text("section"), one.text("option"), one.integer("grown_bytes"))
            for one in fields.objects("untraced")
        ),
    )
    lines = {line.pid: line for line in report.processes}
    return replace(
        report,
        by_process=tuple(
            _of_process(_filled(main, one, of_site), one.integer("pid"), lines)
            for one in fields.objects("by_process")
        ),
        sections=tuple(_filled(main, one, of_site) for one in fields.objects("sections")),
        other_memory=tuple(
            replace(
                _filled(main, one, of_site),
                section=one.text("name"),
                backing=one.word("backing", Backing),
            )
            for one in fields.objects("other_memory")
        ),
    )


def time_from(fields: Fields) -> datetime:
    """When something was written, UTC. It can be shown in any time zone. Raises MalformedError."""
    try:
        time = datetime.fromisoformat(fields.text("time").replace("Z", "+00:00"))
        time = (time if time.tzinfo is not None else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise MalformedError("the time is none") from None
    if not _FIRST_YEAR <= time.year <= _LAST_YEAR:
        raise MalformedError(f"the time is not in the years {_FIRST_YEAR} to {_LAST_YEAR}")
    return time


def _filled(report: Report, fields: Fields, of_site: OfSite) -> Report:
    """The report with what sections have, too."""
    regions = fields.optional("regions", regions_from)
    return replace(
        report,
        outstanding=total_from(fields.inner("outstanding")),
        younger=total_from(fields.inner("younger")),
        growth_bytes=fields.optional_integer(
            "growth_count" if "growth_count" in fields else "growth_bytes"
        ),
        verdict=fields.optional("verdict", verdict_from),
        leaking=tuple(verdict_from(one) for one in fields.objects("leaking")),
        suppressed=fields.optional("suppressed", _suppressed),
        stack_ends=_stack_ends(fields),
        site_count=fields.integer("site_count"),
        sites=tuple(of_site(one) for one in fields.objects("sites")),
        allocations=(
            None
            if fields.is_null("allocations")
            else tuple(allocation_from(one) for one in fields.objects("allocations"))
        ),
        error=fields.optional("error", total_from),
        explained=fields.optional("explained", _explained),
        regions=regions,
        other_regions=fields.optional("other_regions", regions_from),
        thread_stacks=fields.optional("thread_stacks", lambda one: _thread_stacks(one, of_site)),
        section=fields.optional_text("section"),
        pair=fields.optional("pair", _pair),
        descriptors=fields.optional("descriptors", _descriptors),
    )


def _of_process(part: Report, pid: int, lines: dict[int, ProcessLine]) -> Report:
    """The report about one of several processes."""
    line = lines.get(pid)
    if line is None:
        raise MalformedError(f"process {pid} is not among the processes")
    return replace(
        part,
        target=TargetInfo(pid, line.command),
        elapsed_s=line.traced_s,
        resident=line.resident,
        ending=line.ending,
    )


def _target(fields: Fields) -> TargetInfo:
    return TargetInfo(
        fields.integer("pid"),
        fields.text("command"),
        fields.text("kind"),
        fields.texts("allocators"),
        fields.texts("notes"),
        fields.text("stopped", ""),
        fields.integers("pids"),
    )


def _stack_ends(fields: Fields) -> dict[StackEnd, int]:
    known = set(StackEnd)
    return {
        StackEnd(end): count for end, count in fields.counts("stack_ends").items() if end in known
    }


def _losses(fields: Fields) -> tuple[Loss, ...]:
    counts = fields.counts("losses")
    details = {one.text("name"): one for one in fields.objects("loss_details")}
    losses = []
    for name, count in counts.items():
        if name.endswith("_bytes") and _counted_by(name.removesuffix("_bytes"), counts):
            continue
        stem = "allocation" if name == "allocations" else name
        detail = details.get(name)
        losses.append(
            Loss(
                name,
                count,
                detail.text("meaning") if detail else name.replace("_", " "),
                detail.text("hint", "") if detail else "",
                counts.get(f"{stem}_bytes"),
                detail.flag("is_lost", default=True) if detail else True,
            )
        )
    return tuple(losses)


def _counted_by(stem: str, counts: dict[str, Any]) -> bool:
    return stem in counts or (stem == "allocation" and "allocations" in counts)


def _remark(fields: Fields) -> Remark:
    return Remark(fields.word("kind", RemarkKind), fields.text("text"), fields.text("hint", ""))


def _cost(fields: Fields) -> Cost:
    return Cost(
        fields.number("own_cpu_share"),
        fields.integer("own_resident_bytes"),
        fields.optional_number("events_per_s"),
        fields.optional_number("programs_s_per_s"),
        fields.optional_number("traps_s_per_s"),
        fields.optional_number("target_share"),
        fields.optional_number("known_stack_share"),
    )


def _resident(fields: Fields) -> ResidentMemory:
    return ResidentMemory(
        fields.integer("bytes"),
        fields.optional_integer("growth_bytes"),
        fields.optional("kinds", _kinds),
        fields.optional("kinds_since_attach", _kinds),
        fields.flag("at_exit", default=False),
    )


def _kinds(fields: Fields) -> MemoryKinds:
    return MemoryKinds(
        fields.integer("anonymous_bytes"),
        fields.integer("file_bytes"),
        fields.integer("shared_bytes"),
    )


def _explained(fields: Fields) -> Explained:
    huge = fields.optional_integer("huge_page_bytes")
    return Explained(
        fields.integer("resident_growth_bytes"),
        fields.integer("outstanding_bytes"),
        fields.integer("outstanding_held_bytes"),
        fields.integer("other_memory_bytes"),
        fields.integer("unexplained_bytes"),
        fields.integer("allocator_free_at_most_bytes"),
        MemoryKinds(
            file=fields.integer("file_growth_bytes"), shared=fields.integer("shared_growth_bytes")
        ),
        fields.integer("not_resident_growth_bytes"),
        fields.integer("new_threads"),
        None if huge is None else HugePages(huge, fields.integer("lazily_freed_bytes")),
        fields.flag("is_all", default=False),
    )


def _ending(fields: Fields) -> Ending:
    return Ending(
        fields.optional_integer("status"),
        fields.optional_integer("signal"),
        fields.flag("oom_killed", default=False),
    )


def _reach(fields: Fields) -> ReachInfo:
    pause_ms = fields.optional_number("pause_ms")
    return ReachInfo(
        lost_from(fields.inner("lost")),
        fields.integer("called_lost"),
        fields.integer("lost_then_freed"),
        fields.number("age_s"),
        fields.integer("passes"),
        fields.integer("read_bytes"),
        fields.integer("unread_bytes"),
        fields.number("took_s"),
        None if pause_ms is None else pause_ms / 1000,
        fields.flag("heap_is_known", default=False),
        fields.texts("problems"),
        fields.integer("late_unread_count", 0),
        fields.integer("late_unread_bytes", 0),
        fields.integer("unkept_words", 0),
    )


def _idle(fields: Fields) -> IdleInfo:
    return IdleInfo(
        fields.number("for_s"),
        fields.integer("watched_pages"),
        fields.integer("known_pages"),
        fields.integer("idle_pages"),
        fields.number("watched_s"),
        fields.number("age_s"),
        fields.texts("problems"),
    )


def _suppressed(fields: Fields) -> Suppressed:
    return Suppressed(
        tuple(
            SuppressedByPattern(one.text("pattern"), one.integer("site_count"), total_from(one))
            for one in fields.objects("patterns")
        )
    )


def _process(fields: Fields) -> ProcessLine:
    return ProcessLine(
        fields.integer("pid"),
        fields.optional_integer("parent_pid"),
        fields.text("command"),
        total_from(fields.inner("outstanding")),
        fields.optional_integer("growth_count" if "growth_count" in fields else "growth_bytes"),
        fields.optional("resident", _resident),
        fields.integer("site_count"),
        fields.number("traced_s"),
        fields.optional("ending", _ending),
        fields.flag("has_ended"),
        fields.flag("started_under_trace", default=False),
    )


def _pair(fields: Fields) -> PairInfo:
    return PairInfo(
        fields.text("allocate"),
        fields.text("release"),
        fields.texts("objects"),
        fields.flag("sized"),
        fields.integer("other_releases"),
        fields.integer("returned_again"),
    )


def _descriptors(fields: Fields) -> DescriptorInfo:
    return DescriptorInfo(
        tuple(
            DescriptorUse(
                one.integer("pid"),
                one.integer("open"),
                one.optional_integer("limit"),
                one.integer("older"),
                one.integer("unexplained"),
                one.flag("has_executed", default=False),
            )
            for one in fields.objects("processes")
        ),
        fields.integer("unseen_closes"),
    )


def _slab(fields: Fields) -> SlabGrowth:
    return SlabGrowth(
        fields.integer("grown_bytes"),
        fields.integer("tracked_bytes"),
        fields.integer("older_releases"),
    )


def _thread_stacks(fields: Fields, of_site: OfSite) -> ThreadStacks:
    return ThreadStacks(
        regions_from(fields),
        tuple(of_site(one) for one in fields.objects("sites")),
        fields.integer("site_count"),
        fields.optional_integer("each_bytes"),
        fields.optional_integer("idle_count"),
        fields.integer("idle_bytes", 0),
        fields.flag("is_detailed", default=False),
    )
