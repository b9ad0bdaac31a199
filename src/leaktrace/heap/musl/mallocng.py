"""The heap of musl's malloc (mallocng), walked without symbols.

It is checked against what the allocator itself counts (slots of each size), against the bytes
before each block, and groups within groups against the slots that they are in.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from leaktrace.heap.musl.groups import (
    AREA_BYTES,
    UNIT,
    Context,
    Groups,
    find_context,
    read_groups,
)
from leaktrace.heap.musl.slots import Slots, read_slots
from leaktrace.heap.walked import Addresses, Arena, FreeKind, WalkedHeap
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.memory_image import MemoryImage

NAME = "musl mallocng"


def walk_mallocng(image: MemoryImage, mappings: Sequence[Mapping]) -> WalkedHeap | None:
    """None: there is no such malloc, or it was never called."""
    context = find_context(image, mappings)
    if context is None:
        return None
    groups, wrong = read_groups(image, context)
    slots = read_slots(image, groups)
    problems = [*context.problems, *wrong, *slots.problems]
    if not np.array_equal(groups.at[groups.is_nested], np.sort(slots.nested)):
        problems.append("groups are not in the slots that are said to be groups")
    segments = _segments(context, groups)
    if (segments[1:, 0] < segments[:-1, 1]).any() or (np.diff(slots.blocks) == 0).any():
        problems.append("groups overlap")
    return _walked(context, groups, slots, segments, problems)


def _segments(context: Context, groups: Groups) -> Addresses:
    """[start, end), ascending: mappings of groups, what libraries had left over, and the pages that
    describe groups."""
    is_outermost = ~groups.is_nested
    starts = groups.at[is_outermost]
    sizes = np.where(
        groups.mapped != 0,
        groups.mapped,
        np.uint64(UNIT) + groups.strides * groups.counts.astype(np.uint64),
    )[is_outermost]
    every = np.concatenate([np.stack([starts, starts + sizes], axis=1), _areas(context)])
    return every[np.argsort(every[:, 0], kind="stable")]


def _areas(context: Context) -> Addresses:
    starts = np.array(sorted(context.areas), dtype=np.uint64)
    return np.stack([starts, starts + np.uint64(AREA_BYTES)], axis=1)


def _walked(
    context: Context,
    groups: Groups,
    slots: Slots,
    segments: Addresses,
    problems: Sequence[str],
) -> WalkedHeap:
    # Slots of a group lie within the slot of another: by address.
    order = np.argsort(slots.blocks, kind="stable")
    blocks, sizes = slots.blocks[order], slots.sizes[order]
    is_single = groups.is_single[slots.groups[order]]
    free_order = np.argsort(slots.free, kind="stable")
    free, free_sizes = slots.free[free_order], slots.free_sizes[free_order]
    single = np.isin(segments[:, 0], groups.at[groups.is_single])
    own = segments[~single]
    in_use_bytes, free_bytes = int(sizes[~is_single].sum()), int(free_sizes.sum())
    total = int((segments[:, 1] - segments[:, 0]).sum())
    in_arena = int((own[:, 1] - own[:, 0]).sum())
    arena = Arena(
        number=0,
        is_main=True,
        address=context.address,
        system_bytes=in_arena,
        in_use_bytes=in_use_bytes,
        in_use_count=int(np.count_nonzero(~is_single)),
        free_bytes=free_bytes,
        free_count=len(free),
        top_bytes=0,
        fast_bytes=0,
        cached_bytes=0,
        overhead_bytes=in_arena - in_use_bytes - free_bytes,
        foreign_bytes=0,
        mapped=tuple((start, end) for start, end in own.tolist()),
        is_locked=False,
        largest_free_bytes=int(free_sizes.max()) if len(free) else 0,
        trimmable_bytes=0,
        between_bytes=free_bytes,
        last_block=None,
    )
    held = np.array([(context.address, context.end)], dtype=np.uint64)
    structures = np.concatenate([held, _areas(context)])
    return WalkedHeap(
        allocator=NAME,
        addresses=blocks,
        sizes=sizes,
        arenas_of=np.where(is_single, -1, 0).astype(np.int16),
        own_rows=np.empty(0, dtype=np.intp),
        free_addresses=free,
        free_sizes=free_sizes,
        free_kinds=np.full(len(free), FreeKind.BIN, dtype=np.uint8),
        arenas=(arena,),
        overhead_bytes=total - int(sizes.sum()) - free_bytes,
        segments=segments,
        structures=structures[np.argsort(structures[:, 0], kind="stable")],
        problems=tuple(problems),
    )
