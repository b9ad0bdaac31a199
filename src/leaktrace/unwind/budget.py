"""How much work a run puts into unwind tables, of all objects together.

A process may map any number of files that describe millions of functions each. Each bound lets
real programs through with room to spare, and is met only by what was made to meet it:

- bytes of .eh_frame and .debug_frame: libLLVM has 5 MB, node 3 MB, and the largest browsers, with
  their code in one file, up to 20 MB;
- CPU time: libLLVM takes a second (here, on a slow machine; and only once, see cache.py).

What is left out is walked by frame pointer, and named.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from leaktrace.errors import ObjectFileError

MAX_BYTES = 64 << 20
MAX_CPU_S = 10.0  # at the start; signals end it at any time
LATER_CPU_S = 2.0  # for the objects found by one look while it runs, which holds reports back


class NotBuiltError(ObjectFileError):
    """An object has a table, which this run does without."""


class OverBudgetError(NotBuiltError):
    """The table of an object would take more than is left."""


class TableBudget:
    """What is left for the tables of one run."""

    def __init__(self, interrupted: Callable[[], bool] = lambda: False) -> None:
        """`interrupted`: whether the run is to end, so that no table is worth waiting for."""
        self._interrupted = interrupted
        self._bytes = MAX_BYTES
        self._cpu_s = MAX_CPU_S
        self._admitted: set[str] = set()
        self._deadline_s = 0.0  # on the clock of time.thread_time(), while building

    def admit(self, shown: str, digest: str, size_bytes: int) -> None:
        """Take the bytes that a table is made from; the same ones are taken once.

        Raises OverBudgetError.
        """
        if digest in self._admitted:
            return
        if size_bytes > self._bytes:
            raise OverBudgetError(
                f"{shown} has {size_bytes / (1 << 20):.0f} MB of unwind information, and of the "
                f"{MAX_BYTES >> 20} MB that are read of all objects {self._bytes >> 20} MB are left"
            )
        self._bytes -= size_bytes
        self._admitted.add(digest)

    @contextmanager
    def building(self) -> Iterator[None]:
        """What is done inside takes CPU time."""
        started_s = time.thread_time()
        self._deadline_s = started_s + self._cpu_s
        try:
            yield
        finally:
            self._cpu_s -= time.thread_time() - started_s

    def check(self) -> None:
        """To be called now and then while building. Raises NotBuiltError."""
        if time.thread_time() > self._deadline_s:
            raise OverBudgetError(
                f"all unwind tables together took more than {MAX_CPU_S:g} s of CPU time, or those "
                f"of objects loaded later more than {LATER_CPU_S:g} s"
            )
        if self._interrupted():
            raise NotBuiltError("the run was to end while its unwind table was built")

    def look_again(self) -> None:
        """Some time for what is found while the run goes on."""
        self._cpu_s = LATER_CPU_S
