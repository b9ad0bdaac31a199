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
from leaktrace.analysis.reachability.pointers import Blocks, ranges_of
from leaktrace.heap.older import JudgedHeap
from leaktrace.heap.reach import blocks_with, find_lost
from leaktrace.heap.walk import walk_heap
from leaktrace.process.held_blocks import FIRST_HIGH, AskedHolders
from leaktrace.process.instant_holders import find_classes_and_holders
from leaktrace.process.scan import (
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
    holders: AskedHolders | None = None,
    see: Callable[[JudgedHeap], None] = lambda _: None,
    is_abandoned: Callable[[], bool] = lambda: False,
) -> Scan:
    """What `scan` says, of a process that was stopped. `before`, `after`: as `records`, read before
    and after the stop. What was allocated or freed in between is not judged: it isn't known whether
    it was a block at that instant. `start_brk`: where the program break was at first.
    `holders`: also find out who holds the others; None: that is not asked. `see`: called with the
    heap, if it could be walked.

    Raises AbandonedError; with `holders` also OSError and TargetError when the process has ended.
    """
    addresses, values = _low(_in_both(before, after))
    blocks = Blocks(addresses, values["size"])
    values = values[blocks.order]
    times_ns = values["time_ns"]
    is_old = times_ns.astype(np.int64) <= instant.time_ns - older_ns
    image, mappings = instant.copy.image(), instant.mappings

    def go_on() -> None:
        if is_abandoned():
            raise AbandonedError

    heap = walk_heap(image, mappings, [one.thread_pointer for one in instant.threads])
    every = None if heap is None or heap.problems else blocks_with(heap, blocks)
    arenas = None
    if heap is not None and every is not None:
        structures, owned = heap.structures, heap.segments
    else:
        arenas = find_arenas(mappings, image.read, start_brk)
        structures = ranges_of(() if arenas is None else arenas.structures)
        owned = ranges_of(())
    unused = all_dead_stacks(instant.waiting(), mappings, image.read_filled)
    known = blocks if every is None else every
    dead = np.concatenate([unused, structures])
    held = None
    if holders is None:
        found = find_lost(image, known, instant.registers(), dead, owned, go_on=go_on)
    else:
        found, held = find_classes_and_holders(
            instant,
            holders,
            (blocks.starts, values),
            _low(_only_after(before, after, instant.time_ns)),
            every,
            arenas=arenas,
            dead=dead,
            owned=owned,
            go_on=go_on,
        )
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
        held=held,
        knows_heap=every is not None,
    )


def _low(records: Records) -> Records:
    """Those at addresses that are looked for."""
    is_low = records[0] < FIRST_HIGH
    return records[0][is_low], records[1][is_low]


def _in_both(before: Records, after: Records) -> Records:
    """The records that are the same: the address, and the time of the allocation."""
    is_same = _are_in(before, after)
    return before[0][is_same], before[1][is_same]


def _only_after(before: Records, after: Records, time_ns: int) -> Records:
    """Those that were made after the first reading, of blocks allocated until a time."""
    is_new = ~_are_in(after, before) & (after[1]["time_ns"] <= np.uint64(time_ns))
    return after[0][is_new], after[1][is_new]


def _are_in(some: Records, others: Records) -> NDArray[np.bool_]:
    """Which of some records are among others."""
    order = np.argsort(others[0], kind="stable")
    addresses, times_ns = others[0][order], others[1]["time_ns"][order]
    at = np.searchsorted(addresses, some[0])
    is_there: NDArray[np.bool_] = at < len(addresses)
    at[~is_there] = 0
    if len(addresses):
        is_there &= (addresses[at] == some[0]) & (times_ns[at] == some[1]["time_ns"])
    return is_there
