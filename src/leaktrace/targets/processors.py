"""On which processors the threads of a process may run."""

from __future__ import annotations

import os
from contextlib import suppress


def processors_of(pid: int) -> set[int]:
    """Of all its threads together; empty when it has ended."""
    processors: set[int] = set()
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 (names are enough)
            with suppress(OSError):  # it has ended
                processors |= os.sched_getaffinity(int(thread))
    return processors
