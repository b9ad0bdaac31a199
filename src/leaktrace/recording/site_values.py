"""Sites, stacks and verdicts from their JSON objects: the other way of report/json_sites.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields as fields_of
from functools import lru_cache

from leaktrace.contents import (
    BlockContents,
    Pointer,
    PointerKind,
    Shared,
    SharedKind,
    SiteContents,
    Text,
)
from leaktrace.idle import IdleShare
from leaktrace.memory import RegionBytes
from leaktrace.reach import Holder, HolderKind, HolderStep, LostShare
from leaktrace.recording.fields import Fields, MalformedError
from leaktrace.site import (
    Allocation,
    Frame,
    OpenDescriptor,
    ProcessShare,
    Releaser,
    Site,
    SourceLine,
    Stack,
    StackEnd,
    Total,
)
from leaktrace.verdict import Lifetimes, Verdict, VerdictKind

StackOf = Callable[[Fields], Stack]

_NS_PER_MS = 1_000_000
_MOST_POWERS = 65
_MOST_HEX = 1 << 20
_LOST_FIELDS = [one.name for one in fields_of(LostShare)]
_IDLE_FIELDS = [one.name for one in fields_of(IdleShare)]


def site_from(fields: Fields, stack_of: StackOf | None = None) -> Site:
    """A site. `stack_of` returns the stack that an object says; None: in its frames. Raises
    MalformedError."""
    stack_of = stack_of or stack_from
    count = fields.integer("count")
    # Of objects without sizes, bytes are null in JSON, and counts in a report.
    is_counted = fields.is_null("bytes")
    growth = "growth_count" if is_counted else "growth_bytes"
    sizes, size_bytes = fields.optional("sizes", _sizes) or ((), ())
    if size_bytes and (min(size_bytes) < 0 or sum(size_bytes) != fields.integer("bytes")):
        raise MalformedError("the blocks of a site don't have its bytes")
    allocated, freed = fields.integer("allocated_count", 0), fields.integer("freed_count", 0)
    return Site(
        id=fields.text("id"),
        stack=stack_of(fields),
        bytes=count if is_counted else fields.integer("bytes"),
        count=count,
        oldest_ns=nanoseconds(fields.optional_integer("oldest_ms")),
        newest_ns=nanoseconds(fields.optional_integer("newest_ms")),
        growth_bytes=fields.optional_integer(growth),
        allocated_bytes=fields.integer("allocated_bytes", allocated if is_counted else 0),
        allocated_count=allocated,
        freed_bytes=fields.integer("freed_bytes", freed if is_counted else 0),
        freed_count=freed,
        error=fields.optional("error", total_from),
        processes=tuple(
            ProcessShare(
                one.integer("pid"), one.integer("bytes", one.integer("count")), one.integer("count")
            )
            for one in fields.objects("processes")
        ),
        requested_bytes=fields.optional_integer("requested_bytes"),
        cache=fields.optional_text("cache"),
        context=fields.optional_text("context"),
        unconfirmed=fields.optional_text("unconfirmed"),
        kinds=tuple(fields.counts("kinds").items()),
        examples=tuple(_example(one) for one in fields.objects("examples")),
        verdict=fields.optional("verdict", verdict_from),
        lifetimes=fields.optional("lifetimes", _lifetimes),
        sizes=sizes,
        size_bytes=size_bytes,
        freed_at=tuple(
            Releaser(stack_of(one), one.integer("count"), one.integer("of_count", 0))
            for one in fields.objects("freed_at")
        ),
        lost=fields.optional("lost", lost_from),
        holders=tuple(_holder(one) for one in fields.objects("holders")),
        idle=fields.optional("idle", _idle),
        regions=_regions_of_site(fields) if "reserved_bytes" in fields else None,
        contents=fields.optional("contents", _contents),
    )


def stack_from(fields: Fields) -> Stack:
    """The stack that the frames of an object are; frames that are equal are one object."""
    return Stack(
        tuple(_frame(one) for one in fields.objects("frames")),
        fields.word("stack_end", StackEnd, StackEnd.UNKNOWN),
    )


def _frame(fields: Fields) -> Frame:
    file, line = fields.optional_text("file"), fields.optional_integer("line")
    return _shared_frame(
        fields.address("address"),
        fields.optional_text("function"),
        fields.integer("offset", 0),
        fields.optional_text("module"),
        fields.optional_address("module_offset"),
        fields.optional_text("build_id"),
        None if file is None else SourceLine(file, line or 0),
        fields.flag("inlined", default=False),
        fields.optional_text("unknown"),
    )


_shared_frame = lru_cache(maxsize=1 << 17)(Frame)


def forget_frames() -> None:
    """Keep no frame that no stack has any more."""
    _shared_frame.cache_clear()


def total_from(fields: Fields) -> Total:
    """Bytes and number; of objects without sizes, both are the number."""
    count = fields.integer("count")
    return Total(fields.integer("bytes", count), count)


def verdict_from(fields: Fields) -> Verdict:
    """A verdict, on a site or on all."""
    is_counted = "count_per_s" in fields
    return Verdict(
        fields.word("kind", VerdictKind),
        fields.text("reason", ""),
        fields.optional_number("count_per_s" if is_counted else "bytes_per_s"),
        fields.optional_number("error_count_per_s" if is_counted else "error_bytes_per_s"),
        fields.optional_number("since_s"),
        fields.optional_number("needs_s"),
        fields.optional_integer("lost_bytes"),
        fields.optional_integer("lost_count"),
    )


def regions_from(fields: Fields, count: int | None = None) -> RegionBytes:
    """Mapped regions. `count`: how many, if the object doesn't say it."""
    return RegionBytes(
        fields.integer("count", 0) if count is None else count,
        fields.integer("reserved_bytes"),
        fields.integer("resident_bytes", 0),
        fields.integer("swapped_bytes", 0),
        fields.integer("unread_bytes", 0),
        nanoseconds(fields.optional_integer("age_ms")) or 0,
    )


