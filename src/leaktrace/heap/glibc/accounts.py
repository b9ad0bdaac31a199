"""What was found of a heap of glibc's malloc, added up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaktrace.heap.glibc.arenas import ArenaState
from leaktrace.heap.glibc.chunks import BLOCK_OFFSET, HEADER_BYTES, IN_USE, Chunks, Rows, Run
from leaktrace.heap.glibc.mapped_chunks import MappedChunks
from leaktrace.heap.glibc.pinning import find_pinned
from leaktrace.heap.walked import Addresses, Arena, FreeKind, WalkedHeap
from leaktrace.targets.memory_image import MemoryImage
from leaktrace.targets.page_map import Range

NAME = "glibc malloc"
MAPPED = -1  # the number of the arena of a block with a mapping of its own


@dataclass(frozen=True, eq=False)
class Found:
    """`foreign`: bytes that an arena counts, but the program has allocated itself."""

    image: MemoryImage
    arenas: tuple[ArenaState, ...]
    runs: Sequence[Run]  # ascending
    chunks: Chunks
    mapped: MappedChunks
    foreign: dict[int, int]


def _arenas(found: Found) -> tuple[Arena, ...]:
    chunks, count = found.chunks, len(found.arenas)
    is_in_use = chunks.kinds == IN_USE
    numbers = chunks.arenas.astype(np.intp)
    in_use_counts = np.bincount(numbers[is_in_use], minlength=count)
    in_use = _sums(numbers, chunks.sizes, is_in_use, count) - in_use_counts * HEADER_BYTES
    free_counts = np.bincount(numbers[~is_in_use], minlength=count)
    free = {kind: _sums(numbers, chunks.sizes, chunks.kinds == kind, count) for kind in FreeKind}
    pinned = find_pinned(found.image, found.arenas, found.runs, chunks)
    segments: dict[int, list[Range]] = {}
    for run in found.runs:
        segments.setdefault(run.arena, []).append((run.start, run.end))

    def arena(state: ArenaState) -> Arena:
        number = state.number
        mapped = tuple(segments.get(number, []))
        of_kinds = {kind: int(free[kind][number]) for kind in FreeKind}
        in_segments = sum(end - start for start, end in mapped)
        what = pinned[number]
        return Arena(
            number=number,
            is_main=state.is_main,
            address=state.address,
            system_bytes=state.system_bytes,
            in_use_bytes=int(in_use[number]),
            in_use_count=int(in_use_counts[number]),
            free_bytes=sum(of_kinds.values()),
            free_count=int(free_counts[number]),
            top_bytes=of_kinds[FreeKind.TOP],
            fast_bytes=of_kinds[FreeKind.FAST],
            cached_bytes=of_kinds[FreeKind.CACHED],
            overhead_bytes=in_segments - int(in_use[number]) - sum(of_kinds.values()),
            foreign_bytes=found.foreign.get(number, 0),
            mapped=mapped,
            is_locked=state.is_locked,
            largest_free_bytes=what.largest_free_bytes,
            trimmable_bytes=what.trimmable_bytes,
            between_bytes=sum(of_kinds.values()) - of_kinds[FreeKind.TOP],
            last_block=what.last_block,
        )

    return tuple(arena(state) for state in found.arenas)


def _sums(
    numbers: Rows, sizes: Addresses, which: NDArray[np.bool_], count: int
) -> NDArray[np.int64]:
    """Bytes by arena: whole numbers, as bincount's floats are exact below 2^53."""
    return np.bincount(numbers[which], weights=sizes[which], minlength=count).astype(np.int64)


def walked(
    found: Found, caches: Rows, structures: Sequence[Range], problems: Sequence[str]
) -> WalkedHeap:
    """`caches`: the rows of chunks that are caches of threads."""
    chunks, mapped = found.chunks, found.mapped
    is_in_use = chunks.kinds == IN_USE
    addresses = np.concatenate([chunks.at[is_in_use] + np.uint64(BLOCK_OFFSET), mapped.blocks])
    sizes = np.concatenate([chunks.sizes[is_in_use] - np.uint64(HEADER_BYTES), mapped.sizes])
    numbers = np.concatenate(
        [chunks.arenas[is_in_use], np.full(len(mapped.blocks), MAPPED, dtype=np.int16)]
    )
    own = chunks.at[caches] + np.uint64(BLOCK_OFFSET)
    own_sizes = chunks.sizes[caches] - np.uint64(HEADER_BYTES)
    if len(mapped.blocks):
        order = np.argsort(addresses, kind="stable")  # two ascending parts
        addresses, sizes, numbers = addresses[order], sizes[order], numbers[order]
    segments = [(run.start, run.end) for run in found.runs]
    every = np.concatenate([_pairs(segments), mapped.mapped])
    every = every[np.argsort(every[:, 0], kind="stable")]
    ends = np.stack([own, own + own_sizes], axis=1)
    held = np.concatenate([_pairs(sorted(structures)), ends])
    free_sizes = chunks.sizes[~is_in_use]
    total = int((every[:, 1] - every[:, 0]).sum())
    return WalkedHeap(
        allocator=NAME,
        addresses=addresses,
        sizes=sizes,
        arenas_of=numbers,
        own_rows=np.searchsorted(addresses, own),
        free_addresses=chunks.at[~is_in_use],
        free_sizes=free_sizes,
        free_kinds=chunks.kinds[~is_in_use],
        arenas=_arenas(found),
        overhead_bytes=total - int(sizes.sum()) - int(free_sizes.sum()),
        segments=every,
        structures=held[np.argsort(held[:, 0], kind="stable")],
        problems=tuple(problems),
    )


def _pairs(ranges: Sequence[Range]) -> Addresses:
    return np.array(ranges, dtype=np.uint64).reshape(-1, 2)
