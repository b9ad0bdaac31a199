"""Blocks that a call has in its hands, of memory and registers made by hand."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

import numpy as np
import pytest

from leaktrace.analysis.reachability.pointers import ranges_of
from leaktrace.process.attach.attachments import HookedObject
from leaktrace.process.calls_in_progress import blocks_in_progress
from leaktrace.targets.instant import Instant
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.memory_copy import MemoryCopy
from leaktrace.targets.page_map import PAGE_BYTES
from leaktrace.targets.pause import StoppedThread

LIBC, CODE, ELSEWHERE = "/lib/libc.so.6", 0x7F0000000000, 0x400000
IN_REGISTER, ON_STACK, LARGE, LOCK = 0x5000_0010, 0x5000_2020, 0x7000_0000, 0x7100_0008
HOOKED = HookedObject("libc", LIBC, (), (), (), (), ())
MAPPINGS = (
    Mapping(ELSEWHERE, ELSEWHERE + 4096, "r-xp", 0, "0:0", 1, "/bin/program"),
    Mapping(CODE, CODE + 4096, "r-xp", 0, "0:0", 2, LIBC),
)
RDI = 14


@pytest.fixture
def copy() -> Iterator[MemoryCopy]:
    stack = mmap.mmap(-1, PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    words = np.frombuffer(stack, dtype=np.uint64)
    words[5] = ON_STACK
    copied = MemoryCopy(PAGE_BYTES)
    start = words.ctypes.data
    ranges = np.array([(start, start + PAGE_BYTES)], dtype=np.uint64)
    assert copied.take(os.getpid(), ranges, lambda: True)
    yield copied


def found(
    copy: MemoryCopy, instruction: int, argument: int = 0, *, in_system_call: bool = False
) -> set[int]:
    words = np.zeros(20, dtype=np.uint64)
    words[0], words[RDI] = IN_REGISTER, argument
    thread = StoppedThread(1, instruction, int(copy.ranges[0, 0]), 0, words)
    instant = Instant(1, 0, MAPPINGS, (thread,), copy, 0.0)
    code = b"\x0f\x05" if in_system_call else b"\x90\x90"
    locks = ranges_of([(LOCK - 8, LOCK + 8)])
    return set(blocks_in_progress(instant, [HOOKED], locks, lambda *_: code).tolist())


def test_a_thread_that_runs_code_of_the_allocator(copy: MemoryCopy) -> None:
    """It knows a block by its address, or by that of the chunk before it."""
    assert found(copy, CODE + 100) >= {
        IN_REGISTER,
        IN_REGISTER + 16,
        ON_STACK,
        ON_STACK + 16,
    }


def test_a_thread_that_runs_other_code(copy: MemoryCopy) -> None:
    assert found(copy, ELSEWHERE + 100) == set()


def test_a_thread_that_waits_in_a_system_call(copy: MemoryCopy) -> None:
    assert found(copy, CODE + 100, IN_REGISTER, in_system_call=True) == set()


def test_a_thread_that_unmaps_a_large_block(copy: MemoryCopy) -> None:
    assert found(copy, CODE + 100, LARGE, in_system_call=True) == {LARGE, LARGE + 16}


def test_a_thread_that_waits_for_a_lock_of_the_allocator(copy: MemoryCopy) -> None:
    assert found(copy, CODE + 100, LOCK, in_system_call=True) >= {IN_REGISTER, ON_STACK}
