"""Slow look-ups, beside the reports: files may be huge, and servers far away or dead.

Each is a job for one of a few threads, which do little more than wait for child processes. A report
takes what is known by then. What is usually there at once it waits for; only a last one waits for
more, and not for long. Signals cut every wait short.

The threads get no signals, and don't hold the end of the process back.
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

_QUICK_S = 3.0  # what should be there at once is waited for
_QUICK_AFTER_SIGNAL_S = 1.0
_STARVED_S = 15.0  # and on a busy machine, where a child process has had next to no CPU time
_STARVED_CPU_S = 1.0
_LAST_S = 10.0  # a last report waits for all
_LAST_AFTER_SIGNAL_S = 0.2
_CLOSING_S = 0.2  # for files half written to be removed
_LOOK_S = 0.05  # whether a signal has come
_AT_ONCE = 2  # of each kind
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class CancelledError(Exception):
    """The run is over: nobody waits for the look-up any more."""


class Lookup:
    """One look-up. `awaits` says what it waits for, as reports name it, as soon as that may take
    long: "the debug information of libfoo.so, 900 MB"."""

    def __init__(self) -> None:
        self.awaits = ""


# A part of a look-up. Returns what remains to be asked of servers, None when all is found out.
Step = Callable[[Lookup], "Step | None"]


class Lookups:
    """The look-ups of one run."""

    def __init__(
        self, interrupted: Callable[[], bool] = lambda: False, *, beside: bool = True
    ) -> None:
        """`interrupted`: whether the run is to end. Not `beside`, `start` waits for the end."""
        self._interrupted = interrupted
        self._beside = beside
        self._changed = threading.Condition()
        self._pending: list[Lookup] = []
        self._working = 0  # threads that are at it
        self._children: set[subprocess.Popen[bytes]] = set()
        self._here = _Crew()
        self._servers = _Crew()  # of its own, so that the others are not held back
        self._is_closed = False
        self.arrived = 0  # counts what was found: what was made of less is out of date

    # -- for those who want to know ---------------------------------------------------------

    def start(self, step: Step) -> None:
        """Have something looked up. What was found must be in place when the last step returns."""
        lookup = Lookup()
        with self._changed:
            self._pending.append(lookup)
        if self._beside:
            self._here.put(lambda: self._work(lookup, step))
        else:
            self._work(lookup, step)

    def wait(self, *, is_last: bool) -> None:
        """Wait for what should be there at once and, for a last report, a while for the rest."""
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
                self._changed.wait(_LOOK_S)
            if self._interrupted() == came_before:
                for lookup in self._pending:  # once is enough
                    lookup.awaits = lookup.awaits or "debug information that takes long to read"

    def _is_starved(self) -> bool:
        """Whether children are at work that have hardly had a chance to be."""
        times_s = [_cpu_s(child.pid) for child in self._children]
        return bool(times_s) and max(times_s) < _STARVED_CPU_S

    def awaited(self) -> tuple[str, ...]:
        """What is waited for now."""
        with self._changed:
            return tuple(lookup.awaits for lookup in self._pending if lookup.awaits)

    def close(self) -> None:
        """Give up what is under way. No child process is left."""
        with self._changed:
            self._is_closed = True
            for child in self._children:
                child.kill()
            self._changed.wait_for(lambda: not self._working, _CLOSING_S)

    # -- for those who look -----------------------------------------------------------------

    def may_take_long(self, lookup: Lookup, awaits: str) -> None:
        """Reports don't wait for it from now on."""
        with self._changed:
            lookup.awaits = awaits
            self._changed.notify_all()

    def tell_news(self) -> None:
        """Something of a look-up can be seen before it is done."""
        with self._changed:
            self.arrived += 1

    def run(
        self, module: str, arguments: Sequence[str], descriptors: Sequence[int], timeout_s: float
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a module of ours as a child process, and wait for its end.

        Raises OSError, subprocess.TimeoutExpired and CancelledError.
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
        if self._beside:
            self._servers.put(lambda: self._work(lookup, rest))
        else:
            self._work(lookup, rest)


def _cpu_s(pid: int) -> float:
    """What a process has used (utime and stime of /proc/PID/stat)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


class _Crew:
    """A few threads that take jobs in the order in which they come, and leave when there are
    none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: deque[Callable[[], None]] = deque()
        self._threads = 0

    def put(self, job: Callable[[], None]) -> None:
        with self._lock:
            self._jobs.append(job)
            if self._threads == _AT_ONCE:
                return
            self._threads += 1
        try:
            with held_back():
                threading.Thread(target=self._work, daemon=True).start()
        except RuntimeError:  # no more threads: the next one who asks tries again
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
                with self._lock:  # the others go on
                    self._threads -= 1
                raise
