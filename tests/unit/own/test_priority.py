"""The priority of threads, as the kernel has it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from leaktrace.own.priority import urgent


def niceness() -> int:
    """Of this thread (field 19 of proc_pid_stat(5))."""
    stat = Path(f"/proc/self/task/{threading.get_native_id()}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[16])


def in_another_thread() -> int:
    found: list[int] = []
    other = threading.Thread(target=lambda: found.append(niceness()))
    other.start()
    other.join()
    return found[0]


def test_only_for_a_moment(require_root: None) -> None:
    """Of this thread and of those that it starts; not of others."""
    before, go, told = niceness(), threading.Event(), list[int]()

    def wait_and_tell() -> None:
        go.wait()
        told.append(niceness())

    waiting = threading.Thread(target=wait_and_tell)
    waiting.start()
    with urgent():
        assert niceness() == in_another_thread() == -20
        go.set()
        waiting.join()
    assert told == [before]
    assert niceness() == in_another_thread() == before


def test_it_ends_with_an_error(require_root: None) -> None:
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    with pytest.raises(ValueError), urgent():
        raise ValueError
    assert niceness() == before
