"""Several processes in the text report: who they are, what each holds, and who holds a site.

     pid  command  outstanding      growth                   RSS
    4243  nginx       12.0 MiB  +512.0 KiB  48.1 MiB (+1.3 MiB)
    4242  nginx        1.1 MiB        +0 B  40.0 MiB (+0 B)
    4250  nginx           96 B         new  ended: killed by SIGKILL
... and 23 more: 1.2 MiB, +4.0 KiB
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from leaktrace import units
from leaktrace.model import ProcessLine, Report
from leaktrace.printable import printable
from leaktrace.report.endings import ending_in_short
from leaktrace.report.names import shorten_middle
from leaktrace.report.styles import change_style
from leaktrace.site import Site

MOST_PROCESSES = 10
_LEAST_COMMAND_CELLS = 8
_MOST_COMMAND_CELLS = 24
_MOST_SHARE = 2  # one in this many bytes: a process with more of a site is named


def family_in_words(report: Report) -> str:
    """The traced processes besides the target: "and 8 children"; "" if there are none."""
    others = [line for line in report.processes if line.pid != report.target.pid]
    if not others:
        return ""
    parents = {line.pid: line.parent_pid for line in report.processes}
    if all(line.parent_pid == report.target.pid for line in others):
        return f"and {'1 child' if len(others) == 1 else f'{len(others):,} children'}"
    if all(_descends(line.pid, report.target.pid, parents) for line in others):
        return f"and {units.counted(len(others), 'descendant')}"
    other = "process" if len(others) == 1 else "processes"
    return f"and {len(others):,} other {other}"


def _descends(pid: int, ancestor: int, parents: dict[int, int | None]) -> bool:
    at: int | None = pid
    for _ in parents:  # no further: process ids may be used again, and form a ring
        at = None if at is None else parents.get(at)
        if at == ancestor:
            return True
    return False


def change_in_words(report: Report, change: int) -> str:
    """A change of what is outstanding, always with a sign; of objects without sizes, a count."""
    return f"{change:+,}" if report.is_counted else units.size_change(change)


def processes_in_words(report: Report) -> str:
    """ "in 9 processes"."""
    count = len(report.processes)
    return "in 1 process" if count == 1 else f"in {count:,} processes"


def shares_in_words(site: Site, report: Report) -> str:
    """Which of the processes hold a site: "in 8 of 9 processes, 62% in 4243 (nginx)"."""
    names = {line.pid: printable(line.command) for line in report.processes}
    largest, count, total = site.processes[0], len(site.processes), len(report.processes)
    who = f"{largest.pid} ({names.get(largest.pid, '?')})"
    if count == 1:
        return f"only in process {who}" if total > 1 else f"in process {who}"
    of_all = (
        f"in all {total:,} processes" if count == total else f"in {count:,} of {total:,} processes"
    )
    share = units.share(largest.bytes, site.bytes)
    if largest.bytes * _MOST_SHARE <= site.bytes or not share:
        return of_all
    return f"{of_all}, {share} in process {who}"


def process_lines(report: Report, width: int) -> Iterator[Text]:
    """The table of processes, the most growing first, and an empty line; nothing if there is only
    one process."""
    if not report.processes:
        return
    rows = [_row(line, report) for line in report.processes[:MOST_PROCESSES]]
    yield from _table(rows, width)
    yield from others_line(report, width)
    if len(report.processes) <= MOST_PROCESSES:
        yield Text()


def others_line(report: Report, width: int) -> Iterator[Text]:
    """What the processes hold that have no line, and an empty line; nothing if there are none."""
    others = report.processes[MOST_PROCESSES:]
    if not others:
        return
    about = _about(report)
    text = f"  ... and {len(others):,} more: "
    text += about + _held(report, sum(line.outstanding.bytes for line in others))
    if report.growth_bytes is not None:
        growth = sum(
            line.outstanding.bytes if line.growth_bytes is None else line.growth_bytes
            for line in others
        )
        text += f", {about}{change_in_words(report, growth)}"
    yield _fitted(Text(text), width)
    yield Text()


@dataclass(frozen=True)
class _Row:
    """The cells of a line; "" where there is nothing to say."""

    pid: str
    command: str
    outstanding: str
    growth: str
    resident: str
    change: str  # of it
    ending: str  # in place of these two
    growth_bytes: int


_HEADINGS = _Row("pid", "command", "outstanding", "growth", "RSS", "", "", 0)


def _held(report: Report, held: int) -> str:
    return units.number(held) if report.is_counted else units.size(held)


def _row(line: ProcessLine, report: Report) -> _Row:
    about, resident = _about(report), line.resident
    growth = ""
    if line.growth_bytes is not None:
        growth = about + change_in_words(report, line.growth_bytes)
    elif report.growth_bytes is not None:
        growth = "new"
    change = None
    if resident is not None:
        change = resident.growth_bytes
        if change is None and resident.since_attach_bytes != resident.bytes:
            change = resident.since_attach_bytes
    return _Row(
        pid=str(line.pid),
        command=printable(line.command),
        outstanding=about + _held(report, line.outstanding.bytes),
        growth=growth,
        resident="" if resident is None else units.size(resident.bytes),
        change="" if change is None else f" ({units.size_change(change)})",
        ending=ending_in_short(line.ending) if line.has_ended else "",
        growth_bytes=line.growth_bytes or 0,
    )


def _table(rows: Sequence[_Row], width: int) -> Iterator[Text]:
    """Rows in columns. Where the width is not enough, commands are shortened, then the change of
    RSS is left out, RSS itself, and the growth."""
    longest = min(max(cell_len(row.command) for row in rows), _MOST_COMMAND_CELLS)
    for level in range(4):
        columns = _Columns(rows, with_change=level < 1, with_last=level < 2, with_growth=level < 3)
        room = width - columns.cells
        if room >= min(longest, _LEAST_COMMAND_CELLS):
            break
    command_cells = max(min(max(longest, len(_HEADINGS.command)), room), 1)
    yield _fitted(columns.line(_HEADINGS, command_cells, "dim"), width)
    for row in rows:
        yield _fitted(columns.line(row, command_cells), width)


class _Columns:
    """The widths of the columns that all rows share, and which of them are shown."""

    def __init__(
        self, rows: Sequence[_Row], *, with_change: bool, with_last: bool, with_growth: bool
    ) -> None:
        every = (_HEADINGS, *rows)
        self.pid = max(len(row.pid) for row in every)
        self.outstanding = max(len(row.outstanding) for row in every)
        has_growth = with_growth and any(row.growth for row in rows)
        self.growth = max(len(row.growth) for row in every) if has_growth else 0
        running = [row for row in rows if row.resident and not row.ending]
        self.resident = max(len(row.resident) for row in (_HEADINGS, *running)) if running else 0
        self.with_change, self.with_last = with_change, with_last
        last = max(len(self._last(row)) for row in every) if with_last else 0
        self.cells = 2 + self.pid + 2 + 2 + self.outstanding  # without the command
        self.cells += sum(2 + cells for cells in (self.growth, last) if cells)

    def _last(self, row: _Row) -> str:
        if row.ending:
            return row.ending
        text = row.resident.rjust(self.resident) if row.resident and self.resident else ""
        return text + (row.change if self.with_change else "")

    def line(self, row: _Row, command_cells: int, style: str = "") -> Text:
        command = set_cell_size(shorten_middle(row.command, command_cells), command_cells)
        text = Text(f"  {row.pid:>{self.pid}}  {command}  ", style)
        text.append(f"{row.outstanding:>{self.outstanding}}")
        if self.growth:
            text.append("  ")
            text.append(f"{row.growth:>{self.growth}}", change_style(row.growth_bytes))
        if self.with_last and self._last(row):
            text.append(f"  {self._last(row)}", "yellow" if row.ending else "")
        return text


def _fitted(line: Text, width: int) -> Text:
    line.truncate(width)
    line.rstrip()
    return line


def _about(report: Report) -> str:
    """The mark of a figure that is an estimate."""
    return "~" if report.is_estimate else ""
