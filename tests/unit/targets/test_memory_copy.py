"""Copying much memory at once: of this process, and of one that has ended."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from leaktrace.targets.memory_copy import MemoryCopy, NoRoomError, Ranges, room_for
from leaktrace.targets.page_map import PAGE_BYTES

SIZE = 40 << 20
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


@pytest.fixture(scope="module")
def memory() -> Iterator[tuple[int, bytes]]:
    """Where it is, and what is in it."""
    mapped = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    content = random.Random(1).randbytes(SIZE)
    mapped[:] = content
    anchor = ctypes.c_char.from_buffer(mapped)
    yield ctypes.addressof(anchor), content
    del anchor
    mapped.close()


def ranges(*pairs: tuple[int, int]) -> Ranges:
    return np.array(pairs, dtype=np.uint64).reshape(-1, 2)


def always() -> bool:
    return True


def words_of(copy: MemoryCopy) -> bytes:
    return b"".join(piece.words.tobytes() for piece in copy.image().pieces())


@pytest.mark.parametrize("seed", range(6))
def test_ranges_of_any_size(memory: tuple[int, bytes], seed: int) -> None:
    """Long ones are cut, and thousands of short ones are put together."""
    at, content = memory
    chance = random.Random(seed)
    longest = (8, PAGE_BYTES, 64 << 10, 1 << 20, 30 << 20, SIZE)[seed]
    wanted: list[tuple[int, int]] = []
    place = 0
    while place < SIZE and len(wanted) < 5000:
        end = min(place + 8 * chance.randint(1, max(longest // 8, 1)), SIZE)
        wanted.append((place, end))
        place = end + 8 * chance.randint(1, 100)
    copy = MemoryCopy(SIZE)
    assert copy.take(os.getpid(), ranges(*[(at + low, at + high) for low, high in wanted]), always)
    expected = b"".join(content[low:high] for low, high in wanted)
    assert (copy.size_bytes, copy.unread_bytes) == (len(expected), 0)
    assert words_of(copy) == expected
    places = [piece.addresses(np.arange(len(piece.words))) for piece in copy.image().pieces()]
    expected_places = [np.arange(at + low, at + high, 8) for low, high in wanted]
    assert (np.concatenate(places) == np.concatenate(expected_places)).all()
    for _ in range(50):
        low, high = chance.choice(wanted)
        start = chance.randint(low, high - 1)
        assert copy.image().read(at + start, 100) == content[start : min(start + 100, high)]
        gap = bytearray(200)
        for one, end in wanted:
            first, last = max(one, start), min(end, start + 200)
            if first < last:
                gap[first - start : last - start] = content[first:last]
        assert copy.image().read_filled(at + start, 200) == bytes(gap)


def test_what_is_not_in_it(memory: tuple[int, bytes]) -> None:
    at, content = memory
    copy = MemoryCopy(SIZE)
    assert copy.image().read(at, 8) == b""
    assert copy.take(os.getpid(), ranges(), always)
    assert (words_of(copy), copy.image().read(at, 8), copy.image().read_filled(at, 8)) == (
        b"",
        b"",
        bytes(8),
    )
    assert copy.take(os.getpid(), ranges((at, at + 16), (at + 16, at + 32)), always)
    assert copy.image().read(at + 8, 100) == content[8:32]
    for address in (0, at - 8, at + 32, (1 << 64) - 4, 1 << 64, -8):
        assert copy.image().read(address, 8) == b""


def test_memory_that_the_process_can_not_read(memory: tuple[int, bytes]) -> None:
    at, content = memory
    protected = at + 3 * PAGE_BYTES
    assert _LIBC.mprotect(protected, 2 * PAGE_BYTES, 0) == 0
    copy = MemoryCopy(SIZE)
    try:
        assert copy.take(os.getpid(), ranges((at, at + SIZE)), always)
    finally:
        _LIBC.mprotect(protected, 2 * PAGE_BYTES, mmap.PROT_READ | mmap.PROT_WRITE)
    assert (words_of(copy), copy.unread_bytes) == (content, 0)


def test_a_hole_in_the_middle() -> None:
    """It is zeros, and counted."""
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    access, size = mmap.PROT_READ | mmap.PROT_WRITE, 64 * PAGE_BYTES
    at = libc.mmap(None, size, access, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    ctypes.memset(at, 7, size)
    assert _LIBC.munmap(at + 3 * PAGE_BYTES, 2 * PAGE_BYTES) == 0
    copy = MemoryCopy(SIZE)
    assert copy.take(os.getpid(), ranges((at, at + size)), always)
    expected = bytearray(b"\7" * size)
    expected[3 * PAGE_BYTES : 5 * PAGE_BYTES] = bytes(2 * PAGE_BYTES)
    assert (words_of(copy), copy.unread_bytes) == (bytes(expected), 2 * PAGE_BYTES)


def test_it_ends_when_it_must_not_go_on(memory: tuple[int, bytes]) -> None:
    at, _ = memory
    asked: list[int] = []

    def twice() -> bool:
        asked.append(1)
        return len(asked) <= 2

    assert not MemoryCopy(SIZE).take(os.getpid(), ranges((at, at + SIZE)), twice)
    assert len(asked) < SIZE >> 20


def test_no_room(memory: tuple[int, bytes]) -> None:
    at, _ = memory
    for size in (1 << 50, 1 << 63):
        with pytest.raises(NoRoomError):
            MemoryCopy(size)
    small = MemoryCopy(0)
    with pytest.raises(NoRoomError):
        small.take(os.getpid(), ranges((at, at + room_for(0) + PAGE_BYTES)), always)


def test_a_process_that_has_ended(memory: tuple[int, bytes]) -> None:
    at, _ = memory
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    with pytest.raises(ProcessLookupError):
        MemoryCopy(SIZE).take(child.pid, ranges((at, at + SIZE)), always)
