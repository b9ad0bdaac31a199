"""Which mappings are heaps of glibc's arenas: those that malloc gives to threads but the first.

Such a heap is at a multiple of HEAP_MAX_SIZE (64 MiB on 64-bit machines; glibc's malloc/arena.c).
So is other memory, the heap of Go for example. What distinguishes it is its header, struct
heap_info: a pointer to the arena, which is in the first heap of the same arena, behind its header;
the heap before it; its size; and how much of it is accessible. With tunables for huge pages
HEAP_MAX_SIZE is another number: those heaps are not recognised.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from leaktrace.targets.mappings import Mapping

HEAP_BYTES = 64 << 20
_HEADER = struct.Struct("=4Q")  # ar_ptr, prev, size, mprotect_size
_MOST_HEADER_BYTES = 4096
_PAGE_BYTES = 4096
_MOST_JOINED = 64  # heaps in one mapping: the kernel joins neighbours of which one is full

ReadMemory = Callable[[int, int], bytes]


def is_candidate(mapping: Mapping) -> bool:
    """Whether it is where a heap could be."""
    return (
        mapping.path == ""
        and not mapping.is_file
        and mapping.permissions.startswith("rw")
        and mapping.start % HEAP_BYTES == 0
    )


def find_heaps(mappings: Sequence[Mapping], read: ReadMemory) -> set[int]:
    """The start addresses of the mappings that are heaps, or several heaps and nothing else."""
    candidates = [mapping for mapping in mappings if is_candidate(mapping)]
    return {one.start for one in candidates if _is_heap(one, read)}


def _is_heap(mapping: Mapping, read: ReadMemory) -> bool:
    starts = range(mapping.start, mapping.end, HEAP_BYTES)
    if len(starts) > _MOST_JOINED:
        return False
    return all(_has_header(start, min(mapping.end - start, HEAP_BYTES), read) for start in starts)


def _has_header(start: int, accessible: int, read: ReadMemory) -> bool:
    """`accessible`: the bytes from here to the end of the mapping."""
    header = read(start, _HEADER.size)
    if len(header) < _HEADER.size:
        return False
    arena, previous, size, protected = _HEADER.unpack(header)
    if not 0 < size <= protected <= HEAP_BYTES or protected % _PAGE_BYTES or size > accessible:
        return False
    first = arena - arena % HEAP_BYTES
    if not _HEADER.size <= arena - first <= _MOST_HEADER_BYTES:
        return False
    if previous == 0:
        return bool(first == start)
    # A further heap of the arena, whose first one must name the same arena.
    if previous % HEAP_BYTES or first == start:
        return False
    first_header = read(first, _HEADER.size)
    return len(first_header) == _HEADER.size and _HEADER.unpack(first_header)[0] == arena
