"""One of the processes that are traced together."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from leaktrace.model import Ending
from leaktrace.process.attach.attachments import Attachments
from leaktrace.process.looks import Looks
from leaktrace.process.stop_watch import StopWatch
from leaktrace.process.traced import Traced
from leaktrace.targets.memory_use import MemoryWatch
from leaktrace.targets.program_break import likely_break


@dataclass(eq=False)
class Member:
    """A traced process, and its place among the others."""

    traced: Traced
    looks: Looks
    parent_pid: int | None  # if it was followed
    attachments: Attachments
    resources: ExitStack  # closes all of it
    since_s: float = field(default_factory=time.monotonic)  # when it was attached
    has_ended: bool = False  # noticed
    was_reported: bool = False  # in a report that came after its end
    memory: MemoryWatch = field(init=False)
    before_exit: list[Callable[[], None]] = field(init=False)  # of a command that is stopped then

    def __post_init__(self) -> None:
        self.memory = MemoryWatch(self.traced.pid)
        self.before_exit = [self.memory.keep, self.traced.regions.keep, self.traced.files.keep]

    @property
    def pid(self) -> int:
        return self.traced.pid

    @property
    def number(self) -> int:
        """The number of its slot."""
        return self.traced.slot.number

    @property
    def key(self) -> tuple[int, int]:
        """The program that it runs: its slot, and its generation."""
        return self.number, self.traced.generation

    @property
    def traced_s(self) -> float:
        """Seconds since it was attached."""
        return time.monotonic() - self.since_s

    def arm(self, *, follows: bool) -> None:
        """Record from now on, and let a command that is held before its exec run.

        Raises TargetError when the command can't be executed.
        """
        traced = self.traced
        traced.hooks.completeness.begin()
        at = likely_break(traced.pid, traced.mappings()) if traced.command is None else 0
        traced.slot.arm(traced.pid, follows=follows, program_break=at)
        if traced.command is None:
            self.looks.look()  # finds the changes before this moment; later ones are reported
            traced.symbolizer.look_ahead()
            self.memory.begin()
        else:
            self._watch_stops()
            traced.command.release()
            traced.process.read_name()

    def _watch_stops(self) -> None:
        watch = StopWatch(self.traced, self.before_exit)
        try:
            watch.start()
        except RuntimeError:  # no more threads are allowed: it must not be stopped at its exit
            if self.traced.hooks.stops is not None:
                self.traced.hooks.stops.at_exit = False
        else:
            self.resources.callback(watch.end)

    def ending(self) -> Ending | None:
        """How it has ended; None while it lives."""
        return self.traced.ending()

    def close(self) -> None:
        """Detach its probes, and let its slot be used again."""
        self.resources.close()
