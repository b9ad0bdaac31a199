"""The output of bcc's Python memleak, byte for byte, so that scripts made for it keep working.

The format (bcc `tools/memleak.py`, `print_outstanding` and `print_outstanding_combined`):

    Attaching to pid 4242, Ctrl+C to quit.
    [06:00:00] Top 10 stacks with outstanding allocations:
    \taddr = 55d0c0de1234 size = 128
    \t128 bytes in 1 allocations from stack
    \t\t0x000055d0c0de0a10\tmain+0x1f [leaker]

Stacks ascend by size. The format has no losses, estimates, inlined functions or final reports:
losses and estimates go to the notices, inlined frames are left out (their code is part of the frame
that follows), and a final report looks like any other. Traced events are those of the text format,
where memleak prints raw tuples of the kernel's trace pipe.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import ClassVar, TextIO

from leaktrace import units
from leaktrace.memory import Backing
from leaktrace.model import Event, Loss, RemarkKind, Report, TargetInfo
from leaktrace.printable import printable
from leaktrace.report.endings import ending_in_words
from leaktrace.report.event_lines import EventText
from leaktrace.report.names import LOST_STACK, physical
from leaktrace.report.reporter import Reporter
from leaktrace.site import Frame, Site
from leaktrace.units import size


class MemleakReporter(Reporter):
    """--format memleak."""

    summary: ClassVar[str] = "exactly what bcc's memleak prints, for scripts that read it"

    def __init__(self, output: TextIO, notices: TextIO) -> None:
        super().__init__(output, notices)
        self._noticed_losses: dict[str, int] = {}
        self._noticed_remarks: set[RemarkKind] = set()
        self._noticed_memory: set[Backing | None] = set()
        self._noticed_estimate = False
        self._events = EventText(output)

    def begin(self, target: TargetInfo, command: Sequence[str] = ()) -> None:
        lines = []
        if command:
            shown = printable(shlex.join(command), longest=None)
            lines.append(f"Executing '{shown}' and tracing the resulting process.")
        if target.kind == "kernel":
            lines.append("Attaching to kernel allocators, Ctrl+C to quit.")
        else:
            lines.append(f"Attaching to pid {target.pid}, Ctrl+C to quit.")
        self.write("".join(f"{line}\n" for line in lines))

    def report(self, report: Report) -> None:
        self.write("".join(f"{line}\n" for line in report_lines(report)))
        self._notice_the_rest(report)

    def events(self, events: Iterable[Event]) -> None:
        self.write(self._events.of(events))

    def _notice_the_rest(self, report: Report) -> None:
        if report.is_estimate and not self._noticed_estimate:
            self._noticed_estimate = True
            self.notice(f"estimate: {units.sample_in_words(report)}, figures are scaled up")
        for remark in report.remarks:
            if remark.kind.is_of_completeness and remark.kind not in self._noticed_remarks:
                self.notice(printable(f"incomplete: {remark.text}; {remark.hint}"))
        self._noticed_remarks |= {remark.kind for remark in report.remarks}
        if report.target.stopped:
            self.notice(report.target.stopped)
        for one in report.other_memory:
            is_new = one.backing not in self._noticed_memory | {Backing.SHARED_FILE}
            if is_new and one.outstanding.count:
                self._noticed_memory.add(one.backing)
                held = size(one.outstanding.bytes)
                self.notice(printable(f"{one.section}: {held} outstanding, not in this format"))
        if report.final and report.ending is not None:
            self.notice(ending_in_words(report))
        for loss in report.losses:
            is_told = loss.is_lost or loss.hint
            if is_told and loss.count != self._noticed_losses.get(loss.name, 0):
                self._noticed_losses[loss.name] = loss.count
                self.notice(_loss_notice(loss))


def report_lines(report: Report) -> Iterator[str]:
    """The lines of one report, without line breaks."""
    local_time = report.time.astimezone()
    yield f"[{local_time:%H:%M:%S}] Top {report.top} stacks with outstanding allocations:"
    parts = (_with_mapped_files(report), *report.sections)
    allocations = [one for part in parts for one in part.allocations or ()]
    for allocation in sorted(allocations, key=lambda allocation: allocation.size_bytes):
        yield f"\taddr = {allocation.address:x} size = {allocation.size_bytes}"
    for site in [site for part in reversed(parts) for site in reversed(part.sites)]:
        yield f"\t{site.bytes} bytes in {site.count} allocations from stack"
        yield from _stack_lines(site, with_addresses=not report.combined)
    if report.combined and not report.sites:
        yield ""  # memleak joins its entries and prints the result even if there are none


def _with_mapped_files(report: Report) -> Report:
    """The report with the mappings that memleak counts as well: all of mmap."""
    mapped = [one for one in report.other_memory if one.backing is Backing.SHARED_FILE]
    if not any(one.sites for one in mapped):
        return report
    sites = [*report.sites, *(site for one in mapped for site in one.sites)]
    sites.sort(key=lambda site: -(site.count if report.sort == "count" else site.bytes))
    return replace(
        report,
        sites=tuple(sites[: report.top]),
        allocations=tuple(
            allocation for one in (report, *mapped) for allocation in one.allocations or ()
        ),
    )


def _stack_lines(site: Site, with_addresses: bool) -> Iterator[str]:
    if not site.stack.frames:
        yield f"\t\t{LOST_STACK}"
    for frame in physical(site.stack.frames):
        prefix = f"0x{frame.address:016x}\t" if with_addresses else ""
        yield f"\t\t{prefix}{_symbol(frame)}"


def _symbol(frame: Frame) -> str:
    if frame.function is None:
        symbol = "[unknown]"
    else:
        symbol = f"{printable(frame.function)}+{frame.offset:#x}"
    if frame.module is None:
        return symbol
    # The base name unchanged, so the vdso shows as [[vdso]], as in bcc.
    return f"{symbol} [{printable(PurePosixPath(frame.module).name)}]"


def _loss_notice(loss: Loss) -> str:
    known_size = f" ({size(loss.bytes)})" if loss.bytes is not None else ""
    hint = f"; {loss.hint}" if loss.hint else ""
    label = "lost" if loss.is_lost else "cut off"
    return printable(f"{label}: {units.loss_in_words(loss)}{known_size}{hint}")
