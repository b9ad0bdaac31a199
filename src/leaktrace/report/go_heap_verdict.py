"""The verdict on the heap of a Go program, in words.

HEAP GROWS +1.2 MiB/s ±0.1 for 40.0 s: collections left ever more, at 8 looks; +48.0 MiB at
           main.remember main.go:42
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from leaktrace import units
from leaktrace.go_report import GrownPart
from leaktrace.printable import printable
from leaktrace.report.go_rows import line_in_words
from leaktrace.report.layout import wrapped
from leaktrace.verdict import Verdict, VerdictKind

_STYLES = {
    VerdictKind.GROWING: ("GROWS", "bold red"),
    VerdictKind.TOO_EARLY: ("too early", ""),
    VerdictKind.FILLING: ("filling", "yellow"),
    VerdictKind.STEADY: ("steady", "green"),
}


def growing_heap_line(
    verdict: Verdict, most: GrownPart | None, width: int, who: str
) -> Iterator[Text]:
    """That a heap grows, and what of it; nothing if it doesn't, as far as is known. `who` is the
    heap ("HEAP")."""
    if verdict.kind is VerdictKind.GROWING:
        word, style = _STYLES[verdict.kind]
        text = heap_reason(verdict, most, final=True)
        yield from wrapped(f"{who} {word} ", text, width, style)


def other_heap_line(
    verdict: Verdict, most: GrownPart | None, width: int, *, final: bool
) -> Iterator[Text]:
    """What is said of a heap that isn't known to grow."""
    if verdict.kind is VerdictKind.GROWING or verdict.kind not in _STYLES:
        return
    word, style = _STYLES[verdict.kind]
    yield from wrapped(f"heap {word}: ", heap_reason(verdict, most, final=final), width, style)


def heap_word(verdict: Verdict) -> str:
    """What the heap does, in a word or two."""
    return _STYLES[verdict.kind][0]


def heap_reason(verdict: Verdict, most: GrownPart | None, *, final: bool) -> str:
    """How fast, why, and what most."""
    if verdict.kind is VerdictKind.GROWING:
        return f"{_rate(verdict)}: {verdict.reason}{_most_in_words(most)}"
    text = verdict.reason
    if verdict.bytes_per_s is not None:
        text += f"; {_rate(verdict)}{_most_in_words(most)}"
    if verdict.needs_s and not final:
        text += f"; known in about {units.elapsed(verdict.needs_s)}"
    return text


def _most_in_words(most: GrownPart | None) -> str:
    if most is None:
        return ""
    change = units.size_change(most.change.size_bytes)
    if most.allocated_at is not None:
        return f"; {change} at {line_in_words(most.allocated_at)}"
    if most.object_bytes is not None:
        return f"; {change} in objects of {units.size(most.object_bytes)}"
    return f"; {change} in {printable(most.type_name)}"


def _rate(verdict: Verdict) -> str:
    rate = units.size_rate(verdict.bytes_per_s or 0.0, verdict.error_bytes_per_s or 0.0)
    return rate if verdict.since_s is None else f"{rate} for {units.elapsed(verdict.since_s)}"
