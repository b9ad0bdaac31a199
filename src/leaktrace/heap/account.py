"""What is in RAM, part by part: the memory of the allocator is split into blocks, free memory and
its own, all else goes by kind of mapping. The parts add up to the RSS, to the page."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from leaktrace.heap.memory import Residence
from leaktrace.heap.walked import WalkedHeap
from leaktrace.heap_report import Account, AccountPart
from leaktrace.memory_map import MapKind

_PARTS = {
    MapKind.HEAP: AccountPart.ALLOCATOR,
    MapKind.ARENA: AccountPart.ALLOCATOR,
    MapKind.ANONYMOUS: AccountPart.ANONYMOUS,
    MapKind.MAIN_STACK: AccountPart.STACKS,
    MapKind.THREAD_STACK: AccountPart.STACKS,
    MapKind.CODE: AccountPart.CODE,
    MapKind.PRIVATE_FILE: AccountPart.FILES,
    MapKind.SHARED_FILE: AccountPart.FILES,
    MapKind.SHARED_MEMORY: AccountPart.SHARED_MEMORY,
}


def account(heap: WalkedHeap, residence: Residence) -> Account:
    """The parts of what is in RAM."""
    pages = residence.pages
    parts: Counter[AccountPart] = Counter()
    resident = swapped = 0
    for one in residence.ranges:
        parts[_PARTS.get(one.kind, AccountPart.OTHER)] += one.figures.resident
        resident += one.figures.resident
        swapped += one.figures.swapped
    # Segments of the allocator in other mappings are taken out of what those hold.
    starts = np.array([one.start for one in residence.ranges], dtype=np.uint64)
    segments = heap.segments.astype(np.int64)
    held = pages.covered(segments[:, 0], segments[:, 1])
    for start, size in zip(segments[:, 0].tolist(), held.tolist(), strict=True):
        at = int(np.searchsorted(starts, np.uint64(start), side="right")) - 1
        if at >= 0:
            kind = _PARTS.get(residence.ranges[at].kind, AccountPart.OTHER)
            parts[kind] -= size
            parts[AccountPart.ALLOCATOR] += size
    for part, starts_of, sizes in (
        (AccountPart.BLOCKS, heap.addresses, heap.sizes),
        (AccountPart.FREE, heap.free_addresses, heap.free_sizes),
    ):
        size = _covered(starts_of, sizes, residence)
        parts[part] += size
        parts[AccountPart.ALLOCATOR] -= size
    return Account(
        resident_bytes=resident,
        parts=tuple((part, parts[part]) for part in AccountPart if parts[part]),
        swapped_bytes=swapped,
    )


def _covered(starts: NDArray[np.uint64], sizes: NDArray[np.uint64], residence: Residence) -> int:
    ends = (starts + sizes).astype(np.int64)
    return int(residence.pages.covered(starts.astype(np.int64), ends).sum())
