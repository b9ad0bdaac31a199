"""Where malloc keeps what it knows of free memory, compared with what gdb would say: the symbol
main_arena, which only debug information has. So a child says where its chunks are linked from."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from leaktrace.targets.glibc_arenas import find_arenas, find_main_arena
from leaktrace.targets.mappings import read_mappings
from leaktrace.targets.memory import ProcessMemory

# Of a large freed chunk between others: its first word is the head of the list that
# it is in, within main_arena (malloc/malloc.c).
CHILD = """
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
some = [libc.malloc(100_000) for _ in range(4)]
one = some[2]
libc.free(one)
print(ctypes.c_uint64.from_address(one).value, flush=True)
input()
"""


@pytest.fixture
def child() -> Iterator[tuple[int, int]]:
    """A process, and an address within its main arena."""
    env = os.environ | {"PYTHONMALLOC": "pymalloc"}
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
    ) as process:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
        process.kill()


def reader(memory: ProcessMemory, address: int, size: int) -> bytes:
    try:
        return memory.read(address, size)
    except OSError:
        return b""


def test_the_main_arena(child: tuple[int, int]) -> None:
    pid, head = child
    mappings = read_mappings(pid)
    with ProcessMemory(pid) as memory:
        found = find_main_arena(mappings, lambda *where: reader(memory, *where))
        heap = next(one for one in mappings if one.path == "[heap]")
        arenas = find_arenas(mappings, lambda *where: reader(memory, *where), heap.start)
    assert found is not None
    assert found[0] < head < found[1]
    assert found[1] - found[0] < 3000
    (path,) = [one.path for one in mappings if one.start <= found[0] < one.end]
    assert "libc" in path
    assert arenas is not None
    assert found in arenas.structures
    (main,) = [one for one in arenas.heaps if one[0] == heap.start]
    assert heap.end - 4096 <= main[1] <= heap.end


def test_there_is_none() -> None:
    assert find_main_arena((), lambda *_: b"") is None
    assert find_arenas((), lambda *_: b"") is None
