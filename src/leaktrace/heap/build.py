"""Reports of `leaktrace heap` from looks: the groups of blocks, what nothing points to, what is
free, and what has grown since earlier looks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from leaktrace import units
from leaktrace.analysis.reachability.pointers import ranges_of
from leaktrace.heap.account import account
from leaktrace.heap.beginnings import group
from leaktrace.heap.groups import GroupDescriber
from leaktrace.heap.holders import find_classes_and_holders
from leaktrace.heap.memory import HeapMemory
from leaktrace.heap.reach import blocks_of, find_lost
from leaktrace.heap.tally import Tally
from leaktrace.heap.walked import Arena, WalkedHeap
from leaktrace.heap_report import (
    Account,
    AccountPart,
    Amount,
    BlockGroup,
    FreeMemory,
    HeapReport,
)
from leaktrace.roots.module_data import FileTables
from leaktrace.targets.file_memory import of_files

_MUCH_BYTES, _MANY_TIMES = 16 << 20, 4  # of memory that is not malloc's


class HeapBuilder:
    """Builds reports, and keeps the amounts that the next one is compared with."""

    def __init__(self, top: int, *, asks_holders: bool = False) -> None:
        """`top`: so many groups are shown. `asks_holders`: say who holds their blocks."""
        self._top = top
        self._tables = FileTables() if asks_holders else None
        self._number = 0
        self._first_s = 0.0
        self._first: Tally | None = None
        self._previous: Tally | None = None

    def build(
        self,
        memory: HeapMemory,
        heap: WalkedHeap,
        *,
        core: str = "",
        final_reason: str | None = None,
        go_on: Callable[[], None] = lambda: None,
    ) -> HeapReport:
        """`final_reason`: why it is the last one; None: it isn't. `go_on`: called now and then, to
        end it by an exception."""
        began_s = time.monotonic()
        blocks = blocks_of(heap)
        dead = np.concatenate([memory.dead_stacks(), heap.structures])
        grouped = group(memory.image, blocks, ranges_of(of_files(memory.mappings)))
        holders = None
        if self._tables is None:
            classes = find_lost(
                memory.image, blocks, memory.registers, dead, heap.segments, go_on=go_on
            )
        else:
            classes, holders = find_classes_and_holders(
                memory, blocks, grouped, dead, heap.segments, tables=self._tables, go_on=go_on
            )
        describe = GroupDescriber(memory, blocks, classes, grouped)
        shares = describe.shares
        now = Tally.of(blocks, grouped, shares)
        first, previous = self._first, self._previous
        if first is None:
            self._first, self._first_s = now, began_s
        self._number += 1
        grown = now.held[:, 1] if first is None else now.growth_since(first)
        lost = now.lost[:, 1]
        shown = np.argsort(-grown, kind="stable")[: self._top]
        shown_lost = np.argsort(-lost, kind="stable")[: min(self._top, np.count_nonzero(lost))]

        def described(rows: NDArray[np.intp]) -> tuple[BlockGroup, ...]:
            return tuple(
                _compared(describe.group(row), grouped.packed[row], now, first, previous)
                for row in rows.tolist()
            )

        def with_holders(rows: NDArray[np.intp]) -> tuple[BlockGroup, ...]:
            found = described(rows)
            if holders is None:
                return found
            return tuple(
                replace(one, holders=holders.of(row, classes, describe.group))
                for one, row in zip(found, rows.tolist(), strict=True)
            )

        accounted = None if memory.residence is None else account(heap, memory.residence)
        report = HeapReport(
            time=datetime.now(UTC),
            elapsed_s=began_s - self._first_s,
            number=self._number,
            final=final_reason is not None,
            reason=final_reason or "",
            pid=memory.pid,
            command=memory.command,
            core=core,
            allocator=heap.allocator,
            thread_count=len(memory.threads),
            in_use=now.total(),
            own_bytes=int(heap.sizes[heap.own_rows].sum()),
            free_bytes=int(heap.free_sizes.sum()),
            overhead_bytes=heap.overhead_bytes,
            lost=shares.total(),
            groups=with_holders(shown),
            lost_groups=described(shown_lost),
            group_count=len(grouped),
            lost_group_count=int(np.count_nonzero(lost)),
            arenas=tuple(_free_memory(heap.arenas, memory)[: self._top]),
            arena_count=len(heap.arenas),
            account=accounted,
            pause_s=memory.pause_s,
            read_bytes=memory.image.size_bytes,
            unread_bytes=memory.unread_bytes,
            took_s=time.monotonic() - began_s,
            since_first=None if first is None else now.total().since(first.total()),
            since_previous=None if previous is None else now.total().since(previous.total()),
            lost_since_first=None if first is None else now.lost_total().since(first.lost_total()),
            problems=heap.problems,
            notes=(
                *memory.notes,
                *(() if holders is None else holders.notes),
                *_other_allocator(accounted),
            ),
        )
        self._previous = now
        return report


def _compared(
    one: BlockGroup, key: np.uint64, now: Tally, first: Tally | None, previous: Tally | None
) -> BlockGroup:
    """With its change since other looks."""
    if first is None or previous is None:
        return one
    return replace(
        one,
        since_first=now.amount(key).since(first.amount(key)),
        since_previous=now.amount(key).since(previous.amount(key)),
        lost_since_first=now.lost_amount(key).since(first.lost_amount(key)),
    )


def _other_allocator(accounted: Account | None) -> Iterator[str]:
    """What this heap may be only a small part of."""
    parts = dict(accounted.parts) if accounted is not None else {}
    others = parts.get(AccountPart.ANONYMOUS, 0)
    known = parts.get(AccountPart.BLOCKS, 0) + parts.get(AccountPart.FREE, 0)
    if others > max(_MUCH_BYTES, _MANY_TIMES * known):
        yield (
            f"{units.size(others)} of anonymous memory are not malloc's: another allocator, or the "
            "heap of a runtime, whose blocks are not known here"
        )


def _free_memory(arenas: Sequence[Arena], memory: HeapMemory) -> list[FreeMemory]:
    """Those that keep the most first. Which pages are in RAM, a core file doesn't say."""
    found = [
        FreeMemory(
            number=one.number,
            is_main=one.is_main,
            system_bytes=one.system_bytes,
            in_use=Amount(one.in_use_count, one.in_use_bytes),
            free_bytes=one.free_bytes,
            top_bytes=one.top_bytes,
            cached_bytes=one.cached_bytes,
            trimmable_bytes=None if memory.residence is None else one.trimmable_bytes,
            between_bytes=one.between_bytes,
            largest_bytes=one.largest_free_bytes,
            last_block=one.last_block,
        )
        for one in arenas
    ]
    return sorted(found, key=lambda one: -one.free_bytes)
