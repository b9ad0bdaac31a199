"""What a session asks of a tracer, whether it traces a process or the kernel."""

from __future__ import annotations

from typing import Protocol

from leaktrace.bpf.events import EventStream
from leaktrace.model import Cost, TargetInfo
from leaktrace.tracing.calls import TracedCalls


class Meter(Protocol):
    """Measures what tracing costs, from one report to the next."""

    def measure(self) -> Cost:
        """The cost since the last call."""

    def close(self) -> None:
        """Stop measuring."""


class Tracing(Protocol):
    """Probes that are on from `arm()` to `close()`."""

    def arm(self) -> None:
        """Record from now on."""

    def info(self) -> TargetInfo:
        """The target as reports name it."""

    def cost_meter(self) -> Meter:
        """Measures what tracing costs, from now on."""

    def streams(self) -> list[EventStream]:
        """What becomes readable when there is something to `pump`."""

    def pump(self, most_calls: int | None = None) -> tuple[TracedCalls, bool]:
        """Take in what the kernel side sent. Returns traced calls, at most so many where that is
        given, and whether the target became another program."""

    def next_look_s(self) -> float | None:
        """When `look_again` is due, on the clock of time.monotonic(); None: it isn't."""

    def look_again(self) -> None:
        """Look for what has come since."""

    def close(self) -> None:
        """Take the probes off and let go of every map."""
