"""A command that leaktrace has started is stopped before it exits (bpf/process/exit_stop.bpf.c).

A thread looks at the memory that it still has, and lets it go on: the main thread may be busy with
a report, and the stop is to be short.
"""

from __future__ import annotations

import os
import threading
import time

from leaktrace.notices import notify
from leaktrace.own.interrupts import held_back
from leaktrace.process.slot import Slot
from leaktrace.targets.command import StartedCommand
from leaktrace.targets.memory_use import MemoryWatch

_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.001, 0.02


class ExitWatch:
    """Waits for that stop, or for the end of the command."""

    def __init__(
        self, command: StartedCommand, slot: Slot, memory: MemoryWatch, *, verbose: bool
    ) -> None:
        self._command = command
        self._slot = slot
        self._memory = memory
        self._verbose = verbose
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
        pause_s = _SHORTEST_PAUSE_S
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
                stopped_ns = int(self._slot.session_now()["exit_ns"])
                if stopped_ns:
                    self._look(stopped_ns)
                    return
            # Another stop: at its first call, or by the user. Waiting for its end could miss that
            # the next one has begun.
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _look(self, stopped_ns: int) -> None:
        try:
            self._memory.keep()
        finally:
            self._command.proceed()
        if self._verbose:
            took_ms = (time.monotonic_ns() - stopped_ns) / 1e6
            notify(f"the command was stopped for {took_ms:.1f} ms before it exited")
