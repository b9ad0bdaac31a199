"""A command that leaktrace has started is stopped now and then, so that nothing of it is missed.

A thread sees to it that no stop lasts long: the main thread may be busy with a report, or wait
until somebody reads it. Before the exit of the command (bpf/process/exit_stop.bpf.c) the thread
looks at the memory that it still has, and lets it go on. After the other stops, the main thread
does that (process/looks.py); if it doesn't in time, the command goes on without.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from leaktrace.errors import LeaktraceError
from leaktrace.notices import hint, notify
from leaktrace.own.interrupts import held_back
from leaktrace.process import notes
from leaktrace.process.traced import Traced

_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.001, 0.02
_LONGEST_STOP_S, _LONGEST_LATER_STOP_S = 5.0, 0.2  # after one was too long, the next is shorter


class StopWatch:
    """Waits for stops of the command, until it ends."""

    def __init__(self, traced: Traced, look: Sequence[Callable[[], None]]) -> None:
        """`look`: what is done before it exits."""
        assert traced.command is not None
        self._traced = traced
        self._command = traced.command
        self._look_at_it = look
        self._lock = threading.Lock()  # held while it looks
        self._is_over = False

    def start(self) -> None:
        """Call it before the command can exit. Raises RuntimeError if no thread can be started."""
        with held_back():  # signals go to the main thread
            threading.Thread(target=self._watch, daemon=True).start()

    def end(self) -> None:
        """The maps are about to be closed, and the probes are gone: no such stop comes any more."""
        with self._lock:
            self._is_over = True

    def _watch(self) -> None:
        awaited = os.WSTOPPED | os.WEXITED | os.WNOWAIT  # the main thread gets the status, too
        pause_s, stop, since_s, longest_s = _SHORTEST_PAUSE_S, 0, 0.0, _LONGEST_STOP_S
        while True:
            try:
                seen = os.waitid(os.P_PID, self._command.pid, awaited)
            except ChildProcessError:  # it was waited for
                return
            if seen is None or seen.si_code != os.CLD_STOPPED:
                return
            with self._lock:
                if self._is_over:
                    return
                session = self._traced.slot.session_now()
                if session["exit_ns"]:
                    self._leave_exit(int(session["exit_ns"]))
                    return
                if int(session["stop"]) != stop:
                    stop, since_s = int(session["stop"]), time.monotonic()
                    pause_s = _SHORTEST_PAUSE_S
                elif time.monotonic() - since_s > longest_s and self._leave(session):
                    longest_s = _LONGEST_LATER_STOP_S
            # It may be another stop, by the user. Waiting for the end of a stop could miss that the
            # next one has begun.
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _leave_exit(self, stopped_ns: int) -> None:
        try:
            for one in self._look_at_it:
                one()
        finally:
            self._proceed()
        if self._traced.hooks.options.verbose:
            took_ms = (time.monotonic_ns() - stopped_ns) / 1e6
            notify(f"the command was stopped for {took_ms:.1f} ms before it exited")

    def _leave(self, session: np.void) -> bool:
        """Let it go on, unless it is the user who has stopped it. Returns whether it did."""
        if int(session["stop"]) <= self._traced.continued:
            return False
        self._traced.continued = int(session["stop"])
        self._traced.notes.add(notes.CONTINUED_UNSEEN)
        self._proceed()
        return True

    def _proceed(self) -> None:
        try:
            self._command.proceed()
        except LeaktraceError as error:
            notify(error.message)
            hint(error.hint)
