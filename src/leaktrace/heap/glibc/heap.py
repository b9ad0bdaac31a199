"""The heap of glibc's malloc, walked without symbols and without its version: arenas, their
segments, the chunks in them, which of these are free, and blocks with a mapping of their own.

What was found is checked against what malloc itself counts (bytes of each arena, bytes of mapped
blocks) and against the lists of free chunks. The sums are those of mallinfo2(3):

    arena     sum of the arenas' system_bytes
    fordblks  free chunks but the cached ones
    uordblks  arena - fordblks
    hblkhd    bytes of mappings of single blocks
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from leaktrace.heap.glibc.arenas import ArenaState, Ring, find_ring
from leaktrace.heap.glibc.caches import mark_cached
from leaktrace.heap.glibc.chunks import (
    BLOCK_OFFSET,
    HEADER_BYTES,
    PREVIOUS_IN_USE,
    Run,
)
from leaktrace.heap.glibc.free_lists import IN_USE, Chunks, Links, Rows, mark_fastbins
from leaktrace.heap.glibc.main_heap import walk_main_heap
from leaktrace.heap.glibc.mapped_chunks import MappedChunks, find_mapped_chunks, said_bytes
from leaktrace.heap.glibc.pinning import Pinned, find_pinned
from leaktrace.heap.glibc.thread_heaps import walk_heaps
from leaktrace.heap.image import MemoryImage
from leaktrace.heap.walked import Addresses, Arena, FreeKind, WalkedHeap
from leaktrace.targets.mappings import Mapping

NAME = "glibc malloc"
MAPPED = -1  # the number of the arena of a block with a mapping of its own
_SIZE = np.uint64(0xFFFF_FFFF_FFFF_FFF8)
_FORWARD, _BACK = np.uint64(16), np.uint64(24)  # the pointers of a free chunk
_SIZE_BEFORE = np.uint64(0)

Range = tuple[int, int]
_T = TypeVar("_T", bound=np.generic)


def walk_glibc(image: MemoryImage, mappings: Sequence[Mapping]) -> WalkedHeap | None:
    """None: there is no malloc of glibc, or it was never called."""
    ring = find_ring(image, mappings)
    if ring is None or not any(one.system_bytes for one in ring.states):
        return None
    problems = list(ring.problems)
    runs: list[Run] = []
    structures: list[Range] = []
    foreign = {}
    for state in ring.states:
        structures.append((state.address, state.end))
        if state.is_main:
            main = walk_main_heap(image, mappings, state)
            runs.extend(main.runs)
            problems.extend(main.problems)
            foreign[state.number] = main.foreign_bytes
        else:
            heaps = walk_heaps(image, state)
            runs.extend(heaps.runs)
            problems.extend(heaps.problems)
            structures.extend(heaps.headers)
    problems.extend(_unlike_counted(ring, runs, foreign))
    runs, overlapping = _apart(runs)
    problems.extend(overlapping)

    segments = [(run.start, run.end) for run in runs]
    mapped = find_mapped_chunks(image, mappings, segments)
    problems.extend(_unlike_said(image, ring, runs, mapped))

    chunks, arenas_of, bad_sizes = _chunks(runs)
    problems.extend(bad_sizes)
    problems.extend(_unlinked(image, chunks))
    links = Links(image)
    problems.extend(mark_fastbins(links, chunks, ring.states))
    caches, doubtful = mark_cached(links, chunks)
    problems.extend(doubtful)

    numbered = _by_arena(image, ring, runs, chunks, arenas_of, foreign)
    return _walked(
        chunks, arenas_of, caches, mapped, numbered, segments, structures, tuple(problems)
    )


def _unlike_counted(ring: Ring, runs: Sequence[Run], foreign: dict[int, int]) -> list[str]:
    """Arenas whose segments have other bytes than they count."""
    found = dict(foreign)
    for run in runs:
        found[run.arena] = found.get(run.arena, 0) + run.end - run.start
    return [
        f"arena {one.number}: {found.get(one.number, 0):,} bytes were found, "
        f"of {one.system_bytes:,} that it has"
        for one in ring.states
        if found.get(one.number, 0) != one.system_bytes
    ]


def _apart(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """By ascending address, those that don't overlap."""
    kept: list[Run] = []
    for run in sorted(runs, key=lambda one: one.start):
        if not kept or run.start >= kept[-1].end:
            kept.append(run)
    dropped = len(runs) - len(kept)
    return kept, [f"{dropped:,} segments overlap with others"] if dropped else []


def _unlike_said(
    image: MemoryImage, ring: Ring, runs: Sequence[Run], mapped: MappedChunks
) -> list[str]:
    bases = [run.start for run in runs if run.arena == 0]
    said = next(
        (one for base in bases if (one := said_bytes(image, ring.data, base)) is not None), None
    )
    if said is None or said == mapped.mapped_bytes:
        return []
    return [
        f"blocks with a mapping of their own: {mapped.mapped_bytes:,} bytes were found, "
        f"of {said:,} that malloc has"
    ]


