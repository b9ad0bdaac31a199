"""Finds the blocks that nothing points to from memory and registers of one instant (--stop).

Where the heap can be walked (leaktrace.heap), all its blocks are known: those of before the trace,
too, so that they are no roots, and what is free, so that stale pointers there hide nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.block_classes import BlockClass
from leaktrace.analysis.reachability.classes import classify
from leaktrace.analysis.reachability.pointers import Blocks, Pointers
from leaktrace.heap.image import MemoryImage
from leaktrace.heap.reach import blocks_with, find_lost
from leaktrace.heap.walk import walk_heap
from leaktrace.process.scan import (
    FIRST_HIGH,
    AbandonedError,
    Records,
    Scan,
    add_words,
    leaders_of,
    unused_memory,
)
from leaktrace.targets.dead_stacks import WaitingThread, dead_stacks
from leaktrace.targets.glibc_arenas import find_arenas
from leaktrace.targets.instant import Instant


def scan_instant(
    instant: Instant,
    start_brk: int,
    before: Records,
    after: Records,
    older_ns: int,
    *,
    is_abandoned: Callable[[], bool] = lambda: False,
) -> Scan:
    """What `scan` says, of a process that was stopped. `before`, `after`: as `records`, read before
    and after the stop. What was allocated or freed in between is not judged: it isn't known whether
    it was a block at that instant. `start_brk`: where the program break was at first.

    Raises AbandonedError.
    """
    addresses, values = _in_both(before, after)
    is_low = addresses < FIRST_HIGH
    addresses, values = addresses[is_low], values[is_low]
    blocks = Blocks(addresses, values["size"])
    times_ns = values["time_ns"][blocks.order]
    is_old = times_ns.astype(np.int64) <= instant.time_ns - older_ns
    copy = instant.copy
    waiting = [
        WaitingThread(one.stack_pointer, one.thread_pointer, is_first=one.tid == instant.pid)
        for one in instant.threads
    ]
    unused = dead_stacks(waiting, instant.mappings, copy.read_stack)
    found = _with_whole_heap(instant, blocks, unused, is_abandoned)
    knows_heap = found is not None
    if found is None:
        arenas = find_arenas(instant.mappings, copy.read, start_brk)
        pointers = Pointers(blocks, unused_memory(unused, arenas))
        for one in instant.threads:
            pointers.add_roots(one.words)
        add_words(pointers, copy.pieces(), is_abandoned)
        classified = classify(pointers)
        found = classified.classes, leaders_of(blocks, classified.classes, classified.leaders)
    classes, leaders = found
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
        read_bytes=copy.size_bytes - copy.unread_bytes,
        unread_bytes=copy.unread_bytes,
        paused_s=instant.paused_s,
        knows_heap=knows_heap,
    )


def _with_whole_heap(
    instant: Instant,
    blocks: Blocks,
    unused: NDArray[np.uint64],
    is_abandoned: Callable[[], bool],
) -> tuple[NDArray[np.uint8], NDArray[np.uint64]] | None:
    """The classes of the blocks and the addresses of leaders, where the heap can be walked: then
    its blocks without a record are known, too, and what is free in it. None if it can't be."""

    def go_on() -> None:
        if is_abandoned():
            raise AbandonedError

    image = MemoryImage.of_ranges(instant.copy.words, instant.copy.ranges)
    heap = walk_heap(image, instant.mappings)
    if heap is None or heap.problems:
        return None
    every = blocks_with(heap, blocks)
    if every is None:
        return None
    words = [np.empty(0, dtype=np.uint64), *[one.words for one in instant.threads]]
    found = find_lost(image, heap, every, np.concatenate(words), unused, go_on=go_on)
    rows = np.searchsorted(every.starts, blocks.starts)
    return found.classes[rows], leaders_of(every, found.classes, found.leaders)[rows]


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
