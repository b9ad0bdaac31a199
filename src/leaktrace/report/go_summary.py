"""The Go code of a traced process, in words and as JSON. `leaktrace go` has all of it.

GOROUTINES LEAK +90.2/s: 5,120 in chan receive, go main.watch by main.request ticker.go:24
go1.22.3: 5,121 goroutines, +90.2/s; heap 90.5 MiB in use, +1.2 MiB/s; GOGC=100: 8 collections
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.text import Text

from leaktrace import units
from leaktrace.go_report import GoLine, GoSummary, GoVerdict
from leaktrace.model import Report
from leaktrace.printable import printable
from leaktrace.report.go_heap_json import grown_object
from leaktrace.report.go_heap_text import collector_in_words
from leaktrace.report.go_heap_verdict import growing_heap_line
from leaktrace.report.go_rows import line_in_words, rate_in_words
from leaktrace.report.json_sites import verdict_object
from leaktrace.report.layout import wrapped


def go_verdict_lines(report: Report, width: int) -> Iterator[Text]:
    """Which goroutines leak, and whether the heap is never collected: what malloc doesn't show."""
    for one in report.go:
        who = "" if len(report.go) == 1 else f"pid {one.pid}: "
        if one.verdict is GoVerdict.LEAKING:
            rate = "" if one.growth_per_s is None else f" {rate_in_words(one.growth_per_s)}"
            yield from wrapped(f"GOROUTINES LEAK{rate}: ", who + _leaking(one), width, "bold red")
        if one.heap_verdict is not None:
            of_whom = f"GO HEAP OF PID {one.pid}" if who else "GO HEAP"
            yield from growing_heap_line(one.heap_verdict, one.heap_grown_most, width, of_whom)


def go_lines(report: Report, width: int) -> Iterator[Text]:
    """What there is of Go, in a line or two for each process."""
    for one in report.go:
        who = "" if len(report.go) == 1 else f"pid {one.pid}: "
        parts = [units.counted(one.goroutine_count, "goroutine")]
        if one.growth_per_s:
            parts[0] += f", {rate_in_words(one.growth_per_s)}"
        if one.heap_bytes is not None and one.collector is not None:
            heap = f"heap {units.size(one.heap_bytes)} in use"
            if one.heap_change is not None and one.heap_change.size_bytes:
                heap += f", {units.size_change(one.heap_change.size_bytes)} since the first report"
            parts += [heap, collector_in_words(one.collector)]
        parts += [printable(note) for note in one.notes]
        if one.problem:
            parts.append(printable(one.problem))
        parts.append(f"more: leaktrace go -p {one.pid} 5")
        yield from wrapped(f"{who}{printable(one.version)}: ", "; ".join(parts), width)


def _leaking(one: GoSummary) -> str:
    first = one.leaking[0]
    text = f"{units.number(first.count)} in {printable(first.wait_reason)}"
    if first.started_as is not None:
        text += f", go {printable(first.started_as.function)}"
    if first.created_by is not None:
        text += f" by {line_in_words(first.created_by)}"
    others = one.leaking_group_count - 1
    return f"{text}; and {units.counted(others, 'other group')}" if others else text


def go_objects(report: Report) -> list[dict[str, Any]]:
    """The same as JSON."""
    return [
        {
            "pid": one.pid,
            "version": printable(one.version),
            "goroutine_count": one.goroutine_count,
            "growth_per_s": one.growth_per_s,
            "verdict": one.verdict.value,
            "leaking_group_count": one.leaking_group_count,
            "leaking": [
                {
                    "count": group.count,
                    "growth_per_s": group.growth_per_s,
                    "wait_reason": printable(group.wait_reason),
                    "created_by": _place(group.created_by),
                    "started_as": _place(group.started_as),
                }
                for group in one.leaking
            ],
            "heap": _heap(one),
            "notes": [printable(note) for note in one.notes],
            "problem": printable(one.problem),
        }
        for one in report.go
    ]


def _heap(one: GoSummary) -> dict[str, Any] | None:
    collector, change = one.collector, one.heap_change
    if collector is None:
        return None
    return {
        "in_use_bytes": one.heap_bytes,
        "growth_bytes": None if change is None else change.size_bytes,
        "growth_count": None if change is None else change.count,
        "growth_bytes_per_s": None if change is None else change.bytes_per_s,
        "gc_percent": collector.percent,
        "memory_limit_bytes": collector.memory_limit_bytes,
        "collections": collector.collections,
        "live_bytes": collector.live_bytes,
        "verdict": verdict_object(one.heap_verdict),
        "grown_most": grown_object(one.heap_grown_most),
    }


def _place(line: GoLine | None) -> dict[str, Any] | None:
    if line is None:
        return None
    return {
        "function": printable(line.function),
        "file": printable(line.file),
        "line": line.line,
    }