def _chunks(runs: Sequence[Run]) -> tuple[Chunks, NDArray[np.int16], list[str]]:
    """The chunks of all runs. Which are free, and merged with their neighbours, the flags of the
    chunks behind say."""
    at, kinds, arenas_of = [], [], []
    for run in runs:
        sizes = run.sizes & _SIZE
        ends = np.cumsum(sizes, dtype=np.uint64)
        at.append(np.uint64(run.first) + ends - sizes)
        kind = np.full(len(sizes), IN_USE, dtype=np.uint8)
        kind[:-1][(run.sizes[1:] & np.uint64(PREVIOUS_IN_USE)) == 0] = FreeKind.BIN
        if len(kind) and run.has_top:
            kind[-1] = FreeKind.TOP
        elif len(kind) and not run.is_last_in_use:
            kind[-1] = FreeKind.BIN
        kinds.append(kind)
        arenas_of.append(np.full(len(sizes), run.arena, dtype=np.int16))
    words = _joined([run.sizes for run in runs], np.uint64)
    sizes = words & _SIZE
    odd = int(np.count_nonzero(sizes & np.uint64(8)))
    problems = [f"{odd:,} chunks have sizes that are no multiples of 16"] if odd else []
    chunks = Chunks(_joined(at, np.uint64), sizes, _joined(kinds, np.uint8))
    return chunks, _joined(arenas_of, np.int16), problems


def _joined(parts: Sequence[NDArray[_T]], kind: type[_T]) -> NDArray[_T]:
    return np.concatenate(parts) if parts else np.empty(0, dtype=kind)


def _unlinked(image: MemoryImage, chunks: Chunks) -> list[str]:
    """Free chunks must be in a list, and the chunk behind has their size. A chunk that a thread is
    just taking out of its list is no other."""
    rows = np.nonzero(chunks.kinds == FreeKind.BIN)[0]
    at = chunks.at[rows]
    forward, back = image.gather(at + _FORWARD), image.gather(at + _BACK)
    is_linked = image.gather(forward + _BACK) == at
    is_linked &= image.gather(back + _FORWARD) == at
    is_linked &= image.gather(at + chunks.sizes[rows] + _SIZE_BEFORE) == chunks.sizes[rows]
    count = int(np.count_nonzero(~is_linked))
    return [f"{count:,} free chunks are in no list"] if count else []


def _by_arena(
    image: MemoryImage,
    ring: Ring,
    runs: Sequence[Run],
    chunks: Chunks,
    arenas_of: NDArray[np.int16],
    foreign: dict[int, int],
) -> tuple[Arena, ...]:
    count = len(ring.states)
    is_in_use = chunks.kinds == IN_USE
    numbers = arenas_of.astype(np.intp)
    in_use_counts = np.bincount(numbers[is_in_use], minlength=count)
    in_use = _sums(numbers, chunks.sizes, is_in_use, count) - in_use_counts * HEADER_BYTES
    free_counts = np.bincount(numbers[~is_in_use], minlength=count)
    free = {kind: _sums(numbers, chunks.sizes, chunks.kinds == kind, count) for kind in FreeKind}
    pinned = find_pinned(image, ring.states, runs, chunks, arenas_of)

    def arena(state: ArenaState) -> Arena:
        number = state.number
        mapped = tuple((run.start, run.end) for run in runs if run.arena == number)
        of_kinds = {kind: int(free[kind][number]) for kind in FreeKind}
        in_segments = sum(end - start for start, end in mapped)
        what: Pinned = pinned[number]
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
            foreign_bytes=foreign.get(number, 0),
            mapped=mapped,
            is_locked=state.is_locked,
            largest_free_bytes=what.largest_free_bytes,
            trimmable_bytes=what.trimmable_bytes,
            between_bytes=sum(of_kinds.values()) - of_kinds[FreeKind.TOP],
            last_block=what.last_block,
        )

    return tuple(arena(state) for state in ring.states)


def _sums(
    numbers: Rows, sizes: Addresses, which: NDArray[np.bool_], count: int
) -> NDArray[np.int64]:
    """Bytes by arena: whole numbers, as bincount's floats are exact below 2^53."""
    return np.bincount(numbers[which], weights=sizes[which], minlength=count).astype(np.int64)


def _walked(
    chunks: Chunks,
    arenas_of: NDArray[np.int16],
    caches: Rows,
    mapped: MappedChunks,
    arenas: tuple[Arena, ...],
    segments: Sequence[Range],
    structures: Sequence[Range],
    problems: tuple[str, ...],
) -> WalkedHeap:
    is_in_use = chunks.kinds == IN_USE
    addresses = np.concatenate([chunks.at[is_in_use] + np.uint64(BLOCK_OFFSET), mapped.blocks])
    sizes = np.concatenate([chunks.sizes[is_in_use] - np.uint64(HEADER_BYTES), mapped.sizes])
    numbers = np.concatenate(
        [arenas_of[is_in_use], np.full(len(mapped.blocks), MAPPED, dtype=np.int16)]
    )
    own = chunks.at[caches] + np.uint64(BLOCK_OFFSET)
    own_sizes = chunks.sizes[caches] - np.uint64(HEADER_BYTES)
    if len(mapped.blocks):
        order = np.argsort(addresses, kind="stable")  # two ascending parts
        addresses, sizes, numbers = addresses[order], sizes[order], numbers[order]
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
        arenas=arenas,
        overhead_bytes=total - int(sizes.sum()) - int(free_sizes.sum()),
        segments=every,
        structures=held[np.argsort(held[:, 0], kind="stable")],
        problems=problems,
    )


def _pairs(ranges: Sequence[Range]) -> Addresses:
    return np.array(ranges, dtype=np.uint64).reshape(-1, 2)
