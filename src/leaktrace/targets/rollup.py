"""Huge pages and lazily freed memory of a process, from /proc/PID/smaps_rollup (proc(5)).

For it the kernel walks all page tables of the process, and holds mmap_lock for reading meanwhile:
about 20 ms per GiB of small pages here. (Since Linux 5.10 it lets go of the lock when the process
waits for it.) So it is read only of a process that is not large, when its memory has grown, and
at most once a minute.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

from leaktrace.memory import HugePages

_LARGEST_BYTES = 1 << 30
_LEAST_GROWTH_BYTES = 16 << 20
_EVERY_S = 60.0
_FIELD = re.compile(r"^(AnonHugePages|ShmemPmdMapped|FilePmdMapped|LazyFree):\s*(\d+) kB$", re.M)


def parse_rollup(text: str) -> HugePages | None:
    """The figures in the text of /proc/PID/smaps_rollup; None if it has none."""
    found = {name: int(kib) * 1024 for name, kib in _FIELD.findall(text)}
    if "AnonHugePages" not in found:
        return None
    lazily_freed = found.pop("LazyFree", 0)
    return HugePages(sum(found.values()), lazily_freed)


class Rollups:
    """The looks at one process, as rare as they should be."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._next_s = 0.0  # CLOCK_MONOTONIC

    def look(self, resident_bytes: int, growth_bytes: int) -> HugePages | None:
        """What it holds now; None if it isn't worth the walk, if the last look was a short time
        ago, or if it can't be read. `growth_bytes`: of anonymous memory since the attach."""
        now_s = time.monotonic()
        is_worth_it = growth_bytes >= _LEAST_GROWTH_BYTES and resident_bytes <= _LARGEST_BYTES
        if not is_worth_it or now_s < self._next_s:
            return None
        self._next_s = now_s + _EVERY_S
        try:
            return parse_rollup(Path(f"/proc/{self._pid}/smaps_rollup").read_text())
        except OSError:  # it has ended, or this user may not read it
            return None
