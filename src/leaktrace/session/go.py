"""One run of `leaktrace go`: a look at the start, and one at each interval."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Callable, Generator
from contextlib import closing
from typing import TypeVar

from leaktrace import units
from leaktrace.analysis.go_reports import GoReports
from leaktrace.capabilities import Capability, refused
from leaktrace.errors import NothingTracedError, TargetError
from leaktrace.go_report import GoLine, GoReport, HeapLook
from leaktrace.model import TARGET_ENDED
from leaktrace.notices import notify
from leaktrace.options import GoOptions
from leaktrace.own.interrupts import Interrupts, NothingToEndError
from leaktrace.printable import printable
from leaktrace.report import create_go_reporter, open_output
from leaktrace.runtimes.go.goroutines import Goroutines
from leaktrace.runtimes.go.heap import Heap, HeapUnknownError
from leaktrace.runtimes.go.program import GoProgram, open_go_program
from leaktrace.session.go_profile import profile_on, repair
from leaktrace.session.moments import moments
from leaktrace.targets.access import require_access
from leaktrace.targets.process import Process

_Read = TypeVar("_Read")
_SWITCHED_ON = (
    "--go-enable-profile: allocation sites are those of what was allocated since it was switched on"
)
_EXECUTED = "the process executed another program: growth counts from here"


def run_go(options: GoOptions) -> int:
    """Report until the process ends, the requested reports are written, or a signal comes.

    Returns the exit code. Raises LeaktraceError, and BrokenPipeError when the reader of the reports
    has closed the pipe.
    """
    with (
        Interrupts() as interrupts,
        open_output(options.output, is_ending=interrupts.is_received) as output,
    ):
        reporter = create_go_reporter(options.format, output.stream, sys.stderr)
        try:
            with interrupts.raised():
                process = Process(options.pid)
            # The reports are closed on every path: there may be something to put back.
            with closing(process), closing(_reports(process, options, interrupts)) as reports:
                for report in reports:
                    reporter.go(report)
        except NothingToEndError:
            raise NothingTracedError(
                "interrupted before the first look", "nothing was seen: run it again"
            ) from None
    return 0


class _Watched:
    """The Go program of a process, and what was seen of it."""

    def __init__(self, process: Process, top: int) -> None:
        self._process, self._top = process, top
        require_access(process.pid)
        self._open()

    def _open(self) -> None:
        process = self._process
        program = self.program = open_go_program(process.pid)
        self._goroutines = _readable(process, lambda: Goroutines(program))
        version = program.version.text
        self.reports = GoReports(process.pid, program.path, version, self._top, _lines_of(program))
        self.notes = _notes(program, self._goroutines)
        self.heap: Heap | None = None
        try:
            self.heap = _readable(process, lambda: Heap(program))
        except HeapUnknownError as error:
            self.notes = (*self.notes, f"{error.message}: {error.hint}")
        self.look_s = 0.0

    def look(self) -> None:
        """Look once more; in another program, if the process has executed one. Raises TargetError
        when the process has ended."""
        goroutines = self._goroutines
        if self.look_s and not _readable(self._process, goroutines.is_there):
            self._open()
            goroutines = self._goroutines
            self.notes = (_EXECUTED, *self.notes)
        look = _readable(self._process, goroutines.look)
        heap = self._look_at_heap()
        # If it is still there, its id was never that of another process.
        if not self._process.is_alive():
            raise _ended(self._process)
        self.look_s = time.monotonic()
        self.reports.look(look)
        if heap is not None:
            self.reports.look_at_heap(heap)

    def _look_at_heap(self) -> HeapLook | None:
        if self.heap is None:
            return None
        try:
            return _readable(self._process, self.heap.look)
        except HeapUnknownError as error:
            note = f"{error.message}: the figures of the heap are older"
            self.notes = (*(one for one in self.notes if one != note), note)
            return None


def _reports(process: Process, options: GoOptions, interrupts: Interrupts) -> Generator[GoReport]:
    with interrupts.raised():
        watched = _Watched(process, options.top)
    repair(process)
    if options.profile_rate_bytes is None:
        yield from _looks(watched, process, options, interrupts)
        return
    with profile_on(process, watched.heap, options.profile_rate_bytes) as was_off:
        if was_off:
            watched.notes = (*watched.notes, _SWITCHED_ON)
        yield from _looks(watched, process, options, interrupts)


def _looks(
    watched: _Watched, process: Process, options: GoOptions, interrupts: Interrupts
) -> Generator[GoReport]:
    with interrupts.raised():
        watched.look()
    if options.interval_s is None:
        yield watched.reports.build(
            number=1, command=process.read_name(), reason="", notes=watched.notes
        )
        return
    count = options.count
    every = units.interval(options.interval_s)
    schedule = f"a report every {every}" if count != 1 else f"one report, after {every}"
    version = printable(watched.program.version.text)
    notify(f"looked at the goroutines of pid {process.pid} ({version}); {schedule}")
    due = moments(options.interval_s, count, interrupts, process)
    for number, reason in enumerate(due, 1):
        why, age_s = reason, 0.0
        try:
            watched.look()
        except TargetError:
            if process.is_alive():
                raise
            why, age_s = TARGET_ENDED, time.monotonic() - watched.look_s
        yield watched.reports.build(
            number=number,
            command=process.read_name(),
            reason=why,
            look_age_s=age_s,
            notes=watched.notes,
        )
        if age_s:
            return


def _lines_of(program: GoProgram) -> Callable[[int, bool], tuple[GoLine, ...]]:
    def lines(address: int, is_behind_call: bool) -> tuple[GoLine, ...]:
        return program.lines(address, is_return_address=is_behind_call)

    return lines


def _notes(program: GoProgram, goroutines: Goroutines) -> tuple[str, ...]:
    notes = []
    if not program.is_known_version:
        notes.append(
            f"{printable(program.version.text)} is not known here: the layout of the newest known "
            "version is used, and was checked with the first goroutines"
        )
    if not goroutines.reasons:
        notes.append("the names of what goroutines wait for were not found")
    return tuple(notes)


def _readable(process: Process, read: Callable[[], _Read]) -> _Read:
    """What `read` returns. Raises TargetError where the kernel doesn't let it read."""
    try:
        return read()
    except OSError as error:
        if error.errno == errno.EPERM:
            what = f"the memory of process {process.pid} can't be read"
            raise refused(what, Capability.SYS_PTRACE) from error
        raise _ended(process) from error


def _ended(process: Process) -> TargetError:
    return TargetError(f"process {process.pid} has ended", "check the process id (pgrep NAME)")
