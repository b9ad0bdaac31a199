"""Reports of `leaktrace heap` from looks: the groups of blocks, what nothing points to, what is
free, and what has grown since earlier looks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from leaktrace import units
from leaktrace.analysis.block_classes import BlockClass
from leaktrace.analysis.reachability.classes import Classes
from leaktrace.analysis.reachability.pointers import Blocks, ranges_of
from leaktrace.heap.account import account
from leaktrace.heap.beginnings import Beginning, Grouped, group
from leaktrace.heap.memory import HeapMemory
from leaktrace.heap.naming import Namer
from leaktrace.heap.reach import Shares, blocks_of, find_lost
from leaktrace.heap.walked import Arena, WalkedHeap
from leaktrace.heap_report import (
    Account,
    AccountPart,
    Amount,
    BlockGroup,
    FreeMemory,
    GroupKind,
    HeapReport,
)
from leaktrace.reach import LostShare
from leaktrace.symbols.class_names import ClassNames
from leaktrace.targets.file_memory import of_files

_MUCH_BYTES, _MANY_TIMES = 16 << 20, 4  # of memory that is not malloc's
_MOST_SAMPLES = 1000  # blocks of a group that are looked at for its name

_Key = tuple[Beginning, int]
_NOTHING = Amount()


class HeapBuilder:
    """Builds reports, and keeps the amounts that the next one is compared with."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._number = 0
        self._first_s = 0.0
        self._first: dict[_Key, Amount] = {}
        self._previous: dict[_Key, Amount] = {}
        self._totals: tuple[Amount, Amount] = (_NOTHING, _NOTHING)  # of the first, of the previous
        self._first_lost: dict[_Key, Amount] = {}

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
        classes = find_lost(
            memory.image, blocks, memory.registers, dead, heap.segments, go_on=go_on
        )
        grouped = group(memory.image, blocks, ranges_of(of_files(memory.mappings)))
        describe = _Describer(memory, blocks, classes, grouped)
        amounts, shares = describe.amounts, describe.shares
        now = {
            (Beginning(kind), key): amount
            for kind, key, amount in zip(
                grouped.kinds.tolist(), grouped.keys.tolist(), amounts, strict=True
            )
        }
        total = Amount(len(blocks), sum(one.bytes for one in amounts))
        if not self._number:
            self._first_s = began_s
            self._first, self._totals = now, (total, total)
            lost_rows = _most_lost(shares)
            keys = _keys(grouped)
            self._first_lost = {keys[row]: _lost(shares.of(row)) for row in lost_rows}
        self._number += 1
        is_first = self._number == 1

        def described(rows: Sequence[int]) -> tuple[BlockGroup, ...]:
            return tuple(self._compared(describe.group(row), now, grouped, row) for row in rows)

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
            in_use=total,
            own_bytes=int(heap.sizes[heap.own_rows].sum()),
            free_bytes=int(heap.free_sizes.sum()),
            overhead_bytes=heap.overhead_bytes,
            lost=shares.total(),
            groups=described(self._most_grown(now, grouped, amounts)),
            lost_groups=described(_most_lost(shares)[: self._top]),
            group_count=len(grouped),
            lost_group_count=len(_most_lost(shares)),
            arenas=tuple(_free_memory(heap.arenas, memory)[: self._top]),
            arena_count=len(heap.arenas),
            account=accounted,
            pause_s=memory.pause_s,
            read_bytes=memory.image.size_bytes,
            unread_bytes=memory.unread_bytes,
            took_s=time.monotonic() - began_s,
            since_first=None if is_first else total.since(self._totals[0]),
            since_previous=None if is_first else total.since(self._totals[1]),
            lost_since_first=None if is_first else _lost(shares.total()).since(self._lost_at_first),
            problems=heap.problems,
            notes=(*memory.notes, *_other_allocator(accounted)),
        )
        self._previous, self._totals = now, (self._totals[0], total)
        return report

    @property
    def _lost_at_first(self) -> Amount:
        lost = self._first_lost.values()
        return Amount(sum(one.count for one in lost), sum(one.bytes for one in lost))

    def _most_grown(
        self, now: dict[_Key, Amount], grouped: Grouped, amounts: Sequence[Amount]
    ) -> list[int]:
        """The rows of the groups to show."""
        grown = np.array([one.bytes for one in amounts], dtype=np.int64)
        if self._number > 1:
            keys = _keys(grouped)
            grown = grown - np.array([self._first.get(key, _NOTHING).bytes for key in keys])
        chosen: list[int] = np.argsort(-grown, kind="stable")[: self._top].tolist()
        return chosen

    def _compared(
        self, one: BlockGroup, now: dict[_Key, Amount], grouped: Grouped, row: int
    ) -> BlockGroup:
        if self._number == 1:
            return one
        key = (Beginning(int(grouped.kinds[row])), int(grouped.keys[row]))
        return replace(
            one,
            since_first=now[key].since(self._first.get(key, _NOTHING)),
            since_previous=now[key].since(self._previous.get(key, _NOTHING)),
            lost_since_first=_lost(one.lost).since(self._first_lost.get(key, _NOTHING)),
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


def _lost(share: LostShare) -> Amount:
    """What nothing points to, and what only that leads to."""
    return Amount(
        share.definite_count + share.indirect_count, share.definite_bytes + share.indirect_bytes
    )


def _keys(grouped: Grouped) -> list[_Key]:
    pairs = zip(grouped.kinds.tolist(), grouped.keys.tolist(), strict=True)
    return [(Beginning(kind), key) for kind, key in pairs]


def _amounts(blocks: Blocks, grouped: Grouped) -> list[Amount]:
    counts = np.bincount(grouped.group_of, minlength=len(grouped))
    sizes = (blocks.ends - blocks.starts).astype(np.float64)
    summed = np.rint(np.bincount(grouped.group_of, sizes, minlength=len(grouped)))
    return [
        Amount(count, int(size))
        for count, size in zip(counts.tolist(), summed.tolist(), strict=True)
    ]


def _most_lost(shares: Shares) -> list[int]:
    """The groups with lost blocks: those with the most bytes first."""
    lost = shares.lost_bytes()
    rows = np.nonzero(lost)[0]
    ordered: list[int] = rows[np.argsort(-lost[rows], kind="stable")].tolist()
    return ordered


class _Describer:
    """Describes single groups, those that are shown."""

    def __init__(
        self, memory: HeapMemory, blocks: Blocks, classes: Classes, grouped: Grouped
    ) -> None:
        names = ClassNames(memory.read, memory.mappings)
        self._namer = Namer(memory.image, memory.mappings, names.of_vtable)
        self._blocks, self._classes, self._grouped = blocks, classes, grouped
        self.amounts = _amounts(blocks, grouped)
        self.shares = Shares(blocks, classes, grouped.group_of, len(grouped))

    def group(self, row: int) -> BlockGroup:
        rows = np.nonzero(self._grouped.group_of == row)[0]
        sizes = self._blocks.ends[rows] - self._blocks.starts[rows]
        lost = rows[self._classes.classes[rows] == BlockClass.DEFINITE]
        some = self._blocks.starts[rows[:: max(len(rows) // _MOST_SAMPLES, 1)]]
        beginning, key = Beginning(int(self._grouped.kinds[row])), int(self._grouped.keys[row])
        kind, name = self._namer.name(beginning, key, some)
        return BlockGroup(
            kind=kind,
            name=name,
            text="" if kind is GroupKind.TEXT else self._namer.text_in(some, int(sizes.max())),
            least_bytes=int(sizes.min()),
            most_bytes=int(sizes.max()),
            amount=self.amounts[row],
            lost=self.shares.of(row),
            sample_address=int(self._blocks.starts[lost[0] if len(lost) else rows[0]]),
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
