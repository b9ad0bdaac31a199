"""Copying memory of a process: this one, and one that has ended."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from leaktrace.targets.memory_copy import MemoryCopy
from leaktrace.targets.page_map import PAGE_BYTES

PAGES = 5000  # more than one call copies
_LIBC = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def memory() -> Iterator[tuple[int, bytes]]:
    """Where it is, and what is in it."""
    mapped = mmap.mmap(-1, PAGES * PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    content = random.Random(1).randbytes(len(mapped))
    mapped[:] = content
    anchor = ctypes.c_char.from_buffer(mapped)
    yield ctypes.addressof(anchor), content
    del anchor
    mapped.close()


def ranges(*pairs: tuple[int, int]) -> np.ndarray:
    return np.array(pairs, dtype=np.uint64).reshape(-1, 2)


def test_it_is_what_is_there(memory: tuple[int, bytes]) -> None:
    at, content = memory
    room = MemoryCopy(len(content))
    words, unread = room.copy(os.getpid(), ranges((at, at + len(content))))
    assert (words.tobytes() == content, unread) == (True, 0)
    parts = [(one, one + 24) for one in range(0, len(content) - 24, 4096 - 8)]
    words, unread = room.copy(os.getpid(), ranges(*[(at + low, at + high) for low, high in parts]))
    assert words.tobytes() == b"".join(content[low:high] for low, high in parts)
    assert unread == 0


def test_what_can_not_be_read_is_zeros(memory: tuple[int, bytes]) -> None:
    at, content = memory
    protected, hole = 3 * PAGE_BYTES, 4000 * PAGE_BYTES
    assert _LIBC.mprotect(ctypes.c_void_p(at + protected), ctypes.c_size_t(PAGE_BYTES), 0) == 0
    assert _LIBC.munmap(ctypes.c_void_p(at + hole), ctypes.c_size_t(2 * PAGE_BYTES)) == 0
    start = at + 8
    try:
        words, unread = MemoryCopy(len(content)).copy(
            os.getpid(), ranges((start, at + PAGE_BYTES), (at + PAGE_BYTES, at + len(content)))
        )
    finally:
        _LIBC.mprotect(ctypes.c_void_p(at + protected), ctypes.c_size_t(PAGE_BYTES), 3)
    expected = bytearray(content[8:])
    expected[hole - 8 : hole - 8 + 2 * PAGE_BYTES] = bytes(2 * PAGE_BYTES)
    assert words.tobytes() == bytes(expected)
    assert unread == 2 * PAGE_BYTES


def test_what_does_not_fit_or_is_not_wanted_is_refused(memory: tuple[int, bytes]) -> None:
    at, content = memory
    with pytest.raises(OSError, match="space") as refused:
        MemoryCopy(4096).copy(os.getpid(), ranges((at, at + len(content))))
    assert refused.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="ancel") as refused:
        MemoryCopy(len(content)).copy(
            os.getpid(), ranges((at, at + len(content))), is_wanted=lambda: False
        )
    assert refused.value.errno == errno.ECANCELED


def test_a_process_that_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        pass
    with pytest.raises(OSError, match="No such") as refused:
        MemoryCopy(4096).copy(child.pid, ranges((0x10000, 0x11000)))
    assert refused.value.errno in (errno.ESRCH, errno.ENOENT)
