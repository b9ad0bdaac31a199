"""`leaktrace heap` for people.

leaktrace  heap of server (pid 4242)   glibc malloc, 9 threads   stopped for 131 ms
LOST 21.6 MiB: nothing points to 22,118 blocks
in use 48.2 MiB in 51,204 blocks   free 3.1 MiB

nothing points to:
    21.6 MiB  22,118 × 1,024 B     text "GET /api/…"
…
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from leaktrace import units
from leaktrace.heap_report import (
    AccountPart,
    Amount,
    BlockGroup,
    FreeMemory,
    GroupKind,
    HeapReport,
)
from leaktrace.printable import printable
from leaktrace.report.holders import holder_lines
from leaktrace.report.layout import flowed, painted, wrapped
from leaktrace.report.names import shorten_middle, wrap
from leaktrace.report.reporter import USUAL_COLUMNS, Writer, terminal_width
from leaktrace.report.styles import change_style

_FIGURE_COLUMNS = 10
_CHANGE_COLUMNS = 11
_SHARE_COLUMNS = 5
_COUNT_COLUMNS = 24
_MOST_NAME = 60
_LEAST_NAME_COLUMNS = 16
_GAP = "  "

_BEGINNINGS = {
    GroupKind.BLOCK: "point to another block",
    GroupKind.ZERO: "zeros",
    GroupKind.OTHER: "a number",
}
PARTS = {
    AccountPart.BLOCKS: "blocks in use, in RAM",
    AccountPart.FREE: "free, kept by malloc, in RAM",
    AccountPart.ALLOCATOR: "malloc's own",
    AccountPart.ANONYMOUS: "anonymous, not malloc's",
    AccountPart.STACKS: "stacks",
    AccountPart.CODE: "files: code",
    AccountPart.FILES: "files: data",
    AccountPart.SHARED_MEMORY: "shared memory",
    AccountPart.OTHER: "other",
}


class HeapText(Writer):
    """--format text."""

    def heap(self, report: HeapReport) -> None:
        """Write one report and flush it."""
        width = terminal_width(self.output) or USUAL_COLUMNS
        self.write(painted(self.output, [*heap_lines(report, width), Text()]))


def heap_lines(report: HeapReport, width: int) -> Iterator[Text]:
    """The lines of one report, each at most `width` cells wide."""
    yield from _header(report, width)
    for note in report.notes:
        yield from wrapped("note: ", note, width, "yellow")
    for problem in report.problems:
        yield from wrapped("not whole: ", problem, width, "bold red")
    if report.has_figures:
        yield from _figures(report, width)
    if report.account is not None and report.has_figures:
        yield Text()
        yield from _account(report, width)


def _header(report: HeapReport, width: int) -> Iterator[Text]:
    command = shorten_middle(printable(report.command), width // 2)
    title = Text().append("leaktrace", "bold")
    title.append(f"  heap of {command} (pid {report.pid})", "bold cyan")
    fields = [title]
    if report.since_first is not None or report.number > 1:
        fields.append(Text(f"report {report.number}, {units.elapsed(report.elapsed_s)}"))
    if report.core:
        fields.append(Text(f"from {shorten_middle(printable(report.core), width // 2)}"))
    threads = units.counted(report.thread_count, "thread")
    fields.append(Text(f"{report.allocator}, {threads}"))
    if report.pause_s is not None:
        fields.append(Text(f"stopped for {units.duration(round(report.pause_s * 1e9))}"))
    yield from flowed(fields, width)
    if report.final and report.reason:
        reason = f"final report: {report.reason}"
        yield from (Text(line, "bold") for line in wrap(printable(reason), width))


def _figures(report: HeapReport, width: int) -> Iterator[Text]:
    lost = report.lost
    lost_bytes = lost.definite_bytes + lost.indirect_bytes
    if lost.definite_count:
        text = f"nothing points to {units.counted(lost.definite_count, 'block')}"
        if lost.indirect_count:
            text += f", and only they lead to {units.number(lost.indirect_count)} more"
        if report.lost_since_first is not None:
            text += f"; {units.size_change(report.lost_since_first.bytes)} since the first look"
        yield from wrapped(f"LOST {units.size(lost_bytes)}: ", text, width, "bold red")
    else:
        yield from wrapped("", "something points to every block", width)
    in_use = f"in use {units.size(report.in_use.bytes)}"
    in_use += f" in {units.counted(report.in_use.count, 'block')}"
    fields = [Text(in_use, "bold")]
    if report.since_first is not None:
        change = report.since_first.bytes
        text = f"{units.size_change(change)} since the first look"
        fields.append(Text(text, change_style(change)))
    fields.append(Text(f"free, kept by malloc {units.size(report.free_bytes)}"))
    if report.unread_bytes:
        text = f"{units.size(report.unread_bytes)} of memory could not be read"
        fields.append(Text(text, "yellow"))
    yield from flowed(fields, width)
    if report.lost_groups:
        yield Text()
        yield from _heading("nothing points to:", width)
        for one in report.lost_groups:
            share = one.lost
            amount = Amount(share.definite_count, share.definite_bytes + share.indirect_bytes)
            yield from group_lines(one, amount, lost_bytes, width, of_lost=True)
        yield from others_line(report.lost_group_count - len(report.lost_groups))
    yield Text()
    grown = "" if report.since_first is None else ", what grew most first"
    yield from _heading(f"in use, by what the blocks begin with{grown}:", width)
    for one in report.groups:
        yield from group_lines(one, one.amount, report.in_use.bytes, width)
        yield from holder_lines(one.holders, width, None)
    yield from others_line(report.group_count - len(report.groups))
    yield Text()
    yield from _heading("free memory that malloc keeps:", width)
    for arena in report.arenas:
        yield from _arena(arena, width)
    yield from others_line(report.arena_count - len(report.arenas), what="arena")


def _heading(text: str, width: int) -> Iterator[Text]:
    yield from (Text(line, "bold") for line in wrap(text, width))


def others_line(count: int, option: str = " (--top)", what: str = "group") -> Iterator[Text]:
    """What is not shown, and the option that shows it."""
    if count:
        yield Text(f"  ... and {units.counted(count, f'other {what}')}{option}")


def group_lines(
    one: BlockGroup, amount: Amount, whole_bytes: int, width: int, *, of_lost: bool = False
) -> Iterator[Text]:
    """A group. `amount`: those of its blocks that the line is about; `whole_bytes`: of all."""
    line = Text(units.size(amount.bytes).rjust(_FIGURE_COLUMNS))
    line.append(units.share(amount.bytes, whole_bytes).rjust(_SHARE_COLUMNS))
    growth = one.lost_since_first if of_lost else one.since_first
    if growth is not None:
        change = units.size_change(growth.bytes)
        line.append(change.rjust(_CHANGE_COLUMNS + 1), change_style(growth.bytes))
    line.append(f"  {_counted(amount.count, one)}".ljust(_COUNT_COLUMNS))
    name = _name(one)
    if of_lost and one.lost.indirect_count:
        name += f"; only they lead to {units.number(one.lost.indirect_count)} more blocks"
    style = "bold" if one.name else ""
    room = width - len(line) - len(_GAP)
    if room < _LEAST_NAME_COLUMNS:
        yield from (Text(text) for text in wrap(line.plain.strip(), width))
        yield from (Text(f"    {text}", style) for text in wrap(name, width - 4))
        return
    first, *others = wrap(name, room) or [""]
    indent = " " * (len(line) + len(_GAP))
    yield line.append(_GAP).append(first, style)
    yield from (Text(indent).append(text, style) for text in others)


def _counted(count: int, one: BlockGroup) -> str:
    least, most = units.number(one.least_bytes), units.number(one.most_bytes)
    size = f"{least} B" if least == most else f"{least} to {most} B"
    return f"{units.number(count)} × {size}"


def _name(one: BlockGroup) -> str:
    name = _shortened(one.name)
    match one.kind:
        case GroupKind.TEXT:
            return f'text "{name}"' if name else "text"  # recordings don't have it
        case GroupKind.CLASS:
            words = name
        case GroupKind.FILE:
            words = f"point to {name or 'a mapped file'}"
        case _:
            words = _BEGINNINGS[one.kind]
    return f'{words}; text "{_shortened(one.text)}"' if one.text else words


def _shortened(text: str) -> str:
    text = printable(text)
    return text if len(text) <= _MOST_NAME else f"{text[: _MOST_NAME - 3]}..."


def _arena(one: FreeMemory, width: int) -> Iterator[Text]:
    name = "main arena" if one.is_main else f"arena {one.number}"
    parts = [
        f"{units.size(size)} {what}"
        for size, what in (
            (one.top_bytes, "at its end"),
            (one.between_bytes, "below blocks in use"),
            (one.cached_bytes, "in caches of threads"),
        )
        if size
    ]
    text = f"{name}: {', '.join(parts)}" if parts else name
    if one.trimmable_bytes:
        text += f"; malloc_trim would give back {units.size(one.trimmable_bytes)}"
    figure = units.size(one.free_bytes).rjust(_FIGURE_COLUMNS)
    share = f"of {units.size(one.system_bytes)}"
    yield from wrapped(f"{figure}  {share:<14}", text, width)


def _account(report: HeapReport, width: int) -> Iterator[Text]:
    account = report.account
    assert account is not None
    yield from _heading(f"RSS {units.size(account.resident_bytes)} is:", width)
    for part, size in account.parts:
        line = units.size(size).rjust(_FIGURE_COLUMNS)
        line += units.share(size, account.resident_bytes).rjust(_SHARE_COLUMNS)
        yield from wrapped(f"{line}{_GAP}", PARTS[part], width)
    if account.swapped_bytes:
        line = units.size(account.swapped_bytes).rjust(_FIGURE_COLUMNS)
        yield from wrapped(f"{line}{' ' * _SHARE_COLUMNS}{_GAP}", "swapped out", width)
