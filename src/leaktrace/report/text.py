"""The report for people.

    leaktrace  redis-server (pid 4242)   report 3, 15.0 s   libc.so.6: 12 functions
    outstanding 24.3 MiB in 51,204 allocations at 37 sites
      +1.2 MiB since the previous report   RSS 48.1 MiB (+1.3 MiB)

      12.0 MiB  49%  12,288 allocations  +512.0 KiB  oldest 4m10s  6f1d2a
        parse_header+0x2f   http/parser.c:118  [libparse.so.1]
        read_request+0x1a0  http/server.c:77   [httpd]
        main+0x44           main.c:31          [httpd]

      the other 36 sites: 12.3 MiB in 38,916 allocations (51%)

    lost: nothing   stacks: 37 complete

The figures add up: what the age filter and `--top` leave out has separate lines. No line is wider
than the terminal, or than 80 columns in a file. Only a terminal gets colour; a file contains no
control codes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import ClassVar, TextIO

from rich.text import Text

from leaktrace import units
from leaktrace.memory import ResidentMemory
from leaktrace.model import Event, Loss, Measure, Report, TargetInfo
from leaktrace.printable import printable
from leaktrace.report.contents import contents_problems
from leaktrace.report.descriptors import descriptor_lines
from leaktrace.report.endings import ending_in_short, final_reason_in_words
from leaktrace.report.event_lines import EventText
from leaktrace.report.explained import explained_lines
from leaktrace.report.figures import about, total_in_words
from leaktrace.report.go_summary import go_lines, go_verdict_lines
from leaktrace.report.idle import idle_lines
from leaktrace.report.in_words import cost_in_words, slab_growth_in_words, untraced_in_words
from leaktrace.report.layout import advised as _advised
from leaktrace.report.layout import flowed as _flowed
from leaktrace.report.layout import painted
from leaktrace.report.layout import wrapped as _wrapped
from leaktrace.report.names import shorten_middle, wrap
from leaktrace.report.older import older_lines
from leaktrace.report.processes import (
    MOST_PROCESSES,
    change_in_words,
    family_in_words,
    others_line,
    process_lines,
    processes_in_words,
)
from leaktrace.report.reach import reach_lines
from leaktrace.report.regions import regions_in_words
from leaktrace.report.reporter import USUAL_COLUMNS, Reporter, terminal_width
from leaktrace.report.sections import other_memory, section_name, shown_parts
from leaktrace.report.site_lines import site_lines
from leaktrace.report.styles import change_style
from leaktrace.report.verdicts import verdict_lines
from leaktrace.site import StackEnd, Total
from leaktrace.verdict import LEAKING, VerdictKind

FILE_WIDTH = USUAL_COLUMNS
SCREEN = 50  # lines: a report fits if there are no sections, and not many notes
_END_WORDS = {
    StackEnd.UNKNOWN: "by frame pointers (ends unknown)",
    StackEnd.GUESSED: "with guessed frames",
    StackEnd.GO: "up to Go",
}


class TextReporter(Reporter):
    """--format text, the default."""

    summary: ClassVar[str] = "for reading, in 80 columns, with colour on a terminal"

    def __init__(self, output: TextIO, notices: TextIO) -> None:
        super().__init__(output, notices)
        self._shown_notes: set[str] = set()
        self._events = EventText(output)

    def report(self, report: Report) -> None:
        lines = report_lines(
            report, terminal_width(self.output) or FILE_WIDTH, self._new_notes(report.target)
        )
        self.write(painted(self.output, [*lines, Text()]))

    def events(self, events: Iterable[Event]) -> None:
        self.write(self._events.of(events))

    def _new_notes(self, target: TargetInfo) -> list[str]:
        """The notes that no report has shown yet: once is enough. Only the note that the target is
        stopped is repeated, because a report without news would look like good news."""
        shown = self._shown_notes - {target.stopped}
        new = [note for note in dict.fromkeys(target.notes) if note not in shown]
        self._shown_notes.update(new)
        return new


def report_lines(report: Report, width: int, notes: Sequence[str] = ()) -> Iterator[Text]:
    """The lines of one report, each at most `width` cells wide, without line breaks."""
    header = list(_header(report, width))
    for note in notes:
        header += _wrapped("note: ", note, width, "yellow")
    header.append(Text())
    footer = [*older_lines(report, width), *_footer(report, width)]
    yield from header
    if report.by_process:
        yield from _each_process(report, width)
    else:
        processes = list(process_lines(report, width))
        yield from processes
        # A line is left for the prompt.
        yield from site_lines(report, width, SCREEN - 1 - len(header + processes + footer))
    for section in shown_parts(report)[1:]:
        yield from _totals(section, width)
        yield from _verdict_on_part(section, width)
        yield Text()
        yield from site_lines(section, width)
    yield from footer


def _header(report: Report, width: int) -> Iterator[Text]:
    target = report.target
    command = shorten_middle(printable(target.command), width // 2)
    who = command if target.kind == "kernel" else f"{command} (pid {target.pid})"
    title = Text().append("leaktrace", "bold").append(f"  {who}", "bold cyan")
    titles = _joined(title, Text(family_in_words(report), "bold cyan"), width)
    when = Text(f"report {report.number}, {units.elapsed(report.elapsed_s)}")
    hooked = [Text(shorten_middle(printable(one), width - 2)) for one in target.allocators]
    yield from _flowed([*titles, when, *hooked], width)
    if report.final:
        reason = ": ".join(filter(None, ("final report", final_reason_in_words(report))))
        for line in wrap(printable(reason), width):
            yield Text(line, "bold")
    if report.is_estimate:
        text = f"{units.sample_in_words(report)}; figures with ~ are scaled up, "
        text += "± is the standard error"
        yield from _wrapped("estimate: ", text, width, "yellow")
    of_go = list(go_verdict_lines(report, width))
    yield from of_go
    is_fine = report.verdict is None or report.verdict.kind not in LEAKING
    whose = "malloc: " if of_go and is_fine else ""
    for words in verdict_lines(report, width - len(whose)):
        yield Text(whose).append_text(words)
    yield from _totals(report, width)
    yield from go_lines(report, width)


def _each_process(report: Report, width: int) -> Iterator[Text]:
    """With --by process: the most growing processes, each with its own sites."""
    shown = zip(report.processes, report.by_process, strict=True)
    for line, part in islice(shown, MOST_PROCESSES):
        command = shorten_middle(printable(line.command), width // 2)
        fields = [Text(f"{command} (pid {line.pid})", "bold cyan")]
        if line.has_ended:
            fields.append(Text(ending_in_short(line.ending), "yellow"))
        yield from _totals(part, width, fields)
        yield from _verdict_on_part(part, width)
        yield Text()
        yield from site_lines(part, width)
    yield from others_line(report, width)


def _verdict_on_part(part: Report, width: int) -> Iterator[Text]:
    """The verdict on a section, or on one of several processes: where it is too early, the report
    has said so."""
    if part.verdict is not None and part.verdict.kind is not VerdictKind.TOO_EARLY:
        for line in verdict_lines(part, width - 2):
            yield Text("  ").append_text(line)


def _totals(report: Report, width: int, first: Sequence[Text] = ()) -> Iterator[Text]:
    mark = about(report)
    sites = units.counted(report.site_count, "site")
    label = "new pages " if report.measure is Measure.FAULTS else "outstanding "
    if report.section is not None:
        label = f"{section_name(report)}: {label}"
    total = total_in_words(report, report.outstanding, report.error)
    fields = [Text(label).append(total, "bold")]
    if report.younger.count == 0 and report.site_count:
        fields = _joined(fields[0], Text(f"at {sites}"), width)
    if report.processes:
        fields[-1:] = _joined(fields[-1], Text(processes_in_words(report)), width)
    if report.growth_bytes is not None:
        change = f"{mark}{change_in_words(report, report.growth_bytes)} since the previous report"
        fields.append(Text(change, change_style(report.growth_bytes)))
    if report.resident is not None:
        fields.append(Text(_resident(report.resident)))
    yield from _flowed([*first, *fields], width)
    mapped = regions_in_words(report)
    if mapped:
        yield from _wrapped("  ", mapped, width)
    for line in explained_lines(report, width - 2):
        yield Text("  ").append_text(line)
    beside = [
        f"{section_name(one)} {total_in_words(one, one.outstanding)}"
        for one in other_memory(report)
    ]
    if beside:
        yield from _wrapped("  not included, see below: ", "; ".join(beside), width)
    if report.younger.count:
        older = Total(
            report.outstanding.bytes - report.younger.bytes,
            report.outstanding.count - report.younger.count,
        )
        age = units.age(report.older_ms * 1_000_000)
        left_out = f"younger than {age}, left out below: {total_in_words(report, report.younger)}"
        yield from _wrapped("  ", left_out, width)
        if report.site_count or older.count > 0:  # otherwise site_lines says it
            yield from _wrapped("  ", f"older, at {sites}: {total_in_words(report, older)}", width)
    for remark in report.remarks:
        if not remark.kind.is_of_completeness:
            hint = f" ({remark.hint})" if remark.hint else ""
            yield from _wrapped("  ", f"{remark.text}{hint}", width)
    if report.slab is not None:
        yield from _wrapped("  ", slab_growth_in_words(report.slab), width)
    if report.descriptors is not None:
        yield from descriptor_lines(report.descriptors, width)
    if report.untraced:
        yield from _wrapped("  not traced: ", untraced_in_words(report.untraced), width, "yellow")


def _resident(resident: ResidentMemory) -> str:
    change = ""
    if resident.growth_bytes is not None:
        change = f" ({units.size_change(resident.growth_bytes)})"
    elif resident.since_attach_bytes not in (None, resident.bytes):  # equal: executed under trace
        change = f" ({units.size_change(resident.since_attach_bytes or 0)} since attach)"
    when = " at exit" if resident.is_at_exit else ""
    return f"RSS{when} {units.size(resident.bytes)}{change}"


def _footer(report: Report, width: int) -> Iterator[Text]:
    losses = [loss for loss in report.losses if loss.count and loss.is_lost]
    yield from _cut_off(report, width)
    for remark in report.remarks:
        if remark.kind.is_of_completeness:
            yield from _advised("incomplete: ", remark.text, remark.hint, width, "bold yellow")
    for loss in losses:
        yield from _loss(loss, width)
    if report.reach is not None:
        yield from reach_lines(report.reach, width, about(report))
    if report.contents is not None:
        yield from contents_problems(report.contents, width)
    if report.idle is not None:
        yield from idle_lines(report.idle, width)
    if report.cost is not None and report.cost.events_per_s is not None:
        yield from _wrapped("cost: ", cost_in_words(report.cost), width)
    fields = [] if losses else [Text("lost: nothing", "green")]
    ends = [f"{count:,} {_END_WORDS.get(end, end)}" for end, count in _stack_ends(report) if count]
    if ends:
        fields.append(Text(f"stacks: {', '.join(ends)}"))
    yield from _flowed(fields, width)


def _cut_off(report: Report, width: int) -> Iterator[Text]:
    """Stacks that could not be walked to their ends. Their allocations are in the figures."""
    for loss in report.losses:
        if loss.count and not loss.is_lost and loss.hint:
            text = units.loss_in_words(loss)
            yield from _advised("cut off: ", text, loss.hint, width, "yellow")


def _stack_ends(report: Report) -> Iterable[tuple[StackEnd, int]]:
    """Of all sections about the process; of the kernel, of the first one."""
    ends = Counter(report.stack_ends)
    for section in (*report.other_memory, *report.sections):
        if section.target.kind != "kernel":
            ends.update(section.stack_ends)
    return ends.items()


def _loss(loss: Loss, width: int) -> Iterator[Text]:
    known_size = f" ({units.size(loss.bytes)})" if loss.bytes is not None else ""
    text = f"{units.loss_in_words(loss)}{known_size}"
    yield from _advised("lost: ", text, loss.hint, width, "bold red")


def _joined(one: Text, other: Text, width: int) -> list[Text]:
    """Two fields as one, if it fits; the second may be empty."""
    if not other:
        return [one]
    if one.cell_len + 1 + other.cell_len > width:
        return [one, other]
    return [one.append(" ").append_text(other)]
