"""What a run needs of a tracer, whether it traces a process or the kernel."""

from __future__ import annotations

from typing import Protocol

from leaktrace.bpf.events import EventStream
from leaktrace.model import Cost, Report, TargetInfo
from leaktrace.tracing.calls import TracedCalls


class Meter(Protocol):
    """Measures what tracing costs, from one report to the next."""

    def measure(self) -> Cost:
        """The cost since the last call."""

    def close(self) -> None:
        """Stop measuring."""


class Tracing(Protocol):
    """A tracer, which records from `arm()` to `close()`."""

    def arm(self) -> None:
        """Record from now on. Raises LeaktraceError."""

    def info(self) -> TargetInfo:
        """The target as reports describe it."""

    def cost_meter(self) -> Meter:
        """Measures what tracing costs, from now on."""

    def streams(self) -> list[EventStream]:
        """Readable when there is something to `pump`."""

    def end_fileno(self) -> int | None:
        """Readable when the target, or a part of it, ends; None for a target without an end."""

    def has_ended(self) -> bool:
        """Whether all of the target has ended."""

    def probes_fileno(self) -> int | None:
        """Readable when the probes are lost; None where that can't happen."""

    def check_probes(self) -> None:
        """Raises LeaktraceError when the probes are lost."""

    def pump(self, most_calls: int | None = None) -> tuple[TracedCalls, bool]:
        """Take in what the kernel side sent. Returns traced calls, at most `most_calls` if given,
        and whether the target became another program."""

    def next_look_s(self) -> float | None:
        """When `look_again` is due, on the clock of time.monotonic(); None: it isn't."""

    def look_again(self) -> None:
        """Find what the target has loaded since the last look."""

    def close(self) -> None:
        """Detach the probes and close every map."""


class Reports(Protocol):
    """Makes reports of a tracer's target, each compared with the last."""

    def start_clock(self) -> None:
        """Recording has begun."""

    def forget(self) -> None:
        """The target became another program."""

    def build(self, final_reason: str | None) -> Report:
        """A report of this moment. `final_reason`: why it is the last one; None: it isn't."""
