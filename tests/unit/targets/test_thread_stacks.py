"""Which mappings are stacks of threads and heaps of glibc, for memory made by hand."""

from __future__ import annotations

import platform
import struct

import pytest

from leaktrace.targets.glibc_heaps import HEAP_BYTES, find_heaps
from leaktrace.targets.mappings import Mapping, parse_mappings
from leaktrace.targets.thread_stacks import Threads, find_stacks, parse_stack_pointer

X86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="the control block of x86-64")


def mappings(text: str) -> tuple[Mapping, ...]:
    return parse_mappings(text.strip().encode())


def nothing(_address: int, _size: int) -> bytes:
    return b""


def memory(words: dict[int, int]) -> object:
    """Memory that contains these words, and zeros."""

    def read(address: int, size: int) -> bytes:
        return b"".join(
            struct.pack("=Q", words.get(at, 0)) for at in range(address, address + size, 8)
        )

    return read


STACKS = mappings("""
400000-401000 r-xp 00000000 08:01 7 /bin/a
c000000000-c000400000 rw-p 00000000 00:00 0
c000400000-c004000000 ---p 00000000 00:00 0
7f0000000000-7f0000001000 ---p 00000000 00:00 0
7f0000001000-7f0000801000 rw-p 00000000 00:00 0
7f0000801000-7f0000802000 ---p 00000000 00:00 0
7f0000802000-7f0001002000 rw-p 00000000 00:00 0
7f0001002000-7f0001042000 rw-p 00000000 08:01 7 /bin/a
7ffe00000000-7ffe00021000 rw-p 00000000 00:00 0 [stack]
""")
FIRST, SECOND = 0x7F0000001000, 0x7F0000802000


@pytest.mark.parametrize(
    ("text", "pointer"),
    [
        ("35 0x1 0x2 0x3 0x4 0x5 0x6 0x7ffe1bc42930 0x7f2d287bbaec\n", 0x7FFE1BC42930),
        ("-1 0x7ffe1bc42930 0x7f2d287bbaec\n", 0x7FFE1BC42930),
        ("running\n", None),
        ("", None),
        ("0 1 x y\n", None),
    ],
)
def test_stack_pointer(text: str, pointer: int | None) -> None:
    assert parse_stack_pointer(text) == pointer


def test_a_stack_is_above_a_guard_and_pointed_into() -> None:
    threads = Threads({1: 0x7FFE00010000, 2: FIRST + 0x7FF000, 3: None})
    found = find_stacks(STACKS, threads, nothing)
    assert (set(found.starts), found.located) == ({FIRST}, 2)


def test_a_stack_pointer_in_a_heap_makes_no_stack() -> None:
    """As threads of Go have it."""
    threads = Threads({1: 0xC000010000, 2: 0xC000020000})
    assert find_stacks(STACKS, threads, nothing).starts == set()


def test_a_stack_pointer_at_the_end_of_a_mapping_is_not_in_it() -> None:
    assert find_stacks(STACKS, Threads({2: 0x7F0000801000}), nothing).starts == set()


def test_a_guard_alone_makes_no_stack() -> None:
    assert find_stacks(STACKS, Threads({1: None}), nothing).starts == set()


@X86_64
@pytest.mark.parametrize("offset", [0x6C0, 0x940, 0xFE0])
def test_the_control_block_of_a_running_thread(offset: int) -> None:
    block = SECOND + 0x800000 - offset
    words = {block: block, block + 16: block}
    found = find_stacks(STACKS, Threads({1: None, 2: None}), memory(words))  # type: ignore[arg-type]
    assert (set(found.starts), found.located) == ({SECOND}, 0)


@X86_64
@pytest.mark.parametrize("words", [lambda at: {at: at}, lambda at: {at: at, at + 8: at}, dict])
def test_a_list_that_points_to_itself_is_no_control_block(words: object) -> None:
    block = SECOND + 0x800000 - 0x6C0
    made = words(block) if words is not dict else {}  # type: ignore[operator]
    assert find_stacks(STACKS, Threads({}), memory(made)).starts == set()  # type: ignore[arg-type]


HEAP = 0x7F4000000000


def heaps(text: str, words: dict[int, int]) -> set[int]:
    return find_heaps(mappings(text), memory(words))  # type: ignore[arg-type]


def header(start: int, arena: int, previous: int, size: int, protected: int) -> dict[int, int]:
    return {start: arena, start + 8: previous, start + 16: size, start + 24: protected}


ONE_HEAP = f"{HEAP:x}-{HEAP + 0x21000:x} rw-p 00000000 00:00 0"


def test_the_first_heap_of_an_arena() -> None:
    assert heaps(ONE_HEAP, header(HEAP, HEAP + 0x30, 0, 0x21000, 0x21000)) == {HEAP}


def test_a_further_heap_of_an_arena() -> None:
    other = HEAP + HEAP_BYTES
    text = f"{ONE_HEAP}\n{other:x}-{other + 0x100000:x} rw-p 00000000 00:00 0"
    words = header(HEAP, HEAP + 0x30, 0, 0x21000, 0x21000)
    words |= header(other, HEAP + 0x30, HEAP, 0x1000, 0x100000)
    assert heaps(text, words) == {HEAP, other}
    words[HEAP] = HEAP + 0x38  # the first heap names another arena
    assert heaps(text, words) == {HEAP}


def test_neighbours_that_the_kernel_has_joined() -> None:
    other = HEAP + HEAP_BYTES
    text = f"{HEAP:x}-{other + 0x21000:x} rw-p 00000000 00:00 0"
    words = header(HEAP, HEAP + 0x30, 0, HEAP_BYTES, HEAP_BYTES)
    assert heaps(text, words) == set()  # the second is none
    assert heaps(text, words | header(other, other + 0x30, 0, 0x21000, 0x21000)) == {HEAP}


@pytest.mark.parametrize(
    "words",
    [
        {},
        header(HEAP, HEAP, 0, 0x21000, 0x21000),  # an arena in the header
        header(HEAP, HEAP + 0x2000, 0, 0x21000, 0x21000),
        header(HEAP, HEAP + 0x30, 0, 0x22000, 0x22000),  # larger than the mapping
        header(HEAP, HEAP + 0x30, 0, 0, 0x21000),
        header(HEAP, HEAP + 0x30, 0, 0x21000, 0x21001),
        header(HEAP, HEAP + 0x30, 0, 0x21000, HEAP_BYTES * 2),
        header(HEAP, HEAP + HEAP_BYTES + 0x30, 0, 0x21000, 0x21000),
        header(HEAP, HEAP + 0x30, HEAP_BYTES, 0x21000, 0x21000),
        header(HEAP, (1 << 64) - 1, (1 << 64) - HEAP_BYTES, 0x21000, 0x21000),
    ],
)
def test_other_memory_is_no_heap(words: dict[int, int]) -> None:
    assert heaps(ONE_HEAP, words) == set()


@pytest.mark.parametrize(
    "text",
    [
        f"{HEAP + 0x1000:x}-{HEAP + 0x21000:x} rw-p 00000000 00:00 0",
        f"{HEAP:x}-{HEAP + 0x21000:x} rw-p 00000000 08:01 7 /bin/a",
        f"{HEAP:x}-{HEAP + 0x21000:x} ---p 00000000 00:00 0",
    ],
)
def test_other_mappings_are_no_candidates(text: str) -> None:
    words = header(HEAP, HEAP + 0x30, 0, 0x20000, 0x20000)
    assert heaps(text, words) == set()


def test_memory_that_cannot_be_read() -> None:
    assert find_heaps(mappings(ONE_HEAP), nothing) == set()
