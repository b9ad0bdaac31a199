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

from leaktrace.heap.glibc.accounts import Found, walked
from leaktrace.heap.glibc.arenas import Ring, find_ring
from leaktrace.heap.glibc.caches import find_empty, mark_cached
from leaktrace.heap.glibc.chunks import IN_USE, PREVIOUS_IN_USE, Chunks, Run
from leaktrace.heap.glibc.free_lists import Links, mark_fastbins
from leaktrace.heap.glibc.main_heap import walk_main_heap
from leaktrace.heap.glibc.mapped_chunks import MappedChunks, find_mapped_chunks, said_bytes
from leaktrace.heap.glibc.thread_heaps import walk_heaps
from leaktrace.heap.walked import FreeKind, WalkedHeap
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.memory_image import MemoryImage
from leaktrace.targets.page_map import Range

_SIZE = np.uint64(0xFFFF_FFFF_FFFF_FFF8)
_FORWARD, _BACK = np.uint64(16), np.uint64(24)  # the pointers of a free chunk
_LINKED_AT_ONCE = 3

_T = TypeVar("_T", bound=np.generic)


def walk_glibc(
    image: MemoryImage, mappings: Sequence[Mapping], thread_pointers: Sequence[int]
) -> WalkedHeap | None:
    """None: there is no malloc of glibc, or it was never called."""
    ring = find_ring(image, mappings)
    if ring is None or not any(one.system_bytes for one in ring.states):
        return None
    problems = list(ring.problems)
    runs: list[Run] = []
    structures: list[Range] = []
    foreign = {}
    room = sum(one.end - one.start for one in mappings if one.permissions.startswith("rw"))
    for state in ring.states:
        structures.append((state.address, state.end))
        if state.is_main:
            main = walk_main_heap(image, mappings, state)
            added, wrong = main.runs, main.problems
            foreign[state.number] = main.foreign_bytes
        else:
            heaps = walk_heaps(image, state)
            added, wrong = heaps.runs, heaps.problems
            structures.extend(heaps.headers)
        runs.extend(added)
        problems.extend(wrong)
        room -= sum(run.end - run.start for run in added)
        if room < 0:  # arenas that claim the same memory: there may be many
            problems.append("the arenas have more memory than the process")
            break
    problems.extend(_unlike_counted(ring, runs, foreign))
    runs, overlapping = _apart(runs)
    problems.extend(overlapping)

    segments = [(run.start, run.end) for run in runs]
    mapped = find_mapped_chunks(image, mappings, segments)
    problems.extend(_unlike_said(image, ring, runs, mapped))

    chunks, bad_sizes = _chunks(runs)
    problems.extend(bad_sizes)
    problems.extend(_unlinked(image, ring, chunks))
    links = Links(image)
    problems.extend(mark_fastbins(links, chunks, ring.states))
    caches, doubtful = mark_cached(links, chunks)
    problems.extend(doubtful)
    caches = np.union1d(caches, find_empty(image, chunks, caches, thread_pointers))

    found = Found(image, ring.states, runs, chunks, mapped, foreign)
    return walked(found, caches, structures, problems)


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
    if not ring.states[0].fastbins:
        return []  # glibc 2.43 counts 16 bytes too many for each block that realloc() has resized
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


def _chunks(runs: Sequence[Run]) -> tuple[Chunks, list[str]]:
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
    sizes = _joined([run.sizes for run in runs], np.uint64)
    sizes &= _SIZE  # in place: it may be large
    odd = int(np.count_nonzero(sizes & np.uint64(8)))
    problems = [f"{odd:,} chunks have sizes that are no multiples of 16"] if odd else []
    chunks = Chunks(
        _joined(at, np.uint64), sizes, _joined(kinds, np.uint8), _joined(arenas_of, np.int16)
    )
    return chunks, problems


def _joined(parts: Sequence[NDArray[_T]], kind: type[_T]) -> NDArray[_T]:
    return np.concatenate(parts) if parts else np.empty(0, dtype=kind)


def _unlinked(image: MemoryImage, ring: Ring, chunks: Chunks) -> list[str]:
    """Free chunks must be in a list, and the chunk behind has their size. A thread that is inside
    malloc may be about to link one: then it and its neighbours in the list don't agree."""
    rows = np.nonzero(chunks.kinds == FreeKind.BIN)[0]
    at = chunks.at[rows]
    forward, back = image.gather(at + _FORWARD), image.gather(at + _BACK)
    is_linked = image.gather(forward + _BACK) == at
    is_linked &= image.gather(back + _FORWARD) == at
    is_linked &= image.gather(at + chunks.sizes[rows]) == chunks.sizes[rows]
    count = int(np.count_nonzero(~is_linked))
    allowed = _LINKED_AT_ONCE * sum(one.is_locked for one in ring.states)
    return [f"{count:,} free chunks are in no list"] if count > allowed else []
