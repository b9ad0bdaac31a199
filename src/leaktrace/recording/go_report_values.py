"""Reports of `leaktrace go` from their JSON objects: the other way of report/go_json.py."""

from __future__ import annotations

from dataclasses import replace

from leaktrace.go_report import (
    Change,
    Collector,
    GoHeap,
    GoLine,
    GoReport,
    GoroutineGroup,
    GoroutineSection,
    GoVerdict,
    GroupGrowth,
    GroupKey,
    HeapLook,
    ProfileKey,
    ProfileLook,
    RefillLook,
    RefillSection,
    RefillSite,
    SeenObjects,
    SeenRefills,
    SeenSite,
    SiteFigures,
    SizedObjects,
    SizeFigures,
    SizeKey,
    Skip,
    TypeFigures,
    TypeKey,
    TypesLook,
)
from leaktrace.recording.fields import Fields
from leaktrace.recording.go_values import grown_part_from
from leaktrace.recording.report_values import time_from
from leaktrace.recording.site_values import verdict_from

_NO_STACK = ProfileKey(())


def go_report_from(fields: Fields) -> GoReport:
    """A report (schema `leaktrace/go/1`). Addresses are those in the file of the program. Raises
    MalformedError."""
    target, code = fields.inner("target"), fields.inner("go")
    return GoReport(
        time=time_from(fields),
        elapsed_s=fields.number("elapsed_s"),
        number=fields.integer("number"),
        final=fields.flag("final"),
        reason=fields.text("reason"),
        pid=target.integer("pid"),
        command=target.text("command"),
        path=code.text("path"),
        version=code.text("version"),
        build_id=code.optional_text("build_id"),
        top=fields.integer("top"),
        goroutines=_goroutines(fields),
        look_age_s=fields.number("look_age_s", 0.0),
        notes=fields.texts("notes"),
        heap=fields.optional("heap", _heap),
    )


def go_held_from(fields: Fields) -> int:
    """Only what the report of this line has as `outstanding`: bytes in the profile of the heap, or
    without one, how many goroutines there are. Raises MalformedError."""
    profiled = fields.optional("heap", lambda heap: heap.optional("profile", _in_use_bytes))
    return fields.integer("goroutine_count") if profiled is None else profiled


def _in_use_bytes(profile: Fields) -> int:
    total = profile.optional_integer("in_use_bytes")  # since the version that has it
    if total is not None:
        return total
    return sum(site.integer("in_use_bytes") for site in profile.objects("sites"))


def _goroutines(fields: Fields) -> GoroutineSection:
    skipped = fields.counts("skipped")
    system_count = fields.integer("system_goroutine_count")
    return GoroutineSection(
        alive_count=fields.integer("goroutine_count") + system_count,
        growth_per_s=fields.optional_number("growth_per_s"),
        system_count=system_count,
        moving_count=0,
        stack_bytes=fields.integer("stack_bytes"),
        groups=tuple(_group(one) for one in fields.objects("goroutines")),
        group_count=fields.integer("group_count"),
        leaking_count=fields.integer("leaking_group_count"),
        verdict=fields.word("verdict", GoVerdict, GoVerdict.TOO_EARLY),
        skipped={skip: skipped[skip.value] for skip in Skip if skipped.get(skip.value)},
        took_s=fields.number("look_s"),
    )


def _group(fields: Fields) -> GoroutineGroup:
    frames = tuple(_line(one) for one in fields.objects("frames"))
    wait_s = fields.optional_number("oldest_wait_s")
    return GoroutineGroup(
        growth=GroupGrowth(
            key=GroupKey(fields.text("wait_reason"), tuple(line.address for line in frames), 0, 0),
            count=fields.integer("count"),
            growth=fields.integer("growth"),
            growth_per_s=fields.optional_number("growth_per_s"),
            verdict=fields.word("verdict", GoVerdict, GoVerdict.TOO_EARLY),
            stack_bytes=fields.integer("stack_bytes"),
            longest_wait_ns=None if wait_s is None else round(wait_s * 1e9),
            since_s=fields.number("since_s"),
            look_count=fields.integer("look_count"),
        ),
        frames=frames,
        created_by=fields.optional("created_by", _line),
        started_as=fields.optional("started_as", _line),
    )


def _line(fields: Fields) -> GoLine:
    file = fields.optional_text("file")
    # Since the version that has these fields.
    at = fields.optional_address("module_offset") or 0
    offset = fields.optional_integer("offset")
    return GoLine(
        fields.text("function"),
        file or "",
        0 if file is None else fields.integer("line"),
        is_inlined=fields.flag("inlined", default=False),
        address=at,
        start=0 if offset is None else at - offset,
        is_wrapper=fields.flag("wrapper", default=False),
    )


