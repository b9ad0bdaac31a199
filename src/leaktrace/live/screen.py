"""The lines of a live view, from its state and the size of the terminal:

    leaktrace  httpd (pid 4242)                                   report 12   1m00s
    GROWING +1.9 MiB/min ±0.1 since the start, at parse_header parser.c:118
    outstanding  24.3 MiB in 51,204 allocations at 37 sites  +1.2 MiB  ▁▂▃▄▅▆▇█
    RSS          48.1 MiB (+1.3 MiB)                                   ▁▁▂▂▃▃▄▄
    lost: nothing

      verdict       held     count  rate          trend     where
    ▶ growing   12.0 MiB    12,288  +1.9 MiB/min  ▁▂▃▄▅▆▇█  parse_header parser.c:118
          parse_header+0x2f  http/parser.c:118  [libparse.so.1]
      steady     7.4 MiB     1,890                ▁▁▁▁▁▁▁▁  read_config config.c:31

    q quit  s sort: growth  / filter  ↵ stack  p pause  m mark  w save  ? help

Only the colours of the terminal are used, and the selected line is reversed, so that it suits light
and dark terminals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from leaktrace import units
from leaktrace.live.sparkline import sparkline
from leaktrace.live.state import Order, View, missing_from, name_of, sites_of
from leaktrace.model import Report
from leaktrace.printable import ELLIPSIS, printable
from leaktrace.report.figures import about, noun, total_in_words
from leaktrace.report.folding import summary
from leaktrace.report.function_names import shorten_symbol
from leaktrace.report.layout import wrapped
from leaktrace.report.names import module_name, shorten_middle
from leaktrace.report.processes import change_in_words
from leaktrace.report.site_ids import ShortIds
from leaktrace.report.site_lines import site_details
from leaktrace.report.styles import change_style
from leaktrace.report.verdicts import STYLES, rate_in_words, shows_words, verdict_lines, word_of
from leaktrace.site import Frame, Site

NARROWEST = 40
WIDE = 110  # from here on, changes have a column beside rates
_LEAST_HEIGHT = 6
_MOST_TROUBLES = 4  # losses, and signs that the figures are incomplete
_WHERE_CELLS = 18  # there are at least so many for where it is
_MARKS = {True: "▶ ", False: "> "}

_HELP = (
    ("up, down, k, j", "choose a site; Page Up, Page Down, Home, End go further"),
    ("Enter, right", "show its stack and what is known of it; again: hide it"),
    ("s", "sort: as in the report; by size, count, change, age"),
    ("/", "only sites with this in a function, file or module; Esc: all"),
    ("p", "pause: keep this report on the screen while tracing goes on"),
    ("m", "mark: show what changes from now on"),
    ("w, W", "save the report as text (w) or JSON (W) in this folder"),
    ("r, space", "make a report now"),
    ("Tab", "show the next section: other memory, pairs, file descriptors"),
    ("q, Ctrl-C", "end tracing, and print the final report"),
)


def screen_lines(view: View, width: int, height: int, *, blocks: bool = True) -> list[Text]:
    """The lines of the whole screen, at most `height`, each at most `width` cells wide. `blocks`:
    whether the terminal can show signs beyond ASCII."""
    width, height = max(width, NARROWEST), max(height, _LEAST_HEIGHT)
    footer = _footer(view, width, blocks=blocks)
    part = view.part()
    if view.shows_help:
        body = list(_help(width))[: height - len(footer)]
        lines = body
    elif part is None or view.report is None:
        lines = [Text("leaktrace", "bold"), Text(), Text("The first report is on its way.")]
    else:
        header = list(_header(view, view.report, part, width, blocks=blocks))
        # A small screen has room for sites nevertheless.
        header = header[: max(height - len(footer) - 4, 1)]
        room = height - len(header) - len(footer)
        lines = [*header, *_body(view, part, width, room, blocks=blocks)]
    lines = lines[: height - len(footer)]
    lines += [Text()] * (height - len(footer) - len(lines))
    shown = [*lines, *footer][:height]
    for line in shown:
        line.truncate(width)
    return shown


def _header(
    view: View, report: Report, part: Report, width: int, *, blocks: bool
) -> Iterator[Text]:
    target = report.target
    command = shorten_middle(printable(target.command), width // 3)
    who = command if target.kind == "kernel" else f"{command} (pid {target.pid})"
    if len(target.pids) > 1:
        who += f" and {len(target.pids) - 1} more"
    title = Text().append("leaktrace", "bold").append(f"  {who}", "bold cyan")
    when = Text()
    if view.is_paused:
        newer = 0 if view.newest is None else view.newest.number - report.number
        when.append(f" PAUSED, {newer} newer ", "reverse bold").append("  ")
    when.append(f"report {report.number}   {units.elapsed(report.elapsed_s)}")
    yield _to_both_ends(title, when, width)
    if report.is_estimate:
        yield Text(f"estimate: {units.sample_in_words(report)}", "yellow")
    yield from verdict_lines(part, width)
    cells = max(min(width // 5, 40), 8)
    if part is report:
        yield from _totals(view, report, width, cells, blocks=blocks)
    else:
        total = total_in_words(part, part.outstanding)
        yield Text().append(f"{name_of(part)}: ", "bold").append(total)
    yield from _troubles(report, width)


def _totals(view: View, report: Report, width: int, cells: int, *, blocks: bool) -> Iterator[Text]:
    left = Text("outstanding  ").append(
        total_in_words(report, report.outstanding, report.error), "bold"
    )
    sites = f" at {units.counted(report.site_count, 'site')}"
    mark = view.marks[-1] if view.marks else None
    change = report.growth_bytes if mark is None else report.outstanding.bytes - mark.total_bytes
    changed = Text()
    if change is not None:
        since = "" if mark is None else f" since mark {mark.number}"
        text = f"  {about(report)}{units.size_change(change)}{since}"
        changed.append(text, change_style(change))
    if left.cell_len + len(sites) + changed.cell_len + 2 + cells <= width:
        left.append(sites)
    left.append_text(changed)
    yield _to_both_ends(left, Text(sparkline(view.totals, cells, blocks=blocks), "cyan"), width)
    resident = report.resident
    if resident is not None:
        text = f"RSS          {units.size(resident.bytes)}"
        since_attach = resident.since_attach_bytes
        if since_attach not in (None, resident.bytes):
            text += f"  {units.size_change(since_attach or 0)} since attach"
        course = sparkline(view.resident, cells, blocks=blocks)
        yield _to_both_ends(Text(text), Text(course, "cyan"), width)


def _troubles(report: Report, width: int) -> Iterator[Text]:
    """What the figures lack."""
    troubles = []
    if report.target.stopped:
        troubles.append(("note: ", report.target.stopped, "yellow"))
    for remark in report.remarks:
        if remark.kind.is_of_completeness:
            troubles.append(("incomplete: ", remark.text, "bold yellow"))
    losses = [loss for loss in report.losses if loss.count and loss.is_lost]
    troubles += [("lost: ", units.loss_in_words(loss), "bold red") for loss in losses]
    for number, (label, text, style) in enumerate(troubles):
        if number == _MOST_TROUBLES - 1 and number + 1 < len(troubles):
            yield Text(f"and {len(troubles) - number} more: w saves all of them", "bold yellow")
            break
        first, *others = wrapped(label, text, width, style)
        yield first
        if others:
            yield _cut(others[0], width) if len(others) == 1 else others[0].append(ELLIPSIS)
    if not losses:
        yield Text("lost: nothing", "green")


@dataclass(frozen=True)
class _Row:
    site: Site
    cells: tuple[str, ...]  # verdict, held, count, rate, change
    where: tuple[str, str]


@dataclass(frozen=True)
class _Layout:
    """Widths in cells. `trend` is 0 where it is left out."""

    width: int
    columns: Sequence[int]
    used: Sequence[bool]
    trend: int


def _body(view: View, part: Report, width: int, room: int, *, blocks: bool) -> list[Text]:
    """The table of sites, `room` lines high, so that the selected one is seen."""
    sites = view.sites()
    if not sites:
        words = view.filter if view.typed is None else view.typed
        if words:
            nothing = f"no site has {printable(words)!r} in its stack (Esc: show all)"
        else:
            nothing = f"no outstanding {noun(part)}s"
        return [Text(), Text(f"  {nothing}")]
    rows = [_row(site, part, view) for site in sites]
    at = view.selected_index(sites) or 0
    head, table = _table(view, part, rows, at, width, blocks=blocks)
    lines: list[Text] = []
    ids = ShortIds.of_report(part)
    begins, ends = [], []
    for row, line in zip(rows, table, strict=True):
        begins.append(len(lines))
        lines.append(line)
        if row.site.id in view.expanded:
            lines += site_details(row.site, part, width, ids)
            lines.append(Text())
        ends.append(len(lines))
    lines += _others(view, part, len(sites))
    ends[-1] = len(lines)
    room -= 2  # an empty line and the head
    view.page = max(room - 1, 1)
    # All of the selected site, if that fits; else its beginning.
    first = min(max(ends[at] - room, 0), begins[at])
    return [Text(), head, *lines[first : first + max(room, 1)]]


def _others(view: View, part: Report, shown: int) -> Iterator[Text]:
    hidden = len(sites_of(part)) - shown
    if hidden:
        yield Text(f"  {units.counted(hidden, 'site')} without the words of the filter", "dim")
    elsewhere = missing_from(part)
    if elsewhere:
        yield Text(f"  and {units.counted(elsewhere, 'site')} more (--top shows more)", "dim")


def _row(site: Site, part: Report, view: View) -> _Row:
    mark = about(part)
    word = ""
    if site.verdict is not None and shows_words(part):
        word = word_of(site.verdict.kind)
    held = "" if part.is_counted else mark + units.size(site.held_bytes)
    rate = "" if site.verdict is None else rate_in_words(site.verdict, part, with_error=False)
    growth = view.change(site)
    change = "" if growth is None else mark + change_in_words(part, growth)
    return _Row(site, (word, held, f"{mark}{site.count:,}", rate, change), _where(site))


def _table(
    view: View, part: Report, rows: Sequence[_Row], selected: int, width: int, *, blocks: bool
) -> tuple[Text, list[Text]]:
    """The head, and a line for each row. Columns are as wide as their texts need; the last one,
    where it is, has what is left."""
    since = f"since mark {view.marks[-1].number}" if view.marks else "change"
    names = ["verdict", "held", "count", "rate", since]
    used = [any(row.cells[at] for row in rows) for at in range(5)]
    if width < WIDE and view.marks:
        used[3] = False
    elif width < WIDE and used[3]:
        used[4] = False
    trend = 20 if width >= WIDE + 40 else 12 if width >= WIDE else 8

    def taken() -> int:
        columns = sum(2 + cells for at, cells in enumerate(widths) if used[at])
        return columns + (2 + trend if trend else 0) + 2

    widths = [max([len(names[at]), *(cell_len(row.cells[at]) for row in rows)]) for at in range(5)]
    for without in (-1, 4, 3, 0):  # what can be left out on a narrow screen: the trend first
        if width - taken() >= _WHERE_CELLS:
            break
        if without < 0:
            trend = 0
        else:
            used[without] = False
    head = Text("  ")
    for at, name in enumerate(names):
        if used[at]:
            head.append(name.ljust(widths[at]) if at == 0 else name.rjust(widths[at])).append("  ")
    if trend:
        head.append("trend".rjust(trend)).append("  ")
    head.append("where")
    head.stylize("dim")
    layout = _Layout(width, widths, used, trend)
    lines = []
    for number, row in enumerate(rows):
        lines.append(_line(view, row, layout, is_selected=number == selected, blocks=blocks))
    return head, lines


def _line(
    view: View,
    row: _Row,
    layout: _Layout,
    *,
    is_selected: bool,
    blocks: bool,
) -> Text:
    width, widths, used, trend = layout.width, layout.columns, layout.used, layout.trend
    verdict = row.site.verdict
    style = "" if verdict is None else STYLES.get(verdict.kind, "green")
    change = view.change(row.site) or 0
    styles = (style, "bold", "", style if "red" in style else "", change_style(change))
    line = Text(_MARKS[blocks] if is_selected else "  ")
    for at, text in enumerate(row.cells):
        if used[at]:
            padded = text.ljust(widths[at]) if at == 0 else text.rjust(widths[at])
            line.append(padded, styles[at]).append("  ")
    if trend:
        line.append(sparkline(view.course(row.site), trend, blocks=blocks), "cyan").append("  ")
    name, place = row.where
    room = max(width - line.cell_len, 1)
    name = shorten_symbol(name, max(room - (len(place) + 1 if len(place) < room // 2 else 0), 4))
    line.append(name, "" if is_selected else "bold")
    left = width - line.cell_len - 1
    if place and left >= min(cell_len(place), 12):
        line.append(" ").append(shorten_middle(place, left), "dim")
    if is_selected:
        line = Text(set_cell_size(line.plain, width), "reverse")
    return line


def _where(site: Site) -> tuple[str, str]:
    """The frame that says most, and where that is in the source, or its module."""
    for frame in summary(site.stack.frames):
        if isinstance(frame, Frame):
            module = f"[{module_name(frame.module)}]" if frame.module is not None else ""
            if frame.function is None:
                offset = frame.address if frame.module_offset is None else frame.module_offset
                return printable(f"{module[:-1]}+{offset:#x}]" if module else f"{offset:#x}"), ""
            place = module
            if frame.source is not None:
                file = printable(frame.source.file).rpartition("/")[2]
                place = f"{file}:{frame.source.line}"
            return printable(frame.function), printable(place)
    return "(no stack)", ""


def _footer(view: View, width: int, *, blocks: bool) -> list[Text]:
    if view.typed is not None:
        line = Text("filter: ", "bold").append(printable(view.typed)).append(" ", "reverse")
        return [line.append("   Enter: keep   Esc: cancel", "dim")]
    lines = []
    if view.message:
        lines.append(_cut(Text(printable(view.message), "bold"), width))
    report = view.report
    by = view.order.value
    if view.order is Order.REPORT:
        by = report.sort if report is not None else "growth"
    fields = [
        ("q", "quit"),
        ("s", f"sort: {printable(by)}"),
        ("/", f"filter: {printable(view.filter)}" if view.filter else "filter"),
        ("↵" if blocks else "Enter", "stack"),
        ("p", "go on" if view.is_paused else "pause"),
        ("m", "mark"),
        ("w", "save"),
        ("?", "help"),
    ]
    keys = Text()
    for key, what in fields:
        field = Text().append(key, "bold cyan").append(f" {what}")
        if keys.cell_len + field.cell_len + 2 > width:
            break
        keys.append_text(field).append("  ")
    lines.append(keys)
    return lines


def _help(width: int) -> Iterator[Text]:
    yield Text("Keys of the live view", "bold")
    yield Text()
    for keys, what in _HELP:
        yield Text("  ").append(keys.ljust(16), "bold cyan").append(what)
    yield Text()
    yield Text("Any key: back. All of it is in docs/live.md.", "dim")


def _cut(line: Text, width: int) -> Text:
    if line.cell_len > width:
        line.truncate(width - len(ELLIPSIS))
        line.append(ELLIPSIS)
    return line


def _to_both_ends(left: Text, right: Text, width: int) -> Text:
    """One at the left end, one at the right; the right one only if there is room."""
    gap = width - left.cell_len - right.cell_len
    if gap < 2:
        left.truncate(width)
        return left
    return Text().append_text(left).append(" " * gap).append_text(right)
