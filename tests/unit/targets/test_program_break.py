"""Where the break is, compared with what sbrk(0) says in this very process."""

from __future__ import annotations

import ctypes
import os
import subprocess

from leaktrace.targets.mappings import read_mappings
from leaktrace.targets.program_break import likely_break

PAGE = os.sysconf("SC_PAGESIZE")


def break_now() -> int:
    sbrk = ctypes.CDLL(None).sbrk
    sbrk.restype, sbrk.argtypes = ctypes.c_size_t, [ctypes.c_ssize_t]
    return int(sbrk(0))


def test_a_process_with_a_heap() -> None:
    mappings = read_mappings(os.getpid())
    assert 0 <= likely_break(os.getpid(), mappings) - break_now() < PAGE


def test_a_process_without_a_heap() -> None:
    """Then it is where the heap would begin."""
    first = min(one.start for one in read_mappings(os.getpid()) if one.path == "[heap]")
    assert first <= likely_break(os.getpid(), ()) < first + PAGE


def test_a_process_that_has_ended() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert likely_break(process.pid, ()) == 0
