"""Memory of a process is read only where it is in RAM, and looks that cost something are rare."""

from __future__ import annotations

import ctypes
import mmap
import os

import pytest

from leaktrace.targets.present_memory import PresentMemory
from leaktrace.targets.rollup import Rollups

MIB = 1 << 20


def address_of(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def is_touched(address: int) -> bool:
    pages = (ctypes.c_ubyte * 1)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), pages) == 0
    return bool(pages[0] & 1)


def test_only_pages_in_memory_are_read() -> None:
    size = 4 * mmap.PAGESIZE
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    block[2 * mmap.PAGESIZE] = 7
    start = address_of(block)
    with PresentMemory(os.getpid()) as memory:
        assert memory.read(start + 2 * mmap.PAGESIZE, 2) == b"\x07\x00"
        assert memory.read(start, 8) == b""
        assert not memory.was_refused
    assert not is_touched(start)
    assert is_touched(start + 2 * mmap.PAGESIZE)


@pytest.mark.parametrize("address", [0, 8, (1 << 63) - 4096, (1 << 64) - 4096, 1 << 70])
def test_addresses_without_memory(address: int) -> None:
    with PresentMemory(os.getpid()) as memory:
        assert memory.read(address, 8) == b""


def test_a_process_that_does_not_exist() -> None:
    with PresentMemory(1 << 22) as memory:
        assert memory.read(4096, 8) == b""
        assert not memory.was_refused


def test_the_walk_over_page_tables_is_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most once a minute, of processes that are not large and have grown."""
    now_s = [1000.0]
    monkeypatch.setattr("leaktrace.targets.rollup.time.monotonic", lambda: now_s[0])
    rollups = Rollups(os.getpid())
    assert rollups.look(64 * MIB, 16 * MIB - 1) is None
    assert rollups.look(1025 * MIB, 64 * MIB) is None
    assert rollups.look(64 * MIB, 16 * MIB) is not None
    assert rollups.look(64 * MIB, 16 * MIB) is None
    now_s[0] += 59.0
    assert rollups.look(64 * MIB, 16 * MIB) is None
    now_s[0] += 1.0
    assert rollups.look(64 * MIB, 16 * MIB) is not None
    assert Rollups(1 << 22).look(64 * MIB, 16 * MIB) is None  # it has ended
