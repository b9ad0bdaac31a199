"""Looks at the Go program of a process, one after the other: its goroutines and its heap."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from leaktrace.analysis.go_reports import GoFile, GoReports
from leaktrace.capabilities import Capability, refused
from leaktrace.errors import TargetError
from leaktrace.go_report import EXECUTED, GoLine, HeapLook
from leaktrace.notices import notify
from leaktrace.printable import printable
from leaktrace.process.go_refills import Refills
from leaktrace.runtimes.go.goroutines import Goroutines
from leaktrace.runtimes.go.heap import Heap, HeapUnknownError
from leaktrace.runtimes.go.program import GoProgram, open_go_program
from leaktrace.targets.access import require_access
from leaktrace.targets.executed import mark_of_program
from leaktrace.targets.process import Process

_Read = TypeVar("_Read")
_MOST_SHOWN = 3  # files


class GoLooks:
    """The Go program of a process, and what was seen of it."""

    def __init__(
        self,
        process: Process,
        top: int,
        program: GoProgram | None = None,
        *,
        sample_refills: bool = False,
    ) -> None:
        """`program`: if it was opened already. `sample_refills`: also sample what it allocates,
        which sets probes. Raises NotGoError, TargetError when the process can't be read or has
        ended, and other LeaktraceErrors where probes can't be set."""
        self._process, self._top = process, top
        self._sample_refills = sample_refills
        self._refills: Refills | None = None
        self._first_s: float | None = None  # when the first look began
        self._executed_count = 0
        require_access(process.pid)
        self._open(program)
        self._refills = self._sampled()

    def close(self) -> None:
        """Remove the probes, if there are any."""
        refills, self._refills = self._refills, None
        if refills is not None:
            refills.close()

    def _open(self, program: GoProgram | None) -> None:
        process = self._process
        self._mark = mark_of_program(process.pid)  # before: what is opened may be a later one
        program = program or open_go_program(process.pid)
        self.program = program
        self._goroutines = _readable(process, lambda: Goroutines(program))
        file = GoFile(program.path, program.version.text, program.bias, program.build_id)
        self.reports = GoReports(
            process.pid, file, self._top, _lines_of(program), first_s=self._first_s
        )
        self.notes = _notes(program, self._goroutines)
        self.heap: Heap | None = None
        try:
            self.heap = _readable(process, lambda: Heap(program))
        except HeapUnknownError as error:
            self.notes = (*self.notes, f"{error.message}: {error.hint}")
        self.look_s = 0.0
        self.heap_look: HeapLook | None = None  # the last one

    def _sampled(self) -> Refills | None:
        """The samples, if they are asked for."""
        if not self._sample_refills:
            return None
        return _readable(self._process, lambda: _refills(self.program, self.heap))

    def look(self) -> None:
        """Look once more; in another program, if the process has executed one. Raises TargetError
        when the process has ended."""
        if self.look_s and self._has_executed():
            self._look_at_another()
        else:
            self._look()

    def _look_at_another(self) -> None:
        """Look at the program that was executed. It may end before it has been looked at: then
        what was seen of the one before is still there."""
        self.close()
        before = dict(vars(self))
        try:
            self._open(None)
            self._executed_count += 1
            self.notes = (_executed(self._executed_count), *self.notes)
            try:
                self._refills = self._sampled()
            except TargetError as error:
                self.notes = (*self.notes, error.message)
            self._look()
        except BaseException:
            self.close()
            vars(self).update(before)
            raise

    def _look(self) -> None:
        look = _readable(self._process, self._goroutines.look)
        heap = self._look_at_heap()
        # If it is still there, its id was never that of another process.
        if not self._process.is_alive():
            raise _ended(self._process)
        self.look_s = time.monotonic()
        if self._first_s is None:
            self._first_s = look.time_s
        self.reports.look(look)
        if heap is not None:
            self.reports.look_at_heap(heap)
            self.heap_look = heap

    def _has_executed(self) -> bool:
        mark = mark_of_program(self._process.pid)
        is_same = mark == self._mark or not mark
        return not is_same or not _readable(self._process, self._goroutines.is_there)

    def _look_at_heap(self) -> HeapLook | None:
        if self.heap is None:
            return None
        try:
            look = _readable(self._process, self.heap.look)
            refills = self._refills
            if refills is None:
                return look
            return replace(look, refills=_readable(self._process, refills.look))
        except HeapUnknownError as error:
            note = f"{error.message}: the figures of the heap are older"
            self.notes = (*(one for one in self.notes if one != note), note)
            return None


def _refills(program: GoProgram, heap: Heap | None) -> Refills | None:
    """None where the program has a profile of its own, so that nothing is probed. Raises
    LeaktraceError and OSError."""
    if heap is None:
        raise TargetError(
            f"the allocations of process {program.pid} can't be sampled: its heap can't be found",
            "leave out --go-sample-refills",
        )
    rate = heap.profile.rate_bytes()
    if rate:
        notify(
            f"process {program.pid} keeps a profile of its own (one allocation in {rate:,} bytes): "
            "it is shown, and nothing is probed"
        )
        return None
    refills = Refills(program, heap.variables)
    notify(
        f"two probes are set in the allocator of process {program.pid}, and removed when leaktrace "
        "ends"
    )
    return refills


def _executed(times: int) -> str:
    """Says which program it is, too: after another one, it is another sentence."""
    again = f" {times:,} times" if times > 1 else ""
    return f"{EXECUTED}{again}: growth counts from here"


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
    if program.is_library:
        notes.append(f"this is the Go code of {printable(program.path)}")
    if program.others:
        # A library has a runtime of its own, a plugin has that of the program.
        notes.append(
            f"there is more Go code, which is not looked at: {_some(program.others)}. Goroutines "
            "and heap of a library are missing here; of a plugin, only names are"
        )
    if not goroutines.reasons:
        notes.append("the names of what goroutines wait for were not found")
    return tuple(notes)


def _some(paths: tuple[str, ...]) -> str:
    shown = ", ".join(printable(path) for path in paths[:_MOST_SHOWN])
    more = len(paths) - _MOST_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


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
