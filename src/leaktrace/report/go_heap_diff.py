"""The heaps of two reports of `leaktrace go` compared: lines for people, fields for programs.

heap: MORE +24.5 MiB live at the last collection (9.3 MiB -> 33.8 MiB); in use +56.7 MiB
           (9.8 MiB -> 66.6 MiB); RSS +48.6 MiB (19.6 MiB -> 68.2 MiB)
  GOGC=100: 53 collections -> GOGC=100: 89 collections
…
objects by size:
  +29.3 MiB   80.0 MiB -> 109.3 MiB   +7,500   4.0 KiB without pointers
types of objects over 512 bytes with pointers:
  +29.3 MiB   80.0 MiB -> 109.3 MiB   +7,500   main.Session
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.text import Text

from leaktrace import units
from leaktrace.analysis.comparing.go_heaps import GoHeapDiff, PartChange
from leaktrace.go_report import SizeKey
from leaktrace.printable import printable
from leaktrace.report.go_heap_json import (
    objects_object,
    size_object,
    totals_object,
    type_object,
)
from leaktrace.report.go_heap_text import collector_in_words, size_in_words
from leaktrace.report.json_sites import Object
from leaktrace.report.layout import flowed, wrapped
from leaktrace.report.styles import change_style

_MOST_ROWS = 5


def go_heap_totals(diff: GoHeapDiff, width: int) -> Iterator[Text]:
    """How much more or less the new heap has. Each line is at most `width` cells wide."""
    base, new = diff.base.look, diff.new.look
    totals = [("in use", base.in_use_bytes, new.in_use_bytes)]
    if base.collector.collections and new.collector.collections:
        live = base.collector.live_bytes, new.collector.live_bytes
        totals.insert(0, ("live at the last collection", *live))
    if base.resident_bytes is not None and new.resident_bytes is not None:
        totals.append(("RSS", base.resident_bytes, new.resident_bytes))
    _, before, now = totals[0]
    word, style = ("MORE", "bold red") if now > before else ("LESS", "bold green")
    if now == before:
        word, style = "SAME", "bold"
    text = "; ".join(_change(*one, name_first=number > 0) for number, one in enumerate(totals))
    yield from wrapped(f"heap: {word} ", text, width, style)
    settings = [collector_in_words(one.look.collector) for one in (diff.base, diff.new)]
    yield from wrapped("  ", " -> ".join(dict.fromkeys(settings)), width)


def _change(what: str, base: int, new: int, *, name_first: bool) -> str:
    change = units.size_change(new - base)
    text = f"{what} {change}" if name_first else f"{change} {what}"
    return f"{text} ({units.size(base)} -> {units.size(new)})"


def go_heap_parts(diff: GoHeapDiff, top: int, width: int) -> Iterator[Text]:
    """Of which sizes and types there is more or less, and an empty line."""
    rows = min(top, _MOST_ROWS)
    yield from _parts("objects by size", diff.sizes, rows, width)
    yield from _parts("types of objects over 512 bytes with pointers", diff.types, rows, width)
    if diff.unknown_count:
        text = f"sizes or types that only one report lists, not compared: {diff.unknown_count:,}"
        yield from wrapped("  ", text, width, "yellow")
    if diff.sizes or diff.types or diff.unknown_count:
        yield Text()


def _parts(title: str, parts: Sequence[PartChange], top: int, width: int) -> Iterator[Text]:
    if not parts:
        return
    yield Text(f"{title}:", "bold")
    rows = [
        (
            units.size_change(one.difference_bytes),
            f"{units.size(one.base.size_bytes)} -> {units.size(one.new.size_bytes)}",
            f"{one.difference_count:+,}",
        )
        for one in parts[:top]
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for one, row in zip(parts, rows, strict=False):
        cells = [text.rjust(cells) for text, cells in zip(row, widths, strict=True)]
        fields = [Text(f"  {cells[0]}", change_style(one.difference_bytes)), *map(Text, cells[1:])]
        yield from flowed([*fields, Text(_name(one))], width)
    left = parts[top:]
    if left:
        change = units.size_change(sum(one.difference_bytes for one in left))
        yield from wrapped("  ", f"... and {len(left):,} others: {change}", width)


def _name(one: PartChange) -> str:
    if isinstance(one.key, SizeKey):
        return size_in_words(one.key)
    return printable(one.key.name)


def go_heap_diff_object(diff: GoHeapDiff, top: int) -> Object:
    """The value of `go_heap` (schema `leaktrace/diff/1`). `top`: how many of each list."""
    return {
        "base": totals_object(diff.base.look),
        "new": totals_object(diff.new.look),
        "size_count": len(diff.sizes),
        "sizes": [_part_object(one) for one in diff.sizes[:top]],
        "type_count": len(diff.types),
        "types": [_part_object(one) for one in diff.types[:top]],
        "not_compared_count": diff.unknown_count,
    }


def _part_object(one: PartChange) -> Object:
    what = size_object(one.key) if isinstance(one.key, SizeKey) else type_object(one.key)
    return {
        **what,
        "base": objects_object(one.base),
        "new": objects_object(one.new),
        "difference_bytes": one.difference_bytes,
    }
