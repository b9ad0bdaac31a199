"""`leaktrace maps` for people.

leaktrace  maps of worker (pid 4242)   report 3, 15.0 s   412 mappings, 5 threads
RSS 48.1 MiB   +12.3 MiB since the first look   +4.1 MiB since the previous one
  grew most: anonymous +10.0 MiB; thread stacks +2.3 MiB

kind                     RSS      growth  since prev.         PSS    reserved
heap (brk)          12.0 MiB        +0 B         +0 B    12.0 MiB    12.1 MiB
…
total               48.1 MiB   +12.3 MiB     +4.1 MiB    44.0 MiB     2.1 GiB

mappings that grew most since the first look:
   +10.0 MiB    +2.0 MiB  7f3a40000000-7f3a44000000  anonymous
                          new, 10.0 MiB of 64.0 MiB in RAM  rw-p
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.text import Text

from leaktrace import units
from leaktrace.memory_map import KIND_NAMES, Figures, KindLine, MapKind, MapsReport, MemoryRange
from leaktrace.printable import printable
from leaktrace.report.layout import flowed, painted, wrapped
from leaktrace.report.names import shorten_middle, wrap
from leaktrace.report.reporter import USUAL_COLUMNS, Writer, terminal_width
from leaktrace.report.styles import change_style

_KIND_COLUMNS = max(map(len, KIND_NAMES.values()))
_GAP = "  "
_FIGURE_COLUMNS = 10
_LEAST_DESCRIPTION = 40
_NAMED_BY_KIND = (MapKind.HEAP, MapKind.MAIN_STACK)
_MOST_KINDS = 3  # in the line that says what grew most


class MapsText(Writer):
    """--format text."""

    def maps(self, report: MapsReport) -> None:
        """Write one report and flush it."""
        width = terminal_width(self.output) or USUAL_COLUMNS
        self.write(painted(self.output, [*maps_lines(report, width), Text()]))


def maps_lines(report: MapsReport, width: int) -> Iterator[Text]:
    """The lines of one report, each at most `width` cells wide."""
    yield from _header(report, width)
    for note in report.notes:
        yield from wrapped("note: ", note, width, "yellow")
    yield Text()
    yield from _kinds(report, width)
    yield Text()
    if report.since_first is None:
        yield from _largest(report.largest, width)
    else:
        yield from _grown(report, width)
    yield from _beside(report.total, width)


def _header(report: MapsReport, width: int) -> Iterator[Text]:
    command = shorten_middle(printable(report.command), width // 2)
    title = Text().append("leaktrace", "bold")
    title.append(f"  maps of {command} (pid {report.pid})", "bold cyan")
    fields = [title]
    if report.since_first is not None:
        fields.append(Text(f"report {report.number}, {units.elapsed(report.elapsed_s)}"))
    counts = units.counted(report.mapping_count, "mapping")
    fields.append(Text(f"{counts}, {units.counted(report.thread_count, 'thread')}"))
    yield from flowed(fields, width)
    if report.final and report.reason:
        reason = f"final report: {report.reason}"
        if report.look_age_s:
            reason += f"; the figures are of {units.elapsed(report.look_age_s)} before"
        yield from (Text(line, "bold") for line in wrap(printable(reason), width))
    yield from flowed([Text("RSS ").append(units.size(report.total.resident), "bold"),
                       *_changes(report)], width)  # fmt: skip
    grew = sorted(
        (line for line in report.kinds if line.since_first and line.since_first.resident > 0),
        key=lambda line: -(line.since_first.resident if line.since_first else 0),
    )
    if grew:
        most = [
            Text(f"{KIND_NAMES[line.kind]} {units.size_change(line.since_first.resident)}")
            for line in grew[:_MOST_KINDS]
            if line.since_first is not None
        ]
        yield from flowed([Text("  grew most: ").append_text(most[0]), *most[1:]], width)


def _changes(report: MapsReport) -> Iterator[Text]:
    """Of the whole, since the first look and since the previous one."""
    if report.since_first is None or report.since_previous is None:
        if report.total.swapped:
            yield Text(f"swapped out {units.size(report.total.swapped)}")
        return
    first, previous = report.since_first, report.since_previous
    text = f"{units.size_change(first.resident)} since the first look"
    yield Text(text, change_style(first.resident))
    if report.number > 1:
        yield Text(f"{units.size_change(previous.resident)} since the previous one")
    if report.total.swapped or first.swapped:
        change = units.size_change(first.swapped)
        yield Text(f"swapped out {units.size(report.total.swapped)} ({change})")


# --- kinds -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Column:
    head: str
    figures: tuple[str, ...]  # of each kind, then of all

    @property
    def cells(self) -> int:
        return max(_FIGURE_COLUMNS, len(self.head), *map(len, self.figures))


def _kinds(report: MapsReport, width: int) -> Iterator[Text]:
    """A line for each kind, then the sum. Columns that don't fit are left out, the last first."""
    total = KindLine(
        report.kinds[0].kind,
        report.mapping_count,
        report.total,
        report.since_first,
        report.since_previous,
    )
    lines = [*report.kinds, total]
    columns = list(_columns(report, lines))
    while (
        len(columns) > 1 and _KIND_COLUMNS + sum(len(_GAP) + one.cells for one in columns) > width
    ):
        columns.pop()
    names = [*(KIND_NAMES[line.kind] for line in report.kinds), "total"]
    head = f"{'kind':{_KIND_COLUMNS}}"
    yield Text(head + "".join(f"{_GAP}{one.head:>{one.cells}}" for one in columns), "bold")
    for row, name in enumerate(names):
        figures = "".join(f"{_GAP}{one.figures[row]:>{one.cells}}" for one in columns)
        style = "bold" if row == len(names) - 1 else ""
        yield Text(f"{name:{_KIND_COLUMNS}}{figures}", style)


