"""How much work a run puts into unwind tables, of all objects together.

A process may map any number of files, each of which describes millions of functions. The bounds
leave room for real programs; only files that are made to exceed them do:

- bytes of .eh_frame and .debug_frame: libLLVM has 5 MB, node 3 MB, and the largest browsers, with
  their code in one file, up to 20 MB;
- CPU time: libLLVM takes a second (on a slow machine, and only once, see cache.py).

Stacks through an object without a table are found by frame pointers, and a report names the object.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from leaktrace.errors import ObjectFileError

MAX_BYTES = 64 << 20
MAX_CPU_S = 10.0  # at the start; a signal ends it at any time
LATER_CPU_S = 2.0  # for the objects that one look finds during the run: it delays reports
MAX_LATER_CPU_S = 20.0  # for all objects that are found during the run


class NotBuiltError(ObjectFileError):
    """The table of an object was not built, although the object has one."""


class OverBudgetError(NotBuiltError):
    """The table of an object would exceed a bound."""


class TableBudget:
    """What is left for the tables of one run."""

    def __init__(self, interrupted: Callable[[], bool] = lambda: False) -> None:
        """`interrupted`: whether the run is about to end, so that no table is worth the wait."""
        self._interrupted = interrupted
        self._bytes = MAX_BYTES
        self._cpu_s = MAX_CPU_S
        self._later_cpu_s: float | None = None  # None: the start isn't over
        self._exceeded = f"unwind tables took more than {MAX_CPU_S:g} s of CPU time at the start"
        self._admitted: set[str] = set()
        self.was_exceeded = False  # or the run is about to end: some table was not built
        self._deadline_s = 0.0  # on the clock of time.thread_time(), while building

    def admit(self, shown: str, digest: str, size_bytes: int) -> None:
        """Take the bytes that a table is made from; those with the same digest are taken once.

        Raises OverBudgetError.
        """
        if digest in self._admitted:
            return
        if size_bytes > self._bytes:
            self.was_exceeded = True
            raise OverBudgetError(
                f"{shown} has {size_bytes / (1 << 20):.0f} MB of unwind information; leaktrace "
                f"reads {MAX_BYTES >> 20} MB of all objects, and {self._bytes >> 20} MB are left"
            )
        self._bytes -= size_bytes
        self._admitted.add(digest)

    @contextmanager
    def building(self) -> Iterator[None]:
        """Count the CPU time of what is done inside."""
        started_s = time.thread_time()
        self._deadline_s = started_s + self._cpu_s
        try:
            yield
        finally:
            used_s = time.thread_time() - started_s
            self._cpu_s -= used_s
            if self._later_cpu_s is not None:
                self._later_cpu_s -= used_s

    def check(self) -> None:
        """Call it regularly while building. Raises NotBuiltError."""
        if time.thread_time() > self._deadline_s:
            self.was_exceeded = True
            raise OverBudgetError(self._exceeded)
        if self._interrupted():
            self.was_exceeded = True
            raise NotBuiltError("the run ended before its unwind table was built")

    def look_again(self) -> None:
        """Give some time to the objects that are found now, during the run."""
        if self._later_cpu_s is None:
            self._later_cpu_s = MAX_LATER_CPU_S
        self._cpu_s = min(LATER_CPU_S, self._later_cpu_s)
        if self._cpu_s == LATER_CPU_S:
            objects, limit_s = "objects that were loaded at one time", LATER_CPU_S
        else:
            objects, limit_s = "all objects that were loaded later", MAX_LATER_CPU_S
        self._exceeded = f"unwind tables of {objects} took more than {limit_s:g} s of CPU time"