def _heap(fields: Fields) -> GoHeap:
    profile = fields.optional("profile", _profile)
    types = None if fields.is_null("types") else fields.inner("types")
    look = HeapLook(
        time_s=0.0,
        took_s=fields.number("look_s"),
        collector=Collector(
            fields.integer("gc_percent"),
            fields.optional_integer("memory_limit_bytes"),
            fields.integer("gc_count"),
            fields.integer("live_bytes"),
        ),
        in_use_bytes=fields.integer("in_use_bytes"),
        object_count=fields.integer("object_count"),
        spans_bytes=fields.integer("spans_bytes"),
        idle_bytes=fields.integer("idle_bytes"),
        released_bytes=fields.integer("released_bytes"),
        stacks_bytes=fields.integer("stacks_bytes"),
        allocated_bytes=fields.integer("allocated_bytes"),
        resident_bytes=fields.optional_integer("resident_bytes"),
        sizes={},
        types=None if types is None else _types(types),
        skipped_span_count=fields.integer("skipped_span_count"),
        moved_bytes=fields.integer("moved_bytes"),
        profile=profile,
        profile_problem=fields.text("profile_problem"),
    )
    listed = fields.inner("profile") if profile is not None else None
    return GoHeap(
        look=look,
        change=_change(fields),
        collections_since=fields.integer("gc_count_since"),
        live_change_bytes=fields.optional_integer("live_growth_bytes"),
        sizes=tuple(
            SizeFigures(
                SizeKey(
                    one.integer("object_bytes"), one.flag("has_pointers"), one.flag("is_large")
                ),
                _objects(one),
                _change(one),
            )
            for one in fields.objects("sizes")
        ),
        size_count=fields.integer("size_count"),
        types=() if types is None else tuple(_type(one) for one in types.objects("largest")),
        type_count=0 if types is None else types.integer("type_count"),
        sites=() if listed is None else tuple(_site(one) for one in listed.objects("sites")),
        site_count=0 if listed is None else listed.integer("site_count"),
        refills=fields.optional("refills", _refills),
        verdict=fields.optional("verdict", verdict_from),
        grown_most=fields.optional("grown_most", grown_part_from),
    )


def _types(fields: Fields) -> TypesLook:
    """Of which type there is how much, `GoHeap` has."""
    return TypesLook({}, _objects(fields.inner("unknown")), fields.integer("not_read_count"))


def _type(fields: Fields) -> TypeFigures:
    key = TypeKey(fields.text("name"), fields.integer("type_bytes"))
    return TypeFigures(key, _objects(fields), _change(fields))


def _objects(fields: Fields) -> SeenObjects:
    return SeenObjects(fields.integer("count"), fields.integer("bytes"))


def _change(fields: Fields) -> Change | None:
    rate = fields.optional_number("growth_bytes_per_s")
    if rate is None:
        return None
    return Change(fields.integer("growth_count"), fields.integer("growth_bytes"), rate)


def _refills(fields: Fields) -> RefillSection:
    return RefillSection(
        RefillLook(
            elapsed_s=fields.number("elapsed_s"),
            sites={},
            runtime_bytes=fields.integer("runtime_allocated_bytes"),
            thinned_count=fields.integer("thinned_count"),
            unknown_count=fields.integer("unknown_count"),
            lost_count=fields.integer("lost_count"),
            lost_bytes=fields.integer("lost_bytes"),
        ),
        allocated_bytes=fields.integer("allocated_bytes"),
        bytes_per_s=fields.number("allocated_bytes_per_s"),
        sites=tuple(_refill_site(one) for one in fields.objects("sites")),
        site_count=fields.integer("site_count"),
    )


def _refill_site(fields: Fields) -> RefillSite:
    is_large = fields.flag("is_large")
    return RefillSite(
        SeenRefills(
            fields.integer("sample_count"),
            fields.integer("allocated_count"),
            fields.integer("allocated_bytes"),
        ),
        bytes_per_s=fields.number("allocated_bytes_per_s"),
        recent_bytes_per_s=fields.optional_number("recent_bytes_per_s"),
        object_bytes=0 if is_large else fields.optional_integer("object_bytes"),
        is_complete=fields.flag("is_complete"),
        frames=tuple(_line(one) for one in fields.objects("frames")),
    )


def _profile(fields: Fields) -> ProfileLook:
    """Its total is at one place: what is at which site, `GoHeap` has."""
    sites = [_site(one).now for one in fields.objects("sites")]
    listed = SeenSite(
        sum(one.in_use_count for one in sites),
        sum(one.in_use_bytes for one in sites),
        sum(one.allocated_count for one in sites),
        sum(one.allocated_bytes for one in sites),
    )
    total = replace(  # since the version that has these fields
        listed,
        in_use_count=fields.integer("in_use_count", listed.in_use_count),
        in_use_bytes=fields.integer("in_use_bytes", listed.in_use_bytes),
    )
    return ProfileLook(
        rate_bytes=fields.integer("rate_bytes"),
        sites={_NO_STACK: total},
        record_count=fields.integer("record_count"),
        skipped_count=fields.integer("skipped_count"),
    )


def _site(fields: Fields) -> SiteFigures:
    return SiteFigures(
        SeenSite(
            fields.integer("in_use_count"),
            fields.integer("in_use_bytes"),
            fields.integer("allocated_count"),
            fields.integer("allocated_bytes"),
            tuple(
                SizedObjects(
                    one.integer("object_bytes"),
                    one.integer("in_use_count"),
                    one.integer("in_use_bytes"),
                    one.integer("allocated_count"),
                    one.integer("allocated_bytes"),
                )
                for one in fields.objects("object_sizes")
            ),
        ),
        _change(fields),
        tuple(_line(one) for one in fields.objects("frames")),
    )