def _columns(report: MapsReport, lines: Sequence[KindLine]) -> Iterator[_Column]:
    """The most important first."""
    yield _Column("RSS", tuple(units.size(line.figures.resident) for line in lines))
    if report.since_first is not None:
        yield _Column("growth", tuple(_change(line.since_first) for line in lines))
    if report.since_previous is not None and report.number > 1:
        yield _Column("since prev.", tuple(_change(line.since_previous) for line in lines))
    if report.total.swapped:
        yield _Column("swapped", tuple(units.size(line.figures.swapped) for line in lines))
    if report.total.hugetlb:
        yield _Column("hugetlb", tuple(units.size(line.figures.hugetlb) for line in lines))
    yield _Column("PSS", tuple(units.size(line.figures.proportional) for line in lines))
    yield _Column("reserved", tuple(units.size(line.figures.reserved) for line in lines))


def _change(figures: Figures | None) -> str:
    return "" if figures is None else units.size_change(figures.resident)


# --- single mappings ---------------------------------------------------------------------------


def _grown(report: MapsReport, width: int) -> Iterator[Text]:
    if not report.grown:
        if not report.look_age_s:
            yield Text("no mapping holds more than in the first look")
        return
    yield from wrapped("", "mappings that grew most since the first look:", width)
    for one in report.grown:
        figures = [units.size_change(one.growth)]
        if report.number > 1:
            figures.append(units.size_change(one.since_previous))
        yield from _mapping(one.range, figures, width, "new, " if one.is_new else "")


def _largest(ranges: Sequence[MemoryRange], width: int) -> Iterator[Text]:
    if not ranges:
        return
    yield Text("mappings that hold most:")
    for one in ranges:
        yield from _mapping(one, [units.size(one.figures.held)], width, "")


def _mapping(one: MemoryRange, columns: Sequence[str], width: int, mark: str) -> Iterator[Text]:
    """Its figures in columns, and beside them, or below where that is too narrow, what it is."""
    first = "".join(f"{_GAP}{text:>{_FIGURE_COLUMNS}}" for text in columns)
    indent = len(first) + len(_GAP)
    if width - indent < _LEAST_DESCRIPTION:
        yield Text(shorten_middle(first, width))
        first, indent = "", len(_GAP) * 2
    for line in _description(one, mark):
        yield Text(f"{first:{indent}}{shorten_middle(line, width - indent)}")
        first = ""


def _description(one: MemoryRange, mark: str) -> Iterator[str]:
    yield f"{one.start:x}-{one.end:x}  {KIND_NAMES[one.kind]}"
    figures = one.figures
    held = f"{mark}{units.size(figures.resident)} of {units.size(figures.reserved)} in RAM"
    if figures.swapped:
        held += f", {units.size(figures.swapped)} swapped"
    if figures.hugetlb:
        held += f", {units.size(figures.hugetlb)} in hugetlb pages"
    yield f"{held}  {one.permissions}"
    if one.name and one.kind not in _NAMED_BY_KIND:
        yield printable(one.name) + (" (deleted)" if one.deleted else "")


def _beside(total: Figures, width: int) -> Iterator[Text]:
    """Parts of the whole that explain something."""
    if total.huge:
        text = f"{units.size(total.huge)} of the RSS are in transparent huge pages"
        yield from wrapped("huge pages: ", text, width)
    if total.hugetlb:
        text = f"{units.size(total.hugetlb)} in pages of hugetlbfs, which are not part of the RSS"
        yield from wrapped("hugetlb: ", text, width)
    if total.lazily_freed:
        text = (
            f"{units.size(total.lazily_freed)} of the RSS were given back (MADV_FREE): the kernel "
            "takes them when it needs memory"
        )
        yield from wrapped("lazily freed: ", text, width)
