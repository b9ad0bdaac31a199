"""The report for people.

    leaktrace  redis-server (pid 4242)   report 3, 15.0 s   libc.so.6: 12 functions
    outstanding 24.3 MiB in 51,204 allocations at 37 sites
      +1.2 MiB since the previous report   RSS 48.1 MiB (+1.3 MiB)

      12.0 MiB  49%  12,288 allocations  +512.0 KiB  oldest 4m10s  6f1d2a90c41b7e55
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

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import ClassVar, TextIO

from rich.text import Text

from leaktrace import units
from leaktrace.model import (
    Allocation,
    Backing,
    Event,
    Loss,
    Measure,
    Report,
    ResidentMemory,
    Site,
    StackEnd,
    TargetInfo,
    Total,
)
from leaktrace.printable import printable
from leaktrace.report.descriptors import descriptor_lines, kinds_in_words
from leaktrace.report.endings import ending_in_short, final_reason_in_words
from leaktrace.report.event_lines import EventText
from leaktrace.report.frames import frame_lines
from leaktrace.report.in_words import cost_in_words, slab_growth_in_words, untraced_in_words
from leaktrace.report.layout import advised as _advised
from leaktrace.report.layout import flowed as _flowed
from leaktrace.report.layout import painted
from leaktrace.report.layout import wrapped as _wrapped
from leaktrace.report.lifetimes import lifetimes_in_words
from leaktrace.report.names import shorten_middle, wrap
from leaktrace.report.pairs import unexplained_calls
from leaktrace.report.processes import (
    MOST_PROCESSES,
    change_in_words,
    family_in_words,
    others_line,
    process_lines,
    processes_in_words,
    shares_in_words,
)
from leaktrace.report.reporter import USUAL_COLUMNS, Reporter, terminal_width
from leaktrace.report.sections import other_memory, section_name
from leaktrace.report.styles import change_style

FILE_WIDTH = USUAL_COLUMNS
_ID_DIGITS = 16
_SHORT_ID_DIGITS = 6  # enough to distinguish the sites of a report

_STACK_ENDS = {
    StackEnd.TRUNCATED: "stack truncated: it is deeper than leaktrace walks",
    StackEnd.GUESSED: "stack guessed: a frame was found by frame pointer only",
    StackEnd.GO: "called by Go on another stack, to which leaktrace knows no way",
    StackEnd.BROKEN: "stack broken: the next frame can't be found",
    StackEnd.LOST: "stack lost: it could not be stored",
}
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
    yield from _header(report, width)
    for note in notes:
        yield from _wrapped("note: ", note, width, "yellow")
    yield Text()
    if report.by_process:
        yield from _each_process(report, width)
    else:
        yield from process_lines(report, width)
        yield from _sites(report, width)
    for section in (*other_memory(report), *report.sections):
        yield from _totals(section, width)
        yield Text()
        yield from _sites(section, width)
    yield from _footer(report, width)


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
    yield from _totals(report, width)


def _each_process(report: Report, width: int) -> Iterator[Text]:
    """With --by process: the most growing processes, each with its own sites."""
    shown = zip(report.processes, report.by_process, strict=True)
    for line, part in islice(shown, MOST_PROCESSES):
        command = shorten_middle(printable(line.command), width // 2)
        fields = [Text(f"{command} (pid {line.pid})", "bold cyan")]
        if line.has_ended:
            fields.append(Text(ending_in_short(line.ending), "yellow"))
        yield from _totals(part, width, fields)
        yield Text()
        yield from _sites(part, width)
    yield from others_line(report, width)


def _totals(report: Report, width: int, first: Sequence[Text] = ()) -> Iterator[Text]:
    about = _about(report)
    sites = units.counted(report.site_count, "site")
    label = "new pages " if report.measure is Measure.FAULTS else "outstanding "
    if report.section is not None:
        label = f"{section_name(report)}: {label}"
    total = _total(report, report.outstanding, report.error)
    fields = [Text(label).append(total, "bold")]
    if report.younger.count == 0 and report.site_count:
        fields = _joined(fields[0], Text(f"at {sites}"), width)
    if report.processes:
        fields[-1:] = _joined(fields[-1], Text(processes_in_words(report)), width)
    if report.growth_bytes is not None:
        change = f"{about}{change_in_words(report, report.growth_bytes)} since the previous report"
        fields.append(Text(change, change_style(report.growth_bytes)))
    if report.resident is not None:
        fields.append(Text(_resident(report.resident)))
    yield from _flowed([*first, *fields], width)
    beside = [f"{section_name(one)} {_total(one, one.outstanding)}" for one in other_memory(report)]
    if beside:
        yield from _wrapped("  not included, see below: ", "; ".join(beside), width)
    if report.younger.count:
        older = Total(
            report.outstanding.bytes - report.younger.bytes,
            report.outstanding.count - report.younger.count,
        )
        age = units.age(report.older_ms * 1_000_000)
        left_out = f"younger than {age}, left out below: {_total(report, report.younger)}"
        yield from _wrapped("  ", left_out, width)
        if report.site_count or older.count > 0:  # otherwise _sites says it
            yield from _wrapped("  ", f"older, at {sites}: {_total(report, older)}", width)
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


def _sites(report: Report, width: int) -> Iterator[Text]:
    by_site: defaultdict[str, list[Allocation]] = defaultdict(list)
    for allocation in report.allocations or ():
        by_site[allocation.site_id].append(allocation)

    if not report.sites and not report.site_count:
        nothing = f"no outstanding {_noun(report)}s{_older_than(report)}"
        if report.measure is Measure.FAULTS:
            nothing = "no new pages"
        yield from _wrapped("  ", nothing, width)
        yield Text()
    elif report.sort != "size":
        yield Text(f"  sorted by {printable(report.sort)}:")
        yield Text()
    for site, figures in zip(report.sites, _site_figures(report, width), strict=True):
        yield from figures
        yield from _of_kernel(site, width)
        if site.kinds:
            yield from _wrapped("    ", kinds_in_words(site), width)
        if site.processes:
            yield from _wrapped("    ", shares_in_words(site, report), width)
        if site.lifetimes is not None:
            yield from _wrapped("    ", lifetimes_in_words(site), width)
        for line in frame_lines(site.stack.frames, width - 4):
            yield Text("    ").append_text(line)
        if site.stack.end in _STACK_ENDS:
            yield from _wrapped("    (", f"{_STACK_ENDS[site.stack.end]})", width, "yellow")
        yield from _allocations(report, by_site.pop(site.id, []))
        yield Text()
    yield from _rest(report, width)
    if by_site:
        yield Text(f"  {_noun(report)}s at sites that are not shown:")
        yield from _allocations(report, [one for several in by_site.values() for one in several])
        yield Text()
    if report.pair is not None:
        yield from unexplained_calls(report.pair, width)


def _of_kernel(site: Site, width: int) -> Iterator[Text]:
    """What only sites in the kernel have: cache, waste, context, uncertainty."""
    fields = []
    if site.cache is not None:
        fields.append(Text(shorten_middle(printable(site.cache), width // 2), "bold"))
    if site.requested_bytes is not None and site.requested_bytes < site.bytes:
        unused = site.bytes - site.requested_bytes
        share = units.share(unused, site.bytes)
        fields.append(Text(f"{units.size(unused)} ({share}) lost to rounding up"))
    if site.context is not None and site.context != "process":
        fields.append(Text(f"in {printable(site.context)} context"))
    if fields:
        yield from _flowed([Text("    ").append_text(fields[0]), *fields[1:]], width)
    if site.unconfirmed is not None:
        yield from _wrapped("    unconfirmed: ", site.unconfirmed, width, "yellow")


def _older_than(report: Report) -> str:
    if report.combined or not report.older_ms:
        return ""
    return f" older than {units.age(report.older_ms * 1_000_000)}"


def _site_figures(report: Report, width: int) -> Iterator[list[Text]]:
    """The figures of each site, in columns that all sites share.

    Where the width is not enough, "allocations" and the ids are shortened, then the ids are left
    out: a second line per site would be worse. (JSON has them.)
    """
    full, short = (_site_rows(report, noun) for noun in (_noun(report), _short_noun(report)))
    least = 2 + _SHORT_ID_DIGITS
    use_short = width - _row_cells(full) < least and (
        width - _row_cells(short) >= least or width < _row_cells(full)
    )
    rows = short if use_short else full
    room = width - _row_cells(rows)
    for site, row in zip(report.sites, rows, strict=True):
        styles = ("bold", "", "", "", change_style(site.growth_bytes or 0), "")
        figures = [Text(*styled) for styled in zip(row, styles, strict=True) if styled[0]]
        site_id = printable(site.id)[: _ID_DIGITS if room >= 2 + _ID_DIGITS else _SHORT_ID_DIGITS]
        if room >= 2 + len(site_id):
            figures.append(Text(site_id, "dim"))
        if room >= 0:
            yield [Text("  ") + Text("  ").join(figures)]
        else:  # a very narrow terminal
            yield list(_flowed([*figures, Text(site_id, "dim")], width))


def _site_rows(report: Report, noun: str) -> list[tuple[str, ...]]:
    """The figures of all sites, padded to columns; "" in columns that are empty for all."""
    rows = [_site_row(site, report, noun) for site in report.sites]
    columns = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        tuple(text.rjust(cells) for text, cells in zip(row, columns, strict=True)) for row in rows
    ]


def _row_cells(rows: Sequence[tuple[str, ...]]) -> int:
    return sum(2 + len(text) for text in rows[0] if text) if rows else 0


def _site_row(site: Site, report: Report, noun: str) -> tuple[str, ...]:
    about, growth = _about(report), site.growth_bytes
    return (
        "" if report.is_counted else about + units.size(site.bytes),
        "" if site.error is None else _error(site.error),
        units.share(site.bytes, report.outstanding.bytes),
        about + units.counted(site.count, noun),
        "" if growth is None else about + change_in_words(report, growth),
        "" if site.oldest_ns is None else f"oldest {units.age(site.oldest_ns)}",
    )


def _allocations(report: Report, allocations: list[Allocation]) -> Iterator[Text]:
    """Single allocations, oldest first."""
    for one in sorted(allocations, key=lambda allocation: -allocation.age_ns):
        size = f"  {units.number(one.size_bytes) + ' bytes':>16}"
        if report.is_counted:
            size = ""
        whose = "" if one.pid is None else f"  pid {one.pid}"
        what = f"{one.address:#x}" if report.descriptors is None else f"fd {one.address}"
        yield Text(f"      {what}{size}  {units.age(one.age_ns)} old{whose}")


def _rest(report: Report, width: int) -> Iterator[Text]:
    """What is outstanding and old enough, but not at the sites shown."""
    shown = sum(site.bytes for site in report.sites), sum(site.count for site in report.sites)
    rest = Total(
        report.outstanding.bytes - report.younger.bytes - shown[0],
        report.outstanding.count - report.younger.count - shown[1],
    )
    others = report.site_count - len(report.sites)
    if others > 0:
        label = "the other site" if others == 1 else f"the other {others:,} sites"
    elif (rest.bytes > 0 or rest.count > 0) and not report.is_estimate:
        label = "at unknown sites"
    else:
        return
    share = units.share(rest.bytes, report.outstanding.bytes)
    total = f"{label}: {_total(report, rest)}{f' ({share})' if share else ''}"
    yield from _wrapped("  ", total, width)
    yield Text()


def _footer(report: Report, width: int) -> Iterator[Text]:
    losses = [loss for loss in report.losses if loss.count and loss.is_lost]
    yield from _cut_off(report, width)
    for remark in report.remarks:
        if remark.kind.is_of_completeness:
            yield from _advised("incomplete: ", remark.text, remark.hint, width, "bold yellow")
    for loss in losses:
        yield from _loss(loss, width)
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


def _noun(report: Report) -> str:
    """What is counted, in the singular."""
    if report.pair is not None:
        return "object"
    if report.backing in (Backing.SYSV, Backing.SHARED_FILE):
        return "mapping"
    if report.descriptors is not None:
        return "descriptor"
    return "fault" if report.measure is Measure.FAULTS else "allocation"


def _short_noun(report: Report) -> str:
    return "alloc" if _noun(report) == "allocation" else _noun(report)


def _about(report: Report) -> str:
    """The mark of a figure that is an estimate."""
    return "~" if report.is_estimate else ""


def _error(error: Total) -> str:
    return f"±{units.size(error.bytes)}"


def _total(report: Report, total: Total, error: Total | None = None) -> str:
    about = _about(report)
    count = f"{about}{units.counted(total.count, _noun(report))}"
    if report.is_counted:
        return count
    size = f"{about}{units.size(total.bytes)}{'' if error is None else f' {_error(error)}'}"
    return f"{size} in {count}"


def _joined(one: Text, other: Text, width: int) -> list[Text]:
    """Two fields as one, if it fits; the second may be empty."""
    if not other:
        return [one]
    if one.cell_len + 1 + other.cell_len > width:
        return [one, other]
    return [one.append(" ").append_text(other)]
