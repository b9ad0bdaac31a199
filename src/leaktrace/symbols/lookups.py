"""Lookups in the background: files may be huge, and servers far away or down.

Each lookup is a job for one of a few threads, which do little more than wait for child processes. A
report contains what has arrived by then. It waits for lookups that are usually quick; only the last
report waits for slow ones, and not for long. Signals cut every wait short.

The threads get no signals, and don't delay the end of the process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from leaktrace.own.children import child_environment
from leaktrace.own.interrupts import held_back

_QUICK_S = 3.0  # how long a report waits for lookups that should be quick
_QUICK_AFTER_SIGNAL_S = 1.0
_STARVED_S = 15.0  # the same on a busy machine, while child processes get next to no CPU time
_STARVED_CPU_S = 1.0
_LAST_S = 10.0  # how long the final report waits for all lookups
_LAST_AFTER_SIGNAL_S = 0.2
_CLOSING_S = 0.2  # for incomplete files to be removed
_POLL_S = 0.05  # between checks for a signal
_MAX_THREADS = 2  # per kind
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class CancelledError(Exception):
    """The run is over: the result of the lookup is no longer needed."""


class Lookup:
    """One lookup. When it may take long, `awaits` says what it waits for, as reports name it: "the
    debug information of libfoo.so (900 MB)"."""

    def __init__(self) -> None:
        self.awaits = ""


# A part of a lookup. Returns the step that remains, which asks servers; None when it is complete.
Step = Callable[[Lookup], "Step | None"]


class Lookups:
    """The lookups of one run."""

    def __init__(
        self, interrupted: Callable[[], bool] = lambda: False, *, in_background: bool = True
    ) -> None:
        """`interrupted` returns whether the run should end. Without `in_background`, `start`
        returns when the lookup is complete."""
        self._interrupted = interrupted
        self._in_background = in_background
        self._changed = threading.Condition()
        self._pending: list[Lookup] = []
        self._working = 0  # steps that are being run
        self._children: set[subprocess.Popen[bytes]] = set()
        self._local = _ThreadPool()
        self._remote = _ThreadPool()  # separate, so that servers don't delay the others
        self._is_closed = False
        # Counts results. What was derived from results of an earlier count is out of date.
        self.arrived = 0

    # -- for the callers that need results --------------------------------------------------

    def start(self, step: Step) -> None:
        """Start a lookup. The last step must store the result before it returns."""
        lookup = Lookup()
        with self._changed:
            self._pending.append(lookup)
        if self._in_background:
            self._local.put(lambda: self._work(lookup, step))
        else:
            self._work(lookup, step)

    def wait(self, *, is_last: bool) -> None:
        """Wait for the lookups that should be quick and, for the final report, a while for the
        others."""
        came_before = self._interrupted()
        quick_s = _QUICK_AFTER_SIGNAL_S if came_before else _QUICK_S
        last_s = _LAST_AFTER_SIGNAL_S if came_before else _LAST_S
        started_s = time.monotonic()

        def is_worth_it() -> bool:
            if not self._pending or self._interrupted() != came_before:
                return False
            spent_s = time.monotonic() - started_s
            if is_last and spent_s < last_s:
                return True
            if all(lookup.awaits for lookup in self._pending):
                return False
            return spent_s < quick_s or (spent_s < _STARVED_S and self._is_starved())

        with self._changed:
            while is_worth_it():
                self._changed.wait(_POLL_S)
            if self._interrupted() == came_before:
                for lookup in self._pending:  # no report waits for it again
                    lookup.awaits = lookup.awaits or "debug information that takes long to read"

    def _is_starved(self) -> bool:
        """Whether there are child processes, and none has got much CPU time yet."""
        times_s = [_cpu_s(child.pid) for child in self._children]
        return bool(times_s) and max(times_s) < _STARVED_CPU_S

    def awaited(self) -> tuple[str, ...]:
        """What the slow lookups wait for now."""
        with self._changed:
            return tuple(lookup.awaits for lookup in self._pending if lookup.awaits)

    def close(self) -> None:
        """Cancel all lookups, and kill their child processes."""
        with self._changed:
            self._is_closed = True
            for child in self._children:
                child.kill()
            self._changed.wait_for(lambda: not self._working, _CLOSING_S)

    # -- for the steps of lookups -----------------------------------------------------------

    def may_take_long(self, lookup: Lookup, awaits: str) -> None:
        """Only the final report waits for this lookup from now on."""
        with self._changed:
            lookup.awaits = awaits
            self._changed.notify_all()

    def partly_arrived(self) -> None:
        """A part of the result is usable before the lookup is complete."""
        with self._changed:
            self.arrived += 1

    def run(
        self, module: str, arguments: Sequence[str], descriptors: Sequence[int], timeout_s: float
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a module of leaktrace as a child process, and wait for its end.

        Returns its status and what it wrote to stderr. Raises OSError, subprocess.TimeoutExpired
        and CancelledError.
        """
        with self._changed:
            if self._is_closed:
                raise CancelledError
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", module, *arguments],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=child_environment(),
                start_new_session=True,  # Ctrl-C is for the tracer
            )
            self._children.add(child)
        try:
            _, said = child.communicate(timeout=timeout_s)
        finally:
            child.kill()
            child.wait()
            with self._changed:
                self._children.discard(child)
        if self._is_closed:
            raise CancelledError
        return subprocess.CompletedProcess(child.args, child.returncode, b"", said)

    def _work(self, lookup: Lookup, step: Step) -> None:
        with self._changed:
            self._working += 1
        rest: Step | None = None
        try:
            rest = step(lookup)
        except CancelledError:
            pass
        finally:
            with self._changed:
                self._working -= 1
                if rest is None:
                    self._pending.remove(lookup)
                    self.arrived += 1
                self._changed.notify_all()
        if rest is None:
            return
        if self._in_background:
            self._remote.put(lambda: self._work(lookup, rest))
        else:
            self._work(lookup, rest)


def _cpu_s(pid: int) -> float:
    """The CPU time of a process so far (utime and stime in /proc/PID/stat)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


class _ThreadPool:
    """A few threads that run jobs in order, and exit when there are none. Unlike those of
    concurrent.futures, they don't delay the end of the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: deque[Callable[[], None]] = deque()
        self._threads = 0

    def put(self, job: Callable[[], None]) -> None:
        with self._lock:
            self._jobs.append(job)
            if self._threads == _MAX_THREADS:
                return
            self._threads += 1
        try:
            with held_back():
                threading.Thread(target=self._work, daemon=True).start()
        except RuntimeError:  # no thread can be started: the next `put` tries again
            with self._lock:
                self._threads -= 1

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._jobs:
                    self._threads -= 1
                    return
                job = self._jobs.popleft()
            try:
                job()
            except BaseException:
                with self._lock:  # the other threads continue
                    self._threads -= 1
                raise
