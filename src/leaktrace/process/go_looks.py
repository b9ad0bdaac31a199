"""Looks at the Go program of a process, one after the other: its goroutines and its heap."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar

from leaktrace.analysis.go_reports import GoFile, GoReports
from leaktrace.capabilities import Capability, refused
from leaktrace.errors import TargetError
from leaktrace.go_report import GoLine, HeapLook
from leaktrace.printable import printable
from leaktrace.runtimes.go.goroutines import Goroutines
from leaktrace.runtimes.go.heap import Heap, HeapUnknownError
from leaktrace.runtimes.go.program import GoProgram, open_go_program
from leaktrace.targets.access import require_access
from leaktrace.targets.process import Process

_Read = TypeVar("_Read")
_MOST_SHOWN = 3  # files
_EXECUTED = "the process executed another program: growth counts from here"


class GoLooks:
    """The Go program of a process, and what was seen of it."""

    def __init__(self, process: Process, top: int, program: GoProgram | None = None) -> None:
        """`program`: if it was opened already. Raises NotGoError, and TargetError when the process
        can't be read or has ended."""
        self._process, self._top = process, top
        require_access(process.pid)
        self._open(program or open_go_program(process.pid))

    def _open(self, program: GoProgram) -> None:
        process = self._process
        self.program = program
        self._goroutines = _readable(process, lambda: Goroutines(program))
        file = GoFile(program.path, program.version.text, program.bias, program.build_id)
        self.reports = GoReports(process.pid, file, self._top, _lines_of(program))
        self.notes = _notes(program, self._goroutines)
        self.heap: Heap | None = None
        try:
            self.heap = _readable(process, lambda: Heap(program))
        except HeapUnknownError as error:
            self.notes = (*self.notes, f"{error.message}: {error.hint}")
        self.look_s = 0.0
        self.heap_look: HeapLook | None = None  # the last one

    def look(self) -> None:
        """Look once more; in another program, if the process has executed one. Raises TargetError
        when the process has ended."""
        goroutines = self._goroutines
        if self.look_s and not _readable(self._process, goroutines.is_there):
            self._open(open_go_program(self._process.pid))
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
            self.heap_look = heap

    def _look_at_heap(self) -> HeapLook | None:
        if self.heap is None:
            return None
        try:
            return _readable(self._process, self.heap.look)
        except HeapUnknownError as error:
            note = f"{error.message}: the figures of the heap are older"
            self.notes = (*(one for one in self.notes if one != note), note)
            return None


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
