"""Where glibc's malloc keeps what it knows of free memory: struct malloc_state of its main arena,
in the data of libc.

Its pointers lead to the headers of free chunks, which lie in the last word of the block before: a
block that nothing points to would seem to have pointers into it. There is no symbol for it, so it
is found by what it contains: 127 pairs of words, the ends of doubly linked lists, of which the
empty ones point to themselves (bins, malloc/malloc.c). Other arenas are in memory of their own
(glibc_heaps.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaktrace.targets.glibc_heaps import HEAP_BYTES, find_heaps
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.page_map import PAGE_BYTES, Range

BINS = 127
_MOST_ODD = 4  # a list may be about to change
# A bin is the header of a chunk that has only the pointers.
_HEAD_BYTES, _FORWARD, _BACK = 16, np.uint64(16), np.uint64(24)
BEFORE_BYTES, AFTER_BYTES = 112, 2088  # the rest of the structure, around the first bin
_MOST_BYTES = 1 << 20  # of a mapping
_MOST_HEADER_BYTES = 4096  # of a heap
_CHUNK_UNIT = 16
TOP_BYTES = 16  # before the first bin: the address of the top chunk
_LIBC = re.compile(r"libc(-2\.\d+)?\.so[.\d]*")

ReadMemory = Callable[[int, int], bytes]  # within one page; fewer bytes if they aren't there
Words = NDArray[np.uint64]
Gather = Callable[[Words], Words]  # the words at these addresses, 0 for those that aren't there


def is_libc(path: str) -> bool:
    """Whether a file is called like glibc."""
    return _LIBC.fullmatch(path.rpartition("/")[2]) is not None


@dataclass(frozen=True)
class Arenas:
    """What belongs to malloc itself."""

    structures: tuple[Range, ...]  # what it knows of free memory
    heaps: tuple[Range, ...]  # where its blocks are, and nothing else, but for mapped ones
    first_chunks: tuple[int, ...] = ()  # where they begin in some of the heaps


def find_arenas(
    mappings: Sequence[Mapping], read: ReadMemory, break_start: int = 0
) -> Arenas | None:
    """All arenas; None if the process doesn't use glibc's malloc, or that can't be told.
    `break_start`: where the program break was at first (start_brk, proc_pid_stat(5))."""
    main = find_main_arena(mappings, read)
    if main is None:
        return None
    others = find_heaps(mappings, read)
    structures, heaps = [main], _main_heap(mappings, main, break_start, read)
    first_chunks = [_aligned(start) for start, _ in heaps]
    for one in mappings:
        if one.start not in others:
            continue
        for start in range(one.start, one.end, HEAP_BYTES):
            arena, _, size = (_word(start + at, read) for at in (0, 8, 16))
            heaps.append((start, min(start + size, one.end)))
            if start <= arena < start + _MOST_HEADER_BYTES:
                structures.append((start, arena + BEFORE_BYTES + AFTER_BYTES))
                first_chunks.append(_aligned(structures[-1][1]))
    return Arenas(tuple(structures), tuple(heaps), tuple(first_chunks))


def _aligned(address: int) -> int:
    """Where the next chunk can be."""
    return -(-address // _CHUNK_UNIT) * _CHUNK_UNIT


def _main_heap(
    mappings: Sequence[Mapping], arena: Range, break_start: int, read: ReadMemory
) -> list[Range]:
    """From the first break to the end of the top chunk. What the kernel calls [heap] may have other
    memory in it, which was mapped beside it."""
    top = _word(arena[1] - AFTER_BYTES - TOP_BYTES, read)
    for one in mappings:
        if one.path == "[heap]" and one.start <= top < one.end:
            end = top + (_word(top + 8, read) & ~7)
            return [(max(one.start, break_start), min(end, one.end))] if break_start else []
    return []


def _word(address: int, read: ReadMemory) -> int:
    """0 if it can't be read."""
    return int.from_bytes(read(address, 8), "little")


def find_main_arena(mappings: Sequence[Mapping], read: ReadMemory) -> Range | None:
    """Where the structure is; None: there is none, or it can't be told for sure."""

    def gather(addresses: Words) -> Words:
        return np.array([_word(one, read) for one in addresses.tolist()], dtype=np.uint64)

    for start, end in _data(mappings):
        # Page by page, as `read` may know of single pages only; what is not there is zeros.
        data = (
            read(at, PAGE_BYTES).ljust(PAGE_BYTES, b"\0") for at in range(start, end, PAGE_BYTES)
        )
        found = find_bins(start, np.frombuffer(b"".join(data), dtype=np.uint64), gather)
        if found:
            bins = found[0][0]
            return max(bins - BEFORE_BYTES, start), bins + AFTER_BYTES
    return None


def _data(mappings: Sequence[Mapping]) -> list[Range]:
    """The writable data of libc, with the memory behind it that the file doesn't fill (bss). Others
    are not read: what is mapped there may change by being read."""
    found: list[Range] = []
    for one in mappings:
        if one.permissions != "rw-p":
            continue
        end = min(one.end, one.start + _MOST_BYTES)
        if one.is_file and is_libc(one.path):
            found.append((one.start, end))
        elif one.path == "" and found and found[-1][1] == one.start:
            found[-1] = (found[-1][0], end)
    return found


def find_bins(start: int, words: Words, gather: Gather) -> list[list[int]]:
    """Where the bins of arenas begin, in bytes: 127 pairs of words, each the first and the last
    chunk of a list that point back to it. An empty list is its own first and last one. Where bins
    are about to change, several places may be as likely. `start`: where the words begin, in
    bytes."""
    found: list[list[int]] = []
    if len(words) < 2 * BINS:
        return found
    first, last = words[:-1], words[1:]
    places = np.uint64(start) + np.arange(len(first), dtype=np.uint64) * np.uint64(8)
    heads = places - np.uint64(_HEAD_BYTES)
    is_list = (first == heads) & (last == heads)
    is_filled = (first != 0) & (last != 0) & ((first | last) % np.uint64(_CHUNK_UNIT) == 0)
    rows = np.nonzero(is_filled & ~is_list)[0]
    rows = rows[gather(first[rows] + _BACK) == heads[rows]]
    is_list[rows] = gather(last[rows] + _FORWARD) == heads[rows]
    for offset in (0, 1):
        sums = np.concatenate([[0], np.cumsum(is_list[offset::2])])
        counts = sums[BINS:] - sums[:-BINS]
        likely = np.nonzero(counts >= BINS - _MOST_ODD)[0]
        for near in np.split(likely, np.nonzero(np.diff(likely) > BINS)[0] + 1):
            if len(near):
                best = near[counts[near] == counts[near].max()]
                found.append(places[offset + 2 * best].tolist())
    return found
