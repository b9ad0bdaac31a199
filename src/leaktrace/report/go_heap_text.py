"""The heap in the text report of `leaktrace go`.

heap 90.5 MiB in use   26,301 objects
  90.2 MiB live at the last collection
  GOGC=100: 8 collections, 3 of them since the first look
  RSS 95.1 MiB; heap 90.8 MiB, kept free 8.4 MiB, stacks 320.0 KiB; given back to the system 0.5 MiB
…
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from leaktrace import units
from leaktrace.go_report import Change, Collector, GoHeap, SizeKey, TypeFigures
from leaktrace.printable import printable
from leaktrace.report.go_refills_text import refill_lines
from leaktrace.report.go_rows import columns, stack_lines
from leaktrace.report.layout import flowed, wrapped

_MOST_ROWS = 5
_MUCH = 0.01  # of the heap
_MOST_UNKNOWN = 0.5  # of the heap
_SLICE = 2  # an object of so many times the size of its type holds several


def heap_summary(heap: GoHeap, width: int) -> Iterator[Text]:
    """Some lines about the whole heap."""
    look = heap.look
    fields = [Text(f"heap {units.size(look.in_use_bytes)} in use", "bold")]
    # Where there are collections, it goes up and down with garbage.
    if heap.change is not None and not heap.collections_since:
        fields.append(_change(heap.change))
    fields.append(Text(units.counted(look.object_count, "object")))
    yield from flowed(fields, width)
    if look.collector.collections:
        live = f"{units.size(look.collector.live_bytes)} live at the last collection"
        if heap.live_change_bytes is not None:
            live += f" ({units.size_change(heap.live_change_bytes)} since the first look)"
        yield from wrapped("  ", live, width)
    is_off = look.collector.percent < 0
    yield from wrapped(
        "  ",
        collector_in_words(look.collector, heap.collections_since),
        width,
        "yellow" if is_off else "",
    )
    yield from wrapped("  ", memory_in_words(heap), width)
    if look.skipped_span_count:
        skipped = units.counted(look.skipped_span_count, "span")
        yield from wrapped("  ", f"{skipped} left out: changed each time they were read", width)
    if look.moved_bytes > _MUCH * look.spans_bytes:
        moved = units.size(look.moved_bytes)
        yield from wrapped("  ", f"the heap changed by {moved} while it was read", width)


def collector_in_words(collector: Collector, since: int = 0) -> str:
    """The settings of the collector, and how often it has run."""
    count = collector.collections
    runs = units.counted(count, "collection")
    if since:
        runs += f", {units.number(since)} of them since the first look"
    limit = collector.memory_limit_bytes
    if collector.percent >= 0:
        with_limit = "" if limit is None else f", GOMEMLIMIT {units.size(limit)}"
        return f"GOGC={collector.percent}{with_limit}: {runs}"
    if limit is not None:
        return f"GOGC=off: collected only near GOMEMLIMIT, {units.size(limit)}: {runs}"
    if not count:
        return "GOGC=off: never collected, so the heap only grows"
    return f"GOGC=off: collected only when the program asks for it: {runs}"


def memory_in_words(heap: GoHeap) -> str:
    """RSS, and what Go has got from the system."""
    look = heap.look
    resident = look.resident_bytes
    parts = f"heap {units.size(look.spans_bytes)}, kept free {units.size(look.idle_bytes)}, "
    parts += f"stacks {units.size(look.stacks_bytes)}"
    if resident is not None:
        parts = f"RSS {units.size(resident)}; {parts}"
    parts += f"; given back to the system {units.size(look.released_bytes)}"
    if resident is not None and resident < look.spans_bytes:
        parts += "; a part of the heap was never written to, or is swapped out"
    return parts


def heap_details(heap: GoHeap, width: int) -> Iterator[Text]:
    """What is in the heap, and where it was allocated."""
    if heap.sizes:
        yield Text()
        yield Text("objects by size:", "bold")
        for one in heap.sizes[:_MOST_ROWS]:
            figures = _figures(one.now.count, one.now.size_bytes, one.change)
            yield from columns("  ", size_in_words(one.key), figures, width)
        yield from _others(heap.size_count - min(len(heap.sizes), _MOST_ROWS), "other size", width)
    if heap.types:
        yield Text()
        text = "of objects over 512 bytes with pointers (others have none)"
        yield from wrapped("types ", text, width, "bold")
        for kind in heap.types[:_MOST_ROWS]:
            figures = _figures(kind.now.count, kind.now.size_bytes, kind.change)
            yield from columns("  ", _type_name(kind), figures, width)
        yield from _others(heap.type_count - min(len(heap.types), _MOST_ROWS), "other type", width)
    types = heap.look.types
    if types is not None and types.unknown.count:
        unknown = f"{units.counted(types.unknown.count, 'object')} whose type isn't known"
        yield from columns("  ", unknown, units.size(types.unknown.size_bytes), width)
    if types is not None and types.not_read_count:
        left = units.number(types.not_read_count)
        yield from wrapped("  ", f"{left} more objects were not looked at", width)
    if heap.refills is not None:
        yield from refill_lines(heap.refills, width)
    else:
        yield from _profile(heap, width)


def _profile(heap: GoHeap, width: int) -> Iterator[Text]:
    profile = heap.look.profile
    if profile is None:
        if heap.look.profile_problem:
            yield Text()
            yield from wrapped("allocation sites: ", heap.look.profile_problem, width)
        return
    yield Text()
    rate = (
        f"one allocation in {units.size(profile.rate_bytes)}" if profile.rate_bytes > 1 else "all"
    )
    text = f"from the Go runtime's own profile ({rate}), of what the last collections have seen"
    yield from wrapped("allocation sites: ", text, width, "bold")
    known = sum(one.in_use_bytes for one in profile.sites.values())
    if known < _MOST_UNKNOWN * heap.look.in_use_bytes:
        known_words = f"{units.size(known)} of {units.size(heap.look.in_use_bytes)} in use"
        why = "what was allocated before the profile was on, or since the last collections, is not"
        yield from wrapped("  ", f"they have {known_words}: {why}", width, "yellow")
    if profile.skipped_count:
        skipped = units.counted(profile.skipped_count, "record")
        yield from wrapped("  ", f"{skipped} of the profile could not be read", width)
    sites = [one for one in heap.sites if one.now.in_use_bytes]
    if not sites:
        yield from wrapped("  ", "nothing is known to be in use yet", width)
    mark = "~" if profile.rate_bytes > 1 else ""
    for one in sites:
        yield Text()
        fields = [Text(f"{mark}{units.size(one.now.in_use_bytes)} in use", "bold")]
        if one.change is not None:
            fields.append(_change(one.change, mark))
        fields.append(Text(mark + units.counted(one.now.in_use_count, "object")))
        fields.append(Text(f"allocated {mark}{units.size(one.now.allocated_bytes)}"))
        yield from flowed(fields, width)
        yield from stack_lines(one.frames, width)
    left = heap.site_count - len(sites)
    if left > 0:
        yield Text()
    yield from _others(left, "other site", width, " (--top)")


def _others(count: int, noun: str, width: int, how: str = " (-f json)") -> Iterator[Text]:
    if count > 0:
        yield from wrapped("  ", f"... and {units.counted(count, noun)}{how}", width)


def _figures(count: int, size_bytes: int, change: Change | None) -> str:
    each = f" × {units.size(size_bytes // count)}" if count else ""
    text = f"{units.number(count)}{each}   {units.size(size_bytes)}"
    return text if change is None else f"{text}   {_rate(change)}"


def size_in_words(key: SizeKey) -> str:
    """Which objects these are: "1.0 KiB without pointers"."""
    what = "" if key.has_pointers else " without pointers"
    return f"{units.size(key.object_bytes)}{what}{', large' if key.is_large else ''}"


def _type_name(kind: TypeFigures) -> str:
    size = kind.key.size_bytes
    several = kind.now.count and size and kind.now.size_bytes // kind.now.count >= _SLICE * size
    return ("several " if several else "") + printable(kind.key.name)


def _change(change: Change, mark: str = "") -> Text:
    return Text(mark + _rate(change), "red" if change.size_bytes > 0 else "")


def _rate(change: Change) -> str:
    return f"{units.size_change(round(change.bytes_per_s))}/s"
