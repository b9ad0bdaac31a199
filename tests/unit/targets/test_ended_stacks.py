"""The stacks of ended threads, for memory made by hand: whatever is not as glibc leaves it, counts
as used. tests/kernel/test_lost.py has real ones."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from leaktrace.targets.dead_stacks import WaitingThread
from leaktrace.targets.ended_stacks import ended_stacks
from leaktrace.targets.mappings import parse_mappings

MAPPINGS = parse_mappings(
    b"""7f0000000000-7f0000001000 ---p 00000000 00:00 0
7f0000001000-7f0000801000 rw-p 00000000 00:00 0
7f0000801000-7f0000802000 ---p 00000000 00:00 0
7f0000802000-7f0001002000 rw-p 00000000 00:00 0
7f0001002000-7f0001003000 ---p 00000000 00:00 0
7f0001003000-7f0001803000 rw-p 00000000 00:00 0
7f0002000000-7f0002010000 rw-p 00000000 00:00 0
7f0003000000-7f0003002000 rw-p 00001000 08:01 7 /lib/ld.so
7ffe00000000-7ffe00021000 rw-p 00000000 00:00 0 [stack]
"""
)
STACKS = (0x7F0000000000, 0x7F0000801000, 0x7F0001002000)  # their guards belong to them
SIZE, GUARD = 0x801000, 0x1000
CONTROLS = tuple(start + SIZE - 0x940 for start in STACKS)
MAIN = 0x7F0002000740
HEADS = USED, USER, CACHED = 0x7F00030010C8, 0x7F00030010D8, 0x7F00030010E8
TID, LINKS, STACK = 720, 704, 1680
FIRST_TID, LIVING_TID = 4242, 4243
FIRST = WaitingThread(0x7FFE00010000, MAIN, is_first=True, own_tid=FIRST_TID)
LIVING = WaitingThread(STACKS[0] + 0x7F0000, CONTROLS[0], is_first=False, own_tid=LIVING_TID)

Words = dict[int, int]


def in_list(words: Words, *elements: int) -> None:
    for one, following in zip(elements, [*elements[1:], elements[0]], strict=True):
        words[one], words[following + 8] = following, one


def glibc() -> Words:
    """A process with two threads, and two stacks in the cache."""
    words: Words = {MAIN + TID: FIRST_TID}
    for control in (MAIN, *CONTROLS):
        words |= {control: control, control + 16: control}
    for control, start in zip(CONTROLS, STACKS, strict=True):
        words |= {control + STACK: start, control + STACK + 8: SIZE, control + STACK + 16: GUARD}
    # A joined thread (-1, as int), and a detached one; behind it is another int.
    words |= {CONTROLS[0] + TID: LIVING_TID, CONTROLS[1] + TID: 0xFFFFFFFF}
    words |= {CONTROLS[2] + TID: 7 << 32}
    in_list(words, USED, CONTROLS[0] + LINKS)
    in_list(words, USER, MAIN + LINKS)
    in_list(words, CACHED, CONTROLS[2] + LINKS, CONTROLS[1] + LINKS)
    return words


def found(words: Words, *threads: WaitingThread) -> list[list[int]]:
    def read(address: int, size: int) -> bytes:
        assert address >= 0
        at = range(address, address + size, 8)
        data = b"".join(struct.pack("=Q", words.get(one, 0)) for one in at)
        return data[:size]

    ranges: list[list[int]] = ended_stacks(threads or (FIRST, LIVING), MAPPINGS, read).tolist()
    return ranges


def stack(number: int) -> list[int]:
    return [STACKS[number] + GUARD, CONTROLS[number]]


def test_what_is_in_the_cache() -> None:
    assert found(glibc()) == [stack(1), stack(2)]
    assert found(glibc(), FIRST) == [stack(1), stack(2)]


def test_a_thread_that_nobody_has_joined_is_in_the_list_of_those_in_use() -> None:
    words = glibc()
    words[CONTROLS[1] + TID] = 0
    in_list(words, CACHED, CONTROLS[2] + LINKS)
    in_list(words, USED, CONTROLS[1] + LINKS, CONTROLS[0] + LINKS)
    assert found(words) == [stack(1), stack(2)]


def test_lists_whose_heads_are_elsewhere() -> None:
    """Before glibc 2.34: control blocks above a guard lead to them."""
    words = glibc()
    in_list(words, 0x7F0003000100, CONTROLS[2] + LINKS, CONTROLS[1] + LINKS)
    assert found(words, FIRST) == [stack(1), stack(2)]


def changed(change: Callable[[Words], object]) -> Words:
    words = glibc()
    change(words)
    return words


def provided(words: Words) -> None:
    """The stack is the program's own: such threads are in one list with the first."""
    in_list(words, CACHED, CONTROLS[2] + LINKS)
    in_list(words, USER, MAIN + LINKS, CONTROLS[1] + LINKS)


