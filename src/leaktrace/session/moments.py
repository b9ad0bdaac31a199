"""When the reports of a run are due that only looks, and takes in no events."""

from __future__ import annotations

import selectors
import time
from collections.abc import Iterator

from leaktrace.model import TARGET_ENDED
from leaktrace.own.interrupts import Interrupts
from leaktrace.targets.process import Process


def moments(
    interval_s: float,
    count: int | None,
    interrupts: Interrupts,
    process: Process | None = None,
) -> Iterator[str | None]:
    """Waits for each report that is due. Yields why it is the last one; None: it isn't. A report is
    also due when the process ends, if one is given, and when SIGUSR1 asks for it."""
    due_s, number = time.monotonic() + interval_s, 0
    with selectors.DefaultSelector() as selector:
        selector.register(interrupts.fileno(), selectors.EVENT_READ)
        end = None if process is None else process.fileno()
        if end is not None:
            selector.register(end, selectors.EVENT_READ)
        while True:
            ready = {key.fd for key, _ in selector.select(max(due_s - time.monotonic(), 0))}
            if end in ready:
                yield TARGET_ENDED
                return
            asked = interrupts.take_report_request()
            if interrupts.received is not None:
                yield f"interrupted ({interrupts.received.name})"
                return
            if asked:
                yield None
            if time.monotonic() < due_s:
                continue
            number += 1
            yield "" if number == count else None
            if number == count:
                return
            # A look that took longer than an interval does not shorten the next ones.
            due_s = max(due_s, time.monotonic() - interval_s / 2) + interval_s
