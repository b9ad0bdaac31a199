"""What /proc says about processes, and waiting for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from harness.lines import DEADLINE_S


def children(pid: int) -> list[int]:
    """The children of all threads of a process."""
    return [
        int(word)
        for file in Path(f"/proc/{pid}/task").glob("*/children")
        for word in file.read_text().split()
    ]


def await_true(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def await_gone(pids: Iterable[int]) -> None:
    """Wait until none of these processes exists."""
    pids, deadline = list(pids), time.monotonic() + DEADLINE_S
    while left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.01)


def await_stopped(pid: int) -> None:
    """Wait until a signal has stopped a process."""
    stat = Path(f"/proc/{pid}/stat")
    await_true(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