@pytest.mark.parametrize(
    "change",
    [
        lambda words: words.update({CONTROLS[1] + TID: 4711}),  # it lives
        lambda words: words.update({CONTROLS[1] + TID: 0x80000001}),
        lambda words: words.update({CONTROLS[1] + STACK: STACKS[1] + 8}),
        lambda words: words.update({CONTROLS[1] + STACK + 8: 0x1000}),
        lambda words: words.update({CONTROLS[1] + STACK + 8: SIZE - 0x1000}),  # it is not in it
        lambda words: words.update({CONTROLS[1] + 16: 0}),  # no control block: two heads
        lambda words: words.update({CONTROLS[1] + LINKS + 8: 0}),  # just being changed
        lambda words: words.update({CONTROLS[1] + LINKS: CONTROLS[1] + LINKS}),  # no ring
        provided,
    ],
)
def test_what_is_not_sure_counts_as_used(change: Callable[[Words], object]) -> None:
    assert stack(1) not in found(changed(change))


@pytest.mark.parametrize(
    "threads",
    [
        (WaitingThread(FIRST.stack_pointer, MAIN, is_first=True),),  # its number is not known
        (WaitingThread(FIRST.stack_pointer, MAIN, is_first=True, own_tid=1),),
        (FIRST, WaitingThread(LIVING.stack_pointer, CONTROLS[0], is_first=False, own_tid=1)),
        (WaitingThread(FIRST.stack_pointer, 0, is_first=True, own_tid=FIRST_TID),),
        (WaitingThread(FIRST.stack_pointer, MAIN + 8, is_first=True, own_tid=FIRST_TID),),
    ],
)
def test_no_thread_confirms_where_numbers_are(threads: tuple[WaitingThread, ...]) -> None:
    assert found(glibc(), *threads) == []


def test_two_places_that_may_have_the_number() -> None:
    def twice(words: Words) -> None:
        words[MAIN + 1000] = FIRST_TID
        in_list(words, MAIN + 984, 0x7F0003000200)

    assert found(changed(twice), FIRST) == []


def test_a_living_thread_is_on_it() -> None:
    """With a stack pointer there, or with its thread pointer."""
    on_it = WaitingThread(STACKS[1] + 0x5000, 0, is_first=False)
    assert found(glibc(), FIRST, on_it) == [stack(2)]
    of_it = WaitingThread(0, CONTROLS[1], is_first=False)
    assert found(glibc(), FIRST, of_it) == [stack(2)]


def test_no_memory_no_threads() -> None:
    assert ended_stacks([FIRST], MAPPINGS, lambda _address, _size: b"").shape == (0, 2)
    assert ended_stacks([], MAPPINGS, lambda _address, size: bytes(size)).shape == (0, 2)


def test_addresses_at_the_end_of_what_there_can_be() -> None:
    """A core file may say anything."""
    top = (1 << 64) - 0x1000
    words = glibc()
    words |= {top: top, top + 16: top, top + TID: 0}
    words |= {top + STACK: top - 0x4000, top + STACK + 8: 0x6000}
    in_list(words, CACHED, CONTROLS[2] + LINKS, CONTROLS[1] + LINKS, top + LINKS)
    assert found(words) == []
    words[CONTROLS[1] + LINKS] = (1 << 64) - 1
    assert found(words) == []


def test_a_broken_list_of_many_threads_is_not_followed_from_each_of_them() -> None:
    """A thread is just begun or ended, or a core file is damaged."""
    count, base = 300, 0x7F0100000000
    controls = [base + number * SIZE for number in range(count)]
    words = glibc()
    for number, control in enumerate(controls):
        words |= {control: control, control + 16: control, control + TID: 5000 + number}
    in_list(words, USED, *(control + LINKS for control in controls))
    threads = [WaitingThread(0, one, own_tid=words[one + TID], is_first=False) for one in controls]

    def reads(of: Words) -> int:
        asked = []

        def read(address: int, size: int) -> bytes:
            asked.append(address)
            at = range(address, address + size, 8)
            return b"".join(struct.pack("=Q", of.get(one, 0)) for one in at)[:size]

        ended_stacks(threads, MAPPINGS, read)
        return len(asked)

    whole = reads(words)
    assert whole > count
    words[controls[150] + LINKS + 8] = 0x10
    assert reads(words) < 2 * whole
