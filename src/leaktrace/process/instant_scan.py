"""Finds the blocks that nothing points to from memory and registers of one instant (--stop).

Where the heap can be walked (leaktrace.heap), all its blocks are known: those of before the trace,
too, so that they are no roots, and what is free, so that stale pointers there hide nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from leaktrace.analysis.block_classes import BlockClass
from leaktrace.analysis.reachability.pointers import Blocks, ranges_of
from leaktrace.heap.older import JudgedHeap
from leaktrace.heap.reach import blocks_with, find_lost
from leaktrace.heap.walk import walk_heap
from leaktrace.process.scan import (
    FIRST_HIGH,
    AbandonedError,
    Records,
    Scan,
    leaders_of,
)
from leaktrace.targets.ended_stacks import all_dead_stacks
from leaktrace.targets.glibc_arenas import find_arenas
from leaktrace.targets.instant import Instant


def scan_instant(
    instant: Instant,
    start_brk: int,
    before: Records,
    after: Records,
    older_ns: int,
    *,
    see: Callable[[JudgedHeap], None] = lambda _: None,
    is_abandoned: Callable[[], bool] = lambda: False,
) -> Scan:
    """What `scan` says, of a process that was stopped. `before`, `after`: as `records`, read before
    and after the stop. What was allocated or freed in between is not judged: it isn't known whether
    it was a block at that instant. `start_brk`: where the program break was at first.
    `see`: called with the heap, if it could be walked.

    Raises AbandonedError.
    """
    addresses, values = _in_both(before, after)
    is_low = addresses < FIRST_HIGH
    addresses, values = addresses[is_low], values[is_low]
    blocks = Blocks(addresses, values["size"])
    times_ns = values["time_ns"][blocks.order]
    is_old = times_ns.astype(np.int64) <= instant.time_ns - older_ns
    image, mappings = instant.copy.image(), instant.mappings

    def go_on() -> None:
        if is_abandoned():
            raise AbandonedError

    heap = walk_heap(image, mappings, [one.thread_pointer for one in instant.threads])
    every = None if heap is None or heap.problems else blocks_with(heap, blocks)
    if heap is not None and every is not None:
        structures, owned = heap.structures, heap.segments
    else:
        arenas = find_arenas(mappings, image.read, start_brk)
        structures = ranges_of(() if arenas is None else arenas.structures)
        owned = ranges_of(())
    unused = all_dead_stacks(instant.waiting(), mappings, image.read_filled)
    known = blocks if every is None else every
    dead = np.concatenate([unused, structures])
    found = find_lost(image, known, instant.registers(), dead, owned, go_on=go_on)
    if heap is not None and every is not None:
        see(JudgedHeap(heap, every, found))
    rows = np.searchsorted(known.starts, blocks.starts)
    classes = found.classes[rows]
    leaders = leaders_of(known, found.classes, found.leaders)[rows]
    classes[~is_old] = BlockClass.UNKNOWN
    leaders[~is_old] = 0
    return Scan(
        addresses=blocks.starts,
        times_ns=times_ns,
        classes=classes,
        leaders=leaders,
        time_ns=instant.time_ns,
        took_s=(time.monotonic_ns() - instant.time_ns) / 1e9,
        passes=1,
        read_bytes=instant.copy.size_bytes - instant.copy.unread_bytes,
        unread_bytes=instant.copy.unread_bytes,
        paused_s=instant.paused_s,
        knows_heap=every is not None,
    )


def _in_both(before: Records, after: Records) -> Records:
    """The records that are the same: the address, and the time of the allocation."""
    order = np.argsort(after[0], kind="stable")
    addresses, times_ns = after[0][order], after[1]["time_ns"][order]
    at = np.searchsorted(addresses, before[0])
    is_there = at < len(addresses)
    at[~is_there] = 0
    if len(addresses):
        is_there &= (addresses[at] == before[0]) & (times_ns[at] == before[1]["time_ns"])
    return before[0][is_there], before[1][is_there]
