"""The heap of a process, walked from an image of its memory, whatever its allocator."""

from __future__ import annotations

from collections.abc import Sequence

from leaktrace.heap.glibc.heap import walk_glibc
from leaktrace.heap.musl.mallocng import walk_mallocng
from leaktrace.heap.walked import WalkedHeap
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.memory_image import MemoryImage


def walk_heap(
    image: MemoryImage, mappings: Sequence[Mapping], thread_pointers: Sequence[int] = ()
) -> WalkedHeap | None:
    """`mappings`: those of the same instant. `thread_pointers`: of its threads; where one is not
    known, an empty cache of that thread counts as a block. None: no allocator that is known here
    was found.

    The image must have been taken while no thread ran. If a thread was inside the allocator, the
    heap may be whole or not: then `problems` says so.
    """
    walked = walk_glibc(image, mappings, thread_pointers)
    return walk_mallocng(image, mappings) if walked is None else walked
