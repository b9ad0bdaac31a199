"""The heaps of arenas other than the main one (heap_info, malloc/arena.c).

Each is at a multiple of the most bytes that a heap may have, and begins with a pointer to its
arena, the heap before it, and its size. The arena itself is behind the header of its first heap.
"""

from __future__ import annotations

from dataclasses import dataclass

from leaktrace.heap.glibc.arenas import ArenaState
from leaktrace.heap.glibc.chunks import (
    FENCE_BYTES,
    LEAST_BYTES,
    NOT_MAIN,
    Run,
    is_in_use,
    size_at,
    walk,
)
from leaktrace.targets.glibc_heaps import HEAP_BYTES
from leaktrace.targets.memory_image import MemoryImage

# 64 MiB; with huge pages (tunable glibc.malloc.hugetlb) four of them: of 2 MiB, 1 GiB, 32 MiB,
# 512 MiB.
_ALIGNMENTS = (HEAP_BYTES, 8 << 20, 4 << 30, 128 << 20, 2 << 30)
_MOST_HEADER_BYTES = 4096
_MOST_HEAPS = 1 << 16


@dataclass(frozen=True, eq=False)
class ThreadHeaps:
    """What belongs to an arena. `headers`: [start, end) of what malloc keeps in them for itself."""

    runs: tuple[Run, ...]
    headers: tuple[tuple[int, int], ...]
    problems: tuple[str, ...]


def walk_heaps(image: MemoryImage, arena: ArenaState) -> ThreadHeaps:
    """All heaps of an arena other than the main one, from the newest to the first."""
    runs: list[Run] = []
    headers: list[tuple[int, int]] = []
    problems: list[str] = []
    top_end = arena.top + size_at(image, arena.top)
    alignment = next((one for one in _ALIGNMENTS if _is_aligned(image, arena, one)), 0)
    if not alignment:
        problem = f"arena {arena.number}: its top chunk is in no heap of it"
        return ThreadHeaps((), (), (problem,))
    heap, seen = arena.top - arena.top % alignment, set[int]()
    while heap:
        owner, before, size = (image.word(heap + at) for at in (0, 8, 16))
        is_heap = owner == arena.address and 0 < size <= alignment
        if heap in seen or len(seen) == _MOST_HEAPS or heap % alignment or not is_heap:
            problems.append(f"arena {arena.number}: what is at {heap:#x} is no heap of it")
            break
        is_newest, is_first = not seen, arena.address - arena.address % alignment == heap
        seen.add(heap)
        # The header is as long as the first heap's, behind which the arena is.
        header_end = arena.end if is_first else heap + arena.address % alignment
        first, end = -(-header_end // 16) * 16, heap + size
        if first >= end:
            problems.append(f"arena {arena.number}: the heap at {heap:#x} has no room")
            break
        headers.append((heap, header_end))
        run = _run(image, arena, (heap, first, end), top_end if is_newest else 0)
        is_whole = run.stop == end if is_newest else run.stop in (end - 32, end - 16)
        if not is_whole or (is_newest and top_end != end):
            problems.append(f"arena {arena.number}: the chunks of the heap at {heap:#x} break off")
        runs.append(run)
        heap = before
    return ThreadHeaps(tuple(runs), tuple(headers), tuple(problems))


def _is_aligned(image: MemoryImage, arena: ArenaState, alignment: int) -> bool:
    """Whether heaps of this alignment are what the arena, and its top chunk, are in."""
    first, newest = (at - at % alignment for at in (arena.address, arena.top))
    is_behind_header = arena.address - first <= _MOST_HEADER_BYTES
    return is_behind_header and image.word(first) == image.word(newest) == arena.address


def _run(image: MemoryImage, arena: ArenaState, heap: tuple[int, int, int], top_end: int) -> Run:
    start, first, end = heap
    sizes, stop = walk(image, first, end)
    if top_end:
        return Run(arena.number, start, first, sizes, stop, end, has_top=stop == top_end)
    # A heap that was full ends with a chunk of 16 bytes and one of 0. If what was left of it was
    # less than a chunk, the first of them has 32 bytes, but not the flag of this arena.
    is_last_in_use = is_in_use(image, stop)
    if (
        stop == end - FENCE_BYTES
        and len(sizes)
        and int(sizes[-1]) & ~1 == LEAST_BYTES
        and not int(sizes[-1]) & NOT_MAIN
    ):
        is_last_in_use = bool(int(sizes[-1]) & 1)
        sizes, stop = sizes[:-1], stop - LEAST_BYTES
    return Run(arena.number, start, first, sizes, stop, end, False, is_last_in_use)
