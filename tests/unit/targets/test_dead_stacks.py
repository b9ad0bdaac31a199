"""The unused parts of stacks, for memory made by hand and for threads of a running program."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from leaktrace.targets.dead_stacks import ReadMemory, WaitingThread, dead_stacks
from leaktrace.targets.mappings import parse_mappings

MAPPINGS = parse_mappings(
    b"""400000-401000 r-xp 00000000 08:01 7 /bin/a
7f0000001000-7f0000801000 rw-p 00000000 00:00 0
7f0000801000-7f0001001000 rw-p 00000000 00:00 0
7ffe00000000-7ffe00021000 rw-p 00000000 00:00 0 [stack]
"""
)
LOW, SIZE = 0x7F0000001000, 0x800000
CONTROL = LOW + SIZE - 0x940
FIRST = 0x7FFE00010000


def nothing(_address: int, _size: int) -> bytes:
    return b""


def memory(words: dict[int, int]) -> ReadMemory:
    """Memory that contains these words, and zeros."""

    def read(address: int, size: int) -> bytes:
        at = range(address, address + size, 8)
        return b"".join(struct.pack("=Q", words.get(one, 0)) for one in at)

    return read


def block(start: int = LOW, size: int = SIZE, at: int = 0x690) -> ReadMemory:
    """A control block with the start and size of the stack."""
    return memory({CONTROL + at: start, CONTROL + at + 8: size})


def dead(read: ReadMemory, *threads: WaitingThread) -> list[list[int]]:
    found: list[list[int]] = dead_stacks(threads, MAPPINGS, read).tolist()
    return found


def waiting(
    stack_pointer: int, thread_pointer: int = 0, *, is_first: bool = False
) -> WaitingThread:
    return WaitingThread(stack_pointer, thread_pointer, is_first)


def test_the_stack_of_the_first_thread() -> None:
    """But for the red zone, which is used."""
    assert dead(memory({}), waiting(FIRST, is_first=True)) == [[0x7FFE00000000, FIRST - 128]]
    assert dead(memory({}), waiting(FIRST + 5, is_first=True)) == [[0x7FFE00000000, FIRST - 128]]
    assert dead(memory({}), waiting(0x7FFE00000000 + 100, is_first=True)) == []


@pytest.mark.parametrize("offset", [0, 8, 0x690, 2560 - 16])
def test_a_stack_that_glibc_knows(offset: int) -> None:
    pointer = LOW + 0x7F0000
    found = dead(block(at=offset), waiting(pointer, CONTROL))
    assert found == [[LOW, pointer - 128]]


def test_a_guard_is_not_readable() -> None:
    """It belongs to the stack, and is no part of the mapping."""
    pointer = LOW + 0x7F0000
    found = dead(block(LOW - 0x1000, SIZE + 0x1000), waiting(pointer, CONTROL))
    assert found == [[LOW, pointer - 128]]


@pytest.mark.parametrize(
    "read",
    [
        nothing,
        memory({}),
        lambda _address, _size: b"\0" * 8,
        block(LOW + 8),
        block(size=SIZE + 8),
        block(size=0x1000),
        block(size=1 << 37),
        block(LOW + 0x7F8000),  # above the stack pointer
        block(size=SIZE - 0x1000),  # the control block is not in it
        block(at=2560),
    ],
)
def test_stacks_of_which_nothing_is_known_are_used(read: ReadMemory) -> None:
    assert dead(read, waiting(LOW + 0x7F0000, CONTROL)) == []


@pytest.mark.parametrize(
    "pointer", [0, 0x401000, LOW + SIZE + 0x1000, 0x7FFE00021000, (1 << 64) - 1]
)
def test_a_stack_pointer_elsewhere(pointer: int) -> None:
    """Of a signal handler, or a coroutine."""
    assert dead(block(), waiting(pointer, CONTROL)) == []


def test_several_threads() -> None:
    pointer = LOW + 0x7F0000
    twice = waiting(pointer, CONTROL)
    found = dead_stacks([waiting(FIRST, is_first=True), twice, twice], MAPPINGS, block())
    assert found.dtype == np.uint64
    assert found.tolist() == [[LOW, pointer - 128], [0x7FFE00000000, FIRST - 128]]
    assert dead_stacks([], MAPPINGS, nothing).shape == (0, 2)


def test_only_the_first_thread_has_the_first_stack() -> None:
    assert dead(memory({}), waiting(FIRST)) == []


@pytest.mark.parametrize("at", [FIRST, FIRST + 0x8000, 0x7FFE00020FF0])
def test_a_stack_within_the_stack(at: int) -> None:
    """What it goes back to is saved above its stack pointer, and leads below it."""
    code = 0x400010
    leads = memory({at: FIRST - 0x2000, at + 8: code})
    assert dead(leads, waiting(FIRST, is_first=True)) == []
    for other in ({at: FIRST + 0x20, at + 8: code}, {at: FIRST - 0x2000, at + 8: 1}):
        assert dead(memory(other), waiting(FIRST, is_first=True)) != []


def test_a_stack_that_can_not_be_read() -> None:
    assert dead(nothing, waiting(FIRST, is_first=True)) == []
