"""Lets a thread of leaktrace go before others for a moment, because a process waits for it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_NICENESS = -20


@contextmanager
def urgent() -> Iterator[None]:
    """Raise the priority of this thread, and of those that it starts, where that is permitted
    (CAP_SYS_NICE; sched(7))."""
    thread = threading.get_native_id()
    before = os.getpriority(os.PRIO_PROCESS, thread)
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, thread, _NICENESS)
    try:
        yield
    finally:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, before)
