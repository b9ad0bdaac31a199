"""The stacks of threads that have ended. glibc keeps up to 40 MiB of them for the next threads
(stack_cache in nptl/allocatestack.c), and those of threads that nobody has joined yet. What lies on
them, and in the thread-local storage above, is no pointer any more: no thread runs there, and the
next one begins with storage that is initialised again.

At the upper end of such a stack is the control block of its thread (struct pthread, nptl/descr.h).
It stays a root: it leads to what glibc keeps for the next thread, and to what a thread has
returned. Its offsets differ between versions, so they are found by what they say. A stack counts as
unused only if all of this holds:

* The control blocks of living threads have the number of their thread (tid) at one offset, and
  before it an element of a list, with which the next and the previous one agree. So this is glibc's
  (up to now: 720 bytes into it).
* The control block is in a list whose elements all agree with their neighbours. One of them is the
  head, and all others are control blocks that say where their stack begins and how large it is, and
  are within it. That leaves out stacks that the program has provided: they are in one list with the
  first thread, which says neither.
* Its tid is 0 or -1. The kernel writes 0 when the thread can't run any more (CLONE_CHILD_CLEARTID,
  clone(2)), and fork(2) does in the child for the threads that only the parent has;
  pthread_join(3) writes -1 then.
* No living thread has its stack pointer or its thread pointer there.

glibc's lists have their heads next to each other since 2.34 (_rtld_global, ld.so), so that the list
of the first thread leads to the others. For older versions, control blocks are looked for at the
end of memory above a guard.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from leaktrace.targets.dead_stacks import (
    CONTROL_BLOCK_BYTES,
    LEAST_STACK_BYTES,
    MOST_STACK_BYTES,
    ReadMemory,
    WaitingThread,
    dead_stacks,
)
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.page_map import Range

_PAGE_BYTES = 4096
_LINKS = struct.Struct("=QQ")  # list_t: the next, the previous
_HEADER = struct.Struct("=Q8xQ")  # tcb and self of tcbhead_t (sysdeps/x86_64/nptl/tls.h)
_TID = struct.Struct("=i")
_ENDED = (0, -1)  # in place of a tid
_FIRST_TID_OFFSET = 32  # behind the header
MOST_SAMPLES = 8  # of living threads, whose own number is asked for
_MOST_THREADS = 1 << 16
_HEADS_BESIDE = (-32, -16, 16, 32)  # bytes between the heads of the lists


def ended_stacks(
    threads: Sequence[WaitingThread], mappings: Sequence[Mapping], read: ReadMemory
) -> NDArray[np.uint64]:
    """Ranges [start, end) of such stacks, n x 2, ascending and disjoint: without their control
    blocks. `threads`: all that live; the stack pointer of one that runs may be old. `mappings` by
    ascending address. `read`: as much as there is of what is asked for."""
    tid_offset = _tid_offset(threads, read)
    if tid_offset is None:
        return np.empty((0, 2), dtype=np.uint64)
    lists = _Lists(tid_offset - _LINKS.size, read)
    for control in _control_blocks(threads, mappings, read):
        lists.add(control)
    lists.add_neighbours()
    pointers = np.array(
        [(one.stack_pointer, one.thread_pointer) for one in threads], dtype=np.uint64
    ).reshape(-1, 2)
    starts = [one.start for one in mappings]
    found: list[Range] = []
    for control, (start, end) in sorted(lists.ended()):
        is_used = (pointers >= np.uint64(start)) & (pointers <= np.uint64(end - 1))
        mapping = mappings[max(bisect_right(starts, control) - 1, 0)]
        if is_used.any() or not _may_be_stack(mapping, control):
            continue
        low = max(start, mapping.start)
        if low < control and (not found or found[-1][1] <= low):
            found.append((low, control))
    return np.array(found, dtype=np.uint64).reshape(-1, 2)


def all_dead_stacks(
    threads: Sequence[WaitingThread], mappings: Sequence[Mapping], read: ReadMemory
) -> NDArray[np.uint64]:
    """Of a process whose threads are all stopped: also the unused parts of their stacks. In no
    order."""
    unused = dead_stacks(threads, mappings, read)
    return np.concatenate([unused, ended_stacks(threads, mappings, read)])


class _Lists:
    """The lists of control blocks."""

    def __init__(self, links_offset: int, read: ReadMemory) -> None:
        self._offset = links_offset
        self._read = read
        self._seen: set[int] = set()  # elements
        self._heads: list[int] = []
        self._lists: list[list[int]] = []  # control blocks

    def add(self, control: int) -> None:
        """The list that a control block is in."""
        self._add_list(control + self._offset)

    def add_neighbours(self) -> None:
        """Those whose heads are beside the heads that are known."""
        done: set[int] = set()
        while left := set(self._heads) - done:
            for head in left:
                done.add(head)
                for distance in _HEADS_BESIDE:
                    self._add_list(head + distance)

    def ended(self) -> Iterator[tuple[int, Range]]:
        """The control blocks of threads that have ended, and their stacks."""
        for controls in self._lists:
            blocks = [self._read(one, CONTROL_BLOCK_BYTES) for one in controls]
            stacks = _stacks_of(controls, blocks)
            for control, block, stack in zip(controls, blocks, stacks, strict=False):
                if _TID.unpack_from(block, self._offset + _LINKS.size)[0] in _ENDED:
                    yield control, stack

    def _add_list(self, element: int) -> None:
        if element <= 0 or element % 8 or element in self._seen:
            return
        elements, is_whole = self._elements_from(element)
        self._seen |= elements  # also of a part: each thread in it would lead to the same break
        if not is_whole:
            return
        controls = {one for one in elements if self._is_control_block(one - self._offset)}
        heads = elements - controls
        if len(heads) == 1:
            self._heads += heads
            self._lists.append([one - self._offset for one in controls])

    def _elements_from(self, element: int) -> tuple[set[int], bool]:
        """Those of a list, and whether these are all, and each is the previous one of its next."""
        found: set[int] = set()
        at, links = element, self._links(element)
        while links is not None and at not in found and len(found) <= _MOST_THREADS:
            found.add(at)
            before, at = at, links[0]
            links = self._links(at)
            if links is None or links[1] != before:
                break
            if at == element:
                return found, True
        return found, False

    def _links(self, element: int) -> tuple[int, int] | None:
        data = self._read(element, _LINKS.size)
        return _LINKS.unpack(data) if len(data) == _LINKS.size else None

    def _is_control_block(self, address: int) -> bool:
        return address > 0 and _is_control_block(address, self._read(address, _HEADER.size))


def _tid_offset(threads: Sequence[WaitingThread], read: ReadMemory) -> int | None:
    """Where control blocks have the number of their thread; None if that is not known."""
    places: set[int] | None = None
    controls = []
    known = [one for one in threads if one.thread_pointer and one.own_tid]
    for thread in known[:MOST_SAMPLES]:
        block = read(thread.thread_pointer, CONTROL_BLOCK_BYTES)
        if not _is_control_block(thread.thread_pointer, block):
            continue
        controls.append(thread.thread_pointer)
        words = np.frombuffer(block[: len(block) // 8 * 8], dtype=np.uint64)
        is_tid = words & np.uint64(0xFFFFFFFF) == np.uint64(thread.own_tid)
        found = {int(one) * 8 for one in np.nonzero(is_tid)[0]}
        places = found if places is None else places & found
    in_list = [
        place
        for place in places or ()
        if place >= _FIRST_TID_OFFSET
        and all(_is_linked(one + place - _LINKS.size, read) for one in controls)
    ]
    return in_list[0] if len(in_list) == 1 else None


def _is_linked(element: int, read: ReadMemory) -> bool:
    links = read(element, _LINKS.size)
    if len(links) < _LINKS.size:
        return False
    after, before = _LINKS.unpack(links)
    if not after or not before:
        return False
    ends = read(after + 8, 8), read(before, 8)
    return all(one == element.to_bytes(8, "little") for one in ends)


def _control_blocks(
    threads: Sequence[WaitingThread], mappings: Sequence[Mapping], read: ReadMemory
) -> Iterator[int]:
    """Those of living threads, and those that are at the end of memory above a guard."""
    for thread in threads:
        yield thread.thread_pointer
    for below, one in pairwise(mappings):
        if below.end == one.start and below.permissions == "---p" and _may_be_stack(one):
            base = one.end - _PAGE_BYTES
            page = read(base, _PAGE_BYTES)
            if len(page) == _PAGE_BYTES:
                words = np.frombuffer(page, dtype=np.uint64)
                addresses = np.uint64(base) + np.arange(len(words), dtype=np.uint64) * np.uint64(8)
                is_own = (words == addresses)[:-2] & (words[2:] == addresses[:-2])
                yield from addresses[:-2][is_own].tolist()


def _is_control_block(address: int, block: bytes) -> bool:
    """It has its own address in it twice."""
    return len(block) >= _HEADER.size and _HEADER.unpack_from(block) == (address, address)


def _stacks_of(controls: Sequence[int], blocks: Sequence[bytes]) -> list[Range]:
    """The stack of each thread, if all of them say at one same place where it begins and how large
    it is; else nothing."""
    if not controls:
        return []
    size = min(map(len, blocks)) // 8
    words = np.array([np.frombuffer(one[: size * 8], dtype=np.uint64) for one in blocks])
    if words.shape[1] < 2:
        return []
    starts, sizes, at = words[:, :-1], words[:, 1:], np.array(controls, dtype=np.uint64)[:, None]
    is_stack = (
        (starts % _PAGE_BYTES == 0)
        & (sizes % _PAGE_BYTES == 0)
        & (sizes >= LEAST_STACK_BYTES)
        & (sizes < MOST_STACK_BYTES)
        & (starts < at)
        & (at - starts < sizes)
        & (sizes <= ~starts)  # the end is an address, too: a core file may say anything
    ).all(axis=0)
    places = np.nonzero(is_stack)[0]
    if len(places) != 1:
        return []
    place = int(places[0])
    pairs = zip(starts[:, place].tolist(), sizes[:, place].tolist(), strict=True)
    return [(start, start + size) for start, size in pairs]


def _may_be_stack(mapping: Mapping, address: int | None = None) -> bool:
    """`address`: must be in it."""
    return (
        not mapping.is_file
        and (mapping.path == "" or mapping.path.startswith("[anon:"))
        and mapping.permissions.startswith("rw")
        and mapping.permissions.endswith("p")
        and (address is None or mapping.start <= address < mapping.end)
    )
