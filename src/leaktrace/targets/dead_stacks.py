"""The unused parts of thread stacks: below the stack pointer of a thread that waits. What lies
there was left by calls that have returned, and is no pointer any more.

The kernel says where the stack of the first thread is ([stack]). For others, glibc knows it: the
control block of a thread, where its FS register points, has the start of its stack and its size one
after the other (struct pthread, nptl/descr.h). They are recognised by what they say, because
offsets differ between versions. Of other threads nothing is known, and all of their stacks counts
as used; so it does of threads that run, and of those that have another stack at the moment (of a
signal handler, or of a coroutine).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaktrace.targets.mappings import Mapping

_RED_ZONE_BYTES = 128  # below the stack pointer, still used (System V ABI, x86-64)
_CONTROL_BLOCK_BYTES = 2560  # of struct pthread, at most
_PAGE_BYTES = 4096
_LEAST_STACK_BYTES, _MOST_STACK_BYTES = 16 << 10, 1 << 36

ReadMemory = Callable[[int, int], bytes]


@dataclass(frozen=True)
class WaitingThread:
    """A thread that is in a system call, or waits for a processor."""

    stack_pointer: int
    thread_pointer: int  # the base of FS; 0: none


def dead_stacks(
    threads: Iterable[WaitingThread], mappings: Sequence[Mapping], read: ReadMemory
) -> NDArray[np.uint64]:
    """Ranges [start, end) that are unused, n x 2, ascending and disjoint. `mappings` by ascending
    address."""
    starts = [one.start for one in mappings]
    found: list[tuple[int, int]] = []
    for thread in threads:
        at = bisect_right(starts, thread.stack_pointer) - 1
        if at < 0 or thread.stack_pointer >= mappings[at].end:
            continue
        mapping = mappings[at]
        is_first = mapping.path == "[stack]"
        low = mapping.start if is_first else _stack_start(thread, read)
        if low is not None:
            low = max(low, mapping.start)
            high = (thread.stack_pointer - _RED_ZONE_BYTES) & ~7
            if low < high:
                found.append((low, high))
    found.sort()
    disjoint = [
        one for one, before in zip(found, [(0, 0), *found], strict=False) if before[1] <= one[0]
    ]
    return np.array(disjoint, dtype=np.uint64).reshape(-1, 2)


def _stack_start(thread: WaitingThread, read: ReadMemory) -> int | None:
    """Where the stack begins that glibc gave to a thread; None: not known."""
    if not thread.thread_pointer:
        return None
    block = read(thread.thread_pointer, _CONTROL_BLOCK_BYTES)
    words = np.frombuffer(block[: len(block) // 8 * 8], dtype=np.uint64)
    if len(words) < 2:
        return None
    starts, sizes = words[:-1], words[1:]
    pointer, end = np.uint64(thread.stack_pointer), np.uint64(thread.thread_pointer)
    is_stack = (
        (starts % _PAGE_BYTES == 0)
        & (sizes % _PAGE_BYTES == 0)
        & (sizes >= _LEAST_STACK_BYTES)
        & (sizes < _MOST_STACK_BYTES)
        & (starts <= pointer)
        & (pointer < end)
        & (end - starts < sizes)
    )
    rows = np.nonzero(is_stack)[0]
    return int(starts[rows[0]]) if len(rows) else None
