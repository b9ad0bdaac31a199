"""One of the processes that are traced together."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field

from leaktrace.model import Ending
from leaktrace.notices import notify
from leaktrace.process.attach.attachments import Attachments
from leaktrace.process.looks import Looks
from leaktrace.process.traced import Traced
from leaktrace.targets.memory_use import MemoryWatch


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

    def __post_init__(self) -> None:
        self.memory = MemoryWatch(self.traced.pid)

    @property
    def pid(self) -> int:
        return self.traced.pid

    @property
    def number(self) -> int:
        """The number of its slot."""
        return self.traced.slot.number

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
        traced.slot.arm(traced.pid, follows=follows)
        if traced.command is None:
            self.looks.look()  # finds the changes before this moment; later ones are reported
            traced.symbolizer.look_ahead()
            self.memory.begin()
        else:
            traced.command.release()
            traced.process.read_name()

    def see_exit(self) -> None:
        """If it is a command that is stopped before it exits, read what only a process with memory
        can tell, and let it go on."""
        traced = self.traced
        if traced.exit_ns is None or traced.command is None:
            return
        self.memory.keep()
        traced.symbolizer.refresh_generated_names()
        traced.hooks.completeness.look(traced.mappings(), traced.generation)
        traced.command.proceed()
        if traced.hooks.options.verbose:
            stopped_ns = time.monotonic_ns() - traced.exit_ns
            notify(f"the command was stopped for {stopped_ns / 1e6:.1f} ms before it exited")
        traced.exit_ns = None

    def ending(self) -> Ending | None:
        """How it has ended; None while it lives."""
        return self.traced.ending()

    def close(self) -> None:
        """Detach its probes, and let its slot be used again."""
        self.resources.close()
