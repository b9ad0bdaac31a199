"""Who holds blocks at one instant (--stop with --holders), from the copied memory.

Nothing has changed meanwhile, so one pass has all pointers, also those in vector registers. Where
the heap was walked, all its blocks are known. Records tell which site they are of, if these are
from that instant: of a block that was freed since, it is not known.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from leaktrace.analysis.reachability.classes import Classes, classify
from leaktrace.analysis.reachability.pointers import Blocks
from leaktrace.heap.live import constants_of
from leaktrace.heap.reach import Ranges, find_pointers
from leaktrace.process.held_blocks import (
    NO_RECORD,
    AskedHolders,
    HeldBlocks,
    HolderSearch,
    Recorded,
)
from leaktrace.process.looked_at import CopiedMemory
from leaktrace.process.scan import Records
from leaktrace.roots.module_data import ObjectFiles
from leaktrace.targets.glibc_arenas import Arenas
from leaktrace.targets.instant import Instant


def find_classes_and_holders(
    instant: Instant,
    asked: AskedHolders,
    judged: Records,
    others: Records,
    every: Blocks | None,
    *,
    arenas: Arenas | None,
    dead: Ranges,
    owned: Ranges,
    go_on: Callable[[], None],
) -> tuple[Classes, HeldBlocks]:
    """The classes of `every`, or if that is None, of those judged; and who holds those judged.
    `judged`: blocks with their records; `others`: further ones that were there at that instant.
    `every`: all blocks of the heap, and those judged; None: it could not be walked, and then
    `arenas` is what is known of it. `dead`, `owned`, `go_on`: as of `find_pointers`.

    Raises OSError and TargetError when the process has ended.
    """
    blocks, recorded = (
        _together(judged, others) if every is None else _within(every, judged, others)
    )
    registers, image = instant.registers(), instant.copy.image()
    memory = CopiedMemory(image, constants_of(instant).read)
    with HolderSearch(instant.pid, blocks, recorded, asked, knows_all=every is not None) as search:
        pages = instant.copy.ranges
        if arenas is not None:
            blocks = search.add_others(
                memory, arenas, instant.mappings, pages=pages, read=image.read
            )
        heaps = () if arenas is None else arenas.heaps
        details = search.begin(
            memory,
            instant.mappings,
            heaps,
            registers,
            lambda: registers,
            files=ObjectFiles.of_copy(instant.pid),
            pages=pages,
        )
        pointers = find_pointers(
            image, blocks, registers, dead, owned, details=details, go_on=go_on
        )
        between = pointers.between_blocks()
        held = search.find(between)
        if every is None:
            pointers, between = search.without_others(pointers, between)
    return classify(pointers, between), held


def _together(judged: Records, others: Records) -> tuple[Blocks, Recorded]:
    """All blocks that have a record."""
    values = np.concatenate([judged[1], others[1]])
    blocks = Blocks(np.concatenate([judged[0], others[0]]), values["size"])
    is_judged = np.arange(len(values)) < len(judged[0])
    order = blocks.order
    return blocks, Recorded(values["stack_id"][order], values["time_ns"][order], is_judged[order])


def _within(every: Blocks, judged: Records, others: Records) -> tuple[Blocks, Recorded]:
    """All blocks of the heap, with the records of those that have one."""
    count = len(every)
    stack_ids = np.full(count, NO_RECORD, dtype=np.uint64)
    times_ns = np.zeros(count, dtype=np.uint64)
    is_judged = np.zeros(count, dtype=bool)
    for (addresses, values), are_judged in ((others, False), (judged, True)):
        rows = every.find(addresses)
        is_same = (rows >= 0) & (every.starts[rows] == addresses)
        rows = rows[is_same]
        stack_ids[rows] = values["stack_id"][is_same]
        times_ns[rows] = values["time_ns"][is_same]
        is_judged[rows] = are_judged
    return every, Recorded(stack_ids, times_ns, is_judged)
