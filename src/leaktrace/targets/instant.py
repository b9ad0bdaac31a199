"""Memory and registers of a process at one instant: it is stopped while its memory is copied.

Everything else is done before or afterwards: the room for the copy is there, the mappings are
compared as text and parsed only if they have changed, and nothing is searched.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from leaktrace import units
from leaktrace.errors import LeaktraceError
from leaktrace.own.available_memory import available_bytes
from leaktrace.own.priority import urgent
from leaktrace.targets.dead_stacks import WaitingThread
from leaktrace.targets.ended_stacks import MOST_SAMPLES
from leaktrace.targets.mappings import Mapping, parse_mappings, read_map_file
from leaktrace.targets.memory_copy import MemoryCopy, NoRoomError, room_for
from leaktrace.targets.namespaces import own_thread_ids
from leaktrace.targets.pause import Pause, StoppedThread
from leaktrace.targets.root_pages import root_pages
from leaktrace.targets.thread_registers import OneThread, Registers


@dataclass(frozen=True, eq=False)
class Instant:
    """What a process had at one instant."""

    pid: int
    time_ns: int  # CLOCK_MONOTONIC
    mappings: tuple[Mapping, ...]
    threads: tuple[StoppedThread, ...]  # all of them
    copy: MemoryCopy  # of root_pages
    paused_s: float

    def waiting(self) -> list[WaitingThread]:
        """All threads: of one that was stopped, it is known where its stack ends."""
        own = own_thread_ids(self.pid, [one.tid for one in self.threads], MOST_SAMPLES)
        return [
            WaitingThread(
                one.stack_pointer,
                one.thread_pointer,
                is_first=one.tid == self.pid,
                own_tid=own.get(one.tid, 0),
            )
            for one in self.threads
        ]

    def registers(self) -> Registers:
        """The registers of all threads."""
        return Registers.of_stopped(
            [
                OneThread(
                    one.tid,
                    one.instruction_pointer,
                    one.stack_pointer,
                    one.frame_pointer,
                    one.thread_pointer,
                    one.words,
                )
                for one in self.threads
            ]
        )


class NoInstantError(LeaktraceError):
    """It could not be done: `message` says why. `paused_s`: how long the process was stopped
    nevertheless; None: it was not."""

    def __init__(self, message: str, paused_s: float | None = None) -> None:
        super().__init__(message, "leave out --stop")
        self.paused_s = paused_s


def take_instant(
    pid: int,
    most_ms: int,
    is_wanted: Callable[[], bool] = lambda: True,
    also: Callable[[MemoryCopy], None] = lambda _: None,
) -> Instant:
    """Stop a process for at most `most_ms`, and copy what may hold pointers. `also`: called with
    the copy while the process is still stopped.

    Raises NoInstantError, also as soon as `is_wanted` says no, TargetError and OSError when the
    process has ended.
    """
    text = read_map_file(pid, "maps")
    mappings = parse_mappings(text)
    copy = _room(int(np.diff(root_pages(pid, mappings), axis=1).sum()))
    try:
        with urgent(), Pause(pid, most_ms) as pause:
            time_ns = time.monotonic_ns()
            is_whole = fits = True
            if not pause.late:
                now = read_map_file(pid, "maps")
                mappings = mappings if now == text else parse_mappings(now)
                try:
                    is_whole = copy.take(
                        pid,
                        root_pages(pid, mappings),
                        lambda: pause.still_holds() and is_wanted(),
                    )
                    if is_whole:
                        also(copy)
                except NoRoomError:
                    fits = False
                is_whole = is_whole and pause.still_holds()
    except LeaktraceError as error:
        raise NoInstantError(error.message) from None
    if pause.late:
        why = f"{units.counted(pause.late, 'thread')} could not be stopped"
    elif not fits:
        why = "it has grown just then"
    elif not is_whole and pause.given_up:
        why = f"{most_ms} ms were not enough (--max-pause-ms)"
    elif not is_whole:
        why = "it is not wanted any more"
    else:
        return Instant(pid, time_ns, mappings, pause.threads, copy, pause.took_s)
    raise NoInstantError(why, pause.took_s)


def _room(size_bytes: int) -> MemoryCopy:
    left = available_bytes()
    try:
        if left is not None and left < room_for(size_bytes):
            raise NoRoomError
        return MemoryCopy(size_bytes)
    except NoRoomError:
        raise NoInstantError(
            f"a copy of its memory ({units.size(size_bytes)}) does not fit into the free memory"
        ) from None
