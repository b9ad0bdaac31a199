"""Reading much memory of a process: this one, and one that has ended."""

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

from leaktrace.targets.bulk_memory import PIECE_BYTES, BulkReader, pieces
from leaktrace.targets.page_map import PAGE_BYTES
from leaktrace.targets.remote_read import MOST_RANGES

PAGES = 256
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


def protect(address: int, pages: int, protection: int) -> None:
    assert (
        _LIBC.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(pages * PAGE_BYTES), protection)
        == 0
    )


def test_it_is_what_is_there(memory: tuple[int, bytes]) -> None:
    at, content = memory
    reader = BulkReader(os.getpid())
    piece = reader.read(ranges((at, at + len(content))))
    assert len(content) == PIECE_BYTES
    assert (piece.words.tobytes(), piece.unread_bytes) == (content, 0)
    parts = [(8, 24), (PAGE_BYTES - 8, PAGE_BYTES + 16), (9 * PAGE_BYTES, 11 * PAGE_BYTES)]
    piece = reader.read(ranges(*[(at + low, at + high) for low, high in parts]))
    assert piece.words.tobytes() == b"".join(content[low:high] for low, high in parts)
    indices = np.array([0, 1, 2, 4, 5, len(piece.words) - 1])
    addresses = [8, 16, PAGE_BYTES - 8, PAGE_BYTES + 8, 9 * PAGE_BYTES, 11 * PAGE_BYTES - 8]
    assert piece.addresses(indices).tolist() == [at + one for one in addresses]


def test_many_ranges(memory: tuple[int, bytes]) -> None:
    at, content = memory
    starts = range(0, MOST_RANGES * 16, 16)
    piece = BulkReader(os.getpid()).read(ranges(*[(at + one, at + one + 8) for one in starts]))
    assert piece.words.tobytes() == b"".join(content[one : one + 8] for one in starts)
    assert piece.unread_bytes == 0


def test_memory_that_the_process_can_not_read(memory: tuple[int, bytes]) -> None:
    """It may keep pointers there, and protects them for a while."""
    at, content = memory
    protect(at + 3 * PAGE_BYTES, 2, 0)
    try:
        piece = BulkReader(os.getpid()).read(ranges((at, at + 8 * PAGE_BYTES)))
    finally:
        protect(at + 3 * PAGE_BYTES, 2, mmap.PROT_READ | mmap.PROT_WRITE)
    assert piece.words.tobytes() == content[: 8 * PAGE_BYTES]
    assert piece.unread_bytes == 0


def test_a_hole_in_the_middle(memory: tuple[int, bytes]) -> None:
    """What lies before and behind it is read."""
    _, content = memory
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    access = mmap.PROT_READ | mmap.PROT_WRITE
    at = libc.mmap(None, len(content), access, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    ctypes.memmove(at, content, len(content))
    assert libc.munmap(at + 3 * PAGE_BYTES, 2 * PAGE_BYTES) == 0
    piece = BulkReader(os.getpid()).read(
        ranges((at, at + 8 * PAGE_BYTES), (at + 10 * PAGE_BYTES, at + 10 * PAGE_BYTES + 8))
    )
    there = [(0, 3 * PAGE_BYTES), (5 * PAGE_BYTES, 8 * PAGE_BYTES)]
    there.append((10 * PAGE_BYTES, 10 * PAGE_BYTES + 8))
    assert piece.unread_bytes == 2 * PAGE_BYTES
    words = np.frombuffer(content, dtype=np.uint64)
    addresses = piece.addresses(np.arange(len(piece.words)))
    assert (words[((addresses - np.uint64(at)) >> np.uint64(3)).astype(int)] == piece.words).all()
    expected = [one for low, high in there for one in range(at + low, at + high, 8)]
    assert addresses.tolist() == expected


def test_nothing_is_there() -> None:
    one = ranges((PAGE_BYTES, 5 * PAGE_BYTES))  # below mmap_min_addr, or not mapped
    piece = BulkReader(os.getpid()).read(one)
    assert (len(piece.words), piece.unread_bytes) == (0, 4 * PAGE_BYTES)
    assert piece.addresses(np.array([], dtype=np.intp)).tolist() == []


@pytest.mark.parametrize("is_waited_for", [False, True])
def test_a_process_that_has_ended(memory: tuple[int, bytes], is_waited_for: bool) -> None:
    at, _ = memory
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    if is_waited_for:
        child.wait()
    with pytest.raises(OSError) as caught:
        BulkReader(child.pid).read(ranges((at, at + 8)))
    child.wait()
    assert caught.value.errno == errno.ESRCH


def test_pieces() -> None:
    ranges = np.array([[0, 8], [16, 40], [100, 180], [200, 208]], dtype=np.uint64)
    cut = [one.tolist() for one in pieces(ranges, 32, 2)]
    assert cut == [
        [[0, 8], [16, 40]],
        [[100, 132]],
        [[132, 164]],
        [[164, 180], [200, 208]],
    ]
    assert [one.tolist() for one in pieces(ranges, 1000, 3)] == [
        [[0, 8], [16, 40], [100, 180]],
        [[200, 208]],
    ]
    assert list(pieces(ranges[:0], 32, 2)) == []
