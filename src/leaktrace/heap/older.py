"""The blocks of a heap that a trace has no record of: those that are older than it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.reachability.classes import Classes
from leaktrace.analysis.reachability.pointers import Blocks, ranges_of
from leaktrace.heap.beginnings import group_some
from leaktrace.heap.groups import GroupDescriber
from leaktrace.heap.memory import HeapMemory
from leaktrace.heap.walked import WalkedHeap
from leaktrace.heap_report import Amount, BlockGroup, OlderBlocks
from leaktrace.targets.file_memory import of_files

_MOST_GROUPS = 5


@dataclass(frozen=True)
class JudgedHeap:
    """A heap that was walked, and what points to its blocks."""

    heap: WalkedHeap
    blocks: Blocks  # all of them; there may be others
    classes: Classes


def find_older(
    memory: HeapMemory,
    judged: JudgedHeap,
    recorded: NDArray[np.uint64],
    doubtful: NDArray[np.uint64],
) -> OlderBlocks:
    """The blocks without a record. `recorded`: addresses, also of blocks that are gone;
    `doubtful`: where blocks may begin that a call is just
    allocating or freeing."""
    began_s, blocks = time.monotonic(), judged.blocks
    has_none = np.ones(len(blocks), dtype=bool)
    has_none[_of(blocks, recorded)] = False
    is_older = has_none.copy()
    at = _of(blocks, doubtful)
    is_older[at[np.isin(blocks.starts[at], doubtful)]] = False
    rows = np.nonzero(is_older)[0]
    grouped = group_some(memory.image, blocks, rows, ranges_of(of_files(memory.mappings)))
    describe = GroupDescriber(memory, blocks, judged.classes, grouped)
    sizes = (blocks.ends - blocks.starts).astype(np.float64)
    held = np.bincount(grouped.group_of, sizes, minlength=grouped.number_count)[: len(grouped)]
    lost = describe.shares.lost()[: len(grouped), 1]

    def first_by(figures: NDArray[np.float64] | NDArray[np.int64]) -> tuple[BlockGroup, ...]:
        shown = np.argsort(-figures, kind="stable")[: min(_MOST_GROUPS, np.count_nonzero(figures))]
        return tuple(describe.group(row) for row in shown.tolist())

    return OlderBlocks(
        pid=memory.pid,
        command=memory.command,
        allocator=judged.heap.allocator,
        in_use=Amount(len(rows), round(held.sum())),
        lost=describe.shares.total(slice(len(grouped))),
        groups=first_by(held),
        lost_groups=first_by(lost),
        group_count=len(grouped),
        lost_group_count=int(np.count_nonzero(lost)),
        unjudged_count=int(np.count_nonzero(has_none)) - len(rows),
        pause_s=memory.pause_s,
        read_bytes=memory.image.size_bytes,
        unread_bytes=memory.unread_bytes,
        took_s=time.monotonic() - began_s,
    )


def _of(blocks: Blocks, addresses: NDArray[np.uint64]) -> NDArray[np.intp]:
    """The blocks that have these addresses in them."""
    found = blocks.find(addresses)
    return found[found >= 0]
