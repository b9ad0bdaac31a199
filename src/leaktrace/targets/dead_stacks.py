"""The unused parts of thread stacks: below the stack pointer of a thread that waits. What lies
there was left by calls that have returned, and is no pointer any more.

The kernel says where the stack of the first thread is ([stack]). For others, glibc knows it: the
control block of a thread, where its FS register points, has the start of its stack and its size one
after the other (struct pthread, nptl/descr.h). They are recognised by what they say, because
offsets differ between versions. Of other threads nothing is known, and all of their stacks counts
as used; so it does of threads that run.

A thread may wait on a stack that lies inside its own one: that of a signal handler, or of a
coroutine. What it goes back to is below then, and the registers for that are saved (ucontext_t): a
stack pointer, and after it an address of code. If such a pair is above its stack pointer, all of
its stack counts as used.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaktrace.targets.mappings import Mapping
from leaktrace.targets.page_map import Range

_RED_ZONE_BYTES = 128  # below the stack pointer, still used (System V ABI, x86-64)
CONTROL_BLOCK_BYTES = 2560  # of struct pthread, at most
_PAGE_BYTES = 4096
_MOST_USED_BYTES = 8 << 20  # of a stack, that are read
LEAST_STACK_BYTES, MOST_STACK_BYTES = 16 << 10, 1 << 36

ReadMemory = Callable[[int, int], bytes]


@dataclass(frozen=True)
class WaitingThread:
    """A thread that is in a system call, or waits for a processor."""

    stack_pointer: int
    thread_pointer: int  # the base of FS; 0: none
    is_first: bool  # of its process
    own_tid: int = 0  # as the process itself knows it; 0: not known


def dead_stacks(
    threads: Iterable[WaitingThread], mappings: Sequence[Mapping], read: ReadMemory
) -> NDArray[np.uint64]:
    """Ranges [start, end) that are unused, n x 2, ascending and disjoint. `mappings` by ascending
    address."""
    starts = [one.start for one in mappings]
    code = [(one.start, one.end) for one in mappings if one.is_executable] or [(0, 0)]
    of_code = np.array(code, dtype=np.uint64)
    found: list[tuple[int, int]] = []
    for thread in threads:
        at = bisect_right(starts, thread.stack_pointer) - 1
        if at < 0 or thread.stack_pointer >= mappings[at].end:
            continue
        mapping = mappings[at]
        is_first = mapping.path == "[stack]" and thread.is_first
        low = mapping.start if is_first else stack_start(thread, read)
        if low is not None:
            low = max(low, mapping.start)
            high = (thread.stack_pointer - _RED_ZONE_BYTES) & ~7
            if low < high and not _leads_below(thread, (low, high), mapping.end, of_code, read):
                found.append((low, high))
    found.sort()
    disjoint = [
        one for one, before in zip(found, [(0, 0), *found], strict=False) if before[1] <= one[0]
    ]
    return np.array(disjoint, dtype=np.uint64).reshape(-1, 2)


def _leads_below(
    thread: WaitingThread, below: Range, end: int, code: NDArray[np.uint64], read: ReadMemory
) -> bool:
    """Whether what is in use of a stack leads to its part `below`. `end`: of the mapping; `code`:
    the ranges of code, sorted."""
    at = thread.stack_pointer & ~7
    if below[0] < thread.thread_pointer < end:  # glibc's control block is in it
        end = thread.thread_pointer
    used = read(at, min(end - at, _MOST_USED_BYTES))
    if len(used) < end - at:
        return True  # it can't be known
    words = np.frombuffer(used[: len(used) // 8 * 8], dtype=np.uint64)
    following = words[1:][_is_in(words[:-1], below)]
    place = np.searchsorted(code[:, 0], following, side="right") - 1
    return bool(((place >= 0) & (following < code[place, 1])).any())


def _is_in(words: NDArray[np.uint64], one: Range) -> NDArray[np.bool_]:
    """Which words are addresses of a range."""
    return (words >= np.uint64(one[0])) & (words < np.uint64(one[1]))


def stack_start(thread: WaitingThread, read: ReadMemory) -> int | None:
    """Where the stack begins that glibc gave to a thread; None: not known."""
    if not thread.thread_pointer:
        return None
    block = read(thread.thread_pointer, CONTROL_BLOCK_BYTES)
    words = np.frombuffer(block[: len(block) // 8 * 8], dtype=np.uint64)
    if len(words) < 2:
        return None
    starts, sizes = words[:-1], words[1:]
    pointer, end = np.uint64(thread.stack_pointer), np.uint64(thread.thread_pointer)
    is_stack = (
        (starts % _PAGE_BYTES == 0)
        & (sizes % _PAGE_BYTES == 0)
        & (sizes >= LEAST_STACK_BYTES)
        & (sizes < MOST_STACK_BYTES)
        & (starts <= pointer)
        & (pointer < end)
        & (end - starts < sizes)
    )
    rows = np.nonzero(is_stack)[0]
    return int(starts[rows[0]]) if len(rows) else None
