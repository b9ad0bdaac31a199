"""The heap of a process as its allocator has it at one instant: values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Addresses = NDArray[np.uint64]


class FreeKind(IntEnum):
    """Why a chunk is free."""

    BIN = 1  # in a list of its arena, merged with its neighbours
    TOP = 2  # the end of an arena, from which new blocks are cut
    FAST = 3  # in a list of its arena, to be used again as it is
    CACHED = 4  # in the cache of a thread (tcache): the allocator itself counts it as in use


@dataclass(frozen=True)
class Arena:
    """Memory that some threads allocate from. All sizes in bytes.

    Blocks count with their usable bytes, free chunks with their headers:
    system = in_use + free + overhead + foreign.
    """

    number: int  # 0: the first one
    is_main: bool
    address: int  # of what the allocator knows of it (struct malloc_state)
    system_bytes: int  # what the allocator says that it has from the kernel
    in_use_bytes: int
    in_use_count: int
    free_bytes: int  # of all kinds
    free_count: int
    top_bytes: int
    fast_bytes: int
    cached_bytes: int
    overhead_bytes: int
    foreign_bytes: int  # between its segments: the program moved the program break itself
    mapped: tuple[tuple[int, int], ...]  # [start, end) of its segments
    is_locked: bool  # a thread was inside the allocator

    # What keeps free memory from going back to the kernel.
    largest_free_bytes: int  # of the free chunks other than the top one
    trimmable_bytes: int  # in memory now, and malloc_trim(0) would give it back
    between_bytes: int  # free, and in use by blocks on both sides, or at least above
    last_block: tuple[int, int] | None  # address and usable bytes of the highest block below top


@dataclass(frozen=True, eq=False)
class WalkedHeap:
    """`segments` is everything that the allocator has from the kernel, and adds up exactly:
    their bytes = sum(sizes) + sum(free_sizes) + overhead_bytes."""

    allocator: str  # "glibc malloc", "musl mallocng"
    addresses: Addresses  # of blocks in use, as malloc returned them, ascending
    sizes: Addresses  # their usable bytes (malloc_usable_size(3)); of musl those asked for
    arenas_of: NDArray[np.int16]  # the number of the arena of each; -1: it has a mapping of its own
    own_rows: NDArray[np.intp]  # those that the allocator keeps for itself (caches of threads)
    free_addresses: Addresses  # of free chunks: where the header begins, ascending
    free_sizes: Addresses  # with the header
    free_kinds: NDArray[np.uint8]  # FreeKind
    arenas: tuple[Arena, ...]
    overhead_bytes: int  # headers, ends of segments, what the allocator knows of its arenas
    segments: Addresses  # n x 2, [start, end), ascending
    structures: Addresses  # n x 2: what the allocator keeps for itself, and points to free memory
    problems: tuple[str, ...]  # why the figures can't be trusted; empty: every check held
