"""Finds the blocks of one process that nothing points to, from its memory and registers.

Without a stop, a pass reads registers and memory once. Meanwhile the process goes on, and may move
a pointer from where the pass has not been to where it has been. But a block that is lost stays
lost. So a second and a third pass, some time later, look whether anything points to the blocks that
the first has not found: each of them makes such a mistake rarer by orders of magnitude.

Of a process that was stopped, one pass is exact (instant_scan.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from leaktrace.analysis.block_classes import BlockClass
from leaktrace.analysis.reachability.classes import Classes, classify
from leaktrace.analysis.reachability.pointers import (
    Blocks,
    Candidates,
    Pointers,
    disjoint,
    ranges_of,
    within,
)
from leaktrace.process.held_blocks import (
    FIRST_HIGH,
    MORE_BYTES,
    AskedHolders,
    HeldBlocks,
    HolderSearch,
    Recorded,
)
from leaktrace.process.looked_at import LiveMemory
from leaktrace.process.registers import RegisterReader
from leaktrace.roots.module_data import ObjectFiles
from leaktrace.roots.root_map import places_of_registers
from leaktrace.targets.bulk_memory import PIECE_BYTES, BulkReader, Piece
from leaktrace.targets.dead_stacks import WaitingThread, dead_stacks
from leaktrace.targets.ended_stacks import MOST_SAMPLES, ended_stacks
from leaktrace.targets.glibc_arenas import find_arenas
from leaktrace.targets.mappings import read_mappings
from leaktrace.targets.memory import ProcessMemory
from leaktrace.targets.namespaces import own_thread_ids
from leaktrace.targets.present_memory import PresentMemory
from leaktrace.targets.program_break import start_of_heap
from leaktrace.targets.root_pages import root_pages
from leaktrace.targets.thread_registers import Registers

PASSES = 3
_PAUSE_S = 0.3  # between passes
_WORD_BYTES = 8
Records = tuple[NDArray[np.uint64], NDArray[np.void]]


class AbandonedError(Exception):
    """The scan is not wanted any more."""


@dataclass(frozen=True)
class Scan:
    """What was found about the blocks of one process, by ascending address."""

    addresses: NDArray[np.uint64]
    times_ns: NDArray[np.uint64]  # of their allocation
    classes: NDArray[np.uint8]  # BlockClass; UNKNOWN: too young
    leaders: NDArray[np.uint64]  # the address of the lost block that leads there; 0: none
    time_ns: int  # CLOCK_MONOTONIC, when it began
    took_s: float
    passes: int
    read_bytes: int  # in the first pass
    unread_bytes: int
    paused_s: float | None = None  # how long the process was stopped for it
    held: HeldBlocks | None = None  # who holds them, in the first pass; None: not asked
    knows_heap: bool = False  # its blocks without a record, too


@dataclass(frozen=True)
class _Pass:
    classes: Classes
    read_bytes: int
    unread_bytes: int
    held: HeldBlocks | None = None


def scan(
    pid: int,
    records: Records,
    older_ns: int,
    registers: RegisterReader,
    *,
    passes: int = PASSES,
    are_all: bool = False,
    holders: AskedHolders | None = None,
    is_abandoned: Callable[[], bool] = lambda: False,
) -> Scan:
    """`records`: addresses, and abi.ALLOCATION of each. Blocks are judged that are at least
    `older_ns` old: a younger one may not have been stored anywhere yet. `passes`: 1 is enough for a
    process that is stopped. `are_all`: these are all blocks of glibc's heap, so that what else is
    in it is free. `holders`: also find out who holds the others; None: that is not asked.

    Raises OSError or TargetError when the process has ended or its memory must not be read,
    AbandonedError when `is_abandoned` says so.
    """
    began_ns = time.monotonic_ns()
    is_low = records[0] < FIRST_HIGH
    addresses, values = records[0][is_low], records[1][is_low]
    blocks = Blocks(addresses, values["size"])
    times_ns = values["time_ns"][blocks.order]
    is_old = times_ns.astype(np.int64) <= began_ns - older_ns
    if holders is None:
        first = _pass(pid, blocks, registers, is_abandoned, are_all=are_all)
    else:
        recorded = Recorded.of(values[blocks.order])
        with HolderSearch(pid, blocks, recorded, holders) as search:
            first = _pass(pid, blocks, registers, is_abandoned, are_all=are_all, search=search)
    classes, leaders = first.classes.classes, first.classes.leaders
    done = 1
    lost = np.nonzero((classes >= BlockClass.INDIRECT) & is_old)[0]
    while len(lost) and done < passes:
        _wait(_PAUSE_S, is_abandoned)
        some = Blocks(blocks.starts[lost], blocks.ends[lost] - blocks.starts[lost])
        again = _pass(pid, some, registers, is_abandoned, are_few=True).classes
        classes[lost] = again.classes
        leaders[lost] = np.where(again.leaders < 0, np.int32(-1), lost[again.leaders])
        lost = lost[again.classes >= BlockClass.INDIRECT]
        done += 1
    classes[~is_old] = BlockClass.UNKNOWN
    return Scan(
        addresses=blocks.starts,
        times_ns=times_ns,
        classes=classes,
        leaders=leaders_of(blocks, classes, leaders),
        time_ns=began_ns,
        took_s=(time.monotonic_ns() - began_ns) / 1e9,
        passes=done,
        read_bytes=first.read_bytes,
        unread_bytes=first.unread_bytes,
        held=first.held,
    )


def _pass(
    pid: int,
    blocks: Blocks,
    registers: RegisterReader,
    is_abandoned: Callable[[], bool],
    *,
    are_all: bool = False,
    are_few: bool = False,
    search: HolderSearch | None = None,
) -> _Pass:
    mappings = read_mappings(pid)
    threads = registers.read(pid)
    with ProcessMemory(pid) as memory, PresentMemory(pid) as present:

        def read(address: int, size: int) -> bytes:
            with suppress(OSError):
                return memory.read(address, size)
            return b""

        known = _known(pid, threads)
        dead = dead_stacks(_waiting(known, threads), mappings, read)
        ended = ended_stacks(known, mappings, present.read_pages)
        arenas = find_arenas(mappings, present.read, start_of_heap(pid))
        pages = root_pages(pid, mappings)
        owned, every, details = ranges_of(()), blocks, None
        # Another thread may be within realloc, whose block has no record meanwhile.
        if arenas is not None and are_all and len(threads.tids) == 1:
            owned = ranges_of(arenas.heaps)
        if search is not None:
            looked_at = LiveMemory(pid, search.opened)
            if arenas is not None and not len(owned):
                every = search.add_others(
                    looked_at, arenas, mappings, pages=pages, read=present.read
                )
            heaps = () if arenas is None else arenas.heaps
            now = partial(registers.read, pid)
            files = ObjectFiles.of_process(pid)
            details = search.begin(
                looked_at, mappings, heaps, threads, now, files=files, pages=pages
            )
    # What malloc knows of free memory is no root, either.
    structures = ranges_of(() if arenas is None else arenas.structures)
    dead = disjoint(np.concatenate([dead, ended, structures]))
    pointers = Pointers(every, dead, owned, details=details)
    places = None if details is None else places_of_registers(threads)
    pointers.add_roots(threads.words.ravel(), places)
    pieces = BulkReader(pid).read_all(pages)
    read_bytes, unread_bytes = _add_words(pointers, pieces, is_abandoned, are_few=are_few)
    _add_reused(pid, pointers, registers, ended)
    between = pointers.between_blocks()
    held = None
    if search is not None:
        held = search.find(between)
        pointers, between = search.without_others(pointers, between)
    return _Pass(classify(pointers, between), read_bytes, unread_bytes, held)


def _add_words(
    pointers: Pointers,
    pieces: Iterable[Piece],
    is_abandoned: Callable[[], bool],
    *,
    are_few: bool = False,
) -> tuple[int, int]:
    """Add all words. Returns how many bytes these were, and how many could not be read."""
    candidates = _candidates(pointers, are_few=are_few)
    read_bytes = unread_bytes = 0

    def counted() -> Iterator[Piece]:
        nonlocal read_bytes, unread_bytes
        for piece in pieces:
            if is_abandoned():
                raise AbandonedError
            read_bytes += piece.words.nbytes
            unread_bytes += piece.unread_bytes
            yield piece

    pointers.add_pieces(counted(), candidates)
    return read_bytes, unread_bytes


def _candidates(pointers: Pointers, *, are_few: bool = False) -> Candidates:
    return Candidates(
        pointers.blocks,
        PIECE_BYTES // _WORD_BYTES,
        are_few=are_few,
        more_bytes=0 if pointers.details is None else MORE_BYTES,
    )


def _add_reused(
    pid: int, pointers: Pointers, registers: RegisterReader, ended: NDArray[np.uint64]
) -> None:
    """Add the words of the stacks of ended threads that others have by now: they may have taken
    over pointers meanwhile. `ended`: those that were left out. Raises as `scan`."""
    if not len(ended):
        return
    mappings = read_mappings(pid)
    with PresentMemory(pid) as present:
        still = ended_stacks(_known(pid, registers.read(pid)), mappings, present.read_pages)
    reused = ended[~(np.isin(ended[:, 0], still[:, 0]) & np.isin(ended[:, 1], still[:, 1]))]
    if not len(reused):
        return
    pointers.dead = pointers.dead[~within(reused, pointers.dead[:, 0])]
    starts = reused[:, 0]
    around = [one for one in mappings if ((starts >= one.start) & (starts < one.end)).any()]
    candidates = _candidates(pointers)
    for piece in BulkReader(pid).read_all(root_pages(pid, around)):
        picked = candidates.pick(piece.words)
        addresses = piece.addresses(picked)
        chosen = within(reused, addresses)
        pointers.add(addresses[chosen], piece.words[picked[chosen]])


def leaders_of(
    blocks: Blocks, classes: NDArray[np.uint8], leaders: NDArray[np.int32]
) -> NDArray[np.uint64]:
    """The addresses of the blocks that lead to others; 0 for those that none leads to."""
    is_led = classes == BlockClass.INDIRECT
    return np.where(is_led, blocks.starts[leaders], np.uint64(0))


def _known(pid: int, threads: Registers) -> list[WaitingThread]:
    """All threads."""
    own = own_thread_ids(pid, threads.tids.tolist(), MOST_SAMPLES)
    return [
        WaitingThread(
            int(threads.stack_pointers[row]),
            int(threads.thread_pointers[row]),
            is_first=tid == pid,
            own_tid=own.get(tid, 0),
        )
        for row, tid in enumerate(threads.tids.tolist())
    ]


def _waiting(known: Sequence[WaitingThread], threads: Registers) -> list[WaitingThread]:
    """Of a thread that runs, the registers are old."""
    return [known[row] for row in np.nonzero(~threads.is_running)[0].tolist()]


def _wait(seconds: float, is_abandoned: Callable[[], bool]) -> None:
    until_s = time.monotonic() + seconds
    while (left_s := until_s - time.monotonic()) > 0:
        if is_abandoned():
            raise AbandonedError
        time.sleep(min(left_s, 0.05))
