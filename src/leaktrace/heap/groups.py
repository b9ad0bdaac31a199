"""What single groups of blocks are: their name, their sizes, and how much of them is lost."""

from __future__ import annotations

import numpy as np

from leaktrace.analysis.block_classes import BlockClass
from leaktrace.analysis.reachability.classes import Classes
from leaktrace.analysis.reachability.pointers import Blocks
from leaktrace.heap.beginnings import Grouped
from leaktrace.heap.memory import HeapMemory
from leaktrace.heap.naming import Namer
from leaktrace.heap.reach import Shares
from leaktrace.heap_report import Amount, BlockGroup, GroupKind
from leaktrace.symbols.class_names import ClassNames

_MOST_SAMPLES = 1000  # blocks of a group that are looked at for its name


class GroupDescriber:
    """Describes single groups, those that are shown."""

    def __init__(
        self, memory: HeapMemory, blocks: Blocks, classes: Classes, grouped: Grouped
    ) -> None:
        names = ClassNames(memory.read, memory.mappings)
        self._namer = Namer(memory.image, memory.mappings, names.of_vtable)
        self._blocks, self._classes, self._grouped = blocks, classes, grouped
        self._known: dict[int, BlockGroup] = {}
        self.shares = Shares(blocks, classes, grouped.group_of, grouped.number_count)

    def group(self, row: int) -> BlockGroup:
        """One of them, by its number."""
        if row not in self._known:
            self._known[row] = self._described(row)
        return self._known[row]

    def _described(self, row: int) -> BlockGroup:
        rows = np.nonzero(self._grouped.group_of == row)[0]
        sizes = self._blocks.ends[rows] - self._blocks.starts[rows]
        lost = rows[self._classes.classes[rows] == BlockClass.DEFINITE]
        some = self._blocks.starts[rows[:: max(len(rows) // _MOST_SAMPLES, 1)]]
        kind, name = self._namer.name(self._grouped.kind(row), self._grouped.key(row), some)
        return BlockGroup(
            kind=kind,
            name=name,
            text="" if kind is GroupKind.TEXT else self._namer.text_in(some, int(sizes.max())),
            least_bytes=int(sizes.min()),
            most_bytes=int(sizes.max()),
            amount=Amount(len(rows), int(sizes.sum())),
            lost=self.shares.of(row),
            sample_address=int(self._blocks.starts[lost[0] if len(lost) else rows[0]]),
        )