def lost_from(fields: Fields) -> LostShare:
    """What nothing points to."""
    return LostShare(**{name: fields.integer(name, 0) for name in _LOST_FIELDS})


def allocation_from(fields: Fields) -> Allocation:
    """A single allocation. What has no size counts as one, as in other figures."""
    return Allocation(
        fields.address("address"),
        fields.integer("bytes", 1),
        nanoseconds(fields.integer("age_ms")) or 0,
        fields.text("site"),
        fields.optional_integer("pid"),
    )


def nanoseconds(time_ms: int | None) -> int | None:
    """Milliseconds as nanoseconds."""
    return None if time_ms is None else time_ms * _NS_PER_MS


def _regions_of_site(fields: Fields) -> RegionBytes:
    count = fields.optional_integer("region_count")
    if count is None:  # written by an earlier version
        count = fields.integer("count") if fields.flag("is_region", default=False) else 0
    regions = regions_from(fields, count)
    age_ns = nanoseconds(fields.optional_integer("region_age_ms")) or 0
    return RegionBytes(
        regions.count, regions.reserved, regions.resident, regions.swapped, regions.unread, age_ns
    )


def _lifetimes(fields: Fields) -> Lifetimes:
    return Lifetimes(_by_powers(fields, "upper_bounds_ns"))


def _sizes(fields: Fields) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How many blocks have which size, and their bytes; () where these are not known."""
    counts = _by_powers(fields, "below_bytes")
    return counts, _by_powers(fields, "below_bytes", "bytes") if "bytes" in fields else ()


def _by_powers(fields: Fields, key: str, of: str = "counts") -> tuple[int, ...]:
    """A histogram by powers of two, with its empty parts."""
    bounds, counts = fields.integers(key), fields.integers(of)
    powers = [bound.bit_length() - 1 for bound in bounds]
    if len(powers) != len(counts) or any(not 0 <= one < _MOST_POWERS for one in powers):
        raise MalformedError(f"a histogram does not fit its bounds ({key})")
    filled = dict(zip(powers, counts, strict=True))
    return tuple(filled.get(power, 0) for power in range(max(powers, default=-1) + 1))


def _example(fields: Fields) -> OpenDescriptor:
    return OpenDescriptor(
        fields.integer("fd"),
        fields.text("kind"),
        nanoseconds(fields.integer("age_ms")) or 0,
        fields.optional_text("target"),
        fields.optional_integer("pid"),
    )


def _idle(fields: Fields) -> IdleShare:
    return IdleShare(**{name: fields.integer(name) for name in _IDLE_FIELDS})


def _holder(fields: Fields) -> Holder:
    return Holder(
        tuple(_step(one) for one in fields.objects("path")),
        fields.integer("count"),
        fields.integer("bytes"),
        fields.integer("of_count", 0),
    )


def _step(fields: Fields) -> HolderStep:
    return HolderStep(
        fields.word("kind", HolderKind),
        fields.optional_text("name"),
        fields.optional_text("module"),
        fields.optional_address("module_offset"),
        fields.optional_integer("thread"),
        fields.optional_text("thread_name"),
        None,
        fields.optional_text("site"),
        fields.optional_integer("offset"),
        fields.optional_integer("last_offset"),
        fields.flag("repeats", default=False),
        fields.flag("to_middle", default=False),
    )


def _contents(fields: Fields) -> SiteContents:
    return SiteContents(
        fields.integer("read_count"),
        fields.integer("gone_count"),
        tuple(_shared(one) for one in fields.objects("shared")),
        tuple(_block(one) for one in fields.objects("blocks")),
    )


def _shared(fields: Fields) -> Shared:
    return Shared(
        fields.word("kind", SharedKind),
        fields.integer("count"),
        fields.integer("of_count"),
        fields.integer("offset", 0),
        fields.optional_integer("size"),
        fields.optional_text("text"),
        fields.optional("pointer", _pointer),
    )


def _block(fields: Fields) -> BlockContents:
    try:
        data = bytes.fromhex(fields.text("hex") if not fields.is_null("hex") else "")
    except ValueError:
        raise MalformedError("the bytes of a block are not hexadecimal") from None
    return BlockContents(
        fields.address("address"),
        fields.integer("size"),
        fields.integer("age_ns"),
        data[:_MOST_HEX],
        tuple(
            Text(
                one.integer("offset"),
                one.text("text"),
                one.integer("size"),
                one.text("encoding", "utf-8"),
            )
            for one in fields.objects("text")
        ),
        tuple(_pointer(one) for one in fields.objects("pointers")),
        fields.optional_integer("pid"),
    )


def _pointer(fields: Fields) -> Pointer:
    return Pointer(
        fields.integer("offset", 0),
        fields.optional_address("value") or 0,
        fields.word("kind", PointerKind),
        fields.optional_text("name"),
        fields.optional_text("site"),
        fields.integer("into", 0),
        fields.flag("own", default=False),
    )
