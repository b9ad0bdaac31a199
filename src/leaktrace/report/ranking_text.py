"""The ranking of all processes for people.

leaktrace  all processes   report 3, 15.0 s   412 processes, 3 of them grew
growing most: worker (pid 4242, in shop.service): +96.0 MiB in 15.0 s, 384.0 MiB
              per minute; +32.0 MiB since the previous report
  which code holds it: leaktrace -p 4242

    PID command         RSS       growth  since prev.    pages/s     age
   4242 worker   101.2 MiB    +96.0 MiB    +32.0 MiB      1,638   2m10s

2 processes started since and still run; none ended
machine: -97.0 MiB available; processes +96.0 MiB; the kernel itself +48.0 KiB
lost: nothing
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO

from rich.cells import cell_len
from rich.text import Text

from leaktrace import units
from leaktrace.model import Cost
from leaktrace.printable import printable
from leaktrace.ranks import EndedProcesses, MachineMemory, RankedProcess, Ranking
from leaktrace.report.layout import advised, flowed, painted, wrapped
from leaktrace.report.names import shorten_middle, wrap
from leaktrace.report.reporter import USUAL_COLUMNS, Writer, terminal_width

_S_NS = 1_000_000_000
_MIB = 1 << 20
_KERNEL_LEAST_BYTES = 8 * _MIB
_KERNEL_LEAST_SHARE = 0.25  # of the growth of processes
_LEAST_FOR_A_RATE_S = 1.0
_COMMAND_COLUMNS = 15  # the most that the kernel keeps of a name
_PID_COLUMNS = 7  # the kernel's limit is 4,194,304
_COLUMNS = (("RSS", 10), ("growth", 11), ("since prev.", 11), ("pages/s", 9), ("age", 6))
_GAP = "  "
_EXPLANATION = (
    "growth: anonymous and shared memory, in RAM or swapped out. pages/s: first accesses to "
    "pages, also of files, and copies after a fork; a huge page counts once. What was freed since "
    "doesn't lower them."
)


class RankingText(Writer):
    """--format text."""

    def __init__(self, output: TextIO, notices: TextIO) -> None:
        super().__init__(output, notices)
        self._shown_notes: set[str] = set()

    def ranking(self, ranking: Ranking) -> None:
        """Write one report and flush it."""
        notes = [note for note in ranking.notes if note not in self._shown_notes]
        is_first = ranking.number == 1
        self._shown_notes.update(notes)
        width = terminal_width(self.output) or USUAL_COLUMNS
        lines = ranking_lines(ranking, width, notes, explain=is_first)
        self.write(painted(self.output, [*lines, Text()]))


def ranking_lines(
    ranking: Ranking, width: int, notes: list[str], *, explain: bool
) -> Iterator[Text]:
    """The lines of one report, each at most `width` cells wide; `explain`: what the figures are."""
    title = Text().append("leaktrace", "bold").append("  all processes", "bold cyan")
    when = Text(f"report {ranking.number}, {units.elapsed(ranking.elapsed_s)}")
    count = f"{_processes(ranking.process_count)}, {ranking.grown_count:,} of them grew"
    yield from flowed([title, when, Text(count)], width)
    if ranking.final:
        reason = ": ".join(filter(None, ("final report", ranking.reason)))
        yield from (Text(line, "bold") for line in wrap(printable(reason), width))
    for note in notes:
        yield from wrapped("note: ", note, width, "yellow")
    yield from _verdict(ranking, width)
    yield Text()
    if ranking.processes:
        yield from _table(ranking, width)
        yield Text()
    yield from wrapped("", _comings_and_goings(ranking), width)
    yield from _machine(ranking.machine_growth, width)
    if explain:
        yield from wrapped("", _EXPLANATION, width)
    yield from _footer(ranking, width)


def _verdict(ranking: Ranking, width: int) -> Iterator[Text]:
    most = ranking.processes[0] if ranking.processes else None
    if most is None or most.growth_bytes < _MIB:
        yield from wrapped("", "no process has grown by 1.0 MiB or more", width)
        return
    in_unit = f", in {most.unit}" if most.unit else ""
    text = (
        f"{most.command} (pid {most.pid}{in_unit}): {units.size_change(most.growth_bytes)} in "
        f"{units.elapsed(most.watched_s)}"
    )
    if most.watched_s >= _LEAST_FOR_A_RATE_S:
        text += f", {units.size(round(most.growth_bytes_per_minute))} per minute"
    if most.since_previous_bytes is not None:
        text += f"; {units.size_change(most.since_previous_bytes)} since the previous report"
    yield from wrapped("growing most: ", text, width, "bold red")
    shared = most.growth.resident.shared
    if shared > most.growth_bytes // 2:
        text = f"{units.size(shared)} of it is shared memory, which other processes may count too"
        yield from wrapped("  ", text, width)
    yield from wrapped("  ", f"which code holds it: leaktrace -p {most.pid}", width)
    fastest = max(ranking.processes, key=lambda one: one.since_previous_bytes or 0)
    recent_bytes = fastest.since_previous_bytes or 0
    if recent_bytes >= _MIB and recent_bytes > (most.since_previous_bytes or 0):
        text = f"{fastest.command} (pid {fastest.pid}): {units.size_change(recent_bytes)}"
        yield from wrapped("most since the previous report: ", text, width, "bold red")
        yield from wrapped("  ", f"which code holds it: leaktrace -p {fastest.pid}", width)


def _table(ranking: Ranking, width: int) -> Iterator[Text]:
    names = [_name(one) for one in ranking.processes]
    widest = max(len("command"), *map(cell_len, names))
    least = min(widest, _COMMAND_COLUMNS)
    # A figure is shown in full or not at all.
    columns = [_Column(head, room) for head, room in _COLUMNS]
    while columns and _PID_COLUMNS + 1 + least + sum(one.cells for one in columns) > width:
        columns.pop()
    room = min(widest, width - _PID_COLUMNS - 1 - sum(one.cells for one in columns))
    head = f"{'PID':>{_PID_COLUMNS}} {'command':{room}}"
    for column in columns:
        head += column.of(column.head)
    yield Text(head.rstrip(), "bold")
    for one, name in zip(ranking.processes, names, strict=True):
        short = printable(one.command) if cell_len(name) > room else name
        shown = shorten_middle(short, room)
        line = f"{one.pid:>{_PID_COLUMNS}} {shown}{' ' * (room - cell_len(shown))}"
        for column, text in zip(columns, _figures(one), strict=False):
            line += column.of(text)
        yield Text(line.rstrip())
    more = ranking.grown_count - len(ranking.processes)
    if more > 0:
        which = "the other one" if more == 1 else f"the other {more:,}"
        grown = units.size_change(ranking.other_growth_bytes)
        yield from wrapped(f"{'':{_PID_COLUMNS}} ", f"{which} that grew: {grown}", width)


@dataclass(frozen=True)
class _Column:
    """A column of figures."""

    head: str
    room: int

    @property
    def cells(self) -> int:
        return len(_GAP) + self.room

    def of(self, text: str) -> str:
        return f"{_GAP}{text:>{self.room}}"


def _name(one: RankedProcess) -> str:
    unit = f" ({one.unit})" if one.unit else ""
    return printable(f"{one.command}{unit}")


def _figures(one: RankedProcess) -> tuple[str, ...]:
    previous, pages = one.since_previous_bytes, one.new_pages_per_s
    return (
        units.size(one.memory.resident.total),
        units.size_change(one.growth_bytes),
        "" if previous is None else units.size_change(previous),
        "" if pages is None else f"{pages:,.0f}",
        units.age(round(one.age_s * _S_NS)),
    )


def _comings_and_goings(ranking: Ranking) -> str:
    started = f"{_processes(ranking.started_count)} started since and still run"
    if ranking.started_count == 1:
        started = "1 process started since and still runs"
    return f"{started}; {_ended(ranking.ended)}"


def _ended(ended: EndedProcesses) -> str:
    if not ended.count:
        return "none ended"
    details = []
    if ended.held_bytes:
        details.append(f"held {units.size(ended.held_bytes)} when last seen")
    if ended.new_pages:
        most = [f"{one.command} ({one.count:,})" for one in ended.commands[:3]]
        names = f", most by {', '.join(most)}" if most else ""
        details.append(f"touched {ended.new_pages:,} new pages{names}")
    return f"{ended.count:,} ended" + (f" ({'; '.join(details)})" if details else "")


def _machine(growth: MachineMemory, width: int) -> Iterator[Text]:
    parts = [
        f"{name} {units.size_change(bytes_)}"
        for name, bytes_ in (
            ("slab", growth.slab),
            ("vmalloc", growth.vmalloc),
            ("percpu", growth.percpu),
        )
        if bytes_
    ]
    of_what = f" ({', '.join(parts)})" if parts else ""
    text = (
        f"{units.size_change(growth.available)} available; processes "
        f"{units.size_change(growth.processes)}; the kernel itself "
        f"{units.size_change(growth.kernel)}{of_what}"
    )
    yield from wrapped("machine: ", text, width, "bold")
    if growth.kernel >= max(_KERNEL_LEAST_BYTES, growth.processes * _KERNEL_LEAST_SHARE):
        options = "".join(
            f" --{name}"
            for name, bytes_ in (("vmalloc", growth.vmalloc), ("percpu", growth.percpu))
            if bytes_ >= _MIB
        )
        text = f"the kernel itself grew by {units.size(growth.kernel)}: leaktrace --kernel{options}"
        yield from wrapped("  ", text, width)


def _footer(ranking: Ranking, width: int) -> Iterator[Text]:
    if ranking.cost is not None:
        yield from wrapped("cost: ", _cost(ranking.cost), width)
    losses = [loss for loss in ranking.losses if loss.count]
    for loss in losses:
        yield from advised("lost: ", units.loss_in_words(loss), loss.hint, width, "bold red")
    if not losses and ranking.losses:
        yield Text("lost: nothing", "green")


def _cost(cost: Cost) -> str:
    own = (
        f"leaktrace itself takes {cost.own_cpu_share:.1%} of a CPU and "
        f"{units.size(cost.own_resident_bytes)} of memory"
    )
    if cost.events_per_s is None:
        return own
    programs = f"{cost.programs_s_per_s or 0:.1%} of a CPU in BPF programs"
    return f"{cost.events_per_s:,.0f} events/s take {programs}; {own}"


def _processes(count: int) -> str:
    return f"{count:,} process" if count == 1 else f"{count:,} processes"
