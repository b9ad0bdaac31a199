"""`leaktrace go` for people.

leaktrace  goroutines of server (pid 4242)   report 3, 15.0 s   go1.22.3
LEAKING: 1 group of goroutines only grows: none has left it
HEAP GROWS +1.2 MiB/s ±0.1 for 15.0 s: collections left ever more, at 6 looks; +18.8 MiB at …
5,120 goroutines   +90.2/s   stacks 10.4 MiB   and 6 of the runtime's own
heap 90.5 MiB …

LEAKING  5,000 in chan receive   +90.2/s   oldest ≥ 4m10s   stacks 9.8 MiB
  go main.watch                    by main.request at ticker.go:24
    main.watch                     ticker.go:15
…
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from leaktrace import units
from leaktrace.go_report import (
    GoReport,
    GoroutineGroup,
    GoroutineSection,
    GoVerdict,
    Skip,
)
from leaktrace.printable import printable
from leaktrace.report.go_heap_text import heap_details, heap_summary
from leaktrace.report.go_heap_verdict import growing_heap_line, other_heap_line
from leaktrace.report.go_rows import (
    WRAPPER,
    columns,
    own_frames,
    place,
    rate_in_words,
    stack_lines,
)
from leaktrace.report.layout import flowed, painted, wrapped
from leaktrace.report.names import shorten_middle, wrap
from leaktrace.report.reporter import USUAL_COLUMNS, Writer, terminal_width

_NO_WAIT = ("running", "runnable", "waiting", "preempted", "leaked")
_WORDS = {
    GoVerdict.LEAKING: ("LEAKING", "bold red"),
    GoVerdict.TURNOVER: ("turnover", ""),
    GoVerdict.STEADY: ("steady", "green"),
    GoVerdict.TOO_EARLY: ("", ""),
}
TOO_EARLY = "too early"
_SKIPPED = {
    Skip.RUNNING: "running: grouped by how they began, not by their stacks",
    Skip.CHANGED: "in no group: they went on each time they were looked at",
    Skip.UNREADABLE: "not read: their memory can't be read, or isn't that of a goroutine",
    Skip.INCOMPLETE: "with stacks that could be followed for a part only",
}


class GoText(Writer):
    """--format text."""

    def go(self, report: GoReport) -> None:
        """Write one report and flush it."""
        width = terminal_width(self.output) or USUAL_COLUMNS
        self.write(painted(self.output, [*go_lines(report, width), Text()]))


def go_lines(report: GoReport, width: int) -> Iterator[Text]:
    """The lines of one report, each at most `width` cells wide."""
    yield from _header(report, width)
    for note in report.notes:
        yield from wrapped("note: ", note, width, "yellow")
    yield from _goroutines(report, width)


def _header(report: GoReport, width: int) -> Iterator[Text]:
    command = shorten_middle(printable(report.command), width // 2)
    title = Text().append("leaktrace", "bold")
    title.append(f"  goroutines of {command} (pid {report.pid})", "bold cyan")
    fields = [title]
    if report.number > 1 or not report.final:
        fields.append(Text(f"report {report.number}, {units.elapsed(report.elapsed_s)}"))
    fields.append(Text(shorten_middle(printable(report.version), width // 2)))
    yield from flowed(fields, width)
    if report.final and report.reason:
        reason = f"final report: {report.reason}"
        if report.look_age_s:
            reason += f"; the figures are of {units.elapsed(report.look_age_s)} before"
        yield from (Text(line, "bold") for line in wrap(printable(reason), width))


def _goroutines(report: GoReport, width: int) -> Iterator[Text]:
    section = report.goroutines
    yield from _verdicts(report, width)
    fields = [Text(units.counted(section.alive_count - section.system_count, "goroutine"), "bold")]
    if section.growth_per_s is not None:
        fields.append(_rate(section.growth_per_s))
    fields.append(Text(f"stacks {units.size(section.stack_bytes)}"))
    fields.append(Text(f"and {units.number(section.system_count)} of the runtime's own"))
    yield from flowed(fields, width)
    for skip, count in section.skipped.items():
        yield from wrapped("  ", f"{units.number(count)} {_SKIPPED[skip]}", width)
    if report.heap is not None:
        yield from heap_summary(report.heap, width)
    for one in section.groups:
        yield Text()
        yield from _group(one, width)
    others = section.group_count - len(section.groups)
    if others:
        yield Text()
        yield Text(f"... and {units.counted(others, 'other group')} (--top)")
    if report.heap is not None:
        yield from heap_details(report.heap, width)


def _verdicts(report: GoReport, width: int) -> Iterator[Text]:
    """On the goroutines and on the heap: what leaks comes first."""
    heap = report.heap
    is_leaking = report.goroutines.verdict is GoVerdict.LEAKING
    if is_leaking:
        yield from _verdict(report, width)
    if heap is not None and heap.verdict is not None:
        yield from growing_heap_line(heap.verdict, heap.grown_most, width, "HEAP")
    if not is_leaking:
        yield from _verdict(report, width)
    # After one look, the line on goroutines says why there is none.
    if heap is not None and heap.verdict is not None and heap.change is not None:
        yield from other_heap_line(heap.verdict, heap.grown_most, width, final=report.final)


def _verdict(report: GoReport, width: int) -> Iterator[Text]:
    label, style = _WORDS[report.goroutines.verdict]
    text = goroutines_in_words(report)
    yield from wrapped(f"{label or TOO_EARLY}: ", text, width, style)


def goroutines_in_words(report: GoReport) -> str:
    """Why the verdict on the goroutines is what it is."""
    section = report.goroutines
    match section.verdict:
        case GoVerdict.LEAKING:
            count = section.leaking_count
            text = f"{units.counted(count, 'group')} of goroutines only "
            return text + ("grows: none has left it" if count == 1 else "grow: none has left them")
        case GoVerdict.TURNOVER:
            return "goroutines end as others begin: none piles up"
        case GoVerdict.STEADY:
            return "the goroutines stay the same: none piles up"
        case _ if section.growth_per_s is None:
            return f"one look shows no growth: leaktrace go -p {report.pid} 5"
        case _:
            return _early(section)


def _early(section: GoroutineSection) -> str:
    rising = [one for one in section.groups if one.growth.growth > 0]
    if rising:
        return "some groups have grown, and it takes more looks to tell what becomes of them"
    return "it takes three looks or more to tell what piles up"


def _group(one: GoroutineGroup, width: int) -> Iterator[Text]:
    growth = one.growth
    label, style = _WORDS[growth.verdict]
    head = Text()
    if label:
        head.append(label, style).append("  ")
    head.append(units.number(growth.count), "bold")
    head.append(f" {state_in_words(growth.key.state)}")
    fields = [head]
    if growth.growth_per_s is not None:
        fields.append(_rate(growth.growth_per_s))
    if growth.longest_wait_ns is not None:
        fields.append(Text(f"oldest ≥ {units.age(growth.longest_wait_ns)}"))
    fields.append(Text(f"stacks {units.size(growth.stack_bytes)}"))
    yield from flowed(fields, width)
    started = started_as(one)
    name = f"go {started}" if one.created_by is not None else started or "a goroutine"
    creator = None
    if one.created_by is not None:
        creator = f"by {printable(one.created_by.function)} at {place(one.created_by)}"
    yield from columns("  ", name, creator or "", width, "bold")
    yield from stack_lines(one.frames, width)


def state_in_words(state: str) -> str:
    """What goroutines wait for: "in chan receive"; or "running"."""
    return f"{'' if state in _NO_WAIT else 'in '}{printable(state)}"


def started_as(one: GoroutineGroup) -> str:
    """The function that a goroutine began with: not the compiler's wrapper around it."""
    if one.started_as is None:
        return ""
    name = one.started_as.function
    own = own_frames(one.frames)
    if WRAPPER.search(name) and own:
        name = own[-1].function
    return printable(name)


def _rate(per_s: float) -> Text:
    return Text(rate_in_words(per_s), "red" if per_s > 0 else "")
