"""The process that stops another one: `pause_child.py SOCKET MEMORY PROCESS PID MS`.

SOCKET, MEMORY and PROCESS are descriptors: one end of a socket pair, a file for the registers, and
a pidfd of process PID. pause.py starts it.

It is thrown away after one stop, because the kernel lets a process go on when its tracer ends. So
nothing stays stopped, whoever is killed: it ends when leaktrace does, as the socket is closed then;
after MS milliseconds it lets the process go by itself; and if it can't do so in time, since it is
stopped, frozen or stuck, a timer of the kernel's kills it.

Each message is a JSON object. It sends {"ready"}, gets one byte, stops the process, writes the
registers, and sends {"stopped", "late", "registers"} (threads, threads, bytes), or why it can't:
{"gone"} or {"tracer"}. Then it waits for another byte. {"over"} is its last message: the seconds
from the first stop until the last thread went on. {"expired"} comes before any thread goes on,
because the time is up; it comes in place of {"stopped"} if there was not enough time for that.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import math
import os
import select
import signal
import socket
import sys
import time

sys.path.append(os.path.abspath(__file__ + "/../../.."))  # noqa: PTH100

from leaktrace.targets.thread_stops import NotStoppableError, ThreadStops

_KILL_AFTER_MS = 50  # beyond the time that was allowed
_MOST_PATIENCE_S = 0.05  # with threads that don't stop
_TIMER_CREATE, _TIMER_SETTIME = 222, 223  # system calls of x86-64
_MONOTONIC = 1  # CLOCK_…
_NICENESS = -20  # while the process is stopped, nothing should keep this one waiting


def _arm_timer(after_ms: int) -> None:
    """Have the kernel kill this process: SIGKILL also ends a process that is stopped. Raises
    OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    event = (ctypes.c_int * 16)()  # struct sigevent: value, signal, SIGEV_SIGNAL (0)
    event[2] = signal.SIGKILL
    number = ctypes.c_int()
    at = (ctypes.c_long * 4)(0, 0, after_ms // 1000, after_ms % 1000 * 1_000_000)
    if (
        libc.syscall(_TIMER_CREATE, _MONOTONIC, event, ctypes.byref(number)) < 0
        or libc.syscall(_TIMER_SETTIME, number, 0, at, None) < 0
    ):
        raise OSError(ctypes.get_errno(), "timer_create")


def _is_readable(descriptor: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(0, math.ceil(timeout_s * 1000))))


class _Tracer:
    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def say(self, **message: object) -> None:
        with contextlib.suppress(OSError):  # it has ended, or is stopped and reads nothing
            self._socket.send(json.dumps(message).encode(), socket.MSG_DONTWAIT)

    def hears(self) -> bool:
        """Whether leaktrace still wants it: false when it has ended."""
        try:
            return bool(self._socket.recv(1))
        except OSError:
            return False


def _hold(tracer: _Tracer, stops: ThreadStops, memory: int, until_s: float, *, wait: int) -> bool:
    """Write the registers, and wait until leaktrace has what it wants. Returns whether there was
    enough time."""
    written = 0
    for registers in stops.registers():
        if time.monotonic() > until_s:
            return False
        written += os.write(memory, registers)
    tracer.say(stopped=stops.stopped_count, late=stops.late_count, registers=written)
    is_over = _is_readable(wait, until_s - time.monotonic())
    if is_over:
        tracer.hears()
    return is_over


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    memory, process, pid, most_ms = map(int, sys.argv[2:6])
    tracer = _Tracer(connection)
    os.chdir("/")
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
    stops = ThreadStops(pid)
    stops.warm_up()
    gc.disable()
    tracer.say(ready=True)
    if not tracer.hears():
        return
    workers = stops.workers()
    _arm_timer(most_ms + _KILL_AFTER_MS)
    if _is_readable(process, 0):
        tracer.say(gone=True)
        return
    began_s = time.monotonic()
    until_s = began_s + most_ms / 1000
    refused: NotStoppableError | None = None
    has_any = False
    try:
        in_time = stops.stop(workers, until_s, min(_MOST_PATIENCE_S, most_ms / 2000))
        has_any = bool(stops.stopped_count or stops.late_count or not in_time)
        if has_any and not (
            in_time and _hold(tracer, stops, memory, until_s, wait=connection.fileno())
        ):
            tracer.say(expired=True)
    except NotStoppableError as error:
        refused = error
    stops.let_go()
    took_s = time.monotonic() - began_s
    if refused is not None:
        tracer.say(tracer=refused.tracer)
    elif not has_any:
        tracer.say(gone=True)
    else:
        tracer.say(over=took_s)


if __name__ == "__main__":
    main()
    # Whatever is still traced goes on now.
    os._exit(0)
