"""Blocks that a call of an allocator has in its hands at the instant of a stop: it has allocated
one and not returned it yet, or has not quite freed it. Its record is not there then."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.reachability.pointers import within
from leaktrace.process.attach.attachments import HookedObject
from leaktrace.targets.instant import Instant
from leaktrace.targets.memory_image import WORD_BYTES
from leaktrace.targets.page_map import PAGE_BYTES
from leaktrace.targets.pause import StoppedThread

_HEADER_BYTES = np.uint64(16)  # of a chunk of glibc's malloc, which calls hold the address of, too
_SYSCALL = b"\x0f\x05"  # the instruction, on x86-64
_STACK_BYTES = 1024  # of the frames within the allocator


def blocks_in_progress(
    instant: Instant,
    hooked: Sequence[HookedObject],
    structures: NDArray[np.uint64],
    read_code: Callable[[int, int], bytes],
) -> NDArray[np.uint64]:
    """Where such blocks may begin, among other addresses. `structures`: [start, end), n x 2,
    ascending, what the allocator keeps for itself, with its locks; `read_code`: reads memory that
    is as files have it."""
    paths = {one.path for one in hooked}
    code = [
        (one.start, one.end) for one in instant.mappings if one.is_executable and one.path in paths
    ]

    def words() -> Iterator[NDArray[np.uint64]]:
        yield np.empty(0, dtype=np.uint64)
        for thread in instant.threads:
            at = thread.instruction_pointer
            if not any(start <= at < end for start, end in code):
                continue
            is_call = read_code(at - len(_SYSCALL), len(_SYSCALL)) == _SYSCALL
            argument = np.array([thread.first_argument], dtype=np.uint64)
            if not is_call or within(structures, argument)[0]:
                # The allocator's own code, or it waits for one of its locks.
                yield thread.words
                yield _top_of_stack(instant, thread)
            elif thread.first_argument % PAGE_BYTES == 0:
                yield argument  # munmap(2) of a large block

    found = np.concatenate(list(words()))
    return np.unique(np.concatenate([found, found + _HEADER_BYTES]))


def _top_of_stack(instant: Instant, thread: StoppedThread) -> NDArray[np.uint64]:
    start = thread.stack_pointer & ~(WORD_BYTES - 1)
    data = instant.copy.image().read(start, _STACK_BYTES)
    return np.frombuffer(data[: len(data) - len(data) % WORD_BYTES], dtype=np.uint64)
